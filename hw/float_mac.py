"""Multiply-accumulate in IEEE 754 binary formats, rounded after every product."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.float_fma import FloatFusedMultiplyAdd


class FloatMultiplyAccumulate(wiring.Component):
    """Adds one product per cycle to a sum of the operands' format, fused: rounded once per product.

    Latency 1 cycle from operands to accumulator, one product per cycle; only the accumulator is a
    register, as in :class:`hw.mac.MultiplyAccumulate` without stages, whose ports it has.

    Parameters
    ----------
    exponent_bits, fraction_bits, target, adder
        As for :class:`hw.float_fma.FloatFusedMultiplyAdd`.

    Members
    -------
    a, b : In(1 + exponent_bits + fraction_bits)
        Words.
    first : In(1)
        This product starts a new sum, at plus zero.
    valid : In(1)
        Where 0, the operands and ``first`` of this cycle are ignored.
    accumulator : Out(1 + exponent_bits + fraction_bits)
        Word. Not reset: the first valid product says where a sum starts.
    """

    latency = 1

    def __init__(
        self,
        exponent_bits: int,
        fraction_bits: int,
        target: str = "generic",
        adder: str | None = None,
    ) -> None:
        self.fma = FloatFusedMultiplyAdd(exponent_bits, fraction_bits, target, adder)
        self.format = self.fma.format
        word = self.format.bits
        super().__init__(
            {
                "a": In(word),
                "b": In(word),
                "first": In(1),
                "valid": In(1),
                "accumulator": Out(word),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fma = fma = self.fma
        register = Signal(len(self.accumulator), name="accumulator_register", reset_less=True)
        m.d.comb += [
            fma.a.eq(self.a),
            fma.b.eq(self.b),
            fma.c.eq(Mux(self.first, 0, register)),
            self.accumulator.eq(register),
        ]
        with m.If(self.valid):
            m.d.sync += register.eq(fma.o)
        return m
