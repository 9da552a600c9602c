"""A damped Hessian, factored once, in the order in which its columns are rounded."""

from __future__ import annotations

import itertools
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


class Solver(NamedTuple):
    """Columns in the order of their turn.

    Parameters
    ----------
    hessian, factor : torch.Tensor of float64 ``[K, K]``
        H, and the upper U of ``H^-1 = U^T U``.
    order : torch.Tensor of int64 ``[K]``
        Which column has each turn.
    starts : torch.Tensor of int32 ``[P + 1]``
        Where blocks begin, and K.
    width : int
        The power of two that holds the widest block, at least 16.
    """

    hessian: torch.Tensor
    factor: torch.Tensor
    order: torch.Tensor
    starts: torch.Tensor
    width: int

    @property
    def parts(self) -> list[tuple[int, int]]:
        """First and last column of each block."""
        ends: list[int] = self.starts.tolist()
        return list(itertools.pairwise(ends))

    def own(self) -> Own:
        """What refining asks of every block, made in one go."""
        own = squares(self.hessian, self.starts, self.width)
        lower, turned = torch.linalg.cholesky(torch.stack((own, own.flip(1, 2))))
        one = torch.eye(self.width, dtype=own.dtype, device=own.device)
        upper = torch.linalg.solve_triangular(turned.flip(1, 2), one, upper=True)
        return Own(lower, upper.mT @ upper, upper)


def factored(hessian: torch.Tensor, damping: float, block: int | None = None) -> Solver:
    """A Hessian's damped form in the order of its columns' turn, and the factor of its inverse.

    Inputs that are always zero get a diagonal of 1. The order is by the diagonal, largest first;
    with ``block``, whole blocks by their mean, which stay together.
    """
    diagonal = hessian.diagonal().double()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    diagonal = torch.where(diagonal == 0, 1.0, diagonal)
    order, starts, width = _order(diagonal, block)
    ordered = hessian[order[:, None], order].double()
    ordered.diagonal().copy_(diagonal[order])
    extra = max(damping, 1e-9)
    while True:
        tried = ordered.clone()
        tried.diagonal().add_(extra * mean)
        # H = F F^T with F upper, from the factor of H turned about: then H^-1 = F^-T F^-1.
        turned, failed = torch.linalg.cholesky_ex(tried.flip(0, 1))
        factor = _inverse_of_upper(turned.flip(0, 1))
        if bool((failed == 0) & torch.isfinite(factor.sum())):  # a device is waited for once
            return Solver(tried, factor, order, starts, width)
        extra *= 10


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
    one = torch.eye(side, dtype=matrix.dtype, device=matrix.device)
    parts = _along(padded, side)
    done = torch.linalg.solve_triangular(parts, one, upper=True)
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
