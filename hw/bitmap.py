"""The set bits of a bitmap, lowest first, one per cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


def find_lowest(m: Module, name: str, bitmap: Value) -> tuple[Signal, Value]:
    """The number of the lowest set bit of a bitmap that is not 0; whether no other one is set."""
    lowest = Signal(range(len(bitmap)), name=f"{name}_lowest")
    for bit in reversed(range(len(bitmap))):
        with m.If(bitmap[bit]):
            m.d.comb += lowest.eq(bit)
    return lowest, ~_others(bitmap).any()


def _others(bitmap: Value) -> Value:
    """The bitmap without its lowest set bit."""
    return bitmap & (bitmap - 1)


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
    lowest : In(log2(bits)), alone : In(1)
        Of ``bitmap``, as :func:`find_lowest` finds them: earlier than it is known what is loaded.
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
                "lowest": In(range(bits)),
                "alone": In(1),
                "step": In(1),
                "index": Out(range(bits)),
                "following": Out(range(bits)),
                "last": Out(1, init=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(self.bits)  # after the current bit
        # Both are found before it is known which is taken: load and step come late.
        given = Cat(self.bitmap[bit] & (self.lowest != bit) for bit in range(self.bits))
        m.d.comb += self.following.eq(self.index)
        for when, (lowest, alone), others in (
            (self.step, find_lowest(m, "left", left), _others(left)),
            (self.load, (self.lowest, self.alone), given),
        ):
            with m.If(when):
                m.d.comb += self.following.eq(lowest)
                m.d.sync += [self.index.eq(lowest), left.eq(others), self.last.eq(alone)]
        return m
