"""A folder where a method keeps what it has finished and goes on from: safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sw.format import SFx
from sw.wasq.weights import QuantizedWeight


def fingerprint(model: nn.Module, tokens: torch.Tensor, settings: Mapping[str, Any]) -> str:
    """SHA-256 over a model's parameters, the calibration tokens and the settings."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(tokens.detach().cpu().long().contiguous().numpy().tobytes())
    for name, parameter in model.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Folder:
    """Parts that are finished, each a file, and what they belong to.

    Parameters
    ----------
    path : Path
        Made if it is not there.
    identity : str
        What a part must belong to: see :func:`fingerprint`.

    Raises
    ------
    ValueError
        If the folder holds parts of something else.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        index = path / "run.json"
        if index.exists():
            try:
                known = json.loads(index.read_text())["identity"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{index} must be what an interrupted run wrote") from None
            if known != identity:
                raise ValueError(
                    f"{path} must hold parts of this model, data and settings, not of others: "
                    "name another folder or empty it"
                )
        else:
            _write(index, json.dumps({"identity": identity}).encode())

    def save(
        self, part: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Keep a part; it is there wholly or not at all."""
        kept = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        file = self.path / f"{part}.safetensors"
        temporary = file.with_suffix(".part")
        save_file(kept, temporary)
        os.replace(temporary, file)
        _write(self.path / f"{part}.json", json.dumps(facts).encode())

    def load(self, part: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """A part, or None if it is not finished."""
        facts = self.path / f"{part}.json"
        if not facts.exists():
            return None
        return load_file(self.path / f"{part}.safetensors"), json.loads(facts.read_text())


def pack_weights(weights: Mapping[str, QuantizedWeight]) -> tuple[dict[str, torch.Tensor], Any]:
    """Words and exponents as tensors, and what they mean as JSON."""
    tensors: dict[str, torch.Tensor] = {}
    facts = {}
    for name, weight in weights.items():
        tensors[f"{name}.words"] = weight.words
        tensors[f"{name}.exponents"] = weight.exponents
        facts[name] = [weight.format.bits, weight.format.unity, weight.scale]
    return tensors, facts


def unpack_weights(
    tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any], device: torch.device
) -> dict[str, QuantizedWeight]:
    """The inverse of :func:`pack_weights`, on a device."""
    return {
        name: QuantizedWeight(
            tensors[f"{name}.words"].to(device),
            tensors[f"{name}.exponents"].to(device),
            SFx(int(bits), bool(unity)),
            scale,
        )
        for name, (bits, unity, scale) in facts.items()
    }


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(data)
    os.replace(temporary, path)
