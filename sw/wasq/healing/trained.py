"""Which parameters are trained, and whether they lie over several processes."""

from __future__ import annotations

from torch import nn

from sw.wasq.healing.layers import HealingLayer, whole
from sw.wasq.healing.task import Task


def choose(model: nn.Module, layers: tuple[HealingLayer, ...], trained: str) -> set[str]:
    """Names of the parameters that are trained; no other asks for a gradient."""
    own = {f"{n}.{p}" for n, m in model.named_modules() if m in layers for p in ("weight", "bias")}
    norms = {
        f"{n}.{p}"
        for n, m in model.named_modules()
        if "norm" in type(m).__name__.lower()
        for p, _ in m.named_parameters(recurse=False)
    }
    names = set()
    for name, parameter in model.named_parameters():
        wanted = trained == "all" or name in own or (trained == "norms" and name in norms)
        wanted = wanted and (name not in own or parameter.requires_grad)
        parameter.requires_grad_(wanted)
        if wanted:
            names.add(name)
    return names


def changing(layer: HealingLayer) -> int:
    """Weights of a layer that may change."""
    return layer.shape.numel() if layer.mask is None else int(whole(layer.mask).sum())


def is_sharded(task: Task) -> bool:
    """Whether each process has a part of the model."""
    return task.world.size > 1 and task.options.sharding == "sharded"
