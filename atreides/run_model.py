"""A compiled network on one back end, or on two in lockstep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from atreides.machine_files import (
    FileMistake,
    check_writable,
    load_array,
    write_array,
    write_text,
)
from sim.machine_job import MachineFailed
from sim.machine_session import Stalls
from sim.machine_trace import Trace
from sim.runner import MissingSimulator, SimulationFailed
from sw.compiler.cost import layer_macs
from sw.link import BAUD
from sw.registers import Counter
from sw.runtime.artefact import Artefact, load
from sw.runtime.check import Mismatch, compare_example, lockstep
from sw.runtime.checksums import Boundary, checksum
from sw.runtime.device import Device
from sw.runtime.device_engine import DeviceFailed
from sw.runtime.link import LinkFailed
from sw.runtime.link_serial import open_board
from sw.runtime.session import Session

BOARD: Final = "board"
RTL: Final = ("amaranth", "icarus", "verilator")
BACK_ENDS: Final = ("tensor", "model", *RTL, BOARD)
#: What a machine, a simulator or a comparison that fails ends with.
FAILURE: Final = 1


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How to run a network: see ``atreides run --help``."""

    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    backend: str = "tensor"
    check: str | None = None
    report: Path | None = None
    stalls: int | None = None
    max_cycles: int = 1 << 40
    trace: Path | None = None
    trace_from: int = 0
    trace_to: int = 1 << 62
    port: str | None = None
    baud: int = BAUD
    build: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What a run left.

    Parameters
    ----------
    outputs : tuple of array
    layers : dict of str to list of int
        Checksums of each layer, one per inference; empty unless they were watched.
    session : Session
        For its counters.
    """

    outputs: tuple[Any, ...]
    layers: dict[str, list[int]]
    session: Session


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
    wrong = [] if options.inputs else _differences(artefact, finished)
    try:
        for path, output in zip(options.outputs, finished.outputs, strict=False):
            write_array(path, np.asarray(output))
        if options.report is not None:
            content = _report(directory, artefact, options, finished, wrong)
            write_text(options.report, json.dumps(content, indent=2) + "\n")
    except FileMistake as error:
        raise typer.BadParameter(str(error)) from error
    _show(directory, artefact, options, finished)
    for sentence in wrong:
        typer.echo(f"atreides: {sentence}", err=True)
    if wrong:
        raise typer.Exit(FAILURE)


def check_options(options: NetworkOptions) -> None:
    """Refuse what does not go together, as ValueError."""
    for name in (options.backend, *([options.check] if options.check else [])):
        if name not in BACK_ENDS:
            raise ValueError(f"backend must be one of {', '.join(BACK_ENDS)}, not {name!r}")
    if options.check == options.backend:
        raise ValueError(f"check must be another back end than {options.backend!r}")
    if options.backend not in RTL:
        given = {"stalls": options.stalls is not None, "trace": options.trace is not None}
        for name in (name for name, there in given.items() if there):
            raise ValueError(f"--{name} must have an RTL backend, not {options.backend!r}")
    for name, value in (("port", options.port), ("bitstream", options.build)):
        if value is not None and BOARD not in (options.backend, options.check):
            raise ValueError(f"--{name} must have the backend board, not {options.backend!r}")
    if options.trace is not None and options.backend != "verilator":
        raise ValueError(f"--trace of a network must have verilator, not {options.backend!r}")


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


def _differences(artefact: Artefact, finished: Finished) -> list[str]:
    """What is not as it was when the example was compiled."""
    assert artefact.example is not None
    found = {name: checksums[0] for name, checksums in finished.layers.items()}
    wrong = compare_example(artefact.example, found)
    pairs = zip(artefact.example.outputs, finished.outputs, strict=True)
    return wrong + [
        f"output {index} must have checksum {want:08x}, not {checksum(output):08x}"
        for index, (want, output) in enumerate(pairs)
        if checksum(output) != want
    ]


def _programs(artefact: Artefact, finished: Finished) -> list[dict[str, Any]]:
    plan = artefact.plan
    macs = {name: layer_macs(layer, plan) for name, layer in plan.layers.items()}
    cells = artefact.config.rows * artefact.config.columns
    found = []
    for layers, tally in finished.session.tallies.items():
        needed = tally.runs * sum(macs.get(name, 0) for name in layers)
        cycles = tally.counters[Counter.CYCLES]
        found.append(
            {
                "layers": list(layers),
                "runs": tally.runs,
                "macs": needed,
                "utilisation": needed / max(1, cells * cycles),
                "counters": {c.name.lower(): n for c, n in tally.counters.items()},
            }
        )
    return found


def _report(
    directory: Path,
    artefact: Artefact,
    options: NetworkOptions,
    finished: Finished,
    wrong: list[str],
) -> dict[str, Any]:
    return {
        "network": directory.name,
        "backend": options.backend,
        "check": options.check,
        "config": asdict(artefact.config),
        "inputs": [path.name for path in options.inputs] or "example",
        "outputs": [
            {"shape": list(output.shape), "checksum": checksum(torch.as_tensor(output))}
            for output in finished.outputs
        ],
        "programs": _programs(artefact, finished),
        "checksums": finished.layers,
        "differences": wrong,
    }


def _show(directory: Path, artefact: Artefact, options: NetworkOptions, finished: Finished) -> None:
    console = Console()
    programs = _programs(artefact, finished)
    if programs:
        table = Table(title=f"{directory.name} on {options.backend}")
        table.add_column("layers", overflow="fold")
        for column in ("runs", "cycles", "MACs", "busy"):
            table.add_column(column, justify="right")
        for row in programs:
            counters = row["counters"]
            table.add_row(
                _named(row["layers"]),
                f"{row['runs']:,}",
                f"{counters['cycles']:,}",
                f"{row['macs']:,}",
                f"{row['utilisation']:.1%}",
            )
        console.print(table)
    for name, output in zip(artefact.plan.graph.outputs, finished.outputs, strict=True):
        shape = " x ".join(map(str, output.shape))
        console.print(f"{name}: {shape}", highlight=False)
    if programs and finished.layers:
        console.print("Layers ran one by one, to be compared: together they take fewer cycles.")
    count = sum(len(found) for found in finished.layers.values())
    if options.check is not None:
        console.print(f"{count} results of layers equal on {options.backend} and {options.check}")
    elif not options.inputs and finished.layers:
        console.print(f"{count} results of layers compared with the checksums of the example")


def _named(layers: list[str]) -> str:
    if len(layers) < 4:
        return " + ".join(layers)
    return f"{layers[0]} ... {layers[-1]} ({len(layers)} layers)"
