"""One step of an exact accumulator: clear, then add or subtract a magnitude."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.carry_chain import CLEARED_ACCUMULATE, CarryChain
from hw.multiplier import check_target


class Accumulate(wiring.Component):
    """What an accumulator holds after one product. Combinational, latency 0.

    Parameters
    ----------
    width : int
        Bits of the accumulator, at least those of the magnitude plus 1.
    magnitude_bits : int
    target : {"generic", "ecp5", "ice40", "osu018"}
        ``ecp5`` accumulates, clears and subtracts in one carry chain.
    clears : bool
        Whether ``first`` can be 1. Where it cannot, ``ice40`` takes a table per bit of the
        accumulator and one per bit of the magnitude.

    Members
    -------
    accumulator : In(width)
        Two's complement.
    magnitude : In(magnitude_bits)
    sign : In(1)
        Subtract.
    first : In(1)
        Start from zero.
    following : Out(width)
        ``(0 if first else accumulator) ± magnitude``.
    """

    def __init__(
        self, width: int, magnitude_bits: int, target: str = "generic", clears: bool = True
    ) -> None:
        check_target(target)
        self.target = target
        self.clears = clears
        super().__init__(
            {
                "accumulator": In(width),
                "magnitude": In(magnitude_bits),
                "sign": In(1),
                "first": In(1),
                "following": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.target == "ecp5":
            self._chain(m)
        elif self.target == "ice40" and not self.clears:
            self._extend(m)
        else:
            self._add(m)
        return m

    def _chain(self, m: Module) -> None:
        width = len(self.accumulator)
        m.submodules.chain = chain = CarryChain(width, CLEARED_ACCUMULATE)
        m.d.comb += [
            chain.a.eq(self.accumulator),
            chain.b.eq(self.first.replicate(width)),
            chain.c.eq(self.magnitude),
            chain.d.eq(self.sign.replicate(width)),
            chain.carry.eq(self.sign),
            self.following.eq(chain.sum),
        ]

    def _extend(self, m: Module) -> None:
        # A carry cell takes the accumulator and the extended sign as they are.
        sign, low = self.sign, len(self.magnitude)
        above = sign.replicate(len(self.accumulator) - low)
        addend = Cat(self.magnitude ^ sign.replicate(low), above)
        total = Signal(len(self.accumulator) + 1)
        m.d.comb += [
            total.eq(Cat(sign, self.accumulator) + Cat(sign, addend)),
            self.following.eq(total[1:]),
        ]

    def _add(self, m: Module) -> None:
        # Minus p is the complement of p plus one: both enter through the sign. Above the product
        # the accumulator then only counts: up on a carry of a plus, down on no carry of a minus.
        sign, magnitude = self.sign, self.magnitude
        low = len(magnitude)
        kept = Signal(len(self.accumulator))
        added = Signal(low + 2)
        carry = Signal()
        m.d.comb += [
            kept.eq(Mux(self.first, 0, self.accumulator)),
            added.eq(Cat(sign, magnitude ^ sign.replicate(low)) + Cat(sign, kept[:low])),
            carry.eq(added[low + 1] ^ sign),
            self.following.eq(Cat(added[1 : low + 1], _count(m, kept[low:], sign, carry))),
        ]


def _count(m: Module, kept: Value, down: Signal, carry: Signal) -> Value:
    """``kept`` plus or minus the carry."""
    flipped = Signal(len(kept))
    counted = Signal(len(kept))
    m.d.comb += [
        flipped.eq(kept ^ down.replicate(len(kept))),
        counted.eq(flipped + carry),
    ]
    return counted ^ down.replicate(len(kept))
