"""What loading a model gives, and how it says that it cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import nn

Inputs: TypeAlias = tuple[torch.Tensor, ...]
#: Called with a number of samples; gives at most so many, each like the example inputs.
Calibration: TypeAlias = Callable[[int], list[Inputs]]

#: Largest file that is read whole.
MAX_FILE_BYTES: Final = 1 << 31


class ModelError(ValueError):
    """A model that is missing, corrupt or beyond what can be read, in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A network, ready to be traced.

    Parameters
    ----------
    name : str
        For files and reports.
    module : nn.Module
        In evaluation mode.
    example_inputs : tuple of torch.Tensor
        What it is traced with.
    calibration : callable or None
        Real inputs, ``calibration(count)``; None if the project has no data for this network.
    source_hash : str
        SHA-256, hexadecimal, of the file that the network came from, or of its recipe.
    """

    name: str
    module: nn.Module
    example_inputs: Inputs
    calibration: Calibration | None
    source_hash: str


def read_bytes(path: Path) -> bytes:
    """A file as a whole.

    Raises
    ------
    ModelError
        If it is missing, no file, empty, larger than ``MAX_FILE_BYTES`` or cannot be read.
    """
    if not path.exists():
        raise ModelError(f"{path} must exist")
    if not path.is_file():
        raise ModelError(f"{path} must be a file")
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_FILE_BYTES:
            raise ModelError(f"{path} must hold 1 to {MAX_FILE_BYTES} bytes, not {size}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} must be a file that can be read ({error.strerror})") from None


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal, without holding the file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException) -> str:
    """What an exception says, as part of a sentence: its first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
