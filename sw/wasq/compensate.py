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

import torch

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import expand_blocks, word_dtype
from sw.wasq.columns import arranged, first_pass, picked, refine
from sw.wasq.config import LayerConfig
from sw.wasq.grid import largest_exponent, unit
from sw.wasq.solver import Solver, attempts
from sw.wasq.statistics import Moments
from sw.wasq.weights import QuantizedWeight


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
    for solver in attempts(moments.hessian, options.damping, BLOCK if by_block else None):
        target = wanted_weight(weight, moments, solver, options)
        if by_block:
            values, chosen = _blocks(target, solver, form, options)
        else:
            values, chosen = _whole(target, solver, form, options, config.weight_scale)
        values = torch.empty_like(weight).index_copy_(1, solver.order, values)
        spread = expand_blocks(chosen, weight.shape[1]) if by_block else chosen
        words = words_of(values, spread, form)
        # Looked at behind all the work, so that a device is not waited for on the way.
        counts = [(~torch.isfinite(t)).sum() for t in (weight, values)]
        *bad, failed = torch.stack([*counts, solver.failed.long()]).tolist()
        if bad[0] or (bad[1] and not failed):
            raise ValueError(
                f"{name} must hold finite numbers, not NaN or infinity in {bad[0] or bad[1]} places"
            )
        if not failed:
            break
    return QuantizedWeight(words, chosen, form, config.weight_scale)


def words_of(values: torch.Tensor, exponents: torch.Tensor, form: SFx) -> torch.Tensor:
    """The words of float32 that are values of words at these exponents; nothing is checked."""
    codes = (values / unit(exponents, form)).to(torch.int32)
    words = codes.abs().clamp_(max=form.max_code)  # unity is the word of all ones
    return words.add_(codes < 0, alpha=1 << form.fraction_bits).to(word_dtype(form))


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
    solved[:, solver.order] = solver.solve(extra[:, solver.order])
    return (weight.double() + options.correction * solved).float()


def output_error(
    weight: torch.Tensor, quantized: QuantizedWeight | torch.Tensor, hessian: torch.Tensor
) -> float:
    """``sum ((W - Q) x)^2`` over the rows that the Hessian counts, float64."""
    values = quantized if isinstance(quantized, torch.Tensor) else quantized.dequantize()
    difference = (weight - values).double()
    return float(((difference @ hessian.double()) * difference).sum())


def _blocks(
    target: torch.Tensor,
    solver: Solver,
    form: SFx,
    options: CompensateOptions,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, in order, and exponents with a choice per block, as its turn comes."""
    # A block may lie at most MAX_SPREAD below the row's largest, which no choice exceeds.
    top = largest_exponent(target.abs().amax(-1), form)
    ordered = arranged(target, solver.order)
    rounded = first_pass(ordered, solver, top, form, options.exponents, MAX_SPREAD)
    if options.passes:
        rounded = refine(rounded, ordered, solver, top, form, 3, MAX_SPREAD, options.passes)
    values, _, chosen = rounded
    exponents = torch.empty_like(chosen, dtype=torch.int64)
    exponents[:, solver.order[solver.starts[:-1].long()] // BLOCK] = chosen.long()
    return values, exponents


def _whole(
    target: torch.Tensor,
    solver: Solver,
    form: SFx,
    options: CompensateOptions,
    scale: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Values, in order, and exponents where a row or the tensor shares one: each is tried."""
    count = len(target)
    largest = target.abs().amax(-1, keepdim=True) if scale == "channel" else target.abs().amax()
    highest = largest_exponent(largest, form)
    highest = torch.zeros_like(highest) if scale == "none" else highest
    steps = 1 if scale == "none" else options.exponents
    tried = torch.stack([highest - step for step in range(steps)])
    each = tried.reshape(steps, -1).expand(-1, count)
    ordered = arranged(target, solver.order, steps)
    every = first_pass(ordered, solver, each.flatten(), form, tries=1, spread=0)
    losses = every.errors.square().sum(-1).reshape(steps, count)
    rows = torch.arange(count, device=target.device)
    if scale == "channel":
        best = losses.argmin(0)
        chosen = tried[best, rows]
    else:
        number = losses.sum(-1).argmin()
        best, chosen = number.expand(count), tried[number]
    at = best * count + rows
    kept, top = picked(every, at), each[best, rows]
    if options.passes:
        kept = refine(kept, ordered[:count], solver, top, form, 1, 0, options.passes)
    return kept.values, chosen
