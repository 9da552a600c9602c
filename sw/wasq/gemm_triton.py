"""Exact products whose sums binary32 does not hold whole, as one Triton kernel.

Tensor cores multiply bfloat16 values of words and add a group of terms in binary32, exactly; the
groups' sums are added in binary64, exactly, and rounded once at the end.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import torch

from sw.wasq.rounding_triton import is_available

#: Terms per multiplication on a tile: the length of a block.
_STEP: Final = 32
#: Rows from which tiles are taller.
_MANY: Final = 1024


def serves(device: str) -> bool:
    """Whether there is such a kernel for a type of device."""
    return device == "cuda" and is_available()


def product(
    left: torch.Tensor,
    right: torch.Tensor,
    group: int,
    bias: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``left @ right.T + bias``, rounded once.

    Parameters
    ----------
    left, right : torch.Tensor of bfloat16 ``[M, K]`` and ``[N, K]``
        On a CUDA device.
    group : int
        Terms whose sums are exact in binary32, from a multiple of 32 on: 32 or a multiple of it.
    bias : torch.Tensor of float32 ``[N]``, optional
    dtype : torch.dtype
        float32 or bfloat16, of the result ``[M, N]``.
    """
    (rows, terms), columns = left.shape, len(right)
    result = torch.empty(rows, columns, dtype=dtype, device=left.device)
    if not result.numel():
        return result
    tall = 128 if rows >= _MANY else 64
    with torch.cuda.device(left.device):
        _kernel()[(-(-columns // 64), -(-rows // tall))](
            left.contiguous(),
            right.contiguous(),
            left if bias is None else bias.contiguous(),
            result,
            rows,
            columns,
            terms,
            GROUP=group,
            BIAS=bias is not None,
            NARROW=dtype == torch.bfloat16,
            ROWS=tall,
            COLUMNS=64,
            STEP=_STEP,
            num_warps=tall // 16,
            num_stages=4,
        )
    return result


@functools.cache
def _kernel() -> Any:
    """The kernel; Triton reads its source from this file."""
    from sw.wasq import gemm_kernel

    return gemm_kernel.grouped
