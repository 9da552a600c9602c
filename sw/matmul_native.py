"""The compiled matrix product: which mode of the kernel a call takes, and why it is exact.

Every function returns None where the kernel does not apply, and the caller takes the plain way.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Final

import torch

from sw import native
from sw.arrays import Array, powers_of_two
from sw.drain import Drain
from sw.format import SFx
from sw.words import check_words, refuse_words, word_dtype

#: A tenth of a millisecond's work; waking a thread on a busy core takes many of those.
_PRODUCTS_PER_THREAD: Final = 1 << 22
#: Products of at most so many bits are summed in int32 as they are; wider ones from two digits.
_SINGLE_BITS: Final = 24
#: Sums below it convert to binary64 by one addition in the kernel's drain.
_DRAIN_BITS: Final = 51
_ACCUMULATOR_BITS: Final = 62


class _Matrix(ctypes.Structure):
    """``struct Matrix`` of ``kernels/arguments.h``."""

    _fields_ = (
        ("words", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("bits", "unity", "word_bytes")),
        *((name, ctypes.c_int64) for name in ("lane_stride", "term_stride", "lanes", "terms")),
    )


class _Drain(ctypes.Structure):
    """``struct Drain`` of ``kernels/drain.h``."""

    _fields_ = (
        ("format", native.Format),
        ("relu", ctypes.c_int32),
        ("guard_bits", ctypes.c_int32),
    )


class _Arguments(ctypes.Structure):
    """``struct Arguments`` of ``kernels/arguments.h``."""

    _fields_ = (
        ("a", _Matrix),
        ("b", _Matrix),
        ("digits", ctypes.c_int32),
        ("wide", ctypes.c_int32),
        ("chunk_terms", ctypes.c_int64),
        ("block_length", ctypes.c_int64),
        ("row_lift", ctypes.c_void_p),
        ("column_lift", ctypes.c_void_p),
        ("out_bytes", ctypes.c_int32),
        ("out", ctypes.c_void_p),
        ("row_scales", ctypes.c_void_p),
        ("column_scales", ctypes.c_void_p),
        ("biases", ctypes.c_void_p),
        ("drain", _Drain),
        ("threads", ctypes.c_int32),
    )


@dataclass(frozen=True, slots=True)
class _Scales:
    """What the kernel's drain multiplies by and adds, float64 ``[..., M]``, ``[..., N]`` twice."""

    rows: torch.Tensor
    columns: torch.Tensor
    biases: torch.Tensor
    how: Drain


def multiply(a: torch.Tensor, b: torch.Tensor, a_format: SFx, b_format: SFx) -> torch.Tensor | None:
    """The exact accumulators of ``a @ b``, int64 ``[..., M, N]``."""
    library = _library(a, b)
    if library is None or _sum_bits(a, a_format, b_format) > _ACCUMULATOR_BITS:
        return None
    return _run(library, a, b, a_format, b_format, torch.int64)


def multiply_blocks(
    a: torch.Tensor,
    b: torch.Tensor,
    a_format: SFx,
    b_format: SFx,
    block: int,
    row_lift: torch.Tensor,
    column_lift: torch.Tensor,
) -> torch.Tensor | None:
    """Accumulators of block sums lifted by ``2**(row_lift + column_lift)``, where int64 holds them.

    Parameters
    ----------
    row_lift, column_lift : torch.Tensor
        int64 ``[..., M, B]`` and ``[..., B, N]``, not negative.
    """
    library = _library(a, b)
    if library is None:
        return None
    lift = int(row_lift.max()) + int(column_lift.max())
    if _sum_bits(a, a_format, b_format) + lift > _ACCUMULATOR_BITS:
        return None
    return _run(
        library, a, b, a_format, b_format, torch.int64, lifts=(block, row_lift, column_lift)
    )


def multiply_drain(
    a: torch.Tensor,
    b: torch.Tensor,
    how: Drain,
    row_shift: torch.Tensor,
    column_shift: torch.Tensor,
    bias: Array | None,
    lifts: tuple[int, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | None:
    """Words of ``how.output`` for ``a @ b``, drained as each tile is done.

    Parameters
    ----------
    lifts : (block, row_lift, column_lift), optional
        As for :func:`multiply_blocks`; the shifts are then the largest parts.
    """
    library = _library(a, b)
    if library is None:
        return None
    lift = 0 if lifts is None else int(lifts[1].max()) + int(lifts[2].max())
    if _sum_bits(a, how.a_format, how.b_format) + lift >= _DRAIN_BITS:
        return None
    rows, columns = a.shape[-2], b.shape[-1]
    biases = how.scale_bias(bias, a.device).double()
    scales = _Scales(
        _lanes("row_shift", powers_of_two(-row_shift), rows),
        _lanes("column_shift", powers_of_two(-column_shift - how.right_shift), columns),
        _lanes("bias", biases, columns),
        how,
    )
    dtype = word_dtype(how.output)
    return _run(library, a, b, how.a_format, how.b_format, dtype, scales=scales, lifts=lifts)


def _library(a: torch.Tensor, b: torch.Tensor) -> ctypes.CDLL | None:
    if a.device.type != "cpu" or not a.numel() or not b.numel():
        return None
    return native.library()


def _sum_bits(a: torch.Tensor, a_format: SFx, b_format: SFx) -> int:
    """Bits of the largest magnitude that a sum of all terms reaches, rounded up."""
    terms = a.shape[-1]
    return a_format.fraction_bits + b_format.fraction_bits + (terms - 1).bit_length()


def _lanes(name: str, values: torch.Tensor, count: int) -> torch.Tensor:
    if values.dim() == 0:
        return values.expand(count).contiguous()
    if values.shape[-1] != count:
        raise ValueError(f"{name} must have shape [..., {count}], not {tuple(values.shape)}")
    return values.contiguous()


def _run(
    library: ctypes.CDLL,
    a: torch.Tensor,
    b: torch.Tensor,
    a_format: SFx,
    b_format: SFx,
    dtype: torch.dtype,
    scales: _Scales | None = None,
    lifts: tuple[int, torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor | None:
    """Run the kernel on every matrix of the batch."""
    per_row: list[torch.Tensor] = []
    if lifts is not None:
        per_row += [part.to(torch.int32) for part in lifts[1:]]
    if scales is not None:
        per_row += [scales.rows[..., None], scales.columns[..., None], scales.biases[..., None]]
    shapes = [tensor.shape[:-2] for tensor in (a, b, *per_row)]
    batch = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    out = torch.empty((*batch, a.shape[-2], b.shape[-1]), dtype=dtype)
    flat = [t.expand(*batch, *t.shape[-2:]).reshape(-1, *t.shape[-2:]) for t in (a, b, *per_row)]
    results = out.view(-1, *out.shape[-2:])
    for index in range(math.prod(batch)):
        left, right = flat[0][index], flat[1][index]
        vectors = [t[index].contiguous() for t in flat[2:]]
        arguments = _arguments(left, right, results[index], a_format, b_format)
        if lifts is not None:
            arguments.block_length = lifts[0]
            arguments.row_lift, arguments.column_lift = (v.data_ptr() for v in vectors[:2])
        if scales is not None:
            _set_drain(arguments, vectors[-3:], scales.how)
        status = library.matmul_words(ctypes.byref(arguments))
        if status:
            check_words("a", a, a_format)
            check_words("b", b, b_format)
            refuse_words("a and b", status, a_format)  # unreachable while the kernel is right
    return out


def _arguments(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, a_format: SFx, b_format: SFx
) -> _Arguments:
    """The mode: operands as they are, or those of b in two 8-bit digits.

    int32 sums of n terms are exact while ``n * bound < 2**31``, with ``bound`` the largest product:
    ``2**(Fa + Fb)``, or ``2**(Fa + 7)`` with digits of magnitude at most 128. (The kernel takes two
    terms more per chunk where it finds no 32768 in a.) An SF16 operand under unity is the wide one,
    see ``kernels/pack.h``; digits hold 32768 as it is.
    """
    product_bits = a_format.fraction_bits + b_format.fraction_bits
    digits = product_bits > _SINGLE_BITS
    bound_bits = a_format.fraction_bits + 7 if digits else product_bits
    wide = 0
    if a_format.unity:
        wide = 1 if a_format.bits == 16 else 2 if b_format.bits == 16 and not digits else 0
    return _Arguments(
        a=_matrix(a, a_format, a.stride(0), a.stride(1), a.shape[0], a.shape[1]),
        b=_matrix(b, b_format, b.stride(1), b.stride(0), b.shape[1], b.shape[0]),
        digits=digits,
        wide=wide,
        chunk_terms=(((1 << 31) - 1) >> bound_bits) & ~1,
        block_length=a.shape[1],
        out_bytes=out.dtype.itemsize,
        out=out.data_ptr(),
        threads=_threads(a.shape[0] * a.shape[1] * b.shape[1]),
    )


def _threads(products: int) -> int:
    """What torch would use, but none for less than its start costs where cores are shared."""
    return min(torch.get_num_threads(), max(1, products // _PRODUCTS_PER_THREAD))


def _matrix(
    words: torch.Tensor, format: SFx, lane_stride: int, term_stride: int, lanes: int, terms: int
) -> _Matrix:
    return _Matrix(
        words=words.data_ptr(),
        bits=format.bits,
        unity=format.unity,
        word_bytes=words.dtype.itemsize,
        lane_stride=lane_stride,
        term_stride=term_stride,
        lanes=lanes,
        terms=terms,
    )


def _set_drain(arguments: _Arguments, vectors: list[torch.Tensor], how: Drain) -> None:
    rows, columns, biases = (vector.data_ptr() for vector in vectors)
    arguments.row_scales, arguments.column_scales, arguments.biases = rows, columns, biases
    arguments.drain = _Drain(
        format=native.Format.of(how.output, how.rounding),
        relu=how.activation == "relu",
        guard_bits=how.guard_bits,
    )
