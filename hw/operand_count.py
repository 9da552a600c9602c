"""How many flags of a slice's lanes are set."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Flags that are added between two registers.
_GROUP: Final = 8


class OperandCount(wiring.Component):
    """Counts ones, a new count per cycle, :attr:`latency` cycles later.

    Parameters
    ----------
    lanes : int
        At least 1.

    Members
    -------
    flags : In(lanes)
    count : Out(range(lanes + 1))
        Ones in the flags of 3 cycles ago.
    """

    latency: Final = 3

    def __init__(self, lanes: int) -> None:
        super().__init__({"flags": In(lanes), "count": Out(range(lanes + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        flags = Signal.like(self.flags)
        m.d.sync += flags.eq(self.flags)
        counts = []
        for low in range(0, len(flags), _GROUP):
            count = Signal(range(_GROUP + 1), name=f"count_{low}")
            m.d.sync += count.eq(sum(flags[low : low + _GROUP]))
            counts.append(count)
        m.d.sync += self.count.eq(sum(counts))
        return m
