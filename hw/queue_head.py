"""The head of a queue in registers, for a reader that says late whether it takes it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class QueueHead(wiring.Component):
    """Two entries behind a queue: the queue never waits for what comes late in the cycle.

    An entry taken from ``i`` in cycle c is on ``o`` from c + 1 on if no other is there or if the
    last one there is taken in c, else from the cycle after that one is taken. So ``o`` is, cycle by
    cycle, what one register is that is filled whenever it is empty or taken. One entry per cycle.

    Parameters
    ----------
    width : int
        Bits of an entry.

    Members
    -------
    i : In(stream of width)
        ``ready`` is a register.
    o : Out(stream of width)
        Both are registers.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, o = self.i, self.o
        free = Signal(init=1)  # there is no second entry
        second = Signal(self.width)
        m.d.comb += i.ready.eq(free)
        with m.If(free):
            m.d.sync += second.eq(i.payload)
        with m.If(o.ready | ~o.valid):
            m.d.sync += [
                o.payload.eq(Mux(free, i.payload, second)),
                o.valid.eq(~free | i.valid),
                free.eq(1),
            ]
        with m.Elif(i.valid):
            m.d.sync += free.eq(0)
        return m
