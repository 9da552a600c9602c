"""Fused multiply-add and accumulate in IEEE 754 binary formats: the rivals of the SFx cell.

Of our own writing, to compare with at equal terms: not a generator's padded unit.
"""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.compressor_tree import LIBRARY_CELL, REDUCTIONS, build_reduction
from hw.float_adder import MagnitudeAdder
from hw.float_format import FloatFormat
from hw.float_shift import AlignmentShifter, Normalizer
from hw.multiplier import check_target

#: Bits of the window below the product: what a subnormal factor's difference can need to round.
_BELOW: Final = 2
#: Bits of precision from which a network of large fan-out is the slower one.
_WIDE: Final = 16


class FloatFusedMultiplyAdd(wiring.Component):
    """``a * b + c``, rounded once to nearest, ties to even. Combinational, latency 0.

    Subnormal operands and results are exact as IEEE 754-2019 has them; any NaN operand, zero times
    infinity and the difference of infinities give the one NaN ``0 11..1 10..0``. No flags.

    Parameters
    ----------
    exponent_bits, fraction_bits : int
        As for :class:`hw.float_format.FloatFormat`.
    target : {"generic", "ecp5", "ice40", "osu018"}
        ``osu018`` takes the library's full adder.
    adder : {"ripple", "brent_kung", "sklansky", "kogge_stone"}, optional
        The network of carries of the wide addition; if omitted, the best on osu018: Brent and
        Kung's from 16 bits of precision up, for its small fan-out, below it Sklansky's.

    Members
    -------
    a, b, c : In(1 + exponent_bits + fraction_bits)
        Words.
    o : Out(1 + exponent_bits + fraction_bits)
        Word.

    Notes
    -----
    The addend is aligned to a window of ``3p + 4`` bits (p = fraction_bits + 1) while the product
    is reduced (after R. K. Montoye, E. Hokenek and S. L. Runyon, 1990). The product lies
    ``_BELOW`` bits above the window's end, the addend starts at its top: there it is past the
    product by a round bit and one more, and a product that is smaller still rounds the same way.
    """

    def __init__(
        self,
        exponent_bits: int,
        fraction_bits: int,
        target: str = "generic",
        adder: str | None = None,
    ) -> None:
        check_target(target)
        self.format = format = FloatFormat(exponent_bits, fraction_bits)
        self.cell = LIBRARY_CELL if target == "osu018" else "shared"
        precision = format.precision
        self.width = width = 3 * precision + 2 + _BELOW
        self.shifter = AlignmentShifter(precision, width)
        chosen = adder or ("brent_kung" if precision >= _WIDE else "sklansky")
        self.adder = MagnitudeAdder(width, chosen)
        self.normalizer = Normalizer(width, precision, exponent_bits + 1)
        word = format.bits
        super().__init__({"a": In(word), "b": In(word), "c": In(word), "o": Out(word)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.shifter = self.shifter
        m.submodules.adder = self.adder
        m.submodules.normalizer = self.normalizer
        a, b, c = (_Operand(m, self.format, name, getattr(self, name)) for name in "abc")
        sign, subtract = Signal(), Signal()
        m.d.comb += [sign.eq(a.sign ^ b.sign), subtract.eq(sign ^ c.sign)]
        top = self._align(m, a, b, c, subtract)
        self._add(m, a, b, subtract, platform)
        rounded = self._round(m, top)
        result_sign = Signal()
        m.d.comb += result_sign.eq(~self.adder.zero & (sign ^ self.adder.negative))
        self._choose(m, (a, b, c), (sign, subtract), Cat(rounded, result_sign))
        return m

    def _align(self, m: Module, a: _Operand, b: _Operand, c: _Operand, subtract: Signal) -> Signal:
        """Shift the addend into the window; the stored exponent that a one at its top has."""
        format, width = self.format, self.width
        product = Signal(range(-format.bias, 3 << format.exponent_bits))
        apart = Signal(range(-(4 << format.exponent_bits), 4 << format.exponent_bits))
        top = Signal(format.exponent_bits + 1)
        above = Signal()
        m.d.comb += [
            product.eq(a.exponent + b.exponent + (format.precision + 3 - format.bias)),
            apart.eq(product - c.exponent),
            above.eq(apart < 0),
            top.eq(Mux(above, c.exponent, product)),
            self.shifter.significand.eq(c.significand),
            self.shifter.shift.eq(Mux(above, 0, Mux(apart > width, width, apart))),
            self.shifter.complement.eq(subtract),
        ]
        return top

    def _add(self, m: Module, a: _Operand, b: _Operand, subtract: Signal, platform: object) -> None:
        """Reduce the product and the addend to two rows and add them."""
        precision = self.format.precision
        columns: list[list[Value]] = [[] for _ in range(2 * precision)]
        for i in range(precision):
            row = Signal(precision, name=f"row_{i}")
            m.d.comb += row.eq(a.significand & b.significand[i].replicate(precision))
            for j in range(precision):
                columns[i + j].append(row[j])
        heights = [len(column) for column in columns]
        m.submodules.product = inner = Module()
        left = build_reduction(inner, columns, REDUCTIONS["stages"](heights), self.cell, platform)
        aligned = self.shifter.aligned
        window = [[bit] for bit in aligned]
        for i, column in enumerate(left):
            window[_BELOW + i] += column
        last = REDUCTIONS["stages"]([len(column) for column in window])
        rows = build_reduction(m, window, last, self.cell, platform)
        x, y = (Cat(column[k] if len(column) > k else 0 for column in rows) for k in (0, 1))
        m.d.comb += [
            self.adder.x.eq(x),
            self.adder.y.eq(y),
            self.adder.subtract.eq(subtract),
            self.adder.lost.eq(self.shifter.lost),
        ]

    def _round(self, m: Module, top: Signal) -> Value:
        """Exponent and fraction of the sum, infinity where it is too large."""
        format, normalizer = self.format, self.normalizer
        fraction_bits, exponent_bits = format.fraction_bits, format.exponent_bits
        exponent = Signal(exponent_bits + 1)
        significand = normalizer.significand
        up = Signal()
        rounded = Signal(exponent_bits + 1 + fraction_bits)
        overflow = Signal()
        sticky = normalizer.sticky | self.shifter.lost
        m.d.comb += [
            normalizer.value.eq(self.adder.magnitude),
            normalizer.limit.eq(top - 1),
            # Without a leading one the result is subnormal or zero.
            exponent.eq((top - normalizer.shift) & significand[-1].replicate(exponent_bits + 1)),
            up.eq(normalizer.round & (sticky | significand[0])),
            rounded.eq(Cat(significand[:fraction_bits], exponent) + up),
            overflow.eq(rounded[fraction_bits:] >= (1 << exponent_bits) - 1),
        ]
        infinity = _infinity(format)
        return Mux(overflow, infinity, rounded[: exponent_bits + fraction_bits])

    def _choose(
        self,
        m: Module,
        operands: tuple[_Operand, _Operand, _Operand],
        signs: tuple[Signal, Signal],
        result: Value,
    ) -> None:
        """The result, or what NaNs, infinities and a product of zero give in its place."""
        a, b, c = operands
        sign, subtract = signs
        infinite, invalid, passed = Signal(), Signal(), Signal()
        m.d.comb += [
            infinite.eq(a.infinite | b.infinite),
            passed.eq(c.infinite | a.zero | b.zero),
            invalid.eq(
                (a.nan | b.nan | c.nan)
                | (a.infinite & b.zero | a.zero & b.infinite)
                | (infinite & c.infinite & subtract)
            ),
        ]
        nan = (1 << self.format.fraction_bits - 1) | _infinity(self.format).value
        with m.If(invalid):
            m.d.comb += self.o.eq(nan)
        with m.Elif(infinite):
            m.d.comb += self.o.eq(Cat(_infinity(self.format), sign))
        with m.Elif(passed):
            m.d.comb += self.o.eq(Cat(self.c[:-1], c.sign & (sign | ~c.zero)))
        with m.Else():
            m.d.comb += self.o.eq(result)


class _Operand:
    """A word taken apart: one-bit classes, the exponent (1 for subnormals) and the significand."""

    def __init__(self, m: Module, format: FloatFormat, name: str, word: Value) -> None:
        fraction, exponent = word[: format.fraction_bits], word[format.fraction_bits : -1]
        self.sign = word[-1]
        self.zero, self.infinite, self.nan = (
            Signal(name=f"{name}_{kind}") for kind in ("zero", "infinite", "nan")
        )
        normal, whole, largest = (
            Signal(name=f"{name}_{kind}") for kind in ("normal", "whole", "largest")
        )
        self.exponent = Signal(format.exponent_bits, name=f"{name}_exponent")
        self.significand = Signal(format.precision, name=f"{name}_significand")
        m.d.comb += [
            normal.eq(exponent.any()),
            largest.eq(exponent.all()),
            whole.eq(~fraction.any()),
            self.zero.eq(~normal & whole),
            self.infinite.eq(largest & whole),
            self.nan.eq(largest & ~whole),
            self.exponent.eq(exponent | ~normal),
            self.significand.eq(Cat(fraction, normal)),
        ]


def _infinity(format: FloatFormat) -> Const:
    """Exponent and fraction of infinity."""
    ones = (1 << format.exponent_bits) - 1
    return Const(ones << format.fraction_bits, format.bits - 1)
