"""``atreides run``: a program on the machine model, or on RTL in one of three simulators."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Final

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
from sw.registers import COUNTER_MEANINGS, Counter

BACK_ENDS: Final = ("model", "amaranth", "icarus", "verilator")
DEFAULTS: Final = MachineConfig()
#: What a user's mistake, and a program's fault, end with; and the machine's or a simulator's.
MISTAKE, FAILURE = 2, 1


def run(
    program: Annotated[Path, typer.Argument(help="PROGRAM.s, or PROGRAM.hex as it is.")],
    backend: Annotated[str, typer.Option(help=f"One of {', '.join(BACK_ENDS)}.")] = "model",
    memory: Annotated[
        Path | None, typer.Option(help="npz with `tiles`, uint16 (slots, rows, columns).")
    ] = None,
    dump: Annotated[Path | None, typer.Option(help="npz of the tiles after the run.")] = None,
    report: Annotated[Path | None, typer.Option(help="JSON: fault, counters, results.")] = None,
    bits: Annotated[int, typer.Option(help="Width of a word, 3 to 16.")] = DEFAULTS.bits,
    unity: Annotated[bool, typer.Option(help="Whether all ones means 1.")] = DEFAULTS.unity,
    rows: Annotated[int, typer.Option(help="Of the array.")] = DEFAULTS.rows,
    columns: Annotated[int, typer.Option(help="Of the array.")] = DEFAULTS.columns,
    slots: Annotated[int, typer.Option(help="Tiles in memory.")] = DEFAULTS.slots,
    max_terms: Annotated[int, typer.Option(help="Longest dot product.")] = DEFAULTS.max_terms,
    bias_bits: Annotated[int | None, typer.Option(help="Width of a bias.")] = None,
    output_bits: Annotated[int | None, typer.Option(help="Width of words on the stream.")] = None,
    parameters: Annotated[int, typer.Option(help="Entries per column.")] = DEFAULTS.parameters,
    row_parameters: Annotated[int, typer.Option(help="Entries.")] = DEFAULTS.row_parameters,
    blocks: Annotated[bool, typer.Option(help="Scales per 32 terms.")] = DEFAULTS.blocks,
    table: Annotated[bool, typer.Option(help="Piecewise-linear activation.")] = DEFAULTS.table,
    max_spread: Annotated[int, typer.Option(help="R, bits.")] = DEFAULTS.max_spread,
    hold: Annotated[bool, typer.Option(help="Hold operands at zeros.")] = DEFAULTS.hold,
    multiplier: Annotated[str, typer.Option(help="As in hw.build.")] = DEFAULTS.multiplier,
    stalls: Annotated[
        int | None, typer.Option(help="Seed of random stalls on all streams, RTL only.")
    ] = None,
    max_cycles: Annotated[int, typer.Option(min=1, help="Give RTL up after these.")] = 1 << 40,
    trace: Annotated[
        Path | None, typer.Option(help="Waveforms: .vcd, or .fst with verilator.")
    ] = None,
    trace_from: Annotated[int, typer.Option(min=0, help="First cycle of the trace.")] = 0,
    trace_to: Annotated[int, typer.Option(min=1, help="Cycle after its last.")] = 1 << 62,
    step: Annotated[bool, typer.Option("--step", help="Debug on the model.")] = False,
    breakpoints: Annotated[
        list[int] | None, typer.Option("--break", help="Debug: stop before this word.")
    ] = None,
    dump_registers: Annotated[
        bool, typer.Option("--dump-registers", help="Show the registers after the run, model only.")
    ] = False,
) -> None:
    """Run a program and show its counters.

    Exit status 0; 2 for a mistake of yours or a fault of the program, after which dump and report
    are written all the same; 1 if the machine or its simulator fails.
    """
    if backend not in BACK_ENDS:
        raise typer.BadParameter(f"backend must be one of {', '.join(BACK_ENDS)}, not {backend!r}")
    debugging = step or bool(breakpoints)
    _check_combination(backend, debugging or dump_registers, stalls, trace)
    try:
        config = MachineConfig(
            bits=bits,
            unity=unity,
            rows=rows,
            columns=columns,
            slots=slots,
            max_terms=max_terms,
            bias_bits=bias_bits,
            output_bits=output_bits,
            parameters=parameters,
            row_parameters=row_parameters,
            blocks=blocks,
            table=table,
            max_spread=max_spread,
            hold=hold,
            multiplier=multiplier,
        )
        for path in (dump, report, trace):
            check_writable(path)
        job = Job.of(config, load_program(program, config))
        if memory is not None:
            words, values = load_memory(memory, config)
            job = replace(job, memory=words, parameters=values)
        if backend == "model":
            result = _on_model(job, step, breakpoints or [], dump_registers)
        else:
            window = (trace, trace_from, trace_to) if trace else None
            result = _on_rtl(job, backend, stalls, max_cycles, window)
    except (FileMistake, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    if dump is not None:
        write_tiles(dump, result.memory, config)
    if report is not None:
        content = {
            "program": program.name,
            "backend": backend,
            "config": asdict(config),
            **result.report.to_dict(),
        }
        write_text(report, json.dumps(content, indent=2) + "\n")
    _show(program, backend, result)
    if result.report.fault:
        _complain(program, job, result)
        raise typer.Exit(MISTAKE)


def _check_combination(
    backend: str, debugging: bool, stalls: int | None, trace: Path | None
) -> None:
    if backend == "model":
        for name, value in (("stalls", stalls), ("trace", trace)):
            if value is not None:
                raise typer.BadParameter(f"--{name} must have an RTL backend, not 'model'")
    elif debugging:
        raise typer.BadParameter(
            f"--step, --break and --dump-registers must have --backend model, not {backend!r}"
        )


def _on_model(job: Job, step: bool, breakpoints: list[int], dump_registers: bool) -> Result:
    machine = machine_of(job)
    if step or breakpoints:
        Debugger(machine, breakpoints).run(stop_first=step)
    else:
        machine.resume()
    if dump_registers:
        show_registers(machine, Console())
    return result_of(machine)


def _on_rtl(
    job: Job,
    backend: str,
    seed: int | None,
    limit: int,
    window: tuple[Path, int, int] | None,
) -> Result:
    from sim.machine_backends import execute  # Amaranth and the RTL: the model needs neither
    from sim.machine_session import Stalls
    from sim.machine_trace import Trace
    from sim.runner import MissingSimulator, SimulationFailed

    stalls = None if seed is None else Stalls(seed)
    trace = None if window is None else Trace(*window)
    try:
        with Console(stderr=True).status(f"running on {backend}"):
            (result,) = execute([job], backend, stalls=stalls, limit=limit, trace=trace)
    except (MissingSimulator, SimulationFailed, MachineFailed) as error:
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
