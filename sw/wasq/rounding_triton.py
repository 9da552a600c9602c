"""The same rounding as one Triton kernel, where Triton is installed; compiled on first use."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import torch

from sw.format import SFx


@functools.cache
def is_available() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def round_rows(
    x: torch.Tensor,
    form: SFx,
    length: int,
    given: torch.Tensor | None,
    dtype: torch.dtype,
    faults: torch.Tensor,
    limit: int,
    most_spread: int,
) -> torch.Tensor:
    """Values of the words of rows ``[M, K]``, one program per row.

    Parameters
    ----------
    x : torch.Tensor of float32 or bfloat16, contiguous, on a CUDA device
    form : SFx
    length : int
        Values that share an exponent: K or 32.
    given : torch.Tensor of int32 ``[B]``, optional
        Exponents for all rows; found by maximum if omitted.
    dtype : torch.dtype
    faults : torch.Tensor of int32 ``[1]``
        Counts rows that become NaN: not finite, or their exponent beyond ``limit``.
    limit, most_spread : int
    """
    rows, terms = x.shape
    values = torch.empty(x.shape, dtype=dtype, device=x.device)
    if not values.numel():
        return values
    blocks = -(-terms // length)
    width = 1 << (length - 1).bit_length()
    count = 1 << (blocks - 1).bit_length()
    with torch.cuda.device(x.device):
        _kernel()[(rows,)](
            x,
            values,
            x if given is None else given.contiguous(),
            faults,
            terms,
            length,
            blocks,
            LIMIT=limit,
            SPREAD=most_spread,
            FRACTION=form.fraction_bits,
            UNITY=form.unity,
            GIVEN=given is not None,
            BLOCKS=count,
            WIDTH=width,
            num_warps=4 if count * width <= 4096 else 8,
        )
    return values


@functools.cache
def _kernel() -> Any:
    """The kernel; Triton reads its source from this file."""
    import triton  # type: ignore[import-not-found,unused-ignore]

    from sw.wasq import rounding_kernel

    return triton.jit(rounding_kernel.round_row)
