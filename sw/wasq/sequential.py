"""Compensated rounding of a whole model: block by block, each on the inputs it will really get."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from sw.wasq.compensate import CompensateOptions, compensate
from sw.wasq.config import SFConfig
from sw.wasq.quantize import targets
from sw.wasq.statistics import gather
from sw.wasq.walk import STAGES, BlockWalk, Pair
from sw.wasq.weights import QuantizedWeight

#: Called with what is being worked on, its number from 1 and the number of all.
Progress = Callable[[str, int, int], None]


def compensate_block(
    walk: BlockWalk, pair: Pair, options: CompensateOptions | None = None
) -> dict[str, QuantizedWeight]:
    """Choose the words of a block's layers, stage by stage, and put them in."""
    found: dict[str, QuantizedWeight] = {}
    for stage in range(len(STAGES)):
        for name, moments in walk.moments(pair, stage).items():
            layer = pair.layers[name]
            words = compensate(layer.weight, layer.config, moments, options, layer.name)
            found[layer.name] = words
            layer.weight = words.dequantize()
    return found


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
