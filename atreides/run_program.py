"""A program on the machine model, or on RTL in one of three simulators."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from atreides.machine_debugger import Debugger, show_registers
from atreides.machine_files import (
    FileMistake,
    check_writable,
    load_memory,
    load_program,
    write_text,
    write_tiles,
)
from sim.machine_job import Job, MachineFailed, Result
from sim.machine_model import machine_of, result_of
from sw.config import MachineConfig
from sw.isa import FAULT_MEANINGS, Fault, decode_at
from sw.link import BAUD
from sw.machine_report import Report
from sw.registers import COUNTER_MEANINGS, Counter
from sw.runtime.link import LinkFailed
from sw.runtime.link_serial import open_board

BOARD: Final = "board"
BACK_ENDS: Final = ("model", "amaranth", "icarus", "verilator", BOARD)
#: What a user's mistake, and a program's fault, end with; and the machine's or a simulator's.
MISTAKE, FAILURE = 2, 1


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What to do with a program besides running it: see ``atreides run --help``."""

    backend: str = "model"
    memory: Path | None = None
    dump: Path | None = None
    report: Path | None = None
    stalls: int | None = None
    max_cycles: int = 1 << 40
    trace: Path | None = None
    trace_from: int = 0
    trace_to: int = 1 << 62
    step: bool = False
    breakpoints: tuple[int, ...] = ()
    dump_registers: bool = False
    port: str | None = None
    baud: int = BAUD
    netlist: str | None = None
    build: str | None = None


def run_program(program: Path, config: MachineConfig, options: ProgramOptions) -> None:
    """Run a program, write what was asked for and show its counters.

    Raises
    ------
    typer.BadParameter
        For a mistake of the user.
    typer.Exit
        With 2 after a fault of the program, with 1 if the machine or its simulator fails.
    """
    backend, trace = options.backend, options.trace
    if backend not in BACK_ENDS:
        raise typer.BadParameter(f"backend must be one of {', '.join(BACK_ENDS)}, not {backend!r}")
    debugging = options.step or bool(options.breakpoints) or options.dump_registers
    _check_combination(backend, debugging, options.stalls, trace)
    if options.netlist is not None and backend not in ("icarus", "verilator"):
        raise typer.BadParameter(
            f"--netlist must have --backend icarus or verilator, not {backend!r}"
        )
    for name, value in (("port", options.port), ("bitstream", options.build)):
        if value is not None and backend != BOARD:
            raise typer.BadParameter(f"--{name} must have the backend board, not {backend!r}")
    try:
        for path in (options.dump, options.report, trace):
            check_writable(path)
        job = Job.of(config, load_program(program, config))
        if options.memory is not None:
            words, values = load_memory(options.memory, config)
            job = replace(job, memory=words, parameters=values)
        if backend == "model":
            result = _on_model(job, options)
        elif backend == BOARD:
            result = _on_board(job, options)
        else:
            window = (trace, options.trace_from, options.trace_to) if trace else None
            result = _on_rtl(job, backend, options, window)
    except (FileMistake, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    if options.dump is not None:
        write_tiles(options.dump, result.memory, config)
    if options.report is not None:
        content = {
            "program": program.name,
            "backend": backend,
            **({"netlist": options.netlist} if options.netlist else {}),
            "config": asdict(config),
            **result.report.to_dict(),
        }
        write_text(options.report, json.dumps(content, indent=2) + "\n")
    _show(program, backend, result)
    if result.report.fault:
        _complain(program, job, result)
        raise typer.Exit(MISTAKE)


def _check_combination(
    backend: str, debugging: bool, stalls: int | None, trace: Path | None
) -> None:
    if backend in ("model", BOARD):
        for name, value in (("stalls", stalls), ("trace", trace)):
            if value is not None:
                raise typer.BadParameter(f"--{name} must have an RTL backend, not {backend!r}")
    if backend != "model" and debugging:
        raise typer.BadParameter(
            f"--step, --break and --dump-registers must have --backend model, not {backend!r}"
        )


def _on_model(job: Job, options: ProgramOptions) -> Result:
    machine = machine_of(job)
    if options.step or options.breakpoints:
        Debugger(machine, list(options.breakpoints)).run(stop_first=options.step)
    else:
        machine.resume()
    if options.dump_registers:
        show_registers(machine, Console())
    return result_of(machine)


def _on_board(job: Job, options: ProgramOptions) -> Result:
    try:
        with open_board(job.config, options.port, options.baud, options.build) as board:
            board.write(0, job.memory)
            board.write_parameters(job.parameters)
            outcome = board.run(job.words)
            memory = board.read(0, job.config.memory_words)
    except LinkFailed as error:
        typer.echo(f"atreides: {error}", err=True)
        raise typer.Exit(FAILURE) from error
    report = Report(outcome.fault, outcome.counter, outcome.counters, board.results)
    return Result(report, memory)


def _on_rtl(
    job: Job,
    backend: str,
    options: ProgramOptions,
    window: tuple[Path, int, int] | None,
) -> Result:
    from hw.synthesis import SynthesisError
    from sim.machine_backends import execute  # Amaranth and the RTL: the model needs neither
    from sim.machine_session import Stalls
    from sim.machine_trace import Trace
    from sim.runner import MissingSimulator, SimulationFailed

    stalls = None if options.stalls is None else Stalls(options.stalls)
    trace = None if window is None else Trace(*window)
    try:
        with Console(stderr=True).status(f"running on {backend}"):
            (result,) = execute(
                [job],
                backend,
                stalls=stalls,
                limit=options.max_cycles,
                trace=trace,
                netlist=options.netlist,
            )
    except (SynthesisError, MissingSimulator, SimulationFailed, MachineFailed) as error:
        typer.echo(f"atreides: {error}", err=True)
        raise typer.Exit(FAILURE) from error
    return result


def _show(program: Path, backend: str, result: Result) -> None:
    table = Table(title=f"{program.name} on {backend}: {result.report.meaning}")
    table.add_column("counter")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for counter in Counter:
        value = f"{result.report[counter]:,}"
        table.add_row(counter.name.lower(), value, COUNTER_MEANINGS[counter])
    Console().print(table)


def _complain(program: Path, job: Job, result: Result) -> None:
    """One sentence about a fault: program counter, instruction and reason."""
    fault, counter = result.report.fault, result.report.counter
    instruction, length = decode_at(job.words, counter)
    whole = instruction is not None and counter + length <= len(job.words)
    text = f" {instruction}" if whole and fault != Fault.ENCODING else ""
    place = f"{program.name}: word {counter} ({job.words[counter]:04x}{text})"
    typer.echo(f"atreides: {place}: {FAULT_MEANINGS[fault]}", err=True)
