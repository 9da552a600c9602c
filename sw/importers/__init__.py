"""Networks from outside, as modules that can be traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch

from sw.importers.gguf_file import load_gguf
from sw.importers.loaded import Calibration, Inputs, Loaded, ModelError, file_hash
from sw.importers.named import NAMED, WINDOW
from sw.importers.onnx_file import load_onnx
from sw.importers.python_source import load_factory
from sw.importers.tflite_file import load_tflite

__all__ = ["Calibration", "Inputs", "Loaded", "ModelError", "describe_specs", "load"]


def load(spec: str, batch: int | None = None) -> Loaded:
    """Load a network.

    Parameters
    ----------
    spec : str
        A file (``.onnx``, ``.tflite``, ``.gguf``); a function (``package.module:factory``,
        ``path/file.py:factory``), which is run and gives a module that has ``example_inputs``, or
        (module, example inputs); or a name of ``sw.importers.named``.
    batch : int, optional
        Size of the first dimension of a file's inputs, if it is not what the file says, or 1.

    Raises
    ------
    ModelError
        If the model is missing, corrupt or not supported.
    sw.datasets.DatasetError
        If a named model's weights or data are missing or corrupt.
    """
    if not isinstance(spec, str) or not spec:
        raise ModelError(f"model must be {describe_specs()}, not {spec!r}")
    if batch is not None and batch < 1:
        raise ModelError(f"batch must be at least 1, not {batch}")
    if spec in NAMED:
        return NAMED[spec]()
    place, colon, factory = spec.rpartition(":")
    if colon and factory.isidentifier() and place:
        return load_factory(place, factory)
    path = Path(spec)
    suffix = path.suffix.lower()
    if suffix in REFUSED:
        raise ModelError(f"{spec} must not be a {suffix} file: {REFUSED[suffix]}")
    if suffix not in READERS:
        raise ModelError(f"model must be {describe_specs()}, not {spec!r}")
    return READERS[suffix](path, batch)


def describe_specs() -> str:
    """What :func:`load` takes, as part of a sentence."""
    return f"a file ({', '.join(READERS)}), module:factory, or one of {', '.join(NAMED)}"


def _tflite(path: Path, batch: int | None) -> Loaded:
    module, examples = load_tflite(path, batch)
    return Loaded(path.stem, module, examples, None, file_hash(path))


def _gguf(path: Path, batch: int | None) -> Loaded:
    if batch not in (None, 1):
        raise ModelError(f"batch must be 1 for {path}, not {batch}")
    module, _ = load_gguf(path)
    example = torch.zeros(1, min(WINDOW, module.config.context), dtype=torch.int64)
    return Loaded(path.stem, module, (example,), None, file_hash(path))


def _onnx(path: Path, batch: int | None) -> Loaded:
    module, examples = load_onnx(path, batch)
    return Loaded(path.stem, module, examples, None, file_hash(path))


READERS: Final[Mapping[str, Callable[[Path, int | None], Loaded]]] = {
    ".gguf": _gguf,
    ".onnx": _onnx,
    ".tflite": _tflite,
}
_UNPICKLES: Final = (
    "reading it unpickles, which runs what the file says; "
    "give the function that builds the module, as in path/to/model.py:factory, or export to ONNX"
)
#: Files that could only be read by running what they say.
REFUSED: Final[Mapping[str, str]] = {s: _UNPICKLES for s in (".pt2", ".pt", ".pth", ".bin", ".pkl")}
