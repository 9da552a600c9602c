"""Columns rounded in turn, each error spread over the columns after it: the loops of compensation.

On CUDA with Triton :mod:`sw.wasq.sweep_triton` does the same in one launch.
"""

from __future__ import annotations

import torch

from sw.format import SFx
from sw.wasq import sweep_triton
from sw.wasq.grid import largest_exponent, snap, unit
from sw.wasq.rounding_triton import is_available
from sw.wasq.solver import Own, Solver


def first_pass(
    target: torch.Tensor, solver: Solver, top: torch.Tensor, form: SFx, tries: int, spread: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round every block of columns in turn, its exponent chosen by the error that it leaves.

    Parameters
    ----------
    target : torch.Tensor of float32 ``[N, K]``
        In the order of the columns' turn.
    solver : Solver
    top : torch.Tensor of int ``[N]``
        The largest exponent that a row may have.
    form : SFx
    tries : int
        Exponents of a block that are tried, from that of its largest magnitude down.
    spread : int
        How far below ``top`` they may lie; 0: all are ``top``.

    Returns
    -------
    values : torch.Tensor of float32 ``[N, K]``
    chosen : torch.Tensor of int32 ``[N, P]``
    loss : torch.Tensor of float32 ``[N]``
        Squared errors, in the Hessian's measure.
    """
    factor = solver.factor.float()
    if _fast(target):
        values, errors, chosen = sweep_triton.first_pass(
            target, factor, solver.starts, solver.width, top, form, tries, spread
        )
        return values, chosen, errors.square().sum(-1)
    work, values = target.clone(), torch.empty_like(target)
    picks = []
    loss = torch.zeros(len(target), device=target.device)
    rows = torch.arange(len(work), device=work.device)
    steps = torch.arange(tries, device=work.device)[:, None]
    for first, last in solver.parts:
        columns = work[:, first:last]
        highest = torch.minimum(largest_exponent(columns.abs().amax(-1), form), top)
        tried = torch.maximum(highest - steps, top - spread)
        units = unit(tried, form)[..., None]
        copies = columns.expand(len(tried), -1, -1).clone()
        rounded, errors = sweep(copies, factor[first:last, first:last], units, form)
        losses = errors.square().sum(-1)
        best = losses.argmin(0)
        picks.append(tried[best, rows].int())
        loss += losses[best, rows]
        values[:, first:last] = rounded[best, rows]
        if last < work.shape[1]:
            work[:, last:].addmm_(errors[best, rows], factor[first:last, last:], alpha=-1)
    return values, torch.stack(picks, 1), loss


def refine(
    values: torch.Tensor,
    wanted: torch.Tensor,
    chosen: torch.Tensor,
    solver: Solver,
    own: Own,
    top: torch.Tensor,
    form: SFx,
    steps: tuple[int, ...],
    spread: int,
    passes: int = 1,
) -> None:
    """Choose each block's words anew, all others as they are, where that lessens the error.

    ``values`` and ``chosen`` are changed in place. ``steps``: (1, 0, -1), what is added to a
    block's exponent, or (0,); ``passes``: over all blocks; the rest as for :func:`first_pass`.
    """
    hessian = solver.hessian.float()
    lower, upper = own.lower.float(), own.upper.float()
    if _fast(values):
        parts = lower, own.inverse.float(), upper
        sweep_triton.refine(
            values,
            wanted,
            hessian,
            parts,
            solver.starts,
            top,
            chosen,
            form,
            len(steps),
            spread,
            passes,
        )
        return
    for _ in range(passes):
        _refine_once(
            values, wanted, chosen, solver, own, (hessian, lower, upper), top, form, steps, spread
        )


def _refine_once(
    values: torch.Tensor,
    wanted: torch.Tensor,
    chosen: torch.Tensor,
    solver: Solver,
    own: Own,
    floats: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    top: torch.Tensor,
    form: SFx,
    steps: tuple[int, ...],
    spread: int,
) -> None:
    hessian, lower, upper = floats
    rows = torch.arange(len(values), device=values.device)
    gradient = (values - wanted) @ hessian
    for part, (first, last) in enumerate(solver.parts):
        size = last - first
        before = values[:, first:last]
        inverse = own.inverse[part, :size, :size]
        centre = before - (gradient[:, first:last].double() @ inverse).float()
        old = chosen[:, part]
        tried = torch.stack([old + step for step in steps])
        tried = torch.maximum(torch.minimum(tried, top), top - spread)
        units = unit(tried, form)[..., None]
        copies = centre.expand(len(tried), -1, -1).clone()
        rounded, _ = sweep(copies, upper[part, :size, :size], units, form)
        every = torch.cat([before[None], rounded])
        loss = ((every - centre) @ lower[part, :size, :size]).square().sum(-1)
        best = loss.argmin(0)  # the first of equals: nothing changes without a gain
        picked = every[best, rows]
        chosen[:, part] = torch.cat([old[None], tried])[best, rows].int()
        gradient.addmm_(picked - before, hessian[first:last])
        values[:, first:last] = picked


def sweep(
    columns: torch.Tensor, factor: torch.Tensor, units: torch.Tensor, form: SFx
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round columns ``[..., n]`` in turn, spreading each error over those after it.

    Parameters
    ----------
    columns : torch.Tensor of float32 ``[..., n]``
        Overwritten.
    factor : torch.Tensor of float32 ``[n, n]``
        Upper.
    units : torch.Tensor of float32 ``[..., 1]``

    Returns
    -------
    values, errors : torch.Tensor of float32 ``[..., n]``
        Errors divided by the factor's diagonal.
    """
    scaled = factor / factor.diagonal()[:, None]
    # Columns lie along the first dimension here, so that each is contiguous.
    work = (columns / units).movedim(-1, 0).contiguous()
    values = torch.empty_like(work)
    errors = torch.empty_like(work)
    for i in range(len(work)):
        values[i] = snap(work[i], form)
        errors[i] = work[i] - values[i]
        if i + 1 < len(work):
            rest = work[i + 1 :].flatten(1)
            rest.addr_(scaled[i, i + 1 :], errors[i].flatten(), alpha=-1)
    errors /= factor.diagonal().reshape(-1, *[1] * (errors.dim() - 1))
    return values.movedim(0, -1) * units, errors.movedim(0, -1) * units


def _fast(x: torch.Tensor) -> bool:
    return x.is_cuda and is_available() and x.numel() > 0
