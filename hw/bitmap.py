"""The set bits of a bitmap, lowest first, one per cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
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
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(self.bits)  # after the current bit
        source, rest = Signal(self.bits), Signal(self.bits)
        lowest = Signal(range(self.bits))
        m.d.comb += [
            source.eq(Mux(self.load, self.bitmap, left)),
            rest.eq(source & (source - 1)),
            self.last.eq(~left.any()),
        ]
        for bit in reversed(range(self.bits)):
            with m.If(source[bit]):
                m.d.comb += lowest.eq(bit)
        m.d.comb += self.following.eq(self.index)
        with m.If(self.load | self.step):
            m.d.comb += self.following.eq(lowest)
            m.d.sync += [self.index.eq(lowest), left.eq(rest)]
        return m
