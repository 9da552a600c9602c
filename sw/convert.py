"""encode and decode on tensors: compiled on the CPU, plain torch anywhere.

Bit-equal to :class:`sw.format.SFx` element by element; why each step is exact stands beside it.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, Final

import torch

from sw import native
from sw.arrays import Array, ArrayT, integer_tensor, like, powers_of_two, to_tensor
from sw.casting import check_carried, float_dtype
from sw.format import Rounding, SFx
from sw.words import (
    as_words,
    check_rounding,
    check_words,
    narrow,
    operands,
    refuse_words,
    round_halves,
    word_dtype,
)

FLOATS: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: Exponents beyond it change nothing: every binary64 value has saturated or vanished.
EXPONENT_LIMIT: Final = 4096


def encode(
    values: ArrayT,
    format: SFx,
    exponent: int | Array = 0,
    rounding: Rounding = "nearest",
    name: str = "tensor",
    out: torch.Tensor | None = None,
) -> ArrayT:
    """The words of ``values / 2**exponent``.

    Parameters
    ----------
    values : array of float16, bfloat16, float32 or float64
        Infinities saturate.
    format : SFx
    exponent : int or array of integers, broadcastable to ``values``
        One per tensor, channel, token or element (:func:`sw.exponents.expand_blocks` for blocks).
    rounding : {"nearest", "truncate"}
    name : str
        What an error calls ``values``.
    out : torch.Tensor, optional
        Contiguous words to write; for torch only.

    Returns
    -------
    array of uint8 (``bits <= 8``) or uint16, shaped like ``values``
        Never minus zero.

    Raises
    ------
    ValueError
        If ``values`` holds NaN; the message says how many.
    """
    check_rounding(rounding)
    tensor = as_floats(name, values)
    exponents = as_exponents(exponent, tensor)
    words = output_tensor(out, tensor, word_dtype(format))
    library = cpu_library(tensor)
    if library is not None:
        kind = f"{tensor.dtype}_{words.dtype}".replace("torch.", "")
        nans = run_pass(
            getattr(library, f"encode_{kind}"), tensor, words, exponents, format, rounding
        )
    else:
        nans = int(torch.isnan(tensor).sum())
        if not nans:
            magnitude = round_to_magnitudes(tensor, format, exponents, rounding)
            sign = (torch.signbit(tensor) & (magnitude != 0)).to(torch.int32)
            words.copy_(narrow(magnitude | sign << format.fraction_bits, format))
    refuse_nans(nans, name)
    return like(values, words)


def decode(
    words: ArrayT,
    format: SFx,
    exponent: int | Array = 0,
    dtype: Any = None,
    out: torch.Tensor | None = None,
) -> ArrayT:
    """The exact values of words, times ``2**exponent``.

    Parameters
    ----------
    words : array of integers
    format : SFx
    exponent : int or array of integers, broadcastable to ``words``
    dtype : torch or numpy float type, optional
        float32 if omitted.
    out : torch.Tensor, optional
        Contiguous float32 to write; for torch only.

    Returns
    -------
    array of ``dtype``, shaped like ``words``

    Raises
    ------
    ValueError
        If a word lies outside the format, or ``dtype`` does not hold every value exactly.
    """
    target = float_dtype(dtype)
    tensor = as_words("words", words, format)
    exponents = as_exponents(exponent, tensor)
    check_carried(format, exponents, target)
    library = cpu_library(tensor)
    if target == torch.float64:
        check_words("words", tensor, format)
        return like(words, scale_operands(operands(tensor, format), format, exponents, target))
    values = output_tensor(out, tensor, torch.float32)
    if library is not None:
        function = library.decode_uint8 if tensor.dtype == torch.uint8 else library.decode_uint16
        refuse_words("words", run_pass(function, tensor, values, exponents, format), format)
    else:
        check_words("words", tensor, format)
        values.copy_(scale_operands(operands(tensor, format), format, exponents, torch.float32))
    return like(words, values.to(target))


def round_to_magnitudes(
    tensor: torch.Tensor, format: SFx, exponents: torch.Tensor, rounding: Rounding
) -> torch.Tensor:
    """|v| in half units, truncated: scaling by two powers of two in a row loses bits only by
    underflow, far below half a unit, and overflows only where the result saturates."""
    first, second = power_factors(format.fraction_bits + 1 - exponents, tensor.dtype)
    halves = (tensor.abs() * first * second).clamp(max=2.0 * format.max_code).to(torch.int32)
    return round_halves(halves, format, rounding)


def scale_operands(
    signed: torch.Tensor, format: SFx, exponents: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    first, second = power_factors(exponents - format.fraction_bits, dtype)
    return signed.to(dtype) * first * second


def power_factors(exponents: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """``2**exponents`` as two factors, each a normal number of ``dtype``."""
    limit = 2044 if dtype == torch.float64 else 252
    clamped = exponents.clamp(-limit, limit)
    first = clamped >> 1
    return powers_of_two(first).to(dtype), powers_of_two(clamped - first).to(dtype)


def as_floats(name: str, values: Array) -> torch.Tensor:
    tensor = to_tensor(name, values)
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, not {tensor.dtype}")
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def as_exponents(exponent: int | Array, tensor: torch.Tensor) -> torch.Tensor:
    exponents = integer_tensor("exponent", exponent, tensor.device)
    try:
        exponents.expand(tensor.shape)
    except RuntimeError:
        shape, given = tuple(tensor.shape), tuple(exponents.shape)
        raise ValueError(
            f"exponent must broadcast to the tensor's shape {shape}, not {given}"
        ) from None
    return exponents.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)


def output_tensor(
    out: torch.Tensor | None, tensor: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    if out is None:
        return torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
    if out.dtype != dtype or out.shape != tensor.shape or not out.is_contiguous():
        raise ValueError(f"out must be contiguous {dtype} of shape {tuple(tensor.shape)}")
    return out


def cpu_library(tensor: torch.Tensor) -> ctypes.CDLL | None:
    return native.library() if tensor.device.type == "cpu" else None


def run_pass(
    function: Any,
    source: torch.Tensor,
    target: torch.Tensor,
    exponents: torch.Tensor,
    format: SFx,
    rounding: Rounding = "nearest",
) -> int:
    """Run one pass; the trailing dimensions that share an exponent become the kernel's groups."""
    if source.numel() == 0:
        return 0
    source = source.contiguous()
    shape = (1,) * (source.dim() - exponents.dim()) + tuple(exponents.shape)
    kept = max((d + 1 for d, size in enumerate(shape) if size != 1), default=0)
    groups = math.prod(source.shape[:kept])
    flat = exponents.reshape(shape[:kept]).expand(source.shape[:kept]).to(torch.int32).contiguous()
    count: int = function(
        native.pointer(source),
        native.pointer(target),
        native.pointer(flat),
        ctypes.c_long(groups),
        ctypes.c_long(source.numel() // groups),
        ctypes.byref(native.Format.of(format, rounding)),
        native.threads(),
    )
    return count


def refuse_nans(count: int, name: str) -> None:
    if count:
        raise ValueError(f"{name} must hold numbers, not NaN in {count} places")
