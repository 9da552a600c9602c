"""Powers of two around the words: exponents of groups, parts of a shift, the host's conversion.

Slow, obvious and exact like :mod:`sw.format`; the definition that tensors are compared with.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from sw.format import SFx

#: Terms along K that one scale covers when an operand carries block scales.
BLOCK: Final = 32
#: R of the contract: how far a block's exponent may lie below the largest of its row or column.
MAX_SPREAD: Final = 15
#: Width of one part (row or column) of a drain's shift, in bits, two's complement.
SHIFT_BITS: Final = 8

ExponentRule = Literal["maximum", "squared_error"]
EXPONENT_RULES: Final[tuple[ExponentRule, ...]] = ("maximum", "squared_error")


def exponent(values: Sequence[float], format: SFx, rule: ExponentRule = "maximum") -> int:
    """The exponent e of a group of binary32 values, whose words then encode ``v / 2**e``.

    Parameters
    ----------
    values : sequence of float
        Finite values that binary32 holds exactly.
    format : SFx
        The format of the words; ``nearest`` rounding.
    rule : {"maximum", "squared_error"}
        The smallest e with ``max|v| <= 2**e`` (``<`` without unity), or the best of that e, e - 1
        and e - 2 by the squared error, summed in float64 in index order, the first winning a tie.

    Returns
    -------
    int
        e; 0 for an all-zero group.
    """
    largest = max((abs(v) for v in values), default=0.0)
    if largest == 0:
        return 0
    fraction, top = math.frexp(largest)  # largest = fraction * 2**top, 0.5 <= fraction < 1
    if format.unity and fraction == 0.5:
        top -= 1
    if rule == "maximum":
        return top
    candidates = (top, top - 1, top - 2)
    return min(candidates, key=lambda e: squared_error(values, format, e))


def squared_error(values: Sequence[float], format: SFx, e: int) -> float:
    """The squared error of encoding ``values`` at exponent ``e``, float64, in index order."""
    total = 0.0
    for value in values:
        scaled = Fraction(value) * power_of_two(-e)
        difference = float(Fraction(value) - format.decode(format.encode(scaled)) * power_of_two(e))
        total += difference * difference
    return total


def align_blocks(
    accumulators: Sequence[int],
    row_shifts: Sequence[int],
    column_shifts: Sequence[int],
    max_spread: int = MAX_SPREAD,
) -> tuple[int, int, int]:
    """Sum the partial dot products of one output element's blocks, each with its own scale.

    Parameters
    ----------
    accumulators : sequence of int
        One exact partial sum per block of 32 terms.
    row_shifts, column_shifts : sequence of int
        One part of the shift per block, -128 to 127, at most ``max_spread`` apart within each.
    max_spread : int
        R, in bits.

    Returns
    -------
    accumulator : int
        The sum in units of the smallest block's, exact.
    row_shift, column_shift : int
        The largest part of each sequence: the shift that :meth:`SFx.drain` then applies.

    Raises
    ------
    ValueError
        If there is no block, lengths differ, or parts lie more than ``max_spread`` apart.
    """
    if not len(accumulators) == len(row_shifts) == len(column_shifts) or not accumulators:
        raise ValueError(
            "accumulators, row_shifts and column_shifts must have one entry per block, not "
            f"{len(accumulators)}, {len(row_shifts)} and {len(column_shifts)}"
        )
    for name, shifts in (("row_shifts", row_shifts), ("column_shifts", column_shifts)):
        spread = max(check_shift(name, s) for s in shifts) - min(shifts)
        if spread > max_spread:
            raise ValueError(f"{name} must lie at most {max_spread} apart, not {spread}")
    row, column = max(row_shifts), max(column_shifts)
    parts = zip(accumulators, row_shifts, column_shifts, strict=True)
    return sum(a << (row - r + column - c) for a, r, c in parts), row, column


def to_binary32(value: Fraction) -> float:
    """A real number rounded once to IEEE 754 binary32, nearest, ties to even.

    Parameters
    ----------
    value : Fraction
        For an ``exact`` drain, ``accumulator * 2**-(Fa + Fb - e_a - e_w) + bias``.

    Returns
    -------
    float
        A value that binary32 holds exactly; infinite on overflow.
    """
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < power_of_two(exponent):
        exponent -= 1
    ulp = max(exponent, -126) - 23
    rounded = round(magnitude * power_of_two(-ulp))  # Python's round ties to even
    if rounded * power_of_two(ulp) >= power_of_two(128):
        return math.copysign(math.inf, value)
    return math.copysign(math.ldexp(rounded, ulp), value)


def power_of_two(exponent: int) -> Fraction:
    """``2**exponent``, exactly, for any integer."""
    return Fraction(1 << exponent) if exponent >= 0 else Fraction(1, 1 << -exponent)


def check_shift(name: str, part: int) -> int:
    """``part`` itself if it fits in a signed 8-bit part of a shift, else ValueError."""
    limit = 1 << (SHIFT_BITS - 1)
    if not -limit <= operator.index(part) < limit:
        raise ValueError(f"{name} must be {-limit} to {limit - 1}, not {part!r}")
    return part
