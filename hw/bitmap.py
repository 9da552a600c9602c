"""The set bits of a bitmap, lowest first, one per cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class BitmapWalker(wiring.Component):
    """Gives the numbers of a bitmap's set bits in ascending order.

    ``index`` and ``last`` are registers or depend on registers alone. ``load`` in cycle t shows the
    lowest bit's number in t + 1, ``step`` in cycle t the next one's; ``load`` wins over ``step``.

    Parameters
    ----------
    bits : int
        Of the bitmap, a power of two, at least 2.

    Members
    -------
    load : In(1)
    bitmap : In(bits)
        Not 0 when loaded.
    step : In(1)
        Not while ``last``.
    index : Out(log2(bits))
        Number of the current bit.
    following : Out(log2(bits))
        ``index`` of the next cycle, which depends on ``load`` and ``step``.
    last : Out(1)
        No bit follows.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(
            {
                "load": In(1),
                "bitmap": In(bits),
                "step": In(1),
                "index": Out(range(bits)),
                "following": Out(range(bits)),
                "last": Out(1, init=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(self.bits)  # after the current bit
        given_index, given_rest = self._next(m, "given", self.bitmap)
        left_index, left_rest = self._next(m, "left", left)
        # Both are found before it is known which is taken: load and step come late.
        m.d.comb += self.following.eq(self.index)
        with m.If(self.load):
            m.d.comb += self.following.eq(given_index)
            m.d.sync += [self.index.eq(given_index), left.eq(given_rest)]
            m.d.sync += self.last.eq(~given_rest.any())
        with m.Elif(self.step):
            m.d.comb += self.following.eq(left_index)
            m.d.sync += [self.index.eq(left_index), left.eq(left_rest)]
            m.d.sync += self.last.eq(~left_rest.any())
        return m

    def _next(self, m: Module, name: str, bits: Value) -> tuple[Signal, Signal]:
        """The number of the lowest set bit, and the others."""
        index = Signal(range(self.bits), name=f"{name}_index")
        rest = Signal(self.bits, name=f"{name}_rest")
        m.d.comb += rest.eq(bits & (bits - 1))
        for bit in reversed(range(self.bits)):
            with m.If(bits[bit]):
                m.d.comb += index.eq(bit)
        return index, rest
