"""The options of every command that is about one machine, and the machine they describe."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from sw.config import MachineConfig

Bits = Annotated[int, typer.Option("--bits", metavar="N", help="Bits of a word, 3 to 16.")]
Unity = Annotated[bool, typer.Option("--unity/--no-unity", help="Whether all ones is 1.")]
Rows = Annotated[int, typer.Option("--rows", metavar="N", help="Rows of the array, 1 to 32.")]
Columns = Annotated[int, typer.Option("--columns", metavar="N", help="Columns of the array.")]
Slots = Annotated[int, typer.Option("--slots", metavar="N", help="Tile slots of the memory.")]
MaxTerms = Annotated[int, typer.Option("--max-terms", metavar="N", help="Longest dot product.")]
Blocks = Annotated[bool, typer.Option("--blocks", help="With scales per block of 32 terms.")]
WithTable = Annotated[bool, typer.Option("--table", help="With the piecewise-linear activation.")]


def machine(**sizes: Any) -> MachineConfig:
    """The machine of these sizes.

    Raises
    ------
    typer.BadParameter
        If one is out of range.
    """
    try:
        return MachineConfig(**sizes)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None


def read_text(path: Path) -> str:
    """A text file's content; typer.BadParameter if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise typer.BadParameter(f"{path} must be a readable file: {reason}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} must be a text file in UTF-8") from None


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none; typer.BadParameter if it cannot be written."""
    try:
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(unfinished, 0o666 & ~_mask())
            os.replace(unfinished, path)
        except OSError:
            os.unlink(unfinished)
            raise
    except OSError as error:
        reason = error.strerror or error
        raise typer.BadParameter(f"{path} must be a writable file: {reason}") from None


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
