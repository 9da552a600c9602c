"""The Superfloat number format and the integer model that defines its arithmetic.

Everything here is slow, obvious Python on integers and fractions. It is the
definition: tensors, Amaranth, Icarus, Verilator and netlists are compared with it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Rational, Real
from typing import Final, Literal

from sw.scale import check_shift, power_of_two

MIN_BITS: Final = 3
MAX_BITS: Final = 16
#: Default K_max: the longest dot product that an accumulator is sized for.
MAX_TERMS: Final = 65536

Rounding = Literal["nearest", "truncate"]
Activation = Literal["linear", "relu"]
ROUNDINGS: Final[tuple[Rounding, ...]] = ("nearest", "truncate")
ACTIVATIONS: Final[tuple[Activation, ...]] = ("linear", "relu")


@dataclass(frozen=True, slots=True)
class SFx:
    """A Superfloat format: one sign bit and ``bits - 1`` fraction bits, values in [-1, 1].

    Parameters
    ----------
    bits : int
        Width of a word in bits, 3 to 16.
    unity : bool
        Whether the all-ones magnitude means exactly 1 (default) or ``(2**F - 1) / 2**F``.

    Raises
    ------
    TypeError
        If ``bits`` is not an integer or ``unity`` not a bool.
    ValueError
        If ``bits`` is outside 3..16.

    Notes
    -----
    Bit ``bits - 1`` of a word is the sign, the bits below it the magnitude ``m``. Minus zero is
    accepted as zero and never produced.
    """

    bits: int
    unity: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int):
            raise TypeError(f"bits must be an integer, not {self.bits!r}")
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, not {self.bits!r}")
        if not isinstance(self.unity, bool):
            raise TypeError(f"unity must be True or False, not {self.unity!r}")

    def __str__(self) -> str:
        return f"SF{self.bits}" + ("" if self.unity else " without unity")

    @property
    def fraction_bits(self) -> int:
        """F, the number of magnitude bits."""
        return self.bits - 1

    @property
    def max_code(self) -> int:
        """The all-ones magnitude, ``2**F - 1``."""
        return (1 << self.fraction_bits) - 1

    @property
    def sign_bit(self) -> int:
        """The sign bit's weight in a word, ``2**F``."""
        return 1 << self.fraction_bits

    def accumulator_bits(self, max_terms: int = MAX_TERMS, max_spread: int = 0) -> int:
        """Bits of the two's complement accumulator that holds any dot product exactly.

        Parameters
        ----------
        max_terms : int
            K_max, the longest dot product in terms, at least 2.
        max_spread : int
            R of block scales, in bits; 0 without block scales.

        Returns
        -------
        int
            ``2F + 2 + ceil(log2(max_terms)) + 2 * max_spread``.
        """
        if max_terms < 2:
            raise ValueError(f"max_terms must be at least 2, not {max_terms!r}")
        return 2 * self.fraction_bits + 2 + (max_terms - 1).bit_length() + 2 * max_spread

    # Words and values

    def encode(self, value: float | Fraction, rounding: Rounding = "nearest") -> int:
        """The word for a real number.

        Parameters
        ----------
        value : int, float or Fraction
            Any real number; infinities saturate.
        rounding : {"nearest", "truncate"}
            Nearest with ties away from zero, or toward zero.

        Returns
        -------
        int
            A word, ``0 .. 2**bits - 1``, never minus zero.

        Raises
        ------
        ValueError
            If ``value`` is NaN or ``rounding`` unknown.
        TypeError
            If ``value`` is not a real number.
        """
        _check_choice("rounding", rounding, ROUNDINGS)
        if not isinstance(value, Real):
            raise TypeError(f"value must be a real number, not {value!r}")
        if isinstance(value, Rational):
            exact = Fraction(value)
        else:
            number = float(value)
            if math.isnan(number):
                raise ValueError("value must be a number, not NaN")
            exact = Fraction(math.copysign(2, number)) if math.isinf(number) else Fraction(number)
        sign = self.sign_bit if exact < 0 else 0
        scaled = abs(exact) * (1 << self.fraction_bits)
        if scaled >= self.max_code:
            return sign | self.max_code
        if rounding == "truncate":
            magnitude = math.floor(scaled)
        else:
            magnitude = math.floor(scaled + Fraction(1, 2))
            if self.unity:  # all ones means 1, and only step 2 of the contract may produce it
                magnitude = min(magnitude, self.max_code - 1)
        return sign | magnitude if magnitude else 0

    def decode(self, word: int) -> Fraction:
        """The exact value of a word.

        Parameters
        ----------
        word : int
            ``0 .. 2**bits - 1``.

        Returns
        -------
        Fraction
            A value in [-1, 1].

        Raises
        ------
        ValueError
            If ``word`` is outside the format.
        """
        return Fraction(self.operand(word), 1 << self.fraction_bits)

    def operand(self, word: int) -> int:
        """The signed integer operand M of a word, in units of ``2**-F``.

        Returns
        -------
        int
            ``-2**F .. 2**F`` under unity, ``-(2**F - 1) .. 2**F - 1`` without.
        """
        word = self._check_word(word)
        magnitude = word & self.max_code
        if self.unity and magnitude == self.max_code:
            magnitude += 1
        return -magnitude if word & self.sign_bit else magnitude

    def widen(self, word: int, to: SFx) -> int:
        """The word of a wider format with the same value.

        Parameters
        ----------
        word : int
            A word of this format.
        to : SFx
            A format at least as wide, with the same ``unity``.
        """
        if to.bits < self.bits or to.unity != self.unity:
            raise ValueError(f"to must be at least {self}, not {to}")
        return to.encode(self.decode(word))

    # Arithmetic on words

    def multiply(self, a: int, b: int, other: SFx | None = None) -> int:
        """The exact product of two words.

        Parameters
        ----------
        a : int
            A word of this format.
        b : int
            A word of ``other``.
        other : SFx, optional
            The format of ``b``; this format if omitted.

        Returns
        -------
        int
            The product in units of ``2**-(F + other.F)``.
        """
        other = self._check_other(other)
        return self.operand(a) * other.operand(b)

    def fma(self, a: int, b: int, c: int, rounding: Rounding = "nearest") -> int:
        """``encode(value(a) * value(b) + value(c))``, rounded once.

        Parameters
        ----------
        a, b, c : int
            Words of this format.

        Returns
        -------
        int
            A word of this format.
        """
        return self.encode(self.decode(a) * self.decode(b) + self.decode(c), rounding)

    def dot(
        self,
        a: Sequence[int],
        b: Sequence[int],
        other: SFx | None = None,
        max_terms: int = MAX_TERMS,
    ) -> int:
        """The exact dot product of two vectors of words.

        Parameters
        ----------
        a, b : sequence of int
            Words of this format and of ``other``, K each.
        other : SFx, optional
            The format of ``b``; this format if omitted.
        max_terms : int
            K_max; a longer dot product is refused.

        Returns
        -------
        int
            The accumulator, in units of ``2**-(F + other.F)``.

        Raises
        ------
        ValueError
            If the lengths differ or exceed ``max_terms``.
        """
        if len(a) != len(b):
            raise ValueError(f"b must have {len(a)} words like a, not {len(b)}")
        if len(a) > max_terms:
            raise ValueError(f"dot product must have at most {max_terms} terms, not {len(a)}")
        return sum(self.multiply(x, y, other) for x, y in zip(a, b, strict=True))

    def drain(
        self,
        accumulator: int,
        *,
        row_shift: int = 0,
        column_shift: int = 0,
        bias: int = 0,
        bias_format: SFx | None = None,
        activation: Activation = "linear",
        rounding: Rounding = "nearest",
        other: SFx | None = None,
        output: SFx | None = None,
    ) -> int:
        """``encode(act(accumulator * 2**-(F + other.F) * 2**-shift + bias))``, rounded once.

        Parameters
        ----------
        accumulator : int
            A dot product of words of this format and of ``other``.
        row_shift, column_shift : int
            The two parts of the shift, -128 to 127 each; positive divides.
        bias : int
            A word of ``bias_format``, in the output's scale.
        bias_format : SFx, optional
            This format if omitted.
        activation : {"linear", "relu"}
        rounding : {"nearest", "truncate"}
        other : SFx, optional
            The format of the second operand; this format if omitted.
        output : SFx, optional
            The format of the result; this format if omitted. (An ``exact`` drain is the
            accumulator itself: see :func:`sw.scale.to_binary32` for what the host does with it.)

        Returns
        -------
        int
            A word of ``output``.
        """
        other = self._check_other(other)
        _check_choice("activation", activation, ACTIVATIONS)
        shift = check_shift("row_shift", row_shift) + check_shift("column_shift", column_shift)
        fraction_bits = self.fraction_bits + other.fraction_bits
        value = accumulator * power_of_two(-fraction_bits - shift)
        value += (bias_format or self).decode(bias)
        if activation == "relu":
            value = max(value, Fraction(0))
        return (output or self).encode(value, rounding)

    # Checks

    def _check_word(self, word: int) -> int:
        try:
            index = operator.index(word)
        except TypeError:
            raise TypeError(f"word must be an integer, not {word!r}") from None
        if not 0 <= index < 1 << self.bits:
            raise ValueError(f"word must be 0 to {(1 << self.bits) - 1} for {self}, not {word!r}")
        return index

    def _check_other(self, other: SFx | None) -> SFx:
        if other is None:
            return self
        if other.unity != self.unity:
            raise ValueError(f"both operands must have the same unity, not {self} and {other}")
        return other


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
