"""The drain: an exact accumulator becomes one word of the output format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.activation import ActivationUnit, Select
from hw.encoder import SignedEncoder, guard_bits
from hw.fma import operand_magnitude
from sw.format import MAX_TERMS, Rounding, SFx
from sw.scale import SHIFT_BITS

#: Bits that say together whether something is so.
_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class DrainSizes:
    """Widths inside a drain that encodes one sum to words of one or more formats.

    Numbers inside are in units of ``2**-G``, where G is enough for the bias and for what the
    encoders look at. Only so many shifts can be told apart: ``-(2F + 1)`` and everything below make
    any accumulator but zero 2 or more, beyond what a bias can bring back; and once ``accumulator *
    2**(G - 2F - shift)`` is a proper fraction, only its sign and that it is not zero matter. The
    largest accumulator, ``-2**(width - 1)``, is that small from ``shift = width + G - 2F`` on. So
    the shift is clamped below, and above at no less than that bound. (The accumulator's width
    alone is enough only while ``G <= 2F``.)

    Parameters
    ----------
    format : SFx
        The format of the operands.
    width : int
        Bits of the accumulator.
    outputs : tuple of SFx
        The formats of the words.
    bias_format : SFx
    rounding : {"nearest", "truncate"}
    """

    format: SFx
    width: int
    outputs: tuple[SFx, ...]
    bias_format: SFx
    rounding: Rounding

    def encoded_bits(self, output: SFx) -> int:
        """Fraction bits that the encoder of ``output`` looks at."""
        return output.fraction_bits + guard_bits(self.rounding)

    @property
    def fraction_bits(self) -> int:
        """G."""
        return max(self.bias_format.fraction_bits, *map(self.encoded_bits, self.outputs))

    @property
    def least_shift(self) -> int:
        """The least shift that makes a difference."""
        return -(2 * self.format.fraction_bits + 1)

    @property
    def amount_bits(self) -> int:
        """Bits of a clamped shift, counted from :attr:`least_shift`."""
        largest = self.width + self.fraction_bits - 2 * self.format.fraction_bits
        return (largest - self.least_shift).bit_length()

    @property
    def sum_bits(self) -> int:
        """Bits of the sum of a :class:`FloorShifter`'s number and a bias."""
        return self.fraction_bits + 4

    def make_shifter(self) -> FloorShifter:
        """The shifter: it starts from 2**(G + 1) times the value, as the least shift gives it."""
        return FloorShifter(self.width, self.fraction_bits + 1, self.amount_bits)

    def make_encoder(self, output: SFx) -> SignedEncoder:
        """The encoder of the sum's upper bits: see :meth:`encoder_inputs`."""
        dropped = self.fraction_bits - self.encoded_bits(output)
        return SignedEncoder(output, self.sum_bits - dropped, self.rounding)

    def encoder_inputs(self, output: SFx, total: Value, sticky: Value) -> tuple[Value, Value]:
        """``value`` and ``sticky`` of an encoder, from the sum and its own sticky bit."""
        dropped = self.fraction_bits - self.encoded_bits(output)
        return total[dropped:].as_signed(), sticky | total[:dropped].any()

    def bias_value(self, bias: Value) -> Value:
        """A bias in units of ``2**-G``, two's complement."""
        magnitude = operand_magnitude(self.bias_format, bias)
        places = self.fraction_bits - self.bias_format.fraction_bits
        value = Cat(Const(0, places), magnitude, Const(0, 1)).as_signed()
        return Mux(bias[-1], -value, value)


def floor_layout(fraction_bits: int) -> data.StructLayout:
    """What a :class:`FloorShifter` finds; :func:`join_floor` puts it together.

    ``low``: the lowest bits; ``sign``; ``beyond``: some bit is set if the number is outside the
    range; ``lost``: some bit is set if a one was shifted out.
    """
    return data.StructLayout({"low": fraction_bits, "sign": 1, "beyond": _PARTS, "lost": _PARTS})


def join_floor(found: data.View) -> tuple[Value, Value]:
    """The floor F if ``-2**f <= F < 2**f``, else a number outside that range with F's sign, signed
    and of f + 2 bits; and whether a one was shifted out."""
    over = found.sign ^ found.beyond.any()
    return Cat(found.low, over, found.sign).as_signed(), found.lost.any()


def _join_early(parts: list[Value]) -> Value:
    """Whether any is set, in few bits: those that come last stay by themselves."""
    early = len(parts) + 1 - _PARTS
    return Cat(Cat(*parts[:early]).any(), *parts[early:])


class FloorShifter(wiring.Component):
    """``floor(i * 2**(fraction_bits - amount))`` where it is small, with what is known of the rest.

    Combinational, latency 0. Stages shift by falling powers of two. Before each one, the bits that
    can no longer come down into the result are dropped, noting whether they differed from the sign.

    Parameters
    ----------
    width : int
        Bits of ``i``.
    fraction_bits : int
        f: how far ``i`` is raised first.
    amount_bits : int
        Bits of ``amount``.

    Members
    -------
    i : In(signed(width))
    amount : In(amount_bits)
        Places to the right.
    o : Out(floor_layout(fraction_bits))
    """

    def __init__(self, width: int, fraction_bits: int, amount_bits: int) -> None:
        self.fraction_bits = fraction_bits
        super().__init__(
            {
                "i": In(signed(width)),
                "amount": In(amount_bits),
                "o": Out(floor_layout(fraction_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign = self.i[-1]
        value: Value = Cat(Const(0, self.fraction_bits), self.i)
        beyond: list[Value] = []
        lost: list[Value] = []
        for stage in reversed(range(len(self.amount))):
            value, above = self._drop(value, 2 << stage)
            beyond.append((above ^ sign.replicate(len(above))).any())
            places, shifts = 1 << stage, self.amount[stage]
            lost.append(shifts & value[:places].any())
            shifted = Signal(len(value), name=f"shifted_{stage}")
            m.d.comb += shifted.eq(Mux(shifts, Cat(value[places:], sign.replicate(places)), value))
            value = shifted
        value, above = self._drop(value, 1)
        beyond.append((above ^ sign.replicate(len(above))).any())
        m.d.comb += [
            self.o.low.eq(value),
            self.o.sign.eq(sign),
            self.o.beyond.eq(_join_early(beyond)),
            self.o.lost.eq(_join_early(lost)),
        ]
        return m

    def _drop(self, value: Value, reach: int) -> tuple[Value, Value]:
        """``value`` without the bits out of reach of shifts by less than ``reach``, and those."""
        width = self.fraction_bits + reach - 1
        return value[:width], value[width:]


class ShiftAmount(wiring.Component):
    """The two parts of a drain's shift added, counted from the least one that makes a difference.

    Combinational, latency 0.

    Parameters
    ----------
    sizes : DrainSizes

    Members
    -------
    row_shift, column_shift : In(signed(8))
    amount : Out(sizes.amount_bits)
        The sum minus ``sizes.least_shift``, clamped at both ends.
    """

    def __init__(self, sizes: DrainSizes) -> None:
        self.sizes = sizes
        super().__init__(
            {
                "row_shift": In(signed(SHIFT_BITS)),
                "column_shift": In(signed(SHIFT_BITS)),
                "amount": Out(sizes.amount_bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.sizes.amount_bits
        # One more bit than any sum needs, so that there is always one to look at above the amount.
        total = Signal(signed(max(SHIFT_BITS + 2, width + 2)))
        m.d.comb += total.eq(self.row_shift + self.column_shift - self.sizes.least_shift)
        too_large = total[width:-1].any().replicate(width)
        m.d.comb += self.amount.eq(Mux(total[-1], 0, total[:width] | too_large))
        return m


class Drain(wiring.Component):
    """``o = act(accumulator * 2**-2F * 2**-(row_shift + column_shift) + bias)``, rounded once.

    Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the operands.
    max_terms : int
        K_max; sizes the accumulator.
    output : SFx, optional
        The format of the result; ``format`` if omitted.
    bias_format : SFx, optional
        The format of the bias; ``format`` if omitted.
    rounding : {"nearest", "truncate"}
        Nearest with ties away from zero, or toward zero.

    Members
    -------
    accumulator : In(signed(format.accumulator_bits(max_terms)))
        Any value, in units of ``2**-2F``.
    row_shift, column_shift : In(signed(8))
        The two parts of the shift; positive divides.
    bias : In(bias_format.bits)
        A word in the output's scale.
    select : In(1)
        0 linear, 1 ReLU.
    o : Out(output.bits)
        A word, never minus zero.
    """

    def __init__(
        self,
        format: SFx,
        max_terms: int = MAX_TERMS,
        output: SFx | None = None,
        bias_format: SFx | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        self.format = format
        self.output = output or format
        self.bias_format = bias_format or format
        width = format.accumulator_bits(max_terms)
        self.sizes = DrainSizes(format, width, (self.output,), self.bias_format, rounding)
        self.shifter = self.sizes.make_shifter()
        self.encoder = self.sizes.make_encoder(self.output)
        super().__init__(
            {
                "accumulator": In(signed(width)),
                "row_shift": In(signed(SHIFT_BITS)),
                "column_shift": In(signed(SHIFT_BITS)),
                "bias": In(self.bias_format.bits),
                "select": In(Select),
                "o": Out(self.output.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.amount = amount = ShiftAmount(self.sizes)
        m.submodules.shifter = shifter = self.shifter
        m.submodules.encoder = encoder = self.encoder
        m.submodules.activation = activation = ActivationUnit(self.output)
        total = Signal(signed(self.sizes.sum_bits))
        floor, lost = join_floor(shifter.o)
        value, sticky = self.sizes.encoder_inputs(self.output, total, lost)
        m.d.comb += [
            amount.row_shift.eq(self.row_shift),
            amount.column_shift.eq(self.column_shift),
            shifter.i.eq(self.accumulator),
            shifter.amount.eq(amount.amount),
            total.eq(floor + self.sizes.bias_value(self.bias)),
            encoder.value.eq(value),
            encoder.sticky.eq(sticky),
            activation.i.eq(encoder.word),
            activation.select.eq(self.select),
            self.o.eq(activation.o),
        ]
        return m
