"""A language model as a command takes it: float from anywhere, or a quantized checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sw.importers.loaded import ModelError
from sw.wasq.checkpoint import load
from sw.wasq.config import SFConfig
from sw.wasq.described import describe, is_checkpoint
from sw.wasq.language import LanguageModel, load_language


@dataclass(frozen=True, slots=True, eq=False)
class OpenedModel:
    """A model, float or quantized.

    Parameters
    ----------
    language : LanguageModel
        Of a checkpoint: its quantized module, with the name, hash and tokenizer of the float model.
    float_spec : str
        What loads the float model.
    config : SFConfig or None
        None: this is the float model.
    source : mapping of str to plain data
        What the checkpoint says of its making; empty for a float model.
    sha256 : str
        Of the checkpoint's tensors, or the float model's.
    tokenizer : Path or None
        Where the tokenizer was read from, if not beside the float model.
    """

    language: LanguageModel
    float_spec: str
    config: SFConfig | None
    source: Mapping[str, Any]
    sha256: str
    tokenizer: Path | None = None


def open_model(
    spec: str, device: torch.device | str = "cpu", tokenizer: Path | None = None
) -> OpenedModel:
    """Load a model of :func:`load_language`, or a checkpoint directory with the model it is of.

    A checkpoint knows the tokenizer that it was made with; ``tokenizer`` goes before.

    Raises
    ------
    ModelError, sw.wasq.described.CheckpointError, sw.datasets.DatasetError
        If a file is missing, damaged, or another one than the checkpoint was made of.
    """
    if not (Path(spec).is_dir() and is_checkpoint(spec)):
        language = load_language(spec, device, tokenizer)
        return OpenedModel(language, spec, None, {}, language.sha256, tokenizer)
    told = describe(spec)
    origin = told.source.get("model")
    if not isinstance(origin, str) or (Path(origin).is_dir() and is_checkpoint(origin)):
        raise ModelError(f"{spec} must say in its source what float model it is of")
    tokenizer = tokenizer or _tokenizer(told.source)
    language = load_language(origin, "cpu", tokenizer)
    if told.source.get("sha256") not in (None, language.sha256):
        raise ModelError(f"{spec} must be of the model {origin} as it is now: hashes differ")
    module = load(spec, language.module).to(device)
    return OpenedModel(
        replace(language, module=module), origin, told.config, told.source, told.sha256, tokenizer
    )


def _tokenizer(source: Mapping[str, Any]) -> Path | None:
    """The file that a checkpoint's maker gave, if it is still there."""
    named = source.get("tokenizer")
    return Path(named) if isinstance(named, str) and Path(named).is_file() else None
