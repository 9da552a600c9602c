"""Checkpoints of a training: safetensors with plain data beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

#: Beside the folder of the model, after its name.
CHECKPOINT: Final = ".checkpoint.safetensors"


@dataclass(slots=True)
class Checkpoint:
    """Where a training is.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        ``model.*``, moments of the optimizer, and ``best.*`` of the best look so far.
    step : int
    seconds : float
    curve : list of dict
        One row per look at the validation text.
    best : float
        Its lowest perplexity.
    """

    tensors: dict[str, torch.Tensor]
    step: int
    seconds: float
    curve: list[dict[str, float]] = field(default_factory=list)
    best: float = float("inf")


def write_checkpoint(folder: Path, state: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    about = {"step": state.step, "seconds": state.seconds, "curve": state.curve}
    if state.curve:
        about["best"] = state.best
    texts = {"state": json.dumps(about), "identity": json.dumps(identity, sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    path = checkpoint_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".unfinished-{path.name}")
    try:
        save_file(tensors, scratch, texts)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def checkpoint_path(folder: Path) -> Path:
    """Where the checkpoint of the model in a folder is."""
    return folder.with_name(folder.name + CHECKPOINT)


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint of a folder, None if there is none.

    Raises
    ------
    ValueError
        If it is of another recipe or text, or broken.
    """
    path = checkpoint_path(folder)
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(texts["state"])
        same = texts["identity"] == json.dumps(identity, sort_keys=True)
        state = Checkpoint(tensors, about["step"], about["seconds"], about["curve"])
        state.best = about.get("best", float("inf"))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must be a whole checkpoint ({error})") from None
    if not same:
        raise ValueError(f"{path} must be of the same recipe and text: remove it to start anew")
    return state
