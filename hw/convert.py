"""IEEE 754 numbers to words and back."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.encoder import Encoder, guard_bits
from sw.format import Rounding, SFx


class FloatToSFx(wiring.Component):
    """Rounds an IEEE 754 binary number to a word, once. Combinational, latency 0.

    Infinities and everything from ``(2**F - 1) / 2**F`` up saturate, NaN gives zero, subnormals
    count. Truncating, this is the published "111 reduction trick": with binary32, every biased
    exponent below ``127 - F``, 111 and less for SF16, gives zero.

    Parameters
    ----------
    exponent_bits, significand_bits : int
        Widths of the two lower fields' upper and lower one: 8 and 23, or 5 and 10.
    format : SFx
        The format of the word.
    rounding : {"nearest", "truncate"}
        Nearest with ties away from zero, or toward zero.

    Members
    -------
    i : In(1 + exponent_bits + significand_bits)
        The number's bits.
    o : Out(x)
        The word, never minus zero.
    """

    def __init__(
        self,
        exponent_bits: int,
        significand_bits: int,
        format: SFx,
        rounding: Rounding = "nearest",
    ) -> None:
        self.layout = data.StructLayout(
            {"significand": significand_bits, "exponent": exponent_bits, "sign": 1}
        )
        self.exponent_bias = (1 << exponent_bits - 1) - 1
        self.fraction_bits = format.fraction_bits + guard_bits(rounding)
        # One bit above the fraction says that the number is 1 or more.
        self.encoder = Encoder(format, self.fraction_bits, self.fraction_bits + 1, rounding)
        super().__init__({"i": In(1 + exponent_bits + significand_bits), "o": Out(format.bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.encoder = encoder = self.encoder
        number = data.View(self.layout, self.i)
        normal, one_or_more, not_a_number = Signal(), Signal(), Signal()
        m.d.comb += [
            normal.eq(number.exponent.any()),
            one_or_more.eq(number.exponent >= self.exponent_bias),
            not_a_number.eq(number.exponent.all() & number.significand.any()),
            encoder.sign.eq(number.sign),
            encoder.magnitude.eq(
                Cat(self._fraction(m, Cat(number.significand, normal), normal), one_or_more)
            ),
            self.o.eq(Mux(not_a_number, 0, encoder.word)),
        ]
        return m

    def _fraction(self, m: Module, significand: Value, normal: Value) -> Value:
        """A number below 1 in units of ``2**-fraction_bits``, floored.

        Below ``2 ** (1 - exponent_bias)``, subnormals have the exponent of the smallest normals.
        """
        surplus = len(significand) - self.fraction_bits
        aligned = significand[surplus:] if surplus >= 0 else Cat(Const(0, -surplus), significand)
        exponent = data.View(self.layout, self.i).exponent
        below_half = Signal(len(exponent) - 1)
        m.d.comb += below_half.eq(
            self.exponent_bias - 1 - Cat(exponent[0] | ~normal, exponent[1:-1])
        )
        return aligned >> below_half


class Binary32ToSFx(FloatToSFx):
    """Rounds an IEEE 754 binary32 number to a word: see :class:`FloatToSFx`.

    Parameters
    ----------
    format : SFx
        The format of the word.
    rounding : {"nearest", "truncate"}
        Nearest with ties away from zero, or toward zero.

    Members
    -------
    i : In(32)
        The number's bits.
    o : Out(x)
        The word, never minus zero.
    """

    def __init__(self, format: SFx, rounding: Rounding = "nearest") -> None:
        super().__init__(8, 23, format, rounding)


class Binary16ToSFx(FloatToSFx):
    """Rounds an IEEE 754 binary16 number to a word: see :class:`FloatToSFx`.

    Parameters
    ----------
    format : SFx
        The format of the word.
    rounding : {"nearest", "truncate"}
        Nearest with ties away from zero, or toward zero.

    Members
    -------
    i : In(16)
        The number's bits.
    o : Out(x)
        The word, never minus zero.
    """

    def __init__(self, format: SFx, rounding: Rounding = "nearest") -> None:
        super().__init__(5, 10, format, rounding)


class SFxToBinary32(wiring.Component):
    """The IEEE 754 binary32 number that a word stands for, exactly. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the word.

    Members
    -------
    i : In(x)
        A word.
    o : Out(32)
        The number's bits; plus zero for both zeros.
    """

    def __init__(self, format: SFx) -> None:
        self.format = format
        super().__init__({"i": In(format.bits), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.format.fraction_bits
        sign, magnitude = self.i[bits], self.i[:bits]
        exponent, fraction = Signal(8), Signal(bits - 1)
        for leading in range(bits):
            with m.If(magnitude[leading]):  # the last that holds wins: the highest one
                m.d.comb += [
                    exponent.eq(127 - bits + leading),
                    fraction.eq(magnitude[:leading] << bits - 1 - leading),
                ]
        if self.format.unity:
            with m.If(magnitude.all()):
                m.d.comb += [exponent.eq(127), fraction.eq(0)]
        m.d.comb += self.o.eq(Cat(Const(0, 24 - bits), fraction, exponent, sign & magnitude.any()))
        return m
