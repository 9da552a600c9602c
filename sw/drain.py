"""What happens to exact accumulators: drained to words, or scaled by the host to binary32.

Plain torch on any device; the compiled matmul drains by the same rules in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from sw.arrays import Array, integer_tensor, powers_of_two, to_tensor
from sw.format import ACTIVATIONS, Activation, Rounding, SFx
from sw.scale import SHIFT_BITS
from sw.words import as_words, check_rounding, check_words, narrow, operands, round_halves

#: Bits of the low limb of an accumulator in two limbs.
LIMB_BITS: Final = 32
#: Far beyond saturation of any format, far below the range of int64.
_SATURATED: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class BlockAccumulator:
    """Exact accumulators of block-scaled operands, ``high * 2**32 + low``, and their shift.

    Parameters
    ----------
    high, low : torch.Tensor
        int64 ``[..., M, N]``; ``0 <= low < 2**32``.
    row_shift, column_shift : torch.Tensor
        int64 ``[..., M]`` and ``[..., N]``: the largest part of each row and column. The value is
        ``(high * 2**32 + low) * 2**-(Fa + Fb) * 2**-(row_shift + column_shift)``.
    """

    high: torch.Tensor
    low: torch.Tensor
    row_shift: torch.Tensor
    column_shift: torch.Tensor


@dataclass(frozen=True, slots=True)
class Drain:
    """How accumulators become words, checked once: see :func:`drain` for the fields."""

    a_format: SFx
    b_format: SFx
    output: SFx
    bias_format: SFx
    activation: Activation
    rounding: Rounding

    def __post_init__(self) -> None:
        check_rounding(self.rounding)
        if self.activation not in ACTIVATIONS:
            choices = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation must be one of {choices}, not {self.activation!r}")

    @property
    def guard_bits(self) -> int:
        """Bits below half an output unit that a bias reaches."""
        return max(self.bias_format.fraction_bits - self.output.fraction_bits - 1, 0)

    @property
    def right_shift(self) -> int:
        """The shift that takes accumulators to units of ``2**-guard_bits`` half output units."""
        product = self.a_format.fraction_bits + self.b_format.fraction_bits
        return product - self.output.fraction_bits - 1 - self.guard_bits

    def scale_bias(self, bias: Array | None, device: torch.device) -> torch.Tensor:
        """A bias word in the same units as the shifted accumulators, int64."""
        if bias is None:
            return torch.zeros((), dtype=torch.int64, device=device)
        words = as_words("bias", bias, self.bias_format).to(device)
        check_words("bias", words, self.bias_format)
        wide = self.output.fraction_bits + 1 + self.guard_bits - self.bias_format.fraction_bits
        return operands(words, self.bias_format).to(torch.int64) << wide


def drain(
    accumulator: Array | BlockAccumulator,
    a_format: SFx,
    b_format: SFx | None = None,
    *,
    row_shift: int | Array | None = None,
    column_shift: int | Array | None = None,
    bias: Array | None = None,
    bias_format: SFx | None = None,
    activation: Activation = "linear",
    rounding: Rounding = "nearest",
    output: SFx | None = None,
) -> torch.Tensor:
    """``encode(act(accumulator * 2**-(Fa + Fb) * 2**-shift + bias))``, rounded once.

    Parameters
    ----------
    accumulator : array of int64 ``[..., M, N]`` or BlockAccumulator
    a_format, b_format : SFx
        The formats whose products were summed; ``b_format`` is ``a_format`` if omitted.
    row_shift, column_shift : int or array of integers ``[..., M]`` and ``[..., N]``, optional
        Parts of the shift, -128 to 127; a BlockAccumulator carries its own.
    bias : array of words ``[..., N]``, optional
        In the output's scale.
    bias_format, output : SFx, optional
        ``a_format`` if omitted.
    activation : {"linear", "relu"}
    rounding : {"nearest", "truncate"}

    Returns
    -------
    torch.Tensor
        Words of ``output``, ``[..., M, N]``.
    """
    b_format = b_format or a_format
    how = Drain(
        a_format, b_format, output or a_format, bias_format or a_format, activation, rounding
    )
    if isinstance(accumulator, BlockAccumulator):
        if row_shift is not None or column_shift is not None:
            raise ValueError("row_shift and column_shift must be omitted: block sums carry theirs")
        device = accumulator.high.device
        shift = accumulator.row_shift[..., :, None] + accumulator.column_shift[..., None, :]
        whole, lost = _shift_limbs(accumulator.high, accumulator.low, how.right_shift + shift)
    else:
        sums = integer_tensor(
            "accumulator", accumulator, to_tensor("accumulator", accumulator).device
        )
        device = sums.device
        rows = shift_part("row_shift", row_shift, device)
        columns = shift_part("column_shift", column_shift, device)
        shift = (rows[..., None] if rows.dim() else rows) + (
            columns[..., None, :] if columns.dim() else columns
        )
        whole, lost = _shift_right(sums, how.right_shift + shift)
    scaled = how.scale_bias(bias, device)
    return round_sums(whole, lost, scaled[..., None, :] if scaled.dim() else scaled, how)


def round_sums(
    whole: torch.Tensor, lost: torch.Tensor, bias: torch.Tensor, how: Drain
) -> torch.Tensor:
    """Words for ``whole + bias``, and a fraction if lost, in ``2**-guard_bits`` half units."""
    total = whole + bias
    negative = total < 0
    size = torch.where(negative, -total - lost.to(torch.int64), total) >> how.guard_bits
    halves = size.clamp(max=2 * how.output.max_code).to(torch.int32)
    magnitude = round_halves(halves, how.output, how.rounding)
    if how.activation == "relu":
        magnitude = magnitude.masked_fill(negative, 0)
    sign = (negative & (magnitude != 0)).to(torch.int32)
    return narrow(magnitude | sign << how.output.fraction_bits, how.output)


def shift_part(name: str, part: int | Array | None, device: torch.device) -> torch.Tensor:
    """A row or column part of the shift as int64, checked to fit its signed 8 bits."""
    tensor = integer_tensor(name, 0 if part is None else part, device)
    limit = 1 << (SHIFT_BITS - 1)
    if tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        if low < -limit or high >= limit:
            worst = low if low < -limit else high
            raise ValueError(f"{name} must be {-limit} to {limit - 1}, not {worst}")
    return tensor


def _shift_right(sums: torch.Tensor, shift: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``floor(sums * 2**-shift)`` saturated, and whether anything nonzero was lost.

    A left shift of 30 puts any nonzero sum beyond saturation, whatever the bias.
    """
    right, left = shift.clamp(0, 63), (-shift).clamp(0, 30)
    whole = sums >> right
    lost = (whole << right) != sums
    limit = 1 << 31
    whole = torch.where(left > 0, sums.clamp(-limit, limit) << left, whole)
    return whole.clamp(-_SATURATED, _SATURATED), lost


def _shift_limbs(
    high: torch.Tensor, low: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for ``high * 2**32 + low``; sums of 61 bits and more lose the low limb first."""
    small = (high >= -(1 << 29)) & (high < 1 << 29)
    whole, lost = _shift_right(torch.where(small, (high << LIMB_BITS) | low, 0), shift)
    over = shift - LIMB_BITS
    large, large_lost = _shift_right(high, over)
    large = torch.where(over < 0, torch.sign(high) * _SATURATED, large)
    return torch.where(small, whole, large), torch.where(small, lost, large_lost | (low != 0))


def to_binary32(
    accumulator: Array | BlockAccumulator,
    fraction_bits: int,
    exponent: int | Array = 0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The host's end of an ``exact`` drain: scale and bias, rounded once to binary32.

    Parameters
    ----------
    accumulator : array of int64, or BlockAccumulator
        Below ``2**62`` in magnitude; a BlockAccumulator carries its own shift.
    fraction_bits : int
        ``Fa + Fb``.
    exponent : int or array of integers, broadcastable to the accumulators
        ``e_a + e_w``, -1024 to 1024.
    bias : torch.Tensor of float32, broadcastable to the accumulators, optional
        Finite.

    Returns
    -------
    torch.Tensor
        float32, ``accumulator * 2**(exponent - fraction_bits) + bias`` to nearest, ties to even.
    """
    return to_odd_binary64(accumulator, fraction_bits, exponent, bias).to(torch.float32)


def to_odd_binary64(
    accumulator: Array | BlockAccumulator,
    fraction_bits: int,
    exponent: int | Array = 0,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """The same rounded to odd in binary64: rounded again to binary32, it is rounded once.

    Notes
    -----
    Knuth's TwoSum keeps the rounding error of every sum. Rounding to 24 bits (or fewer) what was
    rounded to odd equals rounding once (Boldo and Melquiond, 2008).
    """
    if isinstance(accumulator, BlockAccumulator):
        high, low = accumulator.high, accumulator.low
        shift = accumulator.row_shift[..., :, None] + accumulator.column_shift[..., None, :]
    else:
        sums = to_tensor("accumulator", accumulator)
        sums = integer_tensor("accumulator", sums, sums.device)
        high, low = sums >> LIMB_BITS, sums & ((1 << LIMB_BITS) - 1)
        shift = torch.zeros((), dtype=torch.int64, device=sums.device)
    power = integer_tensor("exponent", exponent, high.device) - fraction_bits - shift
    # Beyond these bounds binary32 over- and underflows all the same, and binary64 does not.
    scale = powers_of_two(power.clamp(-600, 600))
    first, first_error = _two_sum(high.double() * 2.0**LIMB_BITS * scale, low.double() * scale)
    if bias is None:
        added = torch.zeros((), dtype=torch.float64, device=high.device)
    else:
        if bias.dtype != torch.float32:
            raise TypeError(f"bias must be float32, not {bias.dtype}")
        if not bool(torch.isfinite(bias).all()):
            raise ValueError("bias must be finite")
        added = bias.to(high.device, torch.float64)
    total, second_error = _two_sum(first, added)
    rest, rest_error = _two_sum(first_error, second_error)
    total, error = _two_sum(total, rest)
    error, tail = _two_sum(error, rest_error)
    return _round_to_odd(total, torch.where(error != 0, error, tail))


def add_to_binary32(exact: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """``exact + bias`` rounded once to binary32, where float64 holds the exact sums of a product.

    Parameters
    ----------
    exact : torch.Tensor of float64
    bias : torch.Tensor of float32, broadcastable to it
        Finite.
    """
    return add_to_odd_binary64(exact, bias).to(torch.float32)


def add_to_odd_binary64(exact: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same rounded to odd in binary64."""
    return _round_to_odd(*_two_sum(exact, bias.double()))


def to_bfloat16(exact: torch.Tensor) -> torch.Tensor:
    """float64, exact or rounded to odd, rounded once to bfloat16, ties to even."""
    near = exact.float()
    bits = near.view(torch.int32)
    error = exact - near.double()
    even = (bits & 1 == 0) & (error != 0) & (near != 0)
    step = torch.where((error > 0) == (exact > 0), 1, -1).to(torch.int32)
    return torch.where(even, bits + step, bits).view(torch.float32).to(torch.bfloat16)


def narrowed(odd: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """float64 that is exact or rounded to odd, rounded once to float32 or bfloat16."""
    return to_bfloat16(odd) if dtype == torch.bfloat16 else odd.to(dtype)


def _two_sum(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rounded sum and its exact error."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _round_to_odd(value: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """The neighbour of the exact ``value + error`` with an odd significand, unless it is exact."""
    bits = value.contiguous().view(torch.int64)
    even = (bits & 1 == 0) & (error != 0) & (value != 0)
    step = torch.where((error > 0) == (value > 0), 1, -1)
    return torch.where(even, bits + step, bits).view(torch.float64)
