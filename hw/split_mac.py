"""The exact multiply-accumulate unit with its final addition left to the drain."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.adder import ADDERS, add_columns
from hw.carry_count import CarryCount, kept_inverted
from hw.product import WordProduct
from sw.format import MAX_TERMS, SFx

#: Bits up to which the counter is made of chosen cells: where the low part has the longest path by
#: far, the mapper sees for itself that the counter need not be fast (measured).
_PLACED_BITS: Final = 8


class SplitMultiplyAccumulate(wiring.Component):
    """Adds one product of words per cycle, exactly; what it holds takes one addition to read.

    Latency 1 cycle from operands to accumulator, one product per cycle.

    Parameters
    ----------
    format : SFx
        The format of both words.
    max_terms : int
        K_max: products from one ``first`` to the next.
    multiplier : {"array", "dadda", "chain", "operator", "auto"}
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.
    adder : {"plain", "ripple", "brent_kung", "sklansky", "kogge_stone"}
        Of the low part.

    Members
    -------
    a, b : In(x)
        Words.
    first : In(1)
        This product starts a new sum.
    valid : In(1)
        Where 0, the operands and ``first`` of this cycle are ignored.
    low : Out(2F + 1)
    high : Out(format.accumulator_bits(max_terms) - 2F - 1)
        As of :class:`hw.carry_count.CarryCount`: every second bit inverted.
    carry : Out(1)
        See :class:`SplitAccumulatorValue`.

    Notes
    -----
    ``2**2F`` is added with every product, so that no term is negative: the high part only counts
    carries, one cycle later, and the path through the unit ends with the low part. What was added
    follows from the number of terms, which the drain knows. (Ours.)
    """

    latency = 1

    def __init__(
        self,
        format: SFx,
        max_terms: int = MAX_TERMS,
        multiplier: str = "auto",
        target: str = "generic",
        adder: str = "plain",
    ) -> None:
        if adder not in ADDERS:
            raise ValueError(f"adder must be one of {', '.join(ADDERS)}, not {adder!r}")
        self.format = format
        self.adder = adder
        self.product = WordProduct(format, multiplier, target)
        low = 2 * format.fraction_bits + 1
        super().__init__(
            {
                "a": In(format.bits),
                "b": In(format.bits),
                "first": In(1),
                "valid": In(1),
                "low": Out(low),
                "high": Out(format.accumulator_bits(max_terms) - low),
                "carry": Out(1),
            }
        )
        placed = format.bits <= _PLACED_BITS
        self.count = CarryCount(len(self.high), target if placed else "generic")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.product = product = self.product
        m.d.comb += [product.a.eq(self.a), product.b.eq(self.b)]
        # No reset: the first valid product says where a sum starts.
        low = Signal(len(self.low), name="low_register", reset_less=True)
        high = Signal(len(self.high), name="high_register", reset_less=True)
        carry = Signal(name="carry_register", reset_less=True)
        total = self._add(m, low)
        m.submodules.count = count = self.count
        m.d.comb += [
            *(self.low.eq(low), self.high.eq(high), self.carry.eq(carry)),
            *(count.kept.eq(high), count.carry.eq(carry), count.clear.eq(self.first)),
        ]
        with m.If(self.valid):
            m.d.sync += [Cat(low, carry).eq(total), high.eq(count.following)]
        return m

    def _add(self, m: Module, low: Value) -> Value:
        """The low part plus the product and ``2**2F``, with the carry."""
        width = len(low) - 1
        sign, magnitude = self.product.sign, self.product.magnitude
        kept, signed = Signal(width + 1), Signal(width)
        m.d.comb += [
            kept.eq(Mux(self.first, 0, low)),
            signed.eq(magnitude[:width] ^ sign.replicate(width)),
        ]
        # Minus p is the complement of p plus one: both enter through the sign.
        columns = [[sign, sign], *([kept[i], signed[i]] for i in range(width))]
        added = Signal(width + 2)
        m.d.comb += added.eq(add_columns(m, [*columns, []], self.adder))
        carry = Signal()
        # A product of 1 has no bits below: from minus 1 comes a carry, from 1 none.
        unity = magnitude[width:].any()
        m.d.comb += carry.eq(Mux(unity, ~sign, added[width + 1]))
        above, top = Signal(2), kept[width]
        plus = ~sign
        m.d.comb += above.eq(Cat(top ^ plus ^ carry, top & plus | (top | plus) & carry))
        return Cat(added[1 : width + 1], above)


class SplitAccumulatorValue(wiring.Component):
    """What a :class:`SplitMultiplyAccumulate` holds, as one number. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
    max_terms : int

    Members
    -------
    low, high, carry : In
        Of the unit.
    terms : In(range(max_terms + 1))
        Products since ``first``, that one included.
    accumulator : Out(format.accumulator_bits(max_terms))
        Two's complement, in units of ``2**-2F``.
    """

    def __init__(self, format: SFx, max_terms: int = MAX_TERMS) -> None:
        self.format = format
        low, width = 2 * format.fraction_bits + 1, format.accumulator_bits(max_terms)
        super().__init__(
            {
                "low": In(low),
                "high": In(width - low),
                "carry": In(1),
                "terms": In(range(max_terms + 1)),
                "accumulator": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        below = len(self.low) - 1
        high = self.high ^ kept_inverted(len(self.high))
        # x + 2c - t with one adder: bit 0 of what is added twice is free for the carry.
        above = Cat(self.low[below], high)
        m.d.comb += self.accumulator.eq(
            Cat(self.low[:below], above + (self.carry << 1) - self.terms)
        )
        return m
