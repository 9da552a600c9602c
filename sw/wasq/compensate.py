"""Error-compensated rounding on the grid of SFx: what one weight errs by, later ones make good.

After E. Frantar et al., "GPTQ", arXiv:2210.17323 (columns in turn, the error spread by the Cholesky
factor of the inverse Hessian), with these differences: the order of columns is static and blocks
stay in place, so that a block's exponent is chosen, by the error that compensation itself leaves,
when the block's turn comes; targets come from the float model though inputs come from the quantized
one (as in Y. Li et al., "GPTAQ", arXiv:2504.02692, here by ridge regression); and passes over the
blocks refine the words afterwards, each no worse than before (block coordinate descent).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import encode, expand_blocks
from sw.wasq.config import LayerConfig
from sw.wasq.grid import largest_exponent, snap, unit
from sw.wasq.rounding_triton import is_available
from sw.wasq.statistics import Moments
from sw.wasq.sweep_triton import MOST_COLUMNS, sweep_columns
from sw.wasq.weights import QuantizedWeight, weight_exponents

#: Columns that are updated together where no block scales say otherwise.
_LAZY = 64
#: Below it a triangular matrix is inverted by substitution.
_LEAF = 128


@dataclass(frozen=True, slots=True)
class CompensateOptions:
    """How words are chosen.

    Parameters
    ----------
    damping : float
        Added to the Hessian's diagonal, as a part of its mean; tenfold until it factors.
    passes : int
        Of refinement after the first.
    exponents : int
        How many exponents each block may choose from: e by maximum, e - 1, ...
    correction : float
        How far targets follow the float model's outputs (1) rather than its weights (0).
    residual : bool
        Whether layers that add to a stream also make good what the stream lacks.
    """

    damping: float = 0.01
    passes: int = 2
    exponents: int = 3
    correction: float = 1.0
    residual: bool = True

    def __post_init__(self) -> None:
        for name, low in (("damping", 0), ("passes", 0), ("exponents", 1), ("correction", 0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)!r}")


class Solver(NamedTuple):
    """Columns in the order of their turn, float64; ``parts`` are where blocks begin and end.

    ``factor`` is the upper U of ``H^-1 = U^T U``.
    """

    hessian: torch.Tensor
    factor: torch.Tensor
    order: torch.Tensor
    parts: list[tuple[int, int]]


class _Own(NamedTuple):
    """Of a block's own part of the Hessian: its lower factor, float32; its inverse, float64; and
    the upper factor of that, float32."""

    lower: torch.Tensor
    inverse: torch.Tensor
    upper: torch.Tensor


def compensate(
    weight: torch.Tensor,
    config: LayerConfig,
    moments: Moments,
    options: CompensateOptions | None = None,
    name: str = "weight",
) -> QuantizedWeight:
    """Choose a layer's words and exponents by the error of its output.

    Parameters
    ----------
    weight : torch.Tensor of float32 ``[N, K]``
    config : LayerConfig
    moments : Moments
        Of its inputs; ``drift`` and ``residual`` are used if they are there.
    options : CompensateOptions, optional
    name : str
        For errors.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite, or there were no inputs.
    """
    options = options or CompensateOptions()
    form = config.weight_format
    if form is None:
        raise ValueError(f"{name} must have a width to be quantized")
    if moments.rows == 0:
        raise ValueError(f"{name} must have inputs to be compensated on, not none")
    weight = weight.detach().float()
    by_block = config.weight_scale == "block"
    solver = factored(moments.hessian, options.damping, BLOCK if by_block else None)
    target = wanted_weight(weight, moments, solver, options)
    # What they are is chosen below; this tells their shape, and refuses what is not finite.
    start = weight_exponents(weight, replace(config, weight_rule="maximum"), name)
    if by_block:
        values, chosen = _blocks(target, solver, start, form, options)
    else:
        values, chosen = _whole(target, solver, start, form, options, config.weight_scale)
    spread = expand_blocks(chosen, weight.shape[1]) if by_block else chosen
    words = encode(values.contiguous(), form, spread, name=name)
    return QuantizedWeight(words, chosen, form, config.weight_scale)


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
                ends = torch.tensor(sizes).cumsum(0).tolist()
                parts = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
                return Solver(tried, factor, order, parts)
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


def wanted_weight(
    weight: torch.Tensor, moments: Moments, solver: Solver, options: CompensateOptions
) -> torch.Tensor:
    """The float weight that gives the float model's outputs from the quantized inputs, float32.

    Ridge regression toward the weight itself: ``W + (W drift + residual) H^-1``.
    """
    residual = moments.residual if options.residual else None
    if moments.drift is None and residual is None:
        return weight
    extra = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    if moments.drift is not None:
        extra += weight.double() @ moments.drift
    if residual is not None:
        extra += residual
    solved = torch.empty_like(extra)
    solved[:, solver.order] = extra[:, solver.order] @ solver.factor.T @ solver.factor
    return (weight.double() + options.correction * solved).float()


def output_error(
    weight: torch.Tensor, quantized: QuantizedWeight | torch.Tensor, hessian: torch.Tensor
) -> float:
    """``sum ((W - Q) x)^2`` over the rows that the Hessian counts, float64."""
    values = quantized if isinstance(quantized, torch.Tensor) else quantized.dequantize()
    difference = (weight - values).double()
    return float(((difference @ hessian.double()) * difference).sum())


def _upper(inverse: torch.Tensor) -> torch.Tensor:
    """The upper factor U of ``H^-1 = U^T U``, float32; the diagonal is raised if it must be."""
    extra = 0.0
    while True:
        tried = inverse + extra * inverse.diagonal().mean() * torch.eye(
            len(inverse), dtype=inverse.dtype, device=inverse.device
        )
        factor, failed = torch.linalg.cholesky_ex(tried, upper=True)
        if not int(failed):
            found: torch.Tensor = factor.float()
            return found
        extra = max(extra * 10, 1e-12)


def _sweep(
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
    if columns.is_cuda and is_available() and columns.shape[-1] <= MOST_COLUMNS:
        found, lost = sweep_columns(columns / units, scaled, form)
        return found * units, lost / factor.diagonal() * units
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


def _blocks(
    target: torch.Tensor,
    solver: Solver,
    start: torch.Tensor,
    form: SFx,
    options: CompensateOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and exponents with a choice of exponents per block, as its turn comes."""
    order, factor = solver.order, solver.factor.float()
    work = target[:, order].clone()
    values = torch.empty_like(work)
    chosen = start.clone()
    rows = torch.arange(len(work), device=work.device)
    # A block may lie at most MAX_SPREAD below the row's largest, which no choice exceeds.
    top = largest_exponent(target.abs().amax(-1), form)
    for first, last in solver.parts:
        block = int(order[first]) // BLOCK
        columns = work[:, first:last]
        highest = largest_exponent(columns.abs().amax(-1), form).clamp(max=top)
        steps = torch.arange(options.exponents, device=work.device)[:, None]
        tried = torch.maximum(highest - steps, top - MAX_SPREAD)
        units = unit(tried, form)[..., None]
        copies = columns.expand(len(tried), -1, -1).clone()
        own = factor[first:last, first:last]
        rounded, errors = _sweep(copies, own, units, form)
        best = errors.square().sum(-1).argmin(0)
        chosen[:, block] = tried[best, rows]
        values[:, first:last] = rounded[best, rows]
        if last < work.shape[1]:
            work[:, last:].addmm_(errors[best, rows], factor[first:last, last:], alpha=-1)
    wanted = target[:, order]
    factors = _own(solver) if options.passes else []
    for _ in range(options.passes):
        _refine(wanted, values, chosen, solver, factors, form, (1, 0, -1), top)
    return _in_place(values, order), chosen


def _whole(
    target: torch.Tensor,
    solver: Solver,
    start: torch.Tensor,
    form: SFx,
    options: CompensateOptions,
    scale: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and exponents where a whole row or tensor shares one: each choice is tried."""
    order, factor = solver.order, solver.factor.float()
    largest = target.abs().amax(-1, keepdim=True) if scale == "channel" else target.abs().amax()
    highest = torch.zeros_like(start) if scale == "none" else largest_exponent(largest, form)
    steps = 1 if scale == "none" else options.exponents
    tried = torch.stack([highest - step for step in range(steps)])
    units = unit(tried, form).reshape(steps, -1, 1)
    work = target[:, order].expand(steps, -1, -1).clone()
    values = torch.empty_like(work)
    loss = torch.zeros(work.shape[:2], device=work.device)
    for first, last in solver.parts:
        rounded, errors = _sweep(work[..., first:last], factor[first:last, first:last], units, form)
        values[..., first:last] = rounded
        loss += errors.square().sum(-1)
        if last < work.shape[-1]:
            work[..., last:] -= errors @ factor[first:last, last:]
    if scale == "channel":
        best = loss.argmin(0)
        rows = torch.arange(work.shape[1], device=work.device)
        kept, chosen = values[best, rows].clone(), tried[best, rows]
    else:
        number = int(loss.sum(-1).argmin())
        kept, chosen = values[number].clone(), tried[number]
    own = _own(solver) if options.passes else []
    for _ in range(options.passes):
        _refine(target[:, order], kept, chosen, solver, own, form, (0,), None)
    return _in_place(kept, order), chosen


def _own(solver: Solver) -> list[_Own]:
    """For every block; those of one size, which are all but the last, in one go."""
    size = solver.parts[0][1] - solver.parts[0][0]
    found: list[_Own] = []
    alike = [part for part in solver.parts if part[1] - part[0] == size]
    others = [part for part in solver.parts if part[1] - part[0] != size]
    for parts in (alike, *([part] for part in others)):
        hessians = torch.stack([solver.hessian[a:b, a:b] for a, b in parts])
        lower = torch.linalg.cholesky(hessians)
        inverse = torch.cholesky_inverse(lower)
        upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        whole = upper.float() if not bool(failed.any()) else torch.stack([*map(_upper, inverse)])
        found += map(_Own, lower.float(), inverse, whole)
    order = {part: own for part, own in zip([*alike, *others], found, strict=True)}
    return [order[part] for part in solver.parts]


def _refine(
    wanted: torch.Tensor,
    values: torch.Tensor,
    chosen: torch.Tensor,
    solver: Solver,
    own: list[_Own],
    form: SFx,
    steps: tuple[int, ...],
    top: torch.Tensor | None,
) -> None:
    """Choose each block's words anew, all others as they are, where that lessens the error.

    ``values`` and, with more steps than one, ``chosen`` are changed in place. ``top``: the largest
    exponent that a row may have.
    """
    hessian = solver.hessian.float()
    rows = torch.arange(len(values), device=values.device)
    gradient = (values - wanted) @ hessian
    for (first, last), (lower, inverse, upper) in zip(solver.parts, own, strict=True):
        before = values[:, first:last]
        centre = before - (gradient[:, first:last].double() @ inverse).float()
        block = int(solver.order[first]) // BLOCK
        old = chosen[:, block] if top is not None else chosen.reshape(-1).expand(len(values))
        tried = torch.stack([old + step for step in steps])
        if top is not None:
            tried = torch.maximum(torch.minimum(tried, top), top - MAX_SPREAD)
        units = unit(tried, form)[..., None]
        copies = centre.expand(len(tried), -1, -1).clone()
        rounded, _ = _sweep(copies, upper, units, form)
        every = torch.cat([before[None], rounded])
        loss = ((every - centre) @ lower).square().sum(-1)
        best = loss.argmin(0)  # the first of equals: nothing changes without a gain
        picked = every[best, rows]
        if top is not None:
            chosen[:, block] = torch.cat([old[None], tried])[best, rows]
        gradient.addmm_(picked - before, hessian[first:last])
        values[:, first:last] = picked


def _in_place(values: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Columns back where they were."""
    result = torch.empty_like(values)
    result[:, order] = values
    return result
