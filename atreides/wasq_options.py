"""What the commands on language models share: mistakes as sentences, progress, the device."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from atreides.cli import INTERRUPTED
from atreides.mistakes import refusal
from sw.wasq.healing.world import local_device

#: Seeds are 0 to this: they are multiplied by numbers of steps, and must fit 64 bits then.
MAX_SEED: Final = (1 << 32) - 1
#: Seconds between two lines where there is no terminal to draw a bar on.
_EVERY = 10.0


@contextmanager
def told_mistakes(hint: str) -> Iterator[None]:
    """Turn a user's mistakes, and memory that does not suffice, into ``typer.BadParameter``.

    Parameters
    ----------
    hint : str
        What to make smaller if memory does not suffice.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        told = refusal(error)
        if told is None:
            raise
        raise typer.BadParameter(told) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise typer.BadParameter(f"memory must suffice: {hint}") from error
    except RuntimeError as error:
        if "out of memory" not in str(error) and "allocate memory" not in str(error):
            raise
        raise typer.BadParameter(f"memory must suffice: {hint}") from error


@contextmanager
def told_interrupt(kept: Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C into one line and exit status 130.

    Parameters
    ----------
    kept : callable
        Asked then what was kept, and how to go on from it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun one tells
            print(f"atreides: interrupted; {kept()}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed since; a second time ends the program at once."""
    pressed: list[int] = []

    def note(number: int, _frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def drawn_bar(what: str, shown: bool = True) -> Iterator[Callable[..., None] | None]:
    """A bar with the time left, on standard error.

    Parameters
    ----------
    what : str
        That is counted.
    shown : bool
        Only one of several processes shows it.

    Yields
    ------
    callable or None
        Takes what ``rich.progress.Progress.update`` takes by name; None without a terminal.
    """
    console = Console(stderr=True)
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
    )
    if not (shown and console.is_terminal):
        yield None
        return
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda **told: bar.update(task, **told)


@contextmanager
def counted(what: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on standard error; lines now and then without a terminal.

    Parameters
    ----------
    what : str
        That is counted.
    shown : bool
        Only one of several processes shows it.

    Yields
    ------
    callable
        To be told how many are done and how many there are.
    """
    with drawn_bar(what, shown) as update:
        started = told = time.monotonic()

        def progress(done: int, count: int) -> None:
            nonlocal told
            now = time.monotonic()
            if update is not None:
                update(completed=done, total=count)
            elif shown and now - told > _EVERY:
                told = now
                left = (now - started) / max(done, 1) * (count - done)
                print(f"{what}: {done} of {count}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield progress


def absolute(spec: str) -> str:
    """A model or text, ``PATH`` or ``PATH:PART``, as it can be found from another folder."""
    path, colon, part = (spec, "", "") if Path(spec).exists() else spec.rpartition(":")
    return f"{Path(path).resolve()}{colon}{part}" if path and Path(path).exists() else spec


def chosen_device(name: str) -> torch.device:
    """The device that a user names, of several GPUs this process's.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device must be cpu, not {name!r}: this machine has no GPU")
    try:
        return local_device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu or cuda, not {name!r}") from None
