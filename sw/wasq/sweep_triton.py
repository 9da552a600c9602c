"""Rounding columns in turn as one Triton kernel, where Triton is installed; compiled on first use.

Step by step it is a chain of small operations per column, whose launches take a GPU far longer than
their arithmetic; here a program keeps its rows in registers from the first column to the last.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import torch

from sw.format import SFx

#: Columns at once; more would not stay in registers.
MOST_COLUMNS: Final = 64
_ROWS: Final = 16


def sweep_columns(
    work: torch.Tensor, factor: torch.Tensor, form: SFx
) -> tuple[torch.Tensor, torch.Tensor]:
    """Operands and errors, in units, of columns rounded from the first to the last.

    Parameters
    ----------
    work : torch.Tensor of float32 ``[..., n]``
        On a CUDA device, in units; n at most :data:`MOST_COLUMNS`.
    factor : torch.Tensor of float32 ``[n, n]``
        Row i: what column i's error, times it, takes from each column after it.
    form : SFx

    Returns
    -------
    values, errors : torch.Tensor of float32 ``[..., n]``
    """
    columns = work.shape[-1]
    work = work.contiguous()
    values, errors = torch.empty_like(work), torch.empty_like(work)
    rows = work.numel() // max(columns, 1)
    if not rows:
        return values, errors
    with torch.cuda.device(work.device):
        _kernel()[(-(-rows // _ROWS),)](
            work,
            factor.contiguous(),
            values,
            errors,
            rows,
            COLUMNS=columns,
            ROWS=_ROWS,
            WIDTH=max(16, 1 << (columns - 1).bit_length()),
            FRACTION=form.fraction_bits,
            UNITY=form.unity,
            num_warps=4,
        )
    return values, errors


@functools.cache
def _kernel() -> Any:
    """The kernel; Triton reads its source from this file."""
    import triton  # type: ignore[import-not-found,unused-ignore]

    from sw.wasq import sweep_kernel

    return triton.jit(sweep_kernel.sweep_rows)
