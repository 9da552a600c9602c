"""Error-compensated rounding on the grid of SFx: what one weight errs by, later ones make good.

After E. Frantar et al., "GPTQ", arXiv:2210.17323 (columns in turn, the error spread by the Cholesky
factor of the inverse Hessian), with these differences: the order of columns is static and blocks
stay in place, so that a block's exponent is chosen, by the error that compensation itself leaves,
when the block's turn comes; targets come from the float model though inputs come from the quantized
one (as in Y. Li et al., "GPTAQ", arXiv:2504.02692, here by ridge regression); and passes over the
blocks refine the words afterwards, each no worse than before (block coordinate descent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import encode, expand_blocks
from sw.wasq.config import LayerConfig
from sw.wasq.grid import largest_exponent, snap, unit
from sw.wasq.statistics import Moments
from sw.wasq.weights import QuantizedWeight, weight_exponents

#: Columns that are updated together where no block scales say otherwise.
_LAZY = 64


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


class _Solver(NamedTuple):
    """Columns in the order of their turn; ``parts`` are first and last column of each block."""

    hessian: torch.Tensor
    factor: torch.Tensor
    order: torch.Tensor
    parts: list[tuple[int, int]]


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
    hessian, inverse = damped(moments.hessian, options.damping)
    target = wanted_weight(weight, moments, inverse, options)
    by_block = config.weight_scale == "block"
    solver = ordered(hessian, inverse, BLOCK if by_block else None)
    start = weight_exponents(weight, config, name)
    if by_block:
        values, chosen = _blocks(target, solver, start, form, options)
    else:
        values, chosen = _whole(target, solver, start, form, options, config.weight_scale)
    spread = expand_blocks(chosen, weight.shape[1]) if by_block else chosen
    words = encode(values.contiguous(), form, spread, name=name)
    return QuantizedWeight(words, chosen, form, config.weight_scale)


def damped(hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A Hessian that can be inverted, and its inverse, float64.

    Inputs that are always zero get a diagonal of 1.
    """
    hessian = hessian.double().clone()
    diagonal = hessian.diagonal()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    diagonal[diagonal == 0] = 1
    extra = max(damping, 1e-9)
    while True:
        tried = hessian.clone()
        tried.diagonal().add_(extra * mean)
        factor, failed = torch.linalg.cholesky_ex(tried)
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            if bool(torch.isfinite(inverse).all()):
                return tried, inverse
        extra *= 10


def wanted_weight(
    weight: torch.Tensor, moments: Moments, inverse: torch.Tensor, options: CompensateOptions
) -> torch.Tensor:
    """The float weight that gives the float model's outputs from the quantized inputs, float32.

    Ridge regression toward the weight itself: ``W + (W drift + residual) H^-1``.
    """
    extra = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
    if moments.drift is not None:
        extra += weight.double() @ moments.drift
    if moments.residual is not None and options.residual:
        extra += moments.residual
    return (weight.double() + options.correction * extra @ inverse).float()


def output_error(
    weight: torch.Tensor, quantized: QuantizedWeight | torch.Tensor, hessian: torch.Tensor
) -> float:
    """``sum ((W - Q) x)^2`` over the rows that the Hessian counts, float64."""
    values = quantized if isinstance(quantized, torch.Tensor) else quantized.dequantize()
    difference = (weight - values).double()
    return float(((difference @ hessian.double()) * difference).sum())


def ordered(hessian: torch.Tensor, inverse: torch.Tensor, block: int | None) -> _Solver:
    """The order: by the diagonal, largest first; whole blocks by their mean where they stay."""
    diagonal = hessian.diagonal()
    terms = len(diagonal)
    if block is None:
        order = torch.argsort(diagonal, descending=True, stable=True)
        sizes = [min(_LAZY, terms - first) for first in range(0, terms, _LAZY)]
    else:
        parts = torch.split(diagonal, block)
        ranked = sorted(range(len(parts)), key=[-float(p.mean()) for p in parts].__getitem__)
        inner = [torch.argsort(parts[b], descending=True, stable=True) + b * block for b in ranked]
        order, sizes = torch.cat(inner), [len(p) for p in inner]
    ordered = inverse[order][:, order]
    factor = _upper(ordered)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    parts_ = [(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return _Solver(hessian[order][:, order].float(), factor, order, parts_)


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
    # Columns lie along the first dimension here, so that each is contiguous.
    work = (columns / units).movedim(-1, 0).contiguous()
    values = torch.empty_like(work)
    errors = torch.empty_like(work)
    scaled = factor / factor.diagonal()[:, None]
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
    solver: _Solver,
    start: torch.Tensor,
    form: SFx,
    options: CompensateOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and exponents with a choice of exponents per block, as its turn comes."""
    order, factor = solver.order, solver.factor
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
    for _ in range(options.passes):
        _refine(wanted, values, chosen, solver, form, (1, 0, -1), top)
    return _in_place(values, order), chosen


def _whole(
    target: torch.Tensor,
    solver: _Solver,
    start: torch.Tensor,
    form: SFx,
    options: CompensateOptions,
    scale: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and exponents where a whole row or tensor shares one: each choice is tried."""
    order, factor = solver.order, solver.factor
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
    for _ in range(options.passes):
        _refine(target[:, order], kept, chosen, solver, form, (0,), None)
    return _in_place(kept, order), chosen


def _refine(
    wanted: torch.Tensor,
    values: torch.Tensor,
    chosen: torch.Tensor,
    solver: _Solver,
    form: SFx,
    steps: tuple[int, ...],
    top: torch.Tensor | None,
) -> None:
    """Choose each block's words anew, all others as they are, where that lessens the error.

    ``values`` and, with more steps than one, ``chosen`` are changed in place. ``top``: the largest
    exponent that a row may have.
    """
    hessian = solver.hessian
    rows = torch.arange(len(values), device=values.device)
    gradient = (values - wanted) @ hessian
    for first, last in solver.parts:
        own = hessian[first:last, first:last]
        lower = torch.linalg.cholesky(own.double())
        inverse = torch.cholesky_inverse(lower)
        before = values[:, first:last]
        centre = before - (gradient[:, first:last].double() @ inverse).float()
        block = int(solver.order[first]) // BLOCK
        old = chosen[:, block] if top is not None else chosen.reshape(-1).expand(len(values))
        tried = torch.stack([old + step for step in steps])
        if top is not None:
            tried = torch.maximum(torch.minimum(tried, top), top - MAX_SPREAD)
        units = unit(tried, form)[..., None]
        copies = centre.expand(len(tried), -1, -1).clone()
        rounded, _ = _sweep(copies, _upper(inverse), units, form)
        every = torch.cat([before[None], rounded])
        loss = ((every - centre) @ lower.float()).square().sum(-1)
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
