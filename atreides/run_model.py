"""A compiled network on one back end, or on two in lockstep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from atreides.machine_files import (
    FileMistake,
    check_writable,
    load_array,
    write_array,
    write_text,
)
from atreides.run_options import BOARD, RTL, NetworkOptions, check_options
from atreides.run_report import Finished, differences, report, show
from sim.machine_job import MachineFailed
from sim.machine_session import Stalls
from sim.machine_trace import Trace
from sim.runner import MissingSimulator, SimulationFailed
from sw.runtime.artefact import Artefact, load
from sw.runtime.check import Mismatch, lockstep
from sw.runtime.checksums import Boundary
from sw.runtime.device import Device
from sw.runtime.device_engine import DeviceFailed
from sw.runtime.link import LinkFailed
from sw.runtime.link_serial import open_board
from sw.runtime.session import Session

#: What a machine, a simulator or a comparison that fails ends with.
FAILURE: Final = 1


def run_network(directory: Path, options: NetworkOptions, sizes: Mapping[str, Any]) -> None:
    """Run a network, write what was asked for and show its counters.

    Parameters
    ----------
    directory : Path
        The artefact.
    options : NetworkOptions
    sizes : mapping of str to value
        Sizes of the machine that the user named; they must be the artefact's.

    Raises
    ------
    typer.BadParameter
        For a mistake of the user.
    typer.Exit
        With 1 if the machine or its simulator fails, or results differ.
    """
    try:
        check_options(options)
        for path in (*options.outputs, options.report, options.trace):
            check_writable(path)
        artefact = load(directory)
        _check_machine(directory, artefact, sizes)
        inputs = _inputs(artefact, options)
        finished = _run(artefact, options, inputs)
    except (FileMistake, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    except Mismatch as error:
        typer.echo(f"atreides: {error}", err=True)
        raise typer.Exit(FAILURE) from error
    except (DeviceFailed, LinkFailed, MissingSimulator, SimulationFailed, MachineFailed) as error:
        typer.echo(f"atreides: {error}", err=True)
        raise typer.Exit(FAILURE) from error
    wrong = [] if options.inputs else differences(artefact, finished)
    try:
        for path, output in zip(options.outputs, finished.outputs, strict=False):
            write_array(path, np.asarray(output))
        if options.report is not None:
            content = report(directory, artefact, options, finished, wrong)
            write_text(options.report, json.dumps(content, indent=2) + "\n")
    except FileMistake as error:
        raise typer.BadParameter(str(error)) from error
    show(directory, artefact, options, finished)
    for sentence in wrong:
        typer.echo(f"atreides: {sentence}", err=True)
    if wrong:
        raise typer.Exit(FAILURE)


@contextmanager
def open_device(config: Any, name: str, options: NetworkOptions) -> Iterator[str | Device]:
    """A back end by name: the name itself if it needs no simulator."""
    if name == BOARD:
        with Console(stderr=True).status("greeting the board"):
            board = open_board(config, options.port, options.baud, options.build)
        yield board
        return
    if name not in RTL:
        yield name
        return
    from sim.machine_device import make_device  # Amaranth and the RTL

    chosen = name == options.backend
    trace = None
    if chosen and options.trace is not None:
        trace = Trace(options.trace, options.trace_from, options.trace_to)
    stalls = Stalls(options.stalls) if chosen and options.stalls is not None else None
    with Console(stderr=True).status(f"starting {name}"):
        device = make_device(config, name, trace=trace, stalls=stalls, limit=options.max_cycles)
    yield device


def _run(artefact: Artefact, options: NetworkOptions, inputs: list[Any]) -> Finished:
    layers: dict[str, list[int]] = {}

    def watch(boundary: Boundary) -> None:
        layers.setdefault(boundary.layer, []).append(boundary.checksum)

    with ExitStack() as stack:
        backend = stack.enter_context(open_device(artefact.config, options.backend, options))
        progress = stack.enter_context(_progress(options.backend))
        if options.check is None:
            observer = None if options.inputs else watch
            session = Session(artefact, backend, observer=observer, progress=progress)
        else:
            other = stack.enter_context(open_device(artefact.config, options.check, options))
            names = (options.check, options.backend)
            session = lockstep(artefact, other, backend, names, watch, progress)
        stack.enter_context(session)
        return Finished(session.run(*inputs), layers, session)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(f"running on {name}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not shown
    ) as bars:
        task = bars.add_task(name, total=None)

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield progress


def _check_machine(directory: Path, artefact: Artefact, sizes: Mapping[str, Any]) -> None:
    for name, value in sizes.items():
        made = getattr(artefact.config, name)
        if value != made:
            option = name.replace("_", "-")
            raise ValueError(
                f"--{option} must be {made}, for which {directory} was made, not {value}"
            )


def _inputs(artefact: Artefact, options: NetworkOptions) -> list[Any]:
    outputs = artefact.plan.graph.outputs
    if len(options.outputs) > len(outputs):
        raise ValueError(f"output must be given at most {len(outputs)} times")
    if options.inputs:
        return [load_array(path) for path in options.inputs]
    if artefact.example is None:
        raise ValueError("input must be given: the network was compiled without an example")
    return list(artefact.example.inputs)
