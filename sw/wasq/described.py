"""What a checkpoint of a quantized model says of itself, without its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sw.paths import check_place
from sw.wasq.config import SFConfig

CONFIG_FILE: Final = "config.json"
KIND: Final = "atreides quantized model"
FORMAT: Final = 1
_MAX_JSON: Final = 1 << 26
_FIELDS: Final = {
    *("kind", "format", "config", "source", "structure", "layers", "tied", "products", "sha256"),
}


class CheckpointError(ValueError):
    """A directory that is no whole checkpoint, or not of this model, in one sentence."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint says of itself.

    Parameters
    ----------
    config : SFConfig
    source : mapping of str to plain data
        What :func:`save` was given: ``model`` is what a loader takes, ``sha256`` its hash.
    sha256 : str
        Of the tensors.
    layers : mapping of str to mapping
        By module: shape and fields of :class:`LayerConfig`.
    tied : mapping of str to str
        Tensors that are another one.
    structure : mapping
        What :func:`sw.wasq.rotate.structure` says of the model.
    products : mapping or None
        Bits and scale of attention products, and how many have calibrated values.
    """

    config: SFConfig
    source: Mapping[str, Any]
    sha256: str
    layers: Mapping[str, Mapping[str, Any]]
    tied: Mapping[str, str]
    structure: Mapping[str, Any]
    products: Mapping[str, Any] | None


def check_target(target: Path) -> None:
    """Refuse, before any work, a place that a checkpoint cannot or must not take.

    Raises
    ------
    ValueError
        If it holds something else than a checkpoint, or lies in no folder that can be written to.
    """
    if target.exists() and not is_checkpoint(target):
        empty = target.is_dir() and not any(target.iterdir())
        if not empty:
            raise CheckpointError(f"{target} must be a new directory or a checkpoint to replace")
    check_place(target)


def is_checkpoint(path: Path | str) -> bool:
    """Whether a directory says that it is a checkpoint of a quantized model."""
    try:
        return bool(_json(Path(path) / CONFIG_FILE).get("kind") == KIND)
    except CheckpointError:
        return False


def describe(directory: Path | str) -> Description:
    """What a checkpoint says of itself; its tensors are not read.

    Raises
    ------
    CheckpointError
        If it is none, or of another format.
    """
    path = Path(directory) / CONFIG_FILE
    if not Path(directory).is_dir():
        raise CheckpointError(f"{directory} must be the directory of a checkpoint")
    data = _json(path)
    if data.get("kind") != KIND:
        raise CheckpointError(f"{directory} must be a checkpoint of a quantized model: {path}")
    if data.get("format") != FORMAT:
        raise CheckpointError(
            f"{directory} must have the format {FORMAT}, not {data.get('format')!r}"
        )
    if data.keys() != _FIELDS:
        raise CheckpointError(f"{path} must have the fields {', '.join(sorted(_FIELDS))}")
    kinds = {"source": dict, "layers": dict, "tied": dict, "structure": dict, "sha256": str}
    for name, kind in kinds.items():
        if not isinstance(data[name], kind):
            raise CheckpointError(f"{name} of {path} must be {kind.__name__}")
    try:
        config = SFConfig.from_json(data["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return Description(
        config,
        *(data[name] for name in ("source", "sha256", "layers", "tied", "structure", "products")),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CheckpointError(f"{path} must have at most {_MAX_JSON} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} must be a file to read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path} must be JSON") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} must hold an object")
    return data
