"""``atreides program``: load a bitstream onto a board."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Final

import typer

from atreides.board_report import read_report
from hw.boards import Board, find_board

LOADER: Final = "openFPGALoader"
#: The exit status where it is missing or fails.
FAILED: Final = 2
_LINES: Final = 5


def program(
    bitstream: Annotated[Path, typer.Argument(help="Made by `atreides build`.")],
    board: Annotated[
        str | None, typer.Option(help="One of the names in docs/boards.md; the report's if left.")
    ] = None,
    flash: Annotated[
        bool, typer.Option("--flash", help="Into flash, to stay there without power.")
    ] = False,
) -> None:
    """Load a bitstream onto a board, through openFPGALoader.

    `atreides program build/boards/ulx3s-85f-sf8-8x8.bit` asks the report beside it for the board.
    Boards without a volatile way in, as iCE40 ones, are written to flash either way.

    Exit status 0; 2 for a mistake of yours, or where openFPGALoader is missing or fails.
    """
    try:
        chosen = find_board(board) if board is not None else _reported(bitstream)
        _check(bitstream, chosen)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if shutil.which(LOADER) is None:
        _fail(f"{LOADER} must be installed: it has packages for Debian and others of that name")
    command = [LOADER, "--board", chosen.loader, *(["--write-flash"] if flash else [])]
    done = subprocess.run(
        [*command, str(bitstream)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = " | ".join(lines[-_LINES:]) or "nothing"
        _fail(f"{LOADER} failed with status {done.returncode}, saying {said}")
    typer.echo(f"{bitstream} is on {chosen.title}")


def _reported(bitstream: Path) -> Board:
    """The board that the report beside a bitstream names."""
    try:
        return find_board(read_report(bitstream)["board"])
    except ValueError as error:
        raise ValueError(f"--board must be given: {error}") from None


def _check(bitstream: Path, board: Board) -> None:
    if not bitstream.is_file():
        raise ValueError(f"{bitstream} must be a bitstream's file")
    if bitstream.suffix != f".{board.extension}":
        raise ValueError(
            f"bitstream for {board.name} must end in .{board.extension}, not {bitstream.name!r}"
        )
    if not bitstream.stat().st_size:
        raise ValueError(f"{bitstream} must be a bitstream, not empty")


def _fail(message: str) -> None:
    typer.echo(f"atreides: {message}", err=True)
    raise typer.Exit(FAILED)
