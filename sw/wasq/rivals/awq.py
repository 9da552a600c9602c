"""AWQ: channels that activations make important are scaled up before rounding; groups are clipped.

After J. Lin et al., "AWQ", arXiv:2306.00978. A channel's factor is a power of its mean magnitude,
the power found on a grid by the error of the output with the weights alone rounded; factors are
divided out of the layer before. What its published code adds is here as well: the output of the
whole attention judges queries, keys and values, and that of the whole feed-forward part its first
two layers; groups' largest magnitudes are then lowered, down to 0.55, by the error of what each
group adds to its row; queries and keys are not clipped. Unlike there, values that several heads of
queries read are scaled too, by the largest of their means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from sw.scale import BLOCK
from sw.wasq.baselines import FLOAT_INPUTS, IntegerConfig, round_integers, scales, snap_integers
from sw.wasq.equalise import Site, fold, sites
from sw.wasq.finite import check_finite
from sw.wasq.sequential import Progress
from sw.wasq.statistics import inputs_of
from sw.wasq.walk import BlockWalk, Pair, check_llama, check_tokens

#: By site: the module that reads the scaled channels and whose output judges the factors.
_JUDGES: Final = {
    "attention_norm": "attention",
    "attention.v": "attention.o",
    "feed_forward_norm": "feed_forward",
    "feed_forward.up": "feed_forward.down",
}
_UNCLIPPED: Final = ("attention.q", "attention.k")
#: Factors are at least this before they are normalized, as in the published code.
_TINY: Final = 1e-4

#: Inputs of each judge, a tensor ``[b, T, K]`` per batch.
_Inputs = dict[str, list[torch.Tensor]]


@dataclass(frozen=True, slots=True)
class AWQOptions:
    """How factors and clips are searched.

    Parameters
    ----------
    grid : int
        Powers tried: 0, ``1 / grid``, ... below 1.
    clips : int
        Shares of a group's largest magnitude tried, from 1 down towards 0.5.
    sequences : int
        Most that are calibrated on, taken evenly: the inputs of a block are all held at once.
    """

    grid: int = 20
    clips: int = 10
    sequences: int = 256

    def __post_init__(self) -> None:
        for name in ("grid", "clips", "sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")


@torch.no_grad()
def awq_(
    model: nn.Module,
    config: IntegerConfig,
    tokens: torch.Tensor,
    options: AWQOptions | None = None,
    progress: Progress | None = None,
    batch: int = 16,
) -> dict[str, torch.Tensor]:
    """Scale a Llama's channels in place, its function unchanged but for float rounding.

    Parameters
    ----------
    model : nn.Module
    config : IntegerConfig
        Only its weights are looked at.
    tokens : torch.Tensor of int64 ``[n, T]``
    options : AWQOptions, optional
    progress : callable, optional
    batch : int
        Sequences that run at once.

    Returns
    -------
    dict of str to torch.Tensor
        The weights of the scaled layers, rounded to integers and dequantized, by module.

    Raises
    ------
    ValueError
        If the model is no Llama, the tokens do not fit, or an activation is not finite.
    """
    options = options or AWQOptions()
    llama = check_llama(model)
    count = min(len(check_tokens(llama, tokens)), options.sequences)
    places = torch.linspace(0, len(tokens) - 1, count).long()
    walk = BlockWalk(llama, FLOAT_INPUTS, tokens[places.to(tokens.device)], batch)
    walk.stream = walk.float_stream  # one stream: all is found on the float model
    found: dict[str, torch.Tensor] = {}
    blocks: list[Any] = list(llama.blocks)
    for index, block in enumerate(blocks):
        pair = walk.pair(index)
        inputs = _inputs(walk, pair)
        for site in sites(block):
            own = inputs[_JUDGES[site.name]]
            factors = _best_factors(walk, pair, site, own, config, options)
            fold(block, site, factors)
            for x in own:
                x.div_(site.spread(factors))
        found |= _rounded(pair, inputs, config, options)
        for part in walk.batches():
            walk.stream[part] = walk.run(block, walk.stream[part])
        if progress is not None:
            progress(f"blocks.{index}", index + 1, len(blocks))
    return found


def _inputs(walk: BlockWalk, pair: Pair) -> _Inputs:
    """What the float block gives every judge to read."""
    watched = {name: pair.float_block.get_submodule(name) for name in _JUDGES.values()}
    found: _Inputs = {name: [] for name in watched}
    for part in walk.batches():
        with inputs_of(watched) as seen:
            walk.run(pair.float_block, walk.stream[part])
        for name, x in seen.items():
            found[name].append(x)
    return found


def _best_factors(
    walk: BlockWalk,
    pair: Pair,
    site: Site,
    inputs: Sequence[torch.Tensor],
    config: IntegerConfig,
    options: AWQOptions,
) -> torch.Tensor:
    """Factors per source channel; all 1 (the power 0) is among those tried."""
    judge = pair.block.get_submodule(_JUDGES[site.name])
    rows = sum(x.shape[0] * x.shape[1] for x in inputs)
    mean = torch.stack([x.abs().sum((0, 1)) for x in inputs]).sum(0) / rows
    check_finite(mean, f"input of {pair.prefix}{site.readers[0]}")
    magnitude = site.gather(mean)
    floats = {name: pair.float_block.get_parameter(f"{name}.weight") for name in site.readers}
    goals = [_output(walk, judge, x) for x in inputs]
    candidates, errors = [], []
    for step in range(options.grid):
        power = magnitude.pow(step / options.grid).clamp(min=_TINY)
        candidates.append(power / (power.amax() * power.amin()).sqrt())
        columns = site.spread(candidates[-1])
        for name, weight in floats.items():
            rounded = round_integers(weight * columns, config.weights, config.group)
            pair.layers[name].weight = rounded / columns
        parts = zip(inputs, goals, strict=True)
        lost = [(_output(walk, judge, x) - goal).square().sum() for x, goal in parts]
        errors.append(torch.stack(lost).sum())
    for name, weight in floats.items():
        pair.layers[name].weight = weight.detach()
    return candidates[int(torch.stack(errors).argmin())]


def _output(walk: BlockWalk, judge: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A judge's output; attention is told positions and mask."""
    found = judge(x, walk.turn, walk.mask, None)[0] if hasattr(judge, "q") else judge(x)
    assert isinstance(found, torch.Tensor)
    return found


def _rounded(
    pair: Pair, inputs: _Inputs, config: IntegerConfig, options: AWQOptions
) -> dict[str, torch.Tensor]:
    """The dequantized weights of a block that has its factors, by their full names."""
    found = {}
    for site in sites(pair.float_block):
        moments = None
        for name in site.readers:
            weight = pair.float_block.get_parameter(f"{name}.weight").detach()
            if name in _UNCLIPPED:
                rounded = round_integers(weight, config.weights, config.group)
            else:
                if moments is None:
                    moments = group_moments(inputs[_JUDGES[site.name]], config)
                rounded = clip_integers(weight, moments, config, options.clips)
            found[pair.prefix + name] = rounded
    return found


def group_moments(inputs: Sequence[torch.Tensor], config: IntegerConfig) -> torch.Tensor:
    """Second moments of each group's inputs, ``[groups, size, size]``, summed over tokens."""
    parts = []
    for x in inputs:
        groups = _grouped(x.flatten(0, -2), config).transpose(0, 1)
        parts.append(groups.transpose(1, 2) @ groups)
    return torch.stack(parts).sum(0)


def clip_integers(
    weight: torch.Tensor, moments: torch.Tensor, config: IntegerConfig, clips: int = 10
) -> torch.Tensor:
    """Round to integers, each group's largest magnitude lowered to where its output errs least.

    Parameters
    ----------
    weight : torch.Tensor of float32 ``[N, K]``
    moments : torch.Tensor of float32 ``[groups, size, size]``
        As :func:`group_moments` has them.
    config : IntegerConfig
    clips : int
        Shares tried: 1, ``1 - 1 / (2 * clips)``, ... above 0.5.

    Returns
    -------
    torch.Tensor of float32 ``[N, K]``
        Dequantized.
    """
    step = scales(weight, config.weights, config.group)
    best = snap_integers(weight, step, config.weights)
    least = _group_errors(best - weight, moments, config)
    for clip in range(1, clips):
        tried = snap_integers(weight, step * (1 - clip / (2 * clips)), config.weights)
        errors = _group_errors(tried - weight, moments, config)
        better = errors < least
        least = torch.where(better, errors, least)
        chosen = better[:, :, None].expand(-1, -1, moments.shape[-1]).flatten(1)
        best = torch.where(chosen[:, : weight.shape[1]], tried, best)
    return best


def _group_errors(
    change: torch.Tensor, moments: torch.Tensor, config: IntegerConfig
) -> torch.Tensor:
    """Squared error ``[N, groups]`` that a change of weights makes in what a group adds."""
    groups = _grouped(change, config).transpose(0, 1)
    return ((groups @ moments) * groups).sum(-1).T


def _grouped(x: torch.Tensor, config: IntegerConfig) -> torch.Tensor:
    """Rows ``[M, K]`` as ``[M, groups, size]``, zeros behind the last."""
    size = BLOCK if config.group == "block" else x.shape[-1]
    padded = functional.pad(x, (0, -x.shape[-1] % size))
    return padded.reshape(len(x), -1, size)
