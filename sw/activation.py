"""The four activations of a drain, as integers define them, and tables fitted to functions.

Slow, obvious and exact like :mod:`sw.format`; hardware and the machine model are compared with it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from sw.format import MAX_BITS, Rounding, SFx
from sw.scale import check_shift, power_of_two

AnyActivation = Literal["linear", "relu", "clamp", "table"]
#: By their code in a GEMM instruction.
ALL_ACTIVATIONS: Final[tuple[AnyActivation, ...]] = ("linear", "relu", "clamp", "table")

#: A table's argument is the operand z of a word of this width, -2**15 to 2**15.
TABLE_BITS: Final = MAX_BITS
TABLE_LIMIT: Final = 1 << (TABLE_BITS - 1)
SEGMENTS: Final = 32
#: A segment covers ``2**SEGMENT_BITS`` arguments, the last one also the end of the range.
SEGMENT_BITS: Final = TABLE_BITS - 5
#: Bits of a segment's start (units of 2**-15) and slope (units of 2**-11), two's complement.
START_BITS: Final = 17
SLOPE_BITS: Final = 16
#: A table's value is an integer in units of ``2**-VALUE_FRACTION_BITS``.
VALUE_FRACTION_BITS: Final = TABLE_BITS - 1 + SEGMENT_BITS


@dataclass(frozen=True, slots=True)
class Table:
    """A piecewise-linear function on [-1, 1]: 32 segments of equal length.

    Parameters
    ----------
    starts : sequence of int
        The value where each segment starts, in units of ``2**-15``, 17 bits signed.
    slopes : sequence of int
        Of each segment, in units of ``2**-11``, 16 bits signed.

    Raises
    ------
    ValueError
        If there are not 32 of each or one does not fit.
    """

    starts: tuple[int, ...]
    slopes: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, values, bits in (
            ("starts", self.starts, START_BITS),
            ("slopes", self.slopes, SLOPE_BITS),
        ):
            if len(values) != SEGMENTS:
                raise ValueError(f"{name} must be {SEGMENTS} integers, not {len(values)}")
            limit = 1 << (bits - 1)
            for value in values:
                if not -limit <= value < limit:
                    raise ValueError(f"{name} must be {-limit} to {limit - 1}, not {value!r}")

    def value(self, z: int) -> int:
        """The table's value at ``z * 2**-15``, exact, in units of ``2**-26``."""
        if not -TABLE_LIMIT <= z <= TABLE_LIMIT:
            raise ValueError(f"z must be {-TABLE_LIMIT} to {TABLE_LIMIT}, not {z!r}")
        distance = z + TABLE_LIMIT
        segment = min(distance >> SEGMENT_BITS, SEGMENTS - 1)
        distance -= segment << SEGMENT_BITS
        return (self.starts[segment] << SEGMENT_BITS) + self.slopes[segment] * distance


def drain(
    format: SFx,
    accumulator: int,
    *,
    row_shift: int = 0,
    column_shift: int = 0,
    bias: int = 0,
    bias_format: SFx | None = None,
    activation: AnyActivation = "linear",
    limit: int = 0,
    table: Table | None = None,
    rounding: Rounding = "nearest",
    output: SFx | None = None,
) -> int:
    """One result of the machine: :meth:`SFx.drain` with every activation.

    Parameters
    ----------
    format, accumulator, row_shift, column_shift, bias, bias_format, rounding, output
        As for :meth:`SFx.drain`, for two operands of the same format.
    activation : {"linear", "relu", "clamp", "table"}
        ``clamp`` is ``max(0, min(v, limit))``, before the rounding. ``table`` looks up the word
        of SF16 for v and encodes the value it finds, so it rounds twice.
    limit : int
        A word of ``format``; a negative one makes every result zero.
    table : Table, optional
        What ``table`` looks up.

    Returns
    -------
    int
        A word of ``output``.
    """
    if activation not in ALL_ACTIVATIONS:
        choices = ", ".join(ALL_ACTIVATIONS)
        raise ValueError(f"activation must be one of {choices}, not {activation!r}")
    shift = check_shift("row_shift", row_shift) + check_shift("column_shift", column_shift)
    value = accumulator * power_of_two(-2 * format.fraction_bits - shift)
    value += (bias_format or format).decode(bias)
    if activation in ("relu", "clamp"):
        if activation == "clamp":
            value = min(value, format.decode(limit))
        value = max(value, Fraction(0))
    elif activation == "table":
        if table is None:
            raise ValueError("table must be a Table for activation table, not None")
        argument = SFx(TABLE_BITS, format.unity)
        found = table.value(argument.operand(argument.encode(value, rounding)))
        value = Fraction(found, 1 << VALUE_FRACTION_BITS)
    return (output or format).encode(value, rounding)


# Tables for functions

Function = Callable[[float], float]


def gelu(x: float) -> float:
    """``x`` times the standard normal distribution function (Hendrycks and Gimpel, 2016)."""
    return x * 0.5 * math.erfc(-x / math.sqrt(2))


def sigmoid(x: float) -> float:
    """``1 / (1 + exp(-x))``."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def silu(x: float) -> float:
    """``x * sigmoid(x)``."""
    return x * sigmoid(x)


FUNCTIONS: Final[dict[str, Function]] = {
    "gelu": gelu,
    "silu": silu,
    "sigmoid": sigmoid,
    "tanh": math.tanh,
}


def fit(function: Function, input_exponent: int, output_exponent: int, step: int = 8) -> Table:
    """The table of ``2**-output_exponent * function(2**input_exponent * v)`` for v in [-1, 1].

    In each segment the line with the least maximum error: for any slope the best start is the
    middle of what is left over, and the error that then remains is convex in the slope.

    Parameters
    ----------
    function : callable
        On floats, finite in the domain.
    input_exponent, output_exponent : int
        Words encode arguments divided by ``2**input_exponent`` and values by
        ``2**output_exponent``.
    step : int
        The error is looked at on every so many-th argument of a segment, a power of two up to
        2048, and at its end.

    Returns
    -------
    Table

    Raises
    ------
    ValueError
        If a start or slope does not fit: the output exponent is too small for the function.
    """
    scale_in, scale_out = float(power_of_two(input_exponent)), float(power_of_two(-output_exponent))
    starts, slopes = [], []
    for segment in range(SEGMENTS):
        first = (segment << SEGMENT_BITS) - TABLE_LIMIT
        distances = range(0, (1 << SEGMENT_BITS) + 1, step)
        values = [
            function((first + d) / TABLE_LIMIT * scale_in) * scale_out * (1 << VALUE_FRACTION_BITS)
            for d in distances
        ]
        start, slope = _fit_line(distances, values)
        starts.append(start)
        slopes.append(slope)
    return Table(tuple(starts), tuple(slopes))


def _fit_line(distances: Sequence[int], values: Sequence[float]) -> tuple[int, int]:
    """The start and slope with the least maximum error; values in units of ``2**-26``."""

    def left_over(slope: int) -> tuple[float, float]:
        rests = [v - slope * d for d, v in zip(distances, values, strict=True)]
        return min(rests), max(rests)

    def spread(slope: int) -> float:
        low, high = left_over(slope)
        return high - low

    chord = math.floor((values[-1] - values[0]) / (distances[-1] - distances[0]))
    steepest = max(abs(b - a) for a, b in itertools.pairwise(values))
    reach = math.ceil(steepest / (distances[1] - distances[0])) + abs(chord) + 1
    low, high = chord - reach, chord + reach
    while high - low > 2:  # a third of the interval cannot hold the least of a convex function
        third = (high - low) // 3
        left, right = low + third, high - third
        if spread(left) <= spread(right):
            high = right
        else:
            low = left
    slope = min(range(low, high + 1), key=spread)
    least, most = left_over(slope)
    return round((least + most) / 2 / (1 << SEGMENT_BITS)), slope


def largest_error(
    table: Table, function: Function, input_exponent: int, output_exponent: int
) -> float:
    """The table's largest error over all arguments, in units of the function's value."""
    scale_in = float(power_of_two(input_exponent - TABLE_BITS + 1))
    scale_out = float(power_of_two(output_exponent - VALUE_FRACTION_BITS))
    return max(
        abs(table.value(z) * scale_out - function(z * scale_in))
        for z in range(-TABLE_LIMIT, TABLE_LIMIT + 1)
    )
