"""Fused multiply-add on words, combinational and as a pipelined stream."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.encoder import SignedEncoder, guard_bits
from hw.pipeline_register import PipelineRegister
from hw.product import WordProduct
from sw.format import Rounding, SFx


class ProductSum(wiring.Component):
    """Adds a word to a product in sign-magnitude form, exactly. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the words.
    rounding : {"nearest", "truncate"}
        What the sum will be rounded by: decides how many bits are kept below the word's last.

    Members
    -------
    sign : In(1)
    magnitude : In(2F + unity)
        The product, in units of ``2**-2F``.
    c : In(x)
        The word to add.
    value : Out(signed(F + 3 + guard_bits(rounding)))
        The sum, negated if ``sign``: its floor in units of ``2**-(F + guard_bits(rounding))``.
    sticky : Out(1)
        Whether the sum is above that floor.
    """

    def __init__(self, format: SFx, rounding: Rounding = "nearest") -> None:
        self.format = format
        self.kept_bits = guard_bits(rounding)
        bits = format.fraction_bits
        super().__init__(
            {
                "sign": In(1),
                "magnitude": In(2 * bits + format.unity),
                "c": In(format.bits),
                "value": Out(signed(bits + 3 + self.kept_bits)),
                "sticky": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.format.fraction_bits
        # A word has no bits below 2**-F: the product's pass by the adder.
        low, high = self.magnitude[:bits], self.magnitude[bits:]
        addend = operand_magnitude(self.format, self.c)
        subtract = Signal()
        total = Signal(signed(bits + 3))
        m.d.comb += [
            subtract.eq(self.sign ^ self.c[bits]),
            total.eq(
                high
                + (Cat(addend, Const(0, 1)) ^ subtract.replicate(bits + 2)).as_signed()
                + subtract
            ),
            self.value.eq(Cat(low[bits - self.kept_bits :], total).as_signed()),
            self.sticky.eq(low[: bits - self.kept_bits].any()),
        ]
        return m


def operand_magnitude(format: SFx, word: Value) -> Value:
    """The magnitude of a word's operand M: F bits, or F + 1 under unity; units of ``2**-F``."""
    magnitude = word[: format.fraction_bits]
    if not format.unity:
        return magnitude
    unity = magnitude.all()
    return Cat(magnitude & ~unity.replicate(format.fraction_bits), unity)


class FusedMultiplyAdd(wiring.Component):
    """``o = a * b + c`` on words, rounded once. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of all words.
    rounding : {"nearest", "truncate"}
        Nearest with ties away from zero, or toward zero.
    multiplier : {"array", "dadda", "chain", "operator", "auto"}
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.

    Members
    -------
    a, b, c : In(x)
        Words.
    o : Out(x)
        The word for the sum, saturated, never minus zero.
    """

    def __init__(
        self,
        format: SFx,
        rounding: Rounding = "nearest",
        multiplier: str = "auto",
        target: str = "generic",
    ) -> None:
        self.product = WordProduct(format, multiplier, target)
        self.sum = ProductSum(format, rounding)
        self.encoder = SignedEncoder(format, len(self.sum.value), rounding)
        word = format.bits
        super().__init__({"a": In(word), "b": In(word), "c": In(word), "o": Out(word)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.product = product = self.product
        m.submodules.sum = total = self.sum
        m.submodules.encoder = encoder = self.encoder
        m.d.comb += [
            product.a.eq(self.a),
            product.b.eq(self.b),
            total.sign.eq(product.sign),
            total.magnitude.eq(product.magnitude),
            total.c.eq(self.c),
            encoder.sign.eq(product.sign),
            encoder.value.eq(total.value),
            encoder.sticky.eq(total.sticky),
            self.o.eq(encoder.word),
        ]
        return m


class FusedMultiplyAddStream(wiring.Component):
    """The fused multiply-add in three pipeline stages: product, sum, rounding.

    Latency 3 cycles where nothing stalls, one result per cycle. A stage that holds nothing takes
    from the one before even if the output is stalled, so up to three results wait inside; nothing
    is lost, repeated or reordered. ``i.ready`` depends on ``o.ready`` combinationally.

    Parameters
    ----------
    format, rounding, multiplier, target
        As for :class:`FusedMultiplyAdd`.

    Members
    -------
    i : In(stream of 3x bits)
        Words ``a`` in the lowest x bits, ``b`` in the middle, ``c`` in the highest.
    o : Out(stream of x bits)
        Words, in the order of ``i``.
    """

    latency = 3

    def __init__(
        self,
        format: SFx,
        rounding: Rounding = "nearest",
        multiplier: str = "auto",
        target: str = "generic",
    ) -> None:
        self.product = WordProduct(format, multiplier, target)
        self.sum = ProductSum(format, rounding)
        self.encoder = SignedEncoder(format, len(self.sum.value), rounding)
        word = format.bits
        operands = data.StructLayout({"a": word, "b": word, "c": word})
        super().__init__(
            {"i": In(stream.Signature(operands)), "o": Out(stream.Signature(unsigned(word)))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.product = product = self.product
        m.submodules.sum = total = self.sum
        m.submodules.encoder = encoder = self.encoder
        after_product = data.StructLayout(
            {"sign": 1, "magnitude": len(product.magnitude), "c": len(total.c)}
        )
        after_sum = data.StructLayout({"sign": 1, "value": signed(len(total.value)), "sticky": 1})
        m.submodules.product_stage = product_stage = PipelineRegister(after_product)
        m.submodules.sum_stage = sum_stage = PipelineRegister(after_sum)
        m.submodules.output_stage = output_stage = PipelineRegister(unsigned(len(encoder.word)))
        operands, factors, addends = self.i.payload, product_stage.o.payload, sum_stage.o.payload
        m.d.comb += [
            product.a.eq(operands.a),
            product.b.eq(operands.b),
            product_stage.i.payload.sign.eq(product.sign),
            product_stage.i.payload.magnitude.eq(product.magnitude),
            product_stage.i.payload.c.eq(operands.c),
            total.sign.eq(factors.sign),
            total.magnitude.eq(factors.magnitude),
            total.c.eq(factors.c),
            sum_stage.i.payload.sign.eq(factors.sign),
            sum_stage.i.payload.value.eq(total.value),
            sum_stage.i.payload.sticky.eq(total.sticky),
            encoder.sign.eq(addends.sign),
            encoder.value.eq(addends.value),
            encoder.sticky.eq(addends.sticky),
            output_stage.i.payload.eq(encoder.word),
        ]
        m.d.comb += [
            product_stage.i.valid.eq(self.i.valid),
            self.i.ready.eq(product_stage.i.ready),
            sum_stage.i.valid.eq(product_stage.o.valid),
            product_stage.o.ready.eq(sum_stage.i.ready),
            output_stage.i.valid.eq(sum_stage.o.valid),
            sum_stage.o.ready.eq(output_stage.i.ready),
            self.o.payload.eq(output_stage.o.payload),
            self.o.valid.eq(output_stage.o.valid),
            output_stage.o.ready.eq(self.o.ready),
        ]
        return m
