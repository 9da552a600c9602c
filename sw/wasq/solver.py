"""A damped Hessian, factored once, in the order in which its columns are rounded."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch

#: Columns that are updated together where no block scales say otherwise.
_LAZY = 64
#: Below it a triangular matrix is inverted by substitution.
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
        lower = torch.linalg.cholesky(own)
        inverse = torch.cholesky_inverse(lower)
        upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if bool(failed.any()):
            upper = torch.stack([*map(_upper, inverse)])
        return Own(lower, inverse, upper)


def factored(hessian: torch.Tensor, damping: float, block: int | None = None) -> Solver:
    """A Hessian's damped form in the order of its columns' turn, and the factor of its inverse.

    Inputs that are always zero get a diagonal of 1. The order is by the diagonal, largest first;
    with ``block``, whole blocks by their mean, which stay together.
    """
    hessian = hessian.double().clone()
    diagonal = hessian.diagonal()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    diagonal[diagonal == 0] = 1
    order, sizes = _order(diagonal, block)
    hessian = hessian[order][:, order]
    extra = max(damping, 1e-9)
    while True:
        tried = hessian.clone()
        tried.diagonal().add_(extra * mean)
        # H = F F^T with F upper, from the factor of H turned about: then H^-1 = F^-T F^-1.
        turned, failed = torch.linalg.cholesky_ex(tried.flip(0, 1))
        if not int(failed):
            factor = _inverse_of_upper(turned.flip(0, 1))
            if bool(torch.isfinite(factor).all()):
                ends = torch.tensor([0, *sizes]).cumsum(0)
                starts = ends.to(torch.int32).to(hessian.device)
                width = max(16, 1 << (max(sizes) - 1).bit_length())
                return Solver(tried, factor, order, starts, width)
        extra *= 10


def _order(diagonal: torch.Tensor, block: int | None) -> tuple[torch.Tensor, list[int]]:
    """Columns in the order of their turn, and how many belong together."""
    terms = len(diagonal)
    if block is None:
        order = torch.argsort(diagonal, descending=True, stable=True)
        return order, [min(_LAZY, terms - first) for first in range(0, terms, _LAZY)]
    parts = torch.split(diagonal, block)
    means = torch.stack([part.mean() for part in parts]).tolist()
    ranked = sorted(range(len(parts)), key=lambda b: -means[b])
    inner = [torch.argsort(parts[b], descending=True, stable=True) + b * block for b in ranked]
    return torch.cat(inner), [len(p) for p in inner]


def _inverse_of_upper(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of an upper triangular matrix, by halves: mostly matrix products."""
    size = len(matrix)
    if size <= _LEAF:
        one = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        solved: torch.Tensor = torch.linalg.solve_triangular(matrix, one, upper=True)
        return solved
    half = size // 2
    result = torch.zeros_like(matrix)
    result[:half, :half] = first = _inverse_of_upper(matrix[:half, :half])
    result[half:, half:] = last = _inverse_of_upper(matrix[half:, half:])
    result[:half, half:] = -(first @ matrix[:half, half:]) @ last
    return result


def squares(matrix: torch.Tensor, starts: torch.Tensor, width: int) -> torch.Tensor:
    """Square parts ``[P, width, width]`` along a diagonal; beyond a part's end, the unit matrix."""
    place = torch.arange(width, device=matrix.device)
    at = starts[:-1, None].long() + place
    inside = at < starts[1:, None]
    at = at.clamp(max=len(matrix) - 1)
    found = matrix[at[:, :, None], at[:, None, :]]
    both = inside[:, :, None] & inside[:, None, :]
    return torch.where(both, found, torch.eye(width, dtype=matrix.dtype, device=matrix.device))


def _upper(inverse: torch.Tensor) -> torch.Tensor:
    """The upper factor U of ``H^-1 = U^T U``; the diagonal is raised if it must be."""
    extra = 0.0
    while True:
        tried = inverse + extra * inverse.diagonal().mean() * torch.eye(
            len(inverse), dtype=inverse.dtype, device=inverse.device
        )
        factor, failed = torch.linalg.cholesky_ex(tried, upper=True)
        if not int(failed):
            return factor  # type: ignore[no-any-return]
        extra = max(extra * 10, 1e-12)
