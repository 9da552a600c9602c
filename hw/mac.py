"""The exact multiply-accumulate unit on words."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.carry_chain import GATED_ACCUMULATE, CarryChain
from hw.multiplier import check_target
from hw.product import WordProduct
from sw.format import MAX_TERMS, SFx


class MultiplyAccumulate(wiring.Component):
    """Adds one product of words per cycle, exactly; nothing is rounded, wrapped or saturated.

    Latency ``input_stages + product_stages + 1`` cycles from operands to accumulator, one product
    per cycle.

    Parameters
    ----------
    format : SFx
        The format of both words.
    max_terms : int
        K_max: products from one ``first`` to the next.
    multiplier : {"array", "dadda", "chain", "auto"}
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become. ``ecp5`` accumulates, clears and subtracts in one carry chain.
    input_stages, product_stages : int
        Register stages before the multiplier and between it and the accumulator.

    Members
    -------
    a, b : In(x)
        Words.
    first : In(1)
        This product starts a new sum.
    valid : In(1)
        Where 0, the operands and ``first`` of this cycle are ignored.
    accumulator : Out(format.accumulator_bits(max_terms))
        Two's complement, in units of ``2**-2F``.
    """

    def __init__(
        self,
        format: SFx,
        max_terms: int = MAX_TERMS,
        multiplier: str = "auto",
        target: str = "generic",
        input_stages: int = 0,
        product_stages: int = 0,
    ) -> None:
        check_target(target)
        for name, stages in (("input_stages", input_stages), ("product_stages", product_stages)):
            if isinstance(stages, bool) or not isinstance(stages, int):
                raise TypeError(f"{name} must be an integer, not {stages!r}")
            if stages < 0:
                raise ValueError(f"{name} must be at least 0, not {stages!r}")
        self.format = format
        self.target = target
        self.input_stages = input_stages
        self.product_stages = product_stages
        self.latency = input_stages + product_stages + 1
        self.product = WordProduct(format, multiplier, target)
        super().__init__(
            {
                "a": In(format.bits),
                "b": In(format.bits),
                "first": In(1),
                "valid": In(1),
                "accumulator": Out(format.accumulator_bits(max_terms)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.product = product = self.product
        inputs = _delay(m, "input", Cat(self.a, self.b, self.first, self.valid), self.input_stages)
        bits = self.format.bits
        m.d.comb += [product.a.eq(inputs[:bits]), product.b.eq(inputs[bits : 2 * bits])]
        found = Cat(product.magnitude, product.sign, inputs[2 * bits :])
        found = _delay(m, "product", found, self.product_stages)
        magnitude, (sign, first, valid) = found[:-3], found[-3:]
        following = self._following(m, magnitude, sign, first)
        # No reset: the first valid product says where a sum starts.
        register = Signal(len(self.accumulator), name="accumulator_register", reset_less=True)
        with m.If(valid):
            m.d.sync += register.eq(following)
        m.d.comb += self.accumulator.eq(register)
        return m

    def _following(self, m: Module, magnitude: Signal, sign: Signal, first: Signal) -> Signal:
        """The accumulator after a valid cycle: ``(0 if first else accumulator) ± magnitude``."""
        width = len(self.accumulator)
        following = Signal(width)
        if self.target == "ecp5":
            m.submodules.chain = chain = CarryChain(width, GATED_ACCUMULATE)
            m.d.comb += [
                chain.a.eq(self.accumulator),
                chain.b.eq((~first).replicate(width)),
                chain.c.eq(magnitude),
                chain.d.eq(sign.replicate(width)),
                chain.carry.eq(sign),
                following.eq(chain.sum),
            ]
            return following
        # Minus p is the complement of p plus one: both enter through the sign. Above the product
        # the accumulator then only counts: up on a carry of a plus, down on no carry of a minus.
        low = len(magnitude)
        kept = Signal(width)
        added = Signal(low + 2)
        carry = Signal()
        m.d.comb += [
            kept.eq(Mux(first, 0, self.accumulator)),
            added.eq(Cat(sign, magnitude ^ sign.replicate(low)) + Cat(sign, kept[:low])),
            carry.eq(added[low + 1] ^ sign),
            following.eq(Cat(added[1 : low + 1], _count(m, kept[low:], sign, carry))),
        ]
        return following


def _count(m: Module, kept: Value, down: Signal, carry: Signal) -> Value:
    """``kept`` plus or minus the carry."""
    flipped = Signal(len(kept))
    counted = Signal(len(kept))
    m.d.comb += [
        flipped.eq(kept ^ down.replicate(len(kept))),
        counted.eq(flipped + carry),
    ]
    return counted ^ down.replicate(len(kept))


def _delay(m: Module, name: str, value: Signal, stages: int) -> Signal:
    """The value, that many cycles later; registers start at zero, so nothing is valid at reset."""
    for stage in range(stages):
        register = Signal(len(value), name=f"{name}_{stage}")
        m.d.sync += register.eq(value)
        value = register
    return value
