"""Exact matrix products of words, on any device, and the choice of the way by proof.

A way is taken only where no sum it forms, in whatever order, can leave the range in which its type
is exact: every partial sum of at most K products of operands is an integer of magnitude at most
``K * 2**(Fa + Fb)``, float32 holds all integers to ``2**24``, float64 to ``2**53``.
"""

from __future__ import annotations

from typing import Final, Literal

import torch

from sw import matmul_native
from sw.arrays import Array, ArrayT, like
from sw.drain import LIMB_BITS, BlockAccumulator, Drain, drain, shift_part
from sw.format import MAX_TERMS, Activation, Rounding, SFx
from sw.scale import MAX_SPREAD
from sw.words import as_words, check_words, operands

#: Below so many terms per exact float32 product, float64 is the faster way.
_LEAST_FLOAT32_TERMS: Final = 256


def matmul(
    a: ArrayT,
    b: ArrayT,
    a_format: SFx,
    b_format: SFx | None = None,
    *,
    bias: Array | None = None,
    bias_format: SFx | None = None,
    row_shift: int | Array | None = None,
    column_shift: int | Array | None = None,
    activation: Activation = "linear",
    rounding: Rounding = "nearest",
    output: SFx | Literal["exact"] | None = None,
    block: int | None = None,
    max_terms: int = MAX_TERMS,
) -> ArrayT | BlockAccumulator:
    """The product of two matrices of words, exact inside, rounded once at the end.

    Parameters
    ----------
    a : array of words ``[..., M, K]``
    b : array of words ``[..., K, N]``
    a_format, b_format : SFx
        Of one unity, possibly different widths; ``b_format`` is ``a_format`` if omitted.
    bias : array of words ``[..., N]``, optional
        In the output's scale.
    bias_format : SFx, optional
        ``a_format`` if omitted.
    row_shift, column_shift : int or array of integers, optional
        Parts of the shift, -128 to 127, ``[..., M]`` and ``[..., N]``; with ``block``
        ``[..., M, B]`` and ``[..., B, N]``, at most 15 apart within a row and within a column.
    activation : {"linear", "relu"}
    rounding : {"nearest", "truncate"}
    output : SFx or "exact", optional
        ``a_format`` if omitted; "exact" leaves the accumulators.
    block : int, optional
        Terms along K under one scale, the last block ragged; the contract's is 32.
    max_terms : int
        K_max: a longer product is refused.

    Returns
    -------
    array of words ``[..., M, N]``, or of int64 for "exact", or a BlockAccumulator for "exact" with
    ``block`` (tensors)

    Raises
    ------
    ValueError
        If shapes do not fit, K exceeds ``max_terms``, a word lies outside its format, or a part of
        a shift out of range.
    """
    b_format = b_format or a_format
    if a_format.unity != b_format.unity:
        raise ValueError(f"both operands must have the same unity, not {a_format} and {b_format}")
    left, right = as_words("a", a, a_format), as_words("b", b, b_format)
    _check_shapes(left, right, max_terms)
    exact = output == "exact"
    if exact and (bias is not None or activation != "linear"):
        raise ValueError("bias and activation must be omitted for an exact output: the host's part")
    target = a_format if output is None or isinstance(output, str) else output
    if isinstance(output, str) and not exact:
        raise ValueError(f"output must be a format or 'exact', not {output!r}")
    how = Drain(a_format, b_format, target, bias_format or a_format, activation, rounding)
    if block is None:
        if exact:
            if row_shift is not None or column_shift is not None:
                raise ValueError("shifts must be omitted for an exact output: the host's part")
            return like(a, multiply(left, right, a_format, b_format))
        rows = shift_part("row_shift", row_shift, left.device)
        columns = shift_part("column_shift", column_shift, left.device)
        words = matmul_native.multiply_drain(left, right, how, rows, columns, bias)
        if words is None:
            words = _drain(multiply(left, right, a_format, b_format), how, bias, rows, columns)
        return like(a, words)
    blocks = -(-left.shape[-1] // _check_block(block))
    if not blocks:
        raise ValueError("K must be at least 1 with block scales, not 0")
    rows = _block_parts("row_shift", row_shift, (left.shape[-2], blocks), -1, left.device)
    columns = _block_parts("column_shift", column_shift, (blocks, right.shape[-1]), -2, left.device)
    if exact:
        return multiply_blocks(left, right, a_format, b_format, block, rows, columns)
    words = matmul_native.multiply_drain(
        left, right, how, rows.amax(-1), columns.amax(-2), bias, (block, *_lifts(rows, columns))
    )
    if words is None:
        sums = multiply_blocks(left, right, a_format, b_format, block, rows, columns)
        words = _drain(sums, how, bias)
    return like(a, words)


def multiply(a: torch.Tensor, b: torch.Tensor, a_format: SFx, b_format: SFx) -> torch.Tensor:
    """The exact accumulators of ``a @ b``, int64."""
    sums = matmul_native.multiply(a, b, a_format, b_format)
    if sums is not None:
        return sums
    check_words("a", a, a_format)
    check_words("b", b, b_format)
    return multiply_operands(
        operands(a, a_format),
        operands(b, b_format),
        a_format.fraction_bits + b_format.fraction_bits,
    )


def multiply_operands(a: torch.Tensor, b: torch.Tensor, fraction_bits: int) -> torch.Tensor:
    """The exact int64 product of operands by floating point, in chunks along K that stay exact."""
    terms = a.shape[-1]
    single = (1 << 24) >> fraction_bits
    fast = single >= min(terms, _LEAST_FLOAT32_TERMS) and float32_is_full()
    dtype, chunk = (torch.float32, single) if fast else (torch.float64, (1 << 53) >> fraction_bits)
    shape = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])  # type: ignore[no-untyped-call]
    sums = torch.zeros((*shape, a.shape[-2], b.shape[-1]), dtype=torch.int64, device=a.device)
    with torch.autocast(a.device.type, enabled=False):
        for first in range(0, terms, chunk):
            left = a[..., first : first + chunk].to(dtype)
            right = b[..., first : first + chunk, :].to(dtype)
            sums += (left @ right).to(torch.int64)
    return sums


def multiply_blocks(
    a: torch.Tensor,
    b: torch.Tensor,
    a_format: SFx,
    b_format: SFx,
    block: int,
    row_shift: torch.Tensor,
    column_shift: torch.Tensor,
) -> BlockAccumulator:
    """Block sums aligned to the largest part of each row and column, and added exactly."""
    rows, columns = row_shift.amax(-1), column_shift.amax(-2)
    row_lift, column_lift = _lifts(row_shift, column_shift)
    mask = (1 << LIMB_BITS) - 1
    sums = matmul_native.multiply_blocks(a, b, a_format, b_format, block, row_lift, column_lift)
    if sums is not None:
        return BlockAccumulator(sums >> LIMB_BITS, sums & mask, rows, columns)
    check_words("a", a, a_format)
    check_words("b", b, b_format)
    left, right = operands(a, a_format), operands(b, b_format)
    fraction_bits = a_format.fraction_bits + b_format.fraction_bits
    high = low = torch.zeros((), dtype=torch.int64, device=a.device)
    for index, first in enumerate(range(0, a.shape[-1], block)):
        sums = multiply_operands(
            left[..., first : first + block], right[..., first : first + block, :], fraction_bits
        )
        lift = row_lift[..., :, index, None] + column_lift[..., None, index, :]
        part = (sums & mask) << lift  # at most 62 bits
        high = high + (((sums >> LIMB_BITS) << lift) + (part >> LIMB_BITS))
        low = low + (part & mask)
    return BlockAccumulator(high + (low >> LIMB_BITS), low & mask, rows, columns)


def _lifts(
    row_shift: torch.Tensor, column_shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each block's sum is shifted left to the units of its row's and column's largest."""
    rows = row_shift.amax(-1, keepdim=True) - row_shift
    return rows, column_shift.amax(-2, keepdim=True) - column_shift


def _drain(
    sums: torch.Tensor | BlockAccumulator,
    how: Drain,
    bias: Array | None,
    row_shift: torch.Tensor | None = None,
    column_shift: torch.Tensor | None = None,
) -> torch.Tensor:
    return drain(
        sums,
        how.a_format,
        how.b_format,
        row_shift=row_shift,
        column_shift=column_shift,
        bias=bias,
        bias_format=how.bias_format,
        activation=how.activation,
        rounding=how.rounding,
        output=how.output,
    )


def float32_is_full() -> bool:
    """Whether torch multiplies float32 as such, not as TF32 or bfloat16."""
    settings = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn)
    modes = {getattr(setting, "fp32_precision", "none") for setting in settings}
    return modes <= {"none", "ieee"} and torch.get_float32_matmul_precision() == "highest"


def _check_shapes(a: torch.Tensor, b: torch.Tensor, max_terms: int) -> None:
    if a.dim() < 2 or b.dim() < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            "a and b must be [..., M, K] and [..., K, N], not "
            f"{tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.device != b.device:
        raise ValueError(f"a and b must be on one device, not {a.device} and {b.device}")
    if a.shape[-1] > max_terms:
        raise ValueError(f"K must be at most {max_terms} terms, not {a.shape[-1]}")


def _check_block(block: int) -> int:
    if not isinstance(block, int) or isinstance(block, bool):
        raise TypeError(f"block must be an integer, not {block!r}")
    if block < 1:
        raise ValueError(f"block must be at least 1, not {block!r}")
    return block


def _block_parts(
    name: str, part: int | Array | None, shape: tuple[int, int], axis: int, device: torch.device
) -> torch.Tensor:
    """Parts of block scales ``[..., M, B]`` or ``[..., B, N]`` with the spread that is allowed."""
    tensor = shift_part(name, part, device)
    if tensor.dim() == 0:
        tensor = tensor.expand(shape)
    if tuple(tensor.shape[-2:]) != shape:
        raise ValueError(
            f"{name} must have shape [..., {shape[0]}, {shape[1]}], not {tuple(tensor.shape)}"
        )
    spread = int((tensor.amax(axis) - tensor.amin(axis)).max()) if tensor.numel() else 0
    if spread > MAX_SPREAD:
        raise ValueError(f"{name} must lie at most {MAX_SPREAD} apart, not {spread}")
    return tensor
