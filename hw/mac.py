"""The exact multiply-accumulate unit on words."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.accumulate import Accumulate
from hw.multiplier import check_target
from hw.product import MagnitudeProduct, ProductOperands
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
    multiplier : {"array", "dadda", "chain", "operator", "auto"}
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become. ``ecp5`` accumulates, clears and subtracts in one carry chain.
    input_stages, product_stages : int
        Register stages before the multiplier and between it and the accumulator. Unity is
        detected before the last input stage.

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
        self.operands = ProductOperands(format)
        self.product = MagnitudeProduct(format, multiplier, target)
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
        m.submodules.operands = operands = self.operands
        m.submodules.product = product = self.product
        early = max(self.input_stages - 1, 0)
        bits = self.format.bits
        words = _delay(m, "words", Cat(self.a, self.b, self.first, self.valid), early)
        m.d.comb += [operands.a.eq(words[:bits]), operands.b.eq(words[bits : 2 * bits])]
        taken = Cat(words[2 * bits :], operands.operands.as_value())
        taken = _delay(m, "input", taken, self.input_stages - early)
        inputs = data.View(operands.operands.shape(), taken[2:])
        m.d.comb += [
            product.a.eq(inputs.a),
            product.b.eq(inputs.b),
            product.bypass.eq(inputs.bypass),
        ]
        found = Cat(taken[:2], inputs.sign, product.product)
        found = _delay(m, "product", found, self.product_stages)
        self._accumulate(m, found[0], found[1], found[2], found[3:])
        return m

    def _accumulate(
        self, m: Module, first: Value, valid: Value, sign: Value, magnitude: Value
    ) -> None:
        width = len(self.accumulator)
        m.submodules.step = step = Accumulate(width, len(magnitude), self.target)
        # No reset: the first valid product says where a sum starts.
        register = Signal(width, name="accumulator_register", reset_less=True)
        m.d.comb += [
            step.accumulator.eq(register),
            step.magnitude.eq(magnitude),
            step.sign.eq(sign),
            step.first.eq(first),
            self.accumulator.eq(register),
        ]
        with m.If(valid):
            m.d.sync += register.eq(step.following)


def _delay(m: Module, name: str, value: Value, stages: int) -> Value:
    """The value, that many cycles later; registers start at zero, so nothing is valid at reset."""
    for stage in range(stages):
        register = Signal(len(value), name=f"{name}_{stage}")
        m.d.sync += register.eq(value)
        value = register
    return value
