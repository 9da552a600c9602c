"""Error-compensated rounding as two Triton kernels, where Triton is installed.

Step by step it is a chain of small operations per column, whose launches take a GPU far longer than
their arithmetic; here one launch does all columns of a layer. Kernels are compiled on first use.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from sw.format import SFx
from sw.wasq.solver import squares

_ROWS: Final = 16


def first_pass(
    target: torch.Tensor,
    factor: torch.Tensor,
    starts: torch.Tensor,
    width: int,
    top: torch.Tensor,
    form: SFx,
    tries: int,
    spread: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round every block of columns in turn, errors spread over those after it.

    Parameters
    ----------
    target : torch.Tensor of float32 ``[N, K]``
        In the order of the columns' turn, on a CUDA device.
    factor : torch.Tensor of float32 ``[K, K]``
        Upper.
    starts : torch.Tensor of int32 ``[P + 1]``
        Where blocks begin, and K.
    width : int
        Of the widest block: 16, 32 or 64.
    top : torch.Tensor ``[N]``
        The largest exponent that a row may have.
    form : SFx
    tries : int
        Exponents of a block from its own largest magnitude down.
    spread : int
        How far they may lie below ``top``; 0: at it.

    Returns
    -------
    values, errors : torch.Tensor of float32 ``[N, K]``
        Errors divided by the factor's diagonal.
    chosen : torch.Tensor of int32 ``[N, P]``
        Exponents.
    """
    target = target.contiguous()
    rows, columns = target.shape
    parts = len(starts) - 1
    values, errors = torch.empty_like(target), torch.empty_like(target)
    chosen = torch.empty(rows, parts, dtype=torch.int32, device=target.device)
    diagonal = factor.diagonal().contiguous()
    inner = squares(factor / diagonal[:, None], starts, width)
    with torch.cuda.device(target.device):
        _kernels().first_pass[(-(-rows // _ROWS),)](
            target,
            factor.contiguous(),
            inner,
            diagonal,
            starts,
            top.int().contiguous(),
            values,
            errors,
            chosen,
            rows,
            columns,
            parts,
            ROWS=_ROWS,
            WIDTH=width,
            TRIES=tries,
            SPREAD=spread,
            FRACTION=form.fraction_bits,
            UNITY=form.unity,
            num_warps=_warps(width),
        )
    return values, errors, chosen


def refine(
    values: torch.Tensor,
    wanted: torch.Tensor,
    hessian: torch.Tensor,
    own: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    starts: torch.Tensor,
    top: torch.Tensor,
    chosen: torch.Tensor,
    form: SFx,
    steps: int,
    spread: int,
    passes: int,
) -> None:
    """Choose each block's words anew; ``values`` and ``chosen`` are changed in place.

    Parameters
    ----------
    values, wanted : torch.Tensor of float32 ``[N, K]``
    hessian : torch.Tensor of float32 ``[K, K]``
    own : tuple of torch.Tensor of float32 ``[P, width, width]``
        Of each block's part of the Hessian: lower factor, inverse, upper factor of the inverse.
    starts, top, form, spread
        As for :func:`first_pass`.
    chosen : torch.Tensor of int32 ``[N, P]``
    steps : int
        3: exponents one more, as they are and one less; 1: as they are.
    passes : int
        Over all blocks, a launch each.
    """
    rows, columns = values.shape
    lower, inverse, upper = own
    scaled = upper / upper.diagonal(dim1=1, dim2=2)[..., None]
    given = (
        *(values, wanted.contiguous(), hessian.contiguous(), scaled.contiguous()),
        *(inverse.contiguous(), lower.contiguous(), starts, top.int().contiguous(), chosen),
    )
    with torch.cuda.device(values.device):
        for _ in range(passes):
            _kernels().refine_pass[(-(-rows // _ROWS),)](
                *given,
                rows,
                columns,
                len(starts) - 1,
                ROWS=_ROWS,
                WIDTH=lower.shape[-1],
                STEPS=steps,
                SPREAD=spread,
                FRACTION=form.fraction_bits,
                UNITY=form.unity,
                num_warps=_warps(lower.shape[-1]),
            )


def _warps(width: int) -> int:
    """As many as keep a program's tile in registers."""
    return 8 if width > 32 else 4


def _kernels() -> Any:
    from sw.wasq import sweep_kernel

    return sweep_kernel
