"""Columns rounded in turn, each error spread over the columns after it: the loops of compensation.

On CUDA with Triton :mod:`sw.wasq.sweep_triton` does the same in one launch per pass; on a CPU with
a compiler :mod:`sw.wasq.sweep_native` does a block of columns in one call.

With ``H = F F^T``, F upper, values V for targets T leave ``|E|^2`` with ``E = (T - V) F``: blocks
add to the errors of those behind them alone. So the next block is rounded about ``T + E F_own^-1``,
E of the blocks before it, and no inverse of H is needed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

from sw.format import SFx
from sw.wasq import sweep_triton
from sw.wasq.rounding_triton import is_available
from sw.wasq.solver import Solver
from sw.wasq.sweep import Exponents, choose

#: What a block's loss must fall to of what it was, for its words to change: a part that sums of
#: float32 tell for certain.
_GAIN: Final = 1 - 2.0**-20
#: Columns whose gradient is made at once, from the errors at and behind them.
_SPAN: Final = 256


class Rounded(NamedTuple):
    """Rounded columns, in the order of their turn.

    Parameters
    ----------
    values : torch.Tensor of float32 ``[N, K]``
    errors : torch.Tensor of float32 ``[N, K]``
        ``(target - values) F``; a row's squares sum to its error in the Hessian's measure.
    chosen : torch.Tensor of int32 ``[N, P]``
        The exponent of each block.
    """

    values: torch.Tensor
    errors: torch.Tensor
    chosen: torch.Tensor


def arranged(weight: torch.Tensor, order: torch.Tensor, copies: int = 1) -> torch.Tensor:
    """Columns of ``[N, K]`` in their order, the rows ``copies`` times, as they are read here: their
    columns contiguous, or for the kernels of a GPU their rows."""
    if _fast(weight):
        rows = weight.index_select(1, order)
        return rows if copies == 1 else rows.repeat(copies, 1)
    columns = weight.T.contiguous().index_select(0, order)
    return (columns if copies == 1 else columns.repeat(1, copies)).T


def picked(rounded: Rounded, at: torch.Tensor) -> Rounded:
    """Some of the rows."""
    if _fast(rounded.values):
        return Rounded(*(part.index_select(0, at) for part in rounded))
    return Rounded(*(part.T.index_select(1, at).T for part in rounded))


def first_pass(
    target: torch.Tensor, solver: Solver, top: torch.Tensor, form: SFx, tries: int, spread: int
) -> Rounded:
    """Round every block of columns in turn, its exponent chosen by the error that it leaves.

    Parameters
    ----------
    target : torch.Tensor of float32 ``[N, K]``
        In the order of the columns' turn; may be overwritten.
    solver : Solver
    top : torch.Tensor of int ``[N]``
        The largest exponent that a row may have.
    form : SFx
    tries : int
        Exponents of a block that are tried, from that of its largest magnitude down.
    spread : int
        How far below ``top`` they may lie; 0: all are ``top``.
    """
    if _fast(target):
        return Rounded(
            *sweep_triton.first_pass(
                target, solver.factor.float(), solver.starts, solver.width, top, form, tries, spread
            )
        )
    # Columns lie along the first dimension here, so that a block of them is contiguous. In its turn
    # a block's values take the targets' place, and its errors that of what earlier blocks leave it,
    # (V - T) F: a page that a process touches first costs more than the arithmetic on it.
    values, upper = target.T.contiguous(), solver.upper
    scaled, diagonal, inner = _shares(solver.inner())
    errors = torch.zeros_like(values)
    chosen = torch.empty(len(scaled), len(target), dtype=torch.int32, device=target.device)
    buffers = values.new_empty(2, solver.width, values.shape[1])
    exponents = Exponents(top.int().contiguous(), form, tries, spread)
    for part, (first, last) in enumerate(solver.parts):
        block, size = slice(first, last), last - first
        columns, change = buffers[0][:size], buffers[1][:size]
        torch.addmm(
            values[block], inner[part, :size, :size].T, errors[block], alpha=-1, out=columns
        )
        choose(
            columns,
            _square(scaled[part], size),
            diagonal[part, :size],
            exponents,
            base=values[block],
            change=change,
            values=values[block],
            errors=errors[block],
            chosen=chosen[part],
        )
        if last < len(values):
            errors[last:].addmm_(upper[block, last:].T, change)
    return Rounded(values.T, errors.T, chosen.T)


def refine(
    rounded: Rounded,
    wanted: torch.Tensor,
    solver: Solver,
    top: torch.Tensor,
    form: SFx,
    tries: int,
    spread: int,
    passes: int = 1,
) -> Rounded:
    """Choose each block's words anew, all others as they are, where that lessens the error.

    ``tries``: 3, a block's exponents one more, as they are and one less; 1: as they are;
    ``passes``: over all blocks; ``wanted``: what the first pass was given, which only kernels that
    do not overwrite it read; the rest as for :func:`first_pass`. What is given may be overwritten;
    the errors that are given back are those of the first pass.
    """
    hessian = solver.turned.float().flip(0, 1)
    if _fast(wanted):
        own = solver.own()
        sweep_triton.refine(
            rounded.values,
            wanted,
            hessian,
            (own.lower.float(), own.inverse.float(), own.upper.float()),
            solver.starts,
            top,
            rounded.chosen,
            form,
            tries,
            spread,
            passes,
        )
        return rounded
    values, chosen = rounded.values.T.contiguous(), rounded.chosen.T.contiguous()
    gradient = _gradient(rounded.errors, solver)
    scaled, diagonal, upper = _shares(solver.own_upper())
    buffers = values.new_empty(3, solver.width, values.shape[1])
    exponents = Exponents(top.int().contiguous(), form, tries, spread)
    for turn in range(passes):
        for part, (first, last) in enumerate(solver.parts):
            block, size = slice(first, last), last - first
            inner = upper[part, :size, :size]
            # With H^-1 = U^T U of the block's own H, the best real values lie g U^T U beside, and
            # staying leaves |g U^T|^2 more than these would.
            centre, change, aside = (buffer[:size] for buffer in buffers)
            torch.mm(inner, gradient[block], out=aside)
            torch.addmm(values[block], inner.T, aside, alpha=-1, out=centre)
            choose(
                centre,
                _square(scaled[part], size),
                diagonal[part, :size],
                exponents,
                base=values[block],
                change=change,
                values=values[block],
                chosen=chosen[part],
                aside=aside,
                gain=_GAIN,
            )
            since = 0 if turn + 1 < passes else last  # what the last pass has behind it is not used
            gradient[since:].addmm_(hessian[block, since:].T, change)
    return Rounded(values.T, rounded.errors, chosen.T)


def _gradient(errors: torch.Tensor, solver: Solver) -> torch.Tensor:
    """``(V - T) H = -E F^T``, turned, float32 ``[K, N]``."""
    turned, upper = errors.T, solver.upper
    gradient = torch.empty(turned.shape, device=turned.device)
    for first in range(0, len(turned), _SPAN):
        span = slice(first, first + _SPAN)
        torch.mm(upper[span, first:], turned[first:], out=gradient[span])
    return gradient.neg_()


def _shares(upper: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of upper ``[P, n, n]``: the rows by their diagonals, these ``[P, n]``, and itself."""
    diagonal = upper.diagonal(dim1=1, dim2=2).contiguous()
    return upper / diagonal[..., None], diagonal, upper


def _square(matrix: torch.Tensor, size: int) -> torch.Tensor:
    return matrix[:size, :size].contiguous()


def _fast(x: torch.Tensor) -> bool:
    return x.is_cuda and is_available() and x.numel() > 0
