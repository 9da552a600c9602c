"""A damped Hessian, factored once, in the order in which its columns are rounded."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

#: Columns that are updated together where no block scales say otherwise.
_LAZY = 64
#: Up to it a triangular matrix is inverted by substitution.
_LEAF = 128


class Own(NamedTuple):
    """Of every block's part of the Hessian, float64 ``[P, width, width]``: the lower factor, the
    inverse, and the upper factor of that; beyond a shorter block's end, the unit matrix."""

    lower: torch.Tensor
    inverse: torch.Tensor
    upper: torch.Tensor


@dataclass(frozen=True, eq=False)
class Solver:
    """Columns in the order of their turn.

    Parameters
    ----------
    turned, lower : torch.Tensor of float64 ``[K, K]``
        H with the last column and row first, and its lower factor: ``H = F F^T`` with F upper is
        that, turned about.
    failed : torch.Tensor of bool ``[]``
        Whether it could not be factored; on its device, not waited for.
    order : torch.Tensor of int64 ``[K]``
        Which column has each turn.
    starts : torch.Tensor of int32 ``[P + 1]``
        Where blocks begin, and K.
    width : int
        The power of two that holds the widest block, at least 16.
    """

    turned: torch.Tensor
    lower: torch.Tensor
    failed: torch.Tensor
    order: torch.Tensor
    starts: torch.Tensor
    width: int

    @property
    def hessian(self) -> torch.Tensor:
        """H, float64 ``[K, K]``."""
        return self.turned.flip(0, 1)

    @functools.cached_property
    def upper(self) -> torch.Tensor:
        """F, float32 ``[K, K]``."""
        return self.lower.float().flip(0, 1)

    @functools.cached_property
    def factor(self) -> torch.Tensor:
        """The upper U of ``H^-1 = U^T U``, float64 ``[K, K]``: the inverse of F."""
        return _inverse_of_upper(self.lower.flip(0, 1))

    @functools.cached_property
    def parts(self) -> list[tuple[int, int]]:
        """First and last column of each block."""
        ends: list[int] = self.starts.tolist()
        return list(itertools.pairwise(ends))

    def solve(self, rows: torch.Tensor) -> torch.Tensor:
        """``X H^-1``, float64 ``[N, K]``."""
        if rows.is_cuda:  # which makes the inverse's factor for its kernels anyway
            return rows @ self.factor.T @ self.factor
        return torch.cholesky_solve(rows.flip(1).mT, self.lower).mT.flip(1)

    def inner(self) -> torch.Tensor:
        """The inverse of every block's own part of F, float32 ``[P, width, width]``, upper: U's
        part; beyond a shorter block's end, the unit matrix."""
        return _inverses(self._squares(self.lower)).float()

    def own(self) -> Own:
        """What refining asks of every block, made in one go."""
        own = self._squares(self.turned)
        lower, turned = _lower(torch.stack((own, own.flip(1, 2))))
        upper = _inverses(turned.flip(1, 2))
        return Own(lower, upper.mT @ upper, upper)

    def own_upper(self) -> torch.Tensor:
        """The last of :meth:`own` alone, float32."""
        turned = _lower(self._squares(self.turned).flip(1, 2))
        return _inverses(turned.flip(1, 2)).float()

    def _squares(self, turned: torch.Tensor) -> torch.Tensor:
        """Blocks' own parts ``[P, width, width]`` of what a matrix turned about was before."""
        if (len(self.starts) - 1) * self.width == len(turned):  # all are as wide
            return squares(turned, self.starts, self.width).flip(0, 1, 2)
        return squares(turned.flip(0, 1), self.starts, self.width)


def factored(hessian: torch.Tensor, damping: float, block: int | None = None) -> Solver:
    """A Hessian's damped form in the order of its columns' turn, and its factor.

    Inputs that are always zero get a diagonal of 1. The order is by the diagonal, largest first;
    with ``block``, whole blocks by their mean, which stay together. Damping is tenfold until it
    factors.

    Raises
    ------
    ValueError
        If the Hessian is not finite.
    """
    for solver in attempts(hessian, damping, block):
        if not bool(solver.failed):
            break
    return solver


def attempts(hessian: torch.Tensor, damping: float, block: int | None = None) -> Iterator[Solver]:
    """As :func:`factored`, each tenfold damping in turn: who takes them looks at ``failed``.

    So a device need not be waited for before more work is given to it.
    """
    diagonal = hessian.diagonal().double()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    diagonal = torch.where(diagonal == 0, 1.0, diagonal)
    order, starts, width = _order(diagonal, block)
    last = order.flip(0)
    # Rows, then columns: a whole row is copied at once, and its elements are found in the cache.
    turned = hessian.index_select(0, last).gather(1, last.expand(len(last), -1)).double()
    extra = max(damping, 1e-9)
    while True:
        turned.diagonal().copy_((diagonal + extra * mean)[last])
        lower, info = torch.linalg.cholesky_ex(turned)
        failed = (info != 0) | ~torch.isfinite(lower.diagonal().sum())
        yield Solver(turned, lower, failed, order, starts, width)
        if not bool(torch.isfinite(hessian).all()):
            raise ValueError("a Hessian must hold finite numbers, not NaN or infinity")
        extra *= 10


def _lower(parts: torch.Tensor) -> torch.Tensor:
    """Lower factors, not looked at: all of H is positive definite, or ``failed`` says so."""
    found: torch.Tensor = torch.linalg.cholesky_ex(parts).L
    return found


def _inverses(parts: torch.Tensor) -> torch.Tensor:
    """Of upper triangular ``[P, n, n]``, by substitution."""
    one = torch.eye(parts.shape[-1], dtype=parts.dtype, device=parts.device)
    inverses: torch.Tensor = torch.linalg.solve_triangular(parts, one, upper=True)
    return inverses.contiguous()


def _order(diagonal: torch.Tensor, block: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Columns in the order of their turn, where blocks begin, and the width that holds one."""
    terms, device = len(diagonal), diagonal.device
    length = _LAZY if block is None else block
    width = max(16, 1 << (min(length, terms) - 1).bit_length())
    starts = torch.arange(0, terms + length, length, device=device).clamp_(max=terms)
    if block is None:
        order = torch.argsort(diagonal, descending=True, stable=True)
        return order, starts.int(), width
    missing = -terms % block
    parts = functional.pad(diagonal, (0, missing)).reshape(-1, block)
    sizes = starts.diff()
    ranked = torch.argsort(parts.sum(1) / sizes, descending=True, stable=True)
    # What is missing from the last block comes behind all that is there, and is left out.
    parts = functional.pad(diagonal, (0, missing), value=-torch.inf).reshape(-1, block)
    inner = torch.argsort(parts, dim=1, descending=True, stable=True)
    order = (inner + block * torch.arange(len(parts), device=device)[:, None])[ranked].flatten()
    if missing:
        order = order[order < terms]
        starts[1:] = sizes[ranked].cumsum(0)
    return order, starts.int(), width


def _inverse_of_upper(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of an upper triangular matrix: parts along the diagonal by substitution, then
    twice as large ones from two each, ``-A^-1 B D^-1`` in their corner, all of a size at once."""
    size = len(matrix)
    halvings = max(0, (-(-size // _LEAF) - 1).bit_length())
    side = -(-size >> halvings)
    missing = (side << halvings) - size
    padded = functional.pad(matrix, (0, missing, 0, missing))
    padded.diagonal()[size:] = 1
    done = _inverses(_along(padded, side))
    while len(done) > 1:
        first, last = done[::2], done[1::2]
        corner = _along(padded, 2 * side)[:, :side, side:]
        made = done.new_zeros(len(first), 2 * side, 2 * side)
        made[:, :side, :side], made[:, side:, side:] = first, last
        made[:, :side, side:] = torch.baddbmm(corner, first @ corner, last, beta=0, alpha=-1)
        done, side = made, 2 * side
    result: torch.Tensor = done[0, :size, :size]
    return result


def _along(matrix: torch.Tensor, side: int) -> torch.Tensor:
    """Square parts of a matrix along its diagonal, ``[P, side, side]``, a view."""
    parts = len(matrix) // side
    split = matrix.reshape(parts, side, parts, side)
    return split.diagonal(dim1=0, dim2=2).permute(2, 0, 1)


def squares(matrix: torch.Tensor, starts: torch.Tensor, width: int) -> torch.Tensor:
    """Square parts ``[P, width, width]`` along a diagonal; beyond a part's end, the unit matrix."""
    if (len(starts) - 1) * width == len(matrix):  # all are as wide
        return _along(matrix, width).contiguous()
    place = torch.arange(width, device=matrix.device)
    at = starts[:-1, None].long() + place
    inside = at < starts[1:, None]
    at = at.clamp(max=len(matrix) - 1)
    found = matrix[at[:, :, None], at[:, None, :]]
    both = inside[:, :, None] & inside[:, None, :]
    return torch.where(both, found, torch.eye(width, dtype=matrix.dtype, device=matrix.device))
