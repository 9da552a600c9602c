"""``atreides build``: from a board's name to a bitstream."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from atreides.machine_options import machine_command, write_text
from atreides.termination import ending_in_order
from hw import fit, fit_search
from hw.board_flow import BoardClock, Built, Flow
from hw.board_tools import ROUTERS, DoesNotFit, FlowError
from hw.board_top import BoardTop, CheckedMachine
from hw.boards import LED_MEANINGS, Board, find_board
from sim.machine_design import sources
from sw.config import MachineConfig
from sw.link import BAUD, BUILD_BYTES, DEFAULT_LIMIT, Greeting, identity
from sw.runtime.self_test import stored_test

#: The exit status after a tool's failure or a machine that does not fit.
FAILED: Final = 2
_PACKAGES: Final = ("pyosys", "amaranth", "amaranth-boards")


@machine_command(MachineConfig(bits=8))
def build(
    config: MachineConfig,
    board: Annotated[str, typer.Option(help="One of the names in docs/boards.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to.")] = Path(
        "build/boards"
    ),
    frequency: Annotated[
        str, typer.Option(metavar="MHZ|auto", help="Of the machine; auto: the highest that closes.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the first placement.")] = 1,
    seeds: Annotated[
        int, typer.Option(min=1, help="Placements at most, where they are near the goal.")
    ] = 4,
    router: Annotated[
        str | None, typer.Option(help=f"{' or '.join(ROUTERS)}, which is faster in a full device.")
    ] = None,
    baud: Annotated[int, typer.Option(min=1, help="Bits per second of the line.")] = BAUD,
    force: Annotated[
        bool, typer.Option("--force", help="Try even what is told not to fit before synthesis.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build a board's bitstream: the machine with its serial link, clock and self-test.

    `atreides build --board ulx3s-85f --bits 8 --rows 8 --columns 8` makes
    build/boards/ulx3s-85f-sf8-8x8.bit, and beside it a report ending in .json and the tools' logs.
    `atreides program` loads it onto the board.

    With `--frequency auto` the machine is placed for a high goal, and again at the fastest clock
    that the board's loop makes below what that reached. A placement that is less than 10 % short of
    its goal is followed by one with the next seed, `--seeds` in all at most.

    What certainly does not fit is refused before synthesis, with the nearest that does; where the
    model of `atreides fit` cannot tell, a line says so. `--force` tries anyway.

    Exit status 0; 2 for a mistake of yours, a tool that fails, a machine that does not fit or a
    frequency that does not close: then there is no bitstream, not even an older one. Nor is there
    after Ctrl-C (130) or SIGTERM (143); the tools end with the command, the logs stay.
    """
    try:
        chosen = find_board(board)
        wanted = _frequency(frequency)
        job = Job(chosen, config, output, seed, baud, seeds, router)
        job.check()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    console = Console(stderr=True)
    try:
        with ending_in_order(), _stages(console) as stages:
            if not force and fit.is_known(chosen):
                judge(chosen, config, stages, console)
            report = job.run(wanted, stages)
    except fit_search.Refusal as error:
        _fail(f"{error}; --force tries anyway")
    except DoesNotFit as error:
        _fail(f"{error}{nearest(chosen, config)}")
    except (FlowError, ValueError) as error:
        _fail(str(error))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        show(report, Console())


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One bitstream to make.

    Parameters
    ----------
    board : Board
    config : MachineConfig
    output : Path
        The directory of the bitstream.
    seed, baud : int
    seeds, router
        As in hw.board_flow.Flow.
    """

    board: Board
    config: MachineConfig
    output: Path
    seed: int = 1
    baud: int = BAUD
    seeds: int = 1
    router: str | None = None

    @property
    def name(self) -> str:
        """Of the bitstream, without its extension."""
        c = self.config
        return f"{self.board.name}-sf{c.bits}-{c.rows}x{c.columns}"

    @property
    def bitstream(self) -> Path:
        """Where it goes."""
        return self.output / f"{self.name}.{self.board.extension}"

    @property
    def report(self) -> Path:
        """Where the report goes."""
        return self.output / f"{self.name}.json"

    def check(self) -> None:
        """See before any work that the machine can test itself, and be written.

        Raises
        ------
        ValueError
            If the tile memory is too small for the self-test, there is no such router, or the
            directory cannot be written.
        """
        if self.router not in (None, *ROUTERS):
            raise ValueError(f"router must be one of {', '.join(ROUTERS)}, not {self.router!r}")
        stored_test(self._greeting(1_000_000))
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            self.bitstream.unlink(missing_ok=True)
            self.report.unlink(missing_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{self.output} must be a writable directory: {reason}") from None

    def run(self, megahertz: float | None, stages: Stages) -> dict[str, Any]:
        """Make bitstream and report; the report.

        Raises
        ------
        FlowError, ValueError
            As hw.board_flow.Flow has them.
        """
        work, logs = self.output / f"{self.name}.work", self.output / f"{self.name}.logs"
        for folder in (work, logs):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        folders = work.absolute(), logs.absolute()
        seeds = self.seed, self.seeds
        flow = Flow(self.board, self.top, *folders, stages, self.baud, *seeds, self.router)
        try:
            built = flow.build(megahertz)
            found = self._report(built, stages, built.bitstream.read_bytes())
            os.replace(built.bitstream, self.bitstream)
            write_text(self.report, json.dumps(found, indent=2) + "\n")
        except BaseException:  # both or none
            self.bitstream.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return found

    def top(self, clock: BoardClock) -> BoardTop:
        """The board's top for a clock."""
        greeting = self._greeting(round(clock.hertz))
        test, pins = stored_test(greeting), self.board.pins()
        machine = CheckedMachine(
            greeting, clock.divisor, test.requests, test.replies, target=self.board.device.target
        )
        leds = [name for name in LED_MEANINGS if name in pins]
        inverted = [name for name, pin in pins.items() if pin.inverted]
        return BoardTop(machine, clock.component(self.board), leds, inverted)

    def _greeting(self, hertz: int) -> Greeting:
        return Greeting(self.config, hertz, DEFAULT_LIMIT, self.identity(hertz))

    def identity(self, hertz: int) -> str:
        """The digits that name this bitstream: its machine, board, clock, line, seed and source."""
        facts = (identity(self.config), self.board.name, hertz, self.baud, self.seed, sources())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[: 2 * BUILD_BYTES]

    def _report(self, built: Built, stages: Stages, content: bytes) -> dict[str, Any]:
        clock, setting = built.clock, built.clock.setting
        return {
            "bitstream": str(self.bitstream),
            "sha256": hashlib.sha256(content).hexdigest(),
            "board": self.board.name,
            "device": self.board.device.name,
            "config": dataclasses.asdict(self.config),
            "build": self.identity(round(clock.hertz)),
            "hertz": round(clock.hertz),
            "megahertz": round(clock.megahertz, 4),
            "reached_megahertz": built.placement.megahertz,
            "goal_megahertz": built.goal,
            "dividers": None if setting is None else setting.dividers,
            "baud": self.baud,
            "divisor": clock.divisor,
            "seed": self.seed,
            "router": self.router,
            "placed_seed": built.seed,
            "placements": built.placements,
            "utilisation": {n: list(pair) for n, pair in built.placement.utilisation.items()},
            "cells": built.cells,
            "seconds": stages.seconds,
            "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }


class Stages:
    """Shows each stage with the time that it takes, and keeps it.

    Attributes
    ----------
    seconds : list of (str, float)
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """A stage, while the context lasts."""
        task, start = self.progress.add_task(name, total=1), time.monotonic()
        try:
            yield
        finally:
            self.seconds.append((name, round(time.monotonic() - start, 1)))
        self.progress.update(task, completed=1)


@contextlib.contextmanager
def _stages(console: Console) -> Iterator[Stages]:
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        yield Stages(progress)


def _frequency(text: str) -> float | None:
    if text == "auto":
        return None
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e6:
            return float(text)
    raise ValueError(f"frequency must be auto or a number of MHz, not {text!r}")


def judge(board: Board, config: MachineConfig, stages: Stages, console: Console) -> None:
    """Refuse what certainly does not fit, and say where that is not certain.

    Raises
    ------
    Refusal
        By how much, and the nearest machine that fits.
    """
    with stages("check that it fits"):
        taken = fit_search.check(board, config, sure=True)
        doubts = fit_search.doubts(board, taken) if taken is not None else ""
    if doubts:
        console.print(f"atreides: {doubts}", highlight=False, soft_wrap=True)


def nearest(board: Board, config: MachineConfig) -> str:
    """The nearest machine that fits, as the end of a sentence; nothing where none is known."""
    found = fit_search.nearest(board, config)
    return f"; {fit_search.describe(config, found)}" if found is not None else ""


def _fail(message: str) -> None:
    typer.echo(f"atreides: {message}", err=True)
    raise typer.Exit(FAILED)


def show(report: dict[str, Any], console: Console) -> None:
    """Utilisation and timing as a table."""
    config = report["config"]
    title = f"SF{config['bits']} {config['rows']} x {config['columns']} on {report['board']}"
    table = Table(title=f"{title} ({report['device']})")
    table.add_column("resource")
    for heading in ("used", "available", "%"):
        table.add_column(heading, justify="right")
    for name, (used, available) in sorted(report["utilisation"].items()):
        share = f"{100 * used / available:.1f}" if available else "-"
        table.add_row(name, f"{used:,}", f"{available:,}", share)
    console.print(table)
    console.print(
        f"clock {report['megahertz']:.2f} MHz; the placement reaches "
        f"{report['reached_megahertz']:.2f} MHz (goal {report['goal_megahertz']:g}, seed "
        f"{report['seed']}); line {report['baud']:,} baud"
    )
    console.print(f"bitstream {report['bitstream']}, build {report['build']}")
