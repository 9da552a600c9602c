"""Checkpoints of a run: tensors by torch.distributed.checkpoint as safetensors, the rest as JSON.

The default format of torch.distributed.checkpoint keeps a pickle; its Hugging Face format does not
(headers of safetensors alone say what lies where), so that reading one can run no code. Each
process writes its part, and any number of processes can read it.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from sw.wasq.healing.options import HealingError
from sw.wasq.healing.world import World

_LATEST: Final = "latest.json"
_STATE: Final = "state.json"
#: Whole checkpoints that are kept.
_KEPT: Final = 2
_MAX_JSON: Final = 1 << 28


def write(
    folder: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    state: dict[str, Any],
    world: World,
) -> None:
    """Write a checkpoint; the one before it stays until this one is whole."""
    name = f"step-{step:08d}"
    partial = folder / f"{name}.partial"
    if world.leads:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    world.wait()
    writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(_filled(tensors), storage_writer=writer, no_dist=world.size == 1)
    world.wait()
    if world.leads:
        (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(folder / name, ignore_errors=True)
        os.replace(partial, folder / name)
        _replace(folder / _LATEST, {"checkpoint": name})
        for old in sorted(folder.glob("step-????????"))[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    world.wait()


def read_state(folder: Path) -> dict[str, Any]:
    """What the last checkpoint of a folder says of itself.

    Raises
    ------
    HealingError
        If there is none.
    """
    state = _json(_last(folder) / _STATE)
    if not isinstance(state, dict) or not isinstance(state.get("step"), int):
        raise HealingError(f"{folder} must hold a checkpoint of a healing")
    return state


def was_written(folder: Path, since: float) -> bool:
    """Whether a folder has got a checkpoint since a time, in seconds of :func:`time.time`."""
    try:
        return (folder / _LATEST).stat().st_mtime >= since
    except OSError:
        return False


def read_tensors(folder: Path, tensors: Mapping[str, torch.Tensor], world: World) -> None:
    """Fill tensors, in place, from the last checkpoint of a folder.

    Raises
    ------
    HealingError
        If the files are damaged or hold other tensors.
    """
    path = _last(folder)
    reader = HuggingFaceStorageReader(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(_filled(tensors), storage_reader=reader, no_dist=world.size == 1)
    except (CheckpointException, OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise HealingError(f"{path} must be a whole checkpoint of this model: {reason}") from None


def _filled(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What has elements; a single number is a vector of one, for slices of files to work."""
    return {n: t.reshape(1) if t.dim() == 0 else t for n, t in tensors.items() if t.numel()}


def _last(folder: Path) -> Path:
    latest = _json(folder / _LATEST)
    name = latest.get("checkpoint") if isinstance(latest, dict) else None
    if not isinstance(name, str) or Path(name).name != name:
        raise HealingError(f"{folder} must hold a checkpoint of a healing")
    return folder / name


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise HealingError(f"{path} must have at most {_MAX_JSON} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise HealingError(f"{path.parent} must hold a checkpoint of a healing: {reason}") from None


def _replace(path: Path, data: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(data), encoding="utf-8")
    os.replace(partial, path)
