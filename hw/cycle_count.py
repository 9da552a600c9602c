"""How long the published array takes for one product of matrices."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Bits of a size in the published instruction set.
SIZE_BITS: Final = 4


class CycleCount(wiring.Component):
    """``rows + inner + columns - 2`` cycles for rows x inner times inner x columns.

    Combinational, latency 0.

    Parameters
    ----------
    size_bits : int
        w, bits of a size, at least 1.

    Members
    -------
    rows, inner, columns : In(w)
        The sizes R1, R2 and R3; 0 means ``2**w``.
    cycles : Out(w + 2)
        ``R1 + R2 + R3 - 2``, 1 to ``3 * 2**w - 2``.
    """

    def __init__(self, size_bits: int = SIZE_BITS) -> None:
        if isinstance(size_bits, bool) or not isinstance(size_bits, int):
            raise TypeError(f"size_bits must be an integer, not {size_bits!r}")
        if size_bits < 1:
            raise ValueError(f"size_bits must be at least 1, not {size_bits!r}")
        size = In(size_bits)
        super().__init__(
            {"rows": size, "inner": size, "columns": size, "cycles": Out(size_bits + 2)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(len(self.cycles))
        m.d.comb += [
            total.eq(_size(self.rows) + _size(self.inner) + _size(self.columns) - 2),
            self.cycles.eq(total),
        ]
        return m


def _size(code: Value) -> Value:
    return Cat(code, ~code.any())
