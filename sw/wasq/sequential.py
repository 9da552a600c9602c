"""Compensated rounding of a whole model: block by block, each on the inputs it will really get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from sw.wasq.compensate import CompensateOptions, compensate
from sw.wasq.config import SFConfig
from sw.wasq.quantize import targets
from sw.wasq.statistics import gather
from sw.wasq.walk import STAGES, BlockWalk, Pair, RoundedLinear
from sw.wasq.weights import QuantizedWeight

#: Called with what is being worked on, its number from 1 and the number of all.
Progress = Callable[[str, int, int], None]


def compensate_block(
    walk: BlockWalk, pair: Pair, options: CompensateOptions | None = None
) -> dict[str, QuantizedWeight]:
    """Choose the words of a block's layers, stage by stage, and put them in."""
    found: dict[str, QuantizedWeight] = {}
    for stage in range(len(STAGES)):
        moments = walk.moments(pair, stage)
        layers = [pair.layers[name] for name in moments]
        for group in _together(layers):
            shared = next(iter(moments.values()))
            stacked = torch.cat([layer.weight for layer in group])
            name = group[0].name
            words = compensate(stacked, group[0].config, shared, options, name)
            first = 0
            for layer in group:
                last = first + len(layer.weight)
                own = words.exponents[first:last] if words.exponents.dim() else words.exponents
                found[layer.name] = replace(
                    words, words=words.words[first:last].clone(), exponents=own.clone()
                )
                layer.weight = found[layer.name].dequantize()
                first = last
    return found


def _together(layers: Sequence[RoundedLinear]) -> list[list[RoundedLinear]]:
    """Layers of one input whose rows can be chosen in one go: no row knows of another."""
    groups: list[list[RoundedLinear]] = []
    for layer in layers:
        alike = groups and groups[0][0].config == layer.config
        if alike and layer.config.weight_scale != "tensor":
            groups[0].append(layer)
        else:
            groups.append([layer])
    return groups


def compensate_model(
    model: nn.Module,
    config: SFConfig,
    tokens: torch.Tensor,
    options: CompensateOptions | None = None,
    progress: Progress | None = None,
    batch: int = 8,
) -> dict[str, QuantizedWeight]:
    """Compensated words of all layers of a Llama's blocks; the model is not changed.

    What is not in a block (the head, if it is quantized) is left to rounding.

    Parameters
    ----------
    model : nn.Module
    config : SFConfig
    tokens : torch.Tensor of int64 ``[n, T]``
    options : CompensateOptions, optional
    progress : callable, optional
    batch : int
        Sequences that run at once.
    """
    walk = BlockWalk(model, config, tokens, batch)
    found: dict[str, QuantizedWeight] = {}
    for pair in walk:
        found |= compensate_block(walk, pair, options)
        if progress is not None:
            progress(f"blocks.{pair.index}", pair.index + 1, len(walk.model.blocks))
    return found


@torch.no_grad()
def compensate_at_once(
    model: nn.Module,
    config: SFConfig,
    batches: Iterable[torch.Tensor],
    options: CompensateOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, QuantizedWeight]:
    """Compensated words of any model's layers, all on the float model's inputs."""
    chosen = targets(model, config)
    moments = gather(model, chosen, batches)
    found: dict[str, QuantizedWeight] = {}
    for number, target in enumerate((t for t in chosen if t.name in moments), 1):
        weight: torch.Tensor = target.module.weight.detach().flatten(1)  # type: ignore[operator]
        found[target.name] = compensate(
            weight, target.config, moments[target.name], options, target.name
        )
        if progress is not None:
            progress(target.name, number, len(moments))
    return found
