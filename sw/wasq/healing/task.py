"""What a method of healing is given."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.healing.options import HealOptions, Log, Progress
from sw.wasq.healing.samples import Samples
from sw.wasq.healing.teacher import Model
from sw.wasq.healing.world import World
from sw.wasq.weights import QuantizedWeight


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who is told what, and what is kept.

    Parameters
    ----------
    checkpoint : Path, optional
        Folder of the checkpoints.
    resume : Path, optional
        Folder whose last checkpoint the run goes on from.
    progress, log : callable, optional
        See :mod:`sw.wasq.healing.options`.
    evaluate : callable, optional
        From the model in training to plain data that the log gets, as ``{"perplexity": 21.9}``.
    stop : callable, optional
        Asked after each step; True: write a checkpoint and leave.
    """

    checkpoint: Path | None = None
    resume: Path | None = None
    progress: Progress | None = None
    log: Log | None = None
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None
    stop: Callable[[], bool] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A model to heal.

    Parameters
    ----------
    model : nn.Module
        The float model, changed in place.
    method : str
    samples : Samples
    config : SFConfig
    options : HealOptions
    teacher : callable or None
        The float model to learn from; None: a copy of ``model``.
    hooks : Hooks
    world : World
    weights : mapping of str to QuantizedWeight, optional
        Words of another method to start from, by module.
    """

    model: nn.Module
    method: str
    samples: Samples
    config: SFConfig
    options: HealOptions
    teacher: Model | None = None
    hooks: Hooks = field(default_factory=Hooks)
    world: World = field(default_factory=World)
    weights: Mapping[str, QuantizedWeight] | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(iter(self.model.parameters())).device

    def option(self, name: str, default: Any) -> Any:
        """One of the options that only this method takes."""
        return self.options.extra.get(name, default)


def fingerprint(model: nn.Module, weights: Mapping[str, QuantizedWeight] | None = None) -> str:
    """SHA-256 over names, shapes and bytes of a model's parameters, and of words to start from."""
    digest = hashlib.sha256()
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    for name, weight in (weights or {}).items():
        tensors |= {f"words/{name}": weight.words, f"exponents/{name}": weight.exponents}
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def calibration(task: Task) -> torch.Tensor:
    """The first samples (``extra``'s ``calibration``, 16), that activations are measured on."""
    return task.samples.inputs[: int(task.option("calibration", 16))]
