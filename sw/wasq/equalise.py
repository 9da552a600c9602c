"""Equalisation: powers of two move magnitude from activations to weights, the function unchanged.

After G. Xiao et al., "SmoothQuant", arXiv:2211.10438, and J. Lin et al., "AWQ", arXiv:2306.00978,
with factors that are powers of two, so that moving them changes no bit of a float result (short of
overflow). A channel's factor s divides the activation and multiplies the weights that read it. It
is found by the error of the layers' outputs under their own quantizers: a grid of migration
strengths, then steps of one for groups of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.finite import check_finite
from sw.wasq.grid import round_activations, round_weights
from sw.wasq.rotate import RotatedInput
from sw.wasq.sequential import Progress
from sw.wasq.statistics import inputs_of
from sw.wasq.walk import BlockWalk, Pair, check_llama, token_weights

#: Magnitude that no channel is taken to be below.
_TINY = 1e-8


@dataclass(frozen=True, slots=True)
class EqualiseOptions:
    """How factors are searched.

    Parameters
    ----------
    strengths : tuple of float
        Migration strengths tried, 0 (weights alike) to 1 (activations alike).
    rounds : int
        Of steps for groups of channels, after the grid.
    groups : int
        Of channels that step together, those with the largest activations by themselves.
    rows : int
        Tokens that candidates are judged by.
    largest_step : int
        Most that a factor's exponent may be, either way.
    """

    strengths: tuple[float, ...] = (0.0, 0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    rounds: int = 1
    groups: int = 24
    rows: int = 4096
    largest_step: int = 12

    def __post_init__(self) -> None:
        if not all(0 <= s <= 1 for s in self.strengths):
            raise ValueError(f"strengths must be 0 to 1, not {self.strengths!r}")
        for name, low in (("rounds", 0), ("groups", 1), ("rows", 1), ("largest_step", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Where factors can go.

    Parameters
    ----------
    name : str
        Of the layer before, which gives up magnitude.
    source : nn.Module
        A norm or a linear layer, whose output channels (weights' rows) are divided.
    readers : tuple of str
        Linear layers of the block whose columns are multiplied.
    repeat : int
        Heads of queries that read the same value channel (grouped queries), else 1.
    head_size : int
        Channels of a head where ``repeat`` is more than 1.
    """

    name: str
    source: Any
    readers: tuple[str, ...]
    repeat: int = 1
    head_size: int = 1

    def spread(self, steps: torch.Tensor) -> torch.Tensor:
        """Per source channel to per reader column."""
        if self.repeat == 1:
            return steps
        return steps.reshape(-1, 1, self.head_size).expand(-1, self.repeat, -1).reshape(-1)

    def gather(self, columns: torch.Tensor) -> torch.Tensor:
        """The largest of the reader columns of each source channel."""
        if self.repeat == 1:
            return columns
        return columns.reshape(-1, self.repeat, self.head_size).amax(1).reshape(-1)


def sites(block: Any) -> Iterator[Site]:
    """The places of a Llama block, in the order of the data."""
    attention, feed_forward = block.attention, block.feed_forward
    qkv = ("attention.q", "attention.k", "attention.v")
    yield Site("attention_norm", block.attention_norm, qkv)
    config = attention.config
    repeat = config.heads // config.kv_heads
    yield Site("attention.v", attention.v, ("attention.o",), repeat, config.head_size)
    gated = ("feed_forward.gate", "feed_forward.up")
    yield Site("feed_forward_norm", block.feed_forward_norm, gated)
    if not isinstance(feed_forward.down, RotatedInput):  # a turn mixes what a factor would scale
        yield Site("feed_forward.up", feed_forward.up, ("feed_forward.down",))


@torch.no_grad()
def equalise_(
    model: nn.Module,
    config: SFConfig,
    tokens: torch.Tensor,
    options: EqualiseOptions | None = None,
    progress: Progress | None = None,
    batch: int = 8,
) -> dict[str, list[int]]:
    """Equalise a Llama in place, block by block; its function stays the same, bit for bit.

    Parameters
    ----------
    model : nn.Module
    config : SFConfig
        What the layers are going to be rounded to.
    tokens : torch.Tensor of int64 ``[n, T]``
    options : EqualiseOptions, optional
    progress : callable, optional
    batch : int
        Sequences that run at once.

    Returns
    -------
    dict of str to list of int
        Exponents of the factors by the module that was divided, 0 where nothing was gained.
    """
    options = options or EqualiseOptions()
    llama = check_llama(model)
    walk = BlockWalk(llama, config, tokens, batch)
    walk.stream = walk.float_stream  # one stream: the model stays float
    found: dict[str, list[int]] = {}
    blocks: list[Any] = list(llama.blocks)
    for index, block in enumerate(blocks):
        for site in sites(block):
            pair = walk.pair(index)
            steps = _best_steps(walk, pair, site, options)
            if steps is not None:
                apply(block, site, steps)
                found[pair.prefix + site.name] = [int(s) for s in steps.tolist()]
        for part in walk.batches():
            walk.stream[part] = walk.run(block, walk.stream[part])
        if progress is not None:
            progress(f"blocks.{index}", index + 1, len(llama.blocks))
    return found


def apply(block: nn.Module, site: Site, steps: torch.Tensor) -> None:
    """Divide a source's channels by ``2**steps`` and multiply its readers' columns, exactly."""
    fold(block, site, torch.ldexp(torch.ones_like(steps, dtype=torch.float32), steps))


@torch.no_grad()
def fold(block: nn.Module, site: Site, factors: torch.Tensor) -> None:
    """Divide a source's channels by factors and multiply its readers' columns by them."""
    weight = site.source.weight
    weight.div_(factors if weight.dim() == 1 else factors[:, None])
    if getattr(site.source, "bias", None) is not None:
        site.source.bias.div_(factors)
    for name in site.readers:
        reader = block.get_submodule(name)
        assert isinstance(reader, nn.Linear)
        reader.weight.mul_(site.spread(factors))


def _best_steps(
    walk: BlockWalk, pair: Pair, site: Site, options: EqualiseOptions
) -> torch.Tensor | None:
    """Exponents per source channel; None if no reader is quantized or nothing is gained."""
    readers = [n for n in site.readers if n in pair.layers]
    if len(readers) < len(site.readers):
        return None
    x, weights = _sample(walk, pair, site, options.rows)
    judge = _Judge(x, weights, [pair.layers[n] for n in readers])
    reach = site.gather(x.abs().amax(0))
    columns = torch.stack([pair.layers[n].weight.abs().amax(0) for n in readers]).amax(0)
    strength = site.gather(columns)
    source = pair.layers.get(site.name)
    rows = None if source is None else (source.weight, source.config)
    best = torch.zeros_like(reach, dtype=torch.int32)
    least = start = judge.error(site.spread(best)) + _own_error(rows, best, judge)
    candidates = []
    average = site.gather(x.abs().mean(0))
    for magnitude in (reach, average):
        ratio_x = torch.log2(magnitude.clamp(min=_TINY) / _typical(magnitude))
        ratio_w = torch.log2(strength.clamp(min=_TINY) / _typical(strength))
        for s in options.strengths:
            candidates.append(s * ratio_x - (1 - s) * ratio_w)
            candidates.append(s * ratio_x)
    for wish in candidates:
        tried = _whole(wish, options)
        error = judge.error(site.spread(tried)) + _own_error(rows, tried, judge)
        if error < least:
            best, least = tried, error
    for members in _groups(reach, options) * options.rounds:
        for step in (1, -1):
            tried = best.clone()
            tried[members] += step
            tried.clamp_(-options.largest_step, options.largest_step)
            error = judge.error(site.spread(tried)) + _own_error(rows, tried, judge)
            if error < least:
                best, least = tried, error
                break
    return best if least < start else None


class _Judge:
    """The error of readers' outputs on a sample, under their own quantizers."""

    def __init__(
        self, x: torch.Tensor, weights: torch.Tensor | None, layers: Sequence[Any]
    ) -> None:
        self.x, self.layers = x, layers
        self.weights = weights
        self.outputs = [functional.linear(x, layer.weight) for layer in layers]
        # Each reader's error counts by what its output carries.
        self.powers = [self._mean(y).clamp(min=_TINY) for y in self.outputs]

    def _mean(self, y: torch.Tensor) -> torch.Tensor:
        power = y.square().mean(-1)
        return (power if self.weights is None else power * self.weights).mean()

    def error(self, steps: torch.Tensor) -> float:
        """Relative squared error with each column's factor ``2**steps``."""
        factors = torch.ldexp(torch.ones_like(steps, dtype=torch.float32), steps)
        total = torch.zeros((), device=self.x.device)
        seen: dict[LayerConfig, torch.Tensor] = {}
        for layer, y, power in zip(self.layers, self.outputs, self.powers, strict=True):
            if layer.config not in seen:
                seen[layer.config] = round_activations(self.x / factors, layer.config)
            words = round_weights(layer.weight * factors, layer.config)
            got = functional.linear(seen[layer.config], words)
            total += self._mean(got - y) / power
        return float(total)


def _own_error(
    rows: tuple[torch.Tensor, LayerConfig] | None, steps: torch.Tensor, judge: _Judge
) -> float:
    """What the source's own weights lose: a row's scale is free, a tensor's is not."""
    if rows is None or rows[1].weight_scale not in ("tensor", "none"):
        return 0.0
    weight, config = rows
    scaled = torch.ldexp(weight, -steps[:, None])
    back = torch.ldexp(round_weights(scaled, config), steps[:, None])
    return float((back - weight).square().sum() / weight.square().sum().clamp(min=_TINY))


def _sample(
    walk: BlockWalk, pair: Pair, site: Site, rows: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Inputs of the readers ``[M, K]``, and weights of the tokens if they add to the stream."""
    first = site.readers[0]
    adds = {"attention.o": "attention_norm", "feed_forward.down": "feed_forward_norm"}.get(first)
    watched = {"x": pair.float_block.get_submodule(first)}
    if adds is not None:
        watched["stream"] = pair.float_block.get_submodule(adds)
    per_batch = max(1, rows // max(1, -(-len(walk.tokens) // walk.batch)))
    parts, weights = [], []
    generator = torch.Generator().manual_seed(0)
    for part in walk.batches():
        with inputs_of(watched) as seen:
            walk.run(pair.float_block, walk.stream[part])
        x = seen["x"].flatten(0, -2)
        check_finite(x, f"input of {pair.prefix}{first}")
        chosen = torch.randperm(len(x), generator=generator)[:per_batch].to(x.device)
        parts.append(x[chosen])
        if adds is not None:
            weights.append(token_weights(seen["stream"].flatten(0, -2))[chosen])
    return torch.cat(parts), torch.cat(weights) if weights else None


def _typical(magnitudes: torch.Tensor) -> torch.Tensor:
    """The geometric mean."""
    return torch.exp(torch.log(magnitudes.clamp(min=_TINY)).mean())


def _whole(wish: torch.Tensor, options: EqualiseOptions) -> torch.Tensor:
    limit = options.largest_step
    return torch.round(wish).clamp(-limit, limit).to(torch.int32)


def _groups(reach: torch.Tensor, options: EqualiseOptions) -> list[torch.Tensor]:
    """Half of the groups are single channels, the largest first; the rest share what is left."""
    ranked = torch.argsort(reach, descending=True, stable=True)
    singles = min(options.groups // 2, len(ranked))
    rest = ranked[singles:]
    shared = max(1, options.groups - singles)
    found = [ranked[i : i + 1] for i in range(singles)]
    return found + [part for part in torch.chunk(rest, shared) if len(part)]
