"""Exponents of tensors, channels, tokens and blocks, bit-equal to :func:`sw.scale.exponent`."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import torch

from sw import native
from sw.arrays import Array, ArrayT, integer_tensor, like, to_tensor
from sw.fake_quantize import fake_quantize
from sw.format import SFx
from sw.scale import BLOCK, EXPONENT_RULES, MAX_SPREAD, ExponentRule
from sw.words import as_words, check_words, operands

Granularity = Literal["tensor", "channel", "token", "block"]
GRANULARITIES: Final[tuple[Granularity, ...]] = ("tensor", "channel", "token", "block")
#: An OCP MX shared exponent X is stored as the byte X + 127; 255 means NaN.
_E8M0_BIAS: Final = 127


def exponents(
    values: ArrayT,
    format: SFx,
    granularity: Granularity = "tensor",
    rule: ExponentRule = "maximum",
    *,
    dim: int | Sequence[int] | None = None,
    name: str = "tensor",
) -> ArrayT:
    """The exponents of groups of values.

    Parameters
    ----------
    values : array of float16, bfloat16, float32 or float64
        Finite; for "squared_error" binary32 must hold them exactly.
    format : SFx
    granularity : {"tensor", "channel", "token", "block"}
        One group; one per index of dimension 0; one per row along the last dimension; one per 32
        values along the last dimension, the last block ragged.
    rule : {"maximum", "squared_error"}
        See :func:`sw.scale.exponent`.
    dim : int or sequence of int, optional
        Instead of ``granularity``: the dimensions that one group spans.

    Returns
    -------
    array of int64
        Shaped like ``values`` with the grouped dimensions of size 1, so that it broadcasts; 0-d for
        "tensor"; ``[..., B]`` for "block" (see :func:`expand_blocks`).

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or a choice unknown.
    """
    if rule not in EXPONENT_RULES:
        raise ValueError(f"rule must be one of {', '.join(EXPONENT_RULES)}, not {rule!r}")
    if granularity not in GRANULARITIES:
        choices = ", ".join(GRANULARITIES)
        raise ValueError(f"granularity must be one of {choices}, not {granularity!r}")
    tensor = to_tensor(name, values)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must hold floats, not {tensor.dtype}")
    groups, shape = _group(tensor, granularity, dim)
    groups = groups if groups.dtype == torch.float64 else groups.float()
    bad = int((~torch.isfinite(groups)).sum())
    if bad:
        raise ValueError(f"{name} must hold finite numbers, not NaN or infinity in {bad} places")
    tops = _by_maximum(groups, format)
    if rule == "squared_error":
        single = groups.float()
        if groups.dtype == torch.float64 and not torch.equal(single.double(), groups):
            raise ValueError(f"{name} must hold values that binary32 holds exactly")
        tops = _by_squared_error(single.contiguous(), tops, format)
    return like(values, tops.reshape(shape))


def expand_blocks(exponents: ArrayT, length: int, block: int = BLOCK) -> ArrayT:
    """One exponent per value, ``[..., length]``, from one per block, ``[..., B]``."""
    tensor = to_tensor("exponents", exponents)
    if tensor.shape[-1] != -(-length // block):
        raise ValueError(
            f"exponents must have {-(-length // block)} blocks, not {tensor.shape[-1]}"
        )
    return like(exponents, tensor.repeat_interleave(block, dim=-1)[..., :length])


def limit_spread(exponents: ArrayT, max_spread: int = MAX_SPREAD) -> tuple[ArrayT, int]:
    """Raise exponents of blocks that lie too far below the largest of their row.

    Parameters
    ----------
    exponents : array of integers ``[..., B]``
    max_spread : int
        R, in bits.

    Returns
    -------
    exponents : array of integers ``[..., B]``
        At least the row's largest minus R.
    raised : int
        How many were raised.
    """
    tensor = to_tensor("exponents", exponents)
    if not tensor.numel():
        return exponents, 0
    raised = torch.maximum(tensor, tensor.amax(-1, keepdim=True) - max_spread)
    return like(exponents, raised), int((raised != tensor).sum())


def to_mxint8(words: ArrayT, exponents: Array) -> tuple[ArrayT, ArrayT]:
    """SF8 words without unity and their exponents as OCP MXINT8.

    Parameters
    ----------
    words : array of uint8
    exponents : array of integers
        e per block.

    Returns
    -------
    codes : array of int8
        Elements in units of ``2**-6``.
    shared : array of uint8
        E8M0 bytes, ``X + 127`` with ``X = e - 1``.
    """
    tensor = as_words("words", words, SFx(8, unity=False))
    check_words("words", tensor, SFx(8, unity=False))
    shared = integer_tensor("exponents", exponents, tensor.device) - 1 + _E8M0_BIAS
    if shared.numel() and not 0 <= int(shared.min()) <= int(shared.max()) <= 254:
        raise ValueError(f"exponents must be {1 - _E8M0_BIAS} to {255 - _E8M0_BIAS} for MXINT8")
    codes = operands(tensor, SFx(8, unity=False)).to(torch.int8)
    return like(words, codes), like(words, shared.to(torch.uint8))


def from_mxint8(codes: ArrayT, shared: Array) -> tuple[ArrayT, ArrayT]:
    """OCP MXINT8 as SF8 words without unity and their exponents: the inverse of :func:`to_mxint8`.

    Raises
    ------
    ValueError
        If a code is -128, which no word holds, or a shared exponent is NaN (255).
    """
    tensor, scale = to_tensor("codes", codes), to_tensor("shared", shared)
    if tensor.dtype != torch.int8 or scale.dtype != torch.uint8:
        raise TypeError(
            f"codes and shared must be int8 and uint8, not {tensor.dtype}, {scale.dtype}"
        )
    refused = int((tensor == -128).sum())
    if refused:
        raise ValueError(f"codes must be -127 to 127, not -128 in {refused} places")
    if bool((scale == 255).any()):
        raise ValueError("shared must be 0 to 254, not NaN (255)")
    wide = tensor.to(torch.int32)
    words = (wide.abs() | (wide < 0).to(torch.int32) << 7).to(torch.uint8)
    return like(codes, words), like(codes, scale.to(torch.int64) - _E8M0_BIAS + 1)


def _group(
    tensor: torch.Tensor, granularity: Granularity, dim: int | Sequence[int] | None
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Values as ``[groups, length]`` in index order, and the shape of the result."""
    if dim is None and granularity == "block":
        length = tensor.shape[-1]
        padded = torch.nn.functional.pad(tensor, (0, -length % BLOCK))  # zeros change no error
        return padded.reshape(-1, BLOCK), (*tensor.shape[:-1], -(-length // BLOCK))
    if dim is None and granularity == "tensor":
        return tensor.reshape(1, -1), ()
    if dim is None:
        dim = range(1, tensor.dim()) if granularity == "channel" else -1
    spanned = sorted({d % tensor.dim() for d in ([dim] if isinstance(dim, int) else dim)})
    kept = [d for d in range(tensor.dim()) if d not in spanned]
    shape = tuple(1 if d in spanned else size for d, size in enumerate(tensor.shape))
    count = math.prod(tensor.shape[d] for d in kept)
    length = math.prod(tensor.shape[d] for d in spanned)
    return tensor.permute(*kept, *spanned).reshape(count, length), shape


def _by_maximum(groups: torch.Tensor, format: SFx) -> torch.Tensor:
    """The smallest e that covers each group: frexp of its largest magnitude, exact."""
    if not groups.shape[1]:
        return torch.zeros(groups.shape[0], dtype=torch.int64, device=groups.device)
    fraction, top = torch.frexp(groups.abs().amax(1))
    if format.unity:  # a power of two itself is covered
        top = top - (fraction == 0.5).to(top.dtype)
    return torch.where(fraction == 0, 0, top).to(torch.int64)


def _by_squared_error(groups: torch.Tensor, tops: torch.Tensor, format: SFx) -> torch.Tensor:
    """The best of three exponents; sums run on the CPU, where their order is certain."""
    device, groups = groups.device, groups.cpu()
    best = tops.cpu().to(torch.int32)
    library = native.library()
    if library is not None:
        library.best_exponents(
            native.pointer(groups),
            native.pointer(best),
            ctypes.c_long(groups.shape[0]),
            ctypes.c_long(groups.shape[1]),
            ctypes.byref(native.Format.of(format)),
            native.threads(),
        )
        return best.to(device=device, dtype=torch.int64)
    wide = groups.double()
    candidates = torch.stack([best - step for step in range(3)]).long()
    errors = np.stack([_squared_errors(wide, e, format) for e in candidates])
    first = torch.from_numpy(errors.argmin(0))  # the first wins a tie
    return candidates.gather(0, first[None])[0].to(device)


def _squared_errors(
    groups: torch.Tensor, e: torch.Tensor, format: SFx
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """float64 errors, summed in index order: numpy defines ``accumulate`` so."""
    difference = groups - fake_quantize(groups, format, e[:, None])
    if not groups.shape[1]:
        return np.zeros(groups.shape[0])
    squares = (difference * difference).numpy()
    sums: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.add.accumulate(squares, axis=1)
    return sums[:, -1]
