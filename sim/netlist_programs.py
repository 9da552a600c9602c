"""Every program of ``programs/`` on what synthesis made of the machine: ``python -m
sim.netlist_programs``.

For each target the machine is emitted, synthesised, translated to plain Verilog and compiled by
Verilator; all programs then run on it, and counters, results and every word of the memory are
compared with the machine model's. What a stage made is kept, so a run that was cut off goes on
where it was.

On a machine that is not the published one a program meets its image cut to the words' width, and
``hello`` takes tiles of the array's size.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from hw.synthesis import SynthesisError
from sim import machine_verilator
from sim.gates import UNSET
from sim.machine_design import Design
from sim.machine_job import Job, MachineFailed, Result
from sim.machine_model import run_model
from sim.machine_session import Session
from sim.netlist_machine import plain_design
from sim.netlist_synthesis import (
    NETLISTS,
    check_netlist,
    emission_key,
    emitted,
    keep,
    mapped,
    seconds,
    timed,
)
from sim.runner import ROOT, MissingSimulator, SimulationFailed
from sw.assembler import assemble
from sw.config import MachineConfig
from sw.format import MAX_TERMS
from sw.machine_state import Parameters
from sw.registers import Counter

PROGRAMS: Final = ("hello", "gemm", "perceptron", "convolution", "attention")
#: What the programs are written for: columns of the array, and words of memory.
COLUMNS, WORDS = 8, 1024
#: Cycles that loading, running or reading back one program may take.
LIMIT: Final = 1 << 20
_IMAGES: Final = ROOT / "programs"
_IMAGE_BITS: Final = 16
#: The exit status of a process that Ctrl-C ended: 128 and the number of SIGINT.
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Outcome:
    """A program on a netlist.

    Parameters
    ----------
    program : str
    cycles : int
        From the first instruction to the end, as the machine counts them.
    words : int
        Counters, words of the memory and of the result stream that were compared.
    differences : tuple of str
        Sentences; none if all agree.
    """

    program: str
    cycles: int
    words: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """All programs on one netlist.

    Parameters
    ----------
    target : str
    cells : dict of str to int
        By kind.
    seconds : dict of str to float
        How long each stage took when it was done.
    outcomes : tuple of Outcome
    """

    target: str
    cells: dict[str, int]
    seconds: dict[str, float]
    outcomes: tuple[Outcome, ...]


def machine(
    rows: int = 8,
    bits: int = 16,
    slots: int | None = None,
    parameters: int | None = None,
    max_terms: int = MAX_TERMS,
) -> MachineConfig:
    """The machine of this size, with the 8 columns that the programs are written for.

    Parameters
    ----------
    rows, bits, max_terms : int
    slots : int, optional
        As many as the programs' addresses need if omitted.
    parameters : int, optional
        Column parameter entries, with one row parameter; as the published machine if omitted.
    """
    size = {"parameters": parameters, "row_parameters": 1} if parameters is not None else {}
    needed = slots if slots is not None else -(-WORDS // max(1, rows * COLUMNS))
    return MachineConfig(rows=rows, bits=bits, slots=needed, max_terms=max_terms, **size)


def job(name: str, config: MachineConfig) -> Job:
    """A program with its image, for a machine that may be smaller than the published one.

    Raises
    ------
    ValueError
        If the machine has no room for the program.
    """
    text = (_IMAGES / f"{name}.s").read_text(encoding="utf-8")
    side = min(config.rows, config.columns)
    text = re.sub(r"\b8, 8\b", f"{side}, {side}", text)  # hello's tiles
    words = assemble(text, f"{name}.s", config=config).words
    cut = _IMAGE_BITS - config.bits
    memory, parameters = np.zeros(config.memory_words, np.uint16), Parameters(config)
    with np.load(_IMAGES / f"{name}.npz") as image:
        tiles = image["tiles"].ravel()[: config.memory_words]
        memory[: len(tiles)] = tiles >> cut
        if "biases" in image:
            count = min(config.parameters, len(image["biases"]))
            parameters.biases[:count] = image["biases"][:count] >> cut
            parameters.column_shifts[:count] = image["column_shifts"][:count]
    return Job(config, words, memory, parameters)


def run_target(
    target: str, config: MachineConfig, programs: Sequence[str], console: Console
) -> Run:
    """Run programs on a netlist, and tell of each stage.

    Raises
    ------
    SynthesisError, MissingSimulator, SimulationFailed
        From the tools.
    MachineFailed
        If the machine is stuck or breaks a stream's rules.
    """
    jobs = [job(name, config) for name in programs]
    console.print(f"{target}: emit the machine")
    text, _ = emitted(config, target)
    console.print(f"{target}: synthesise")
    netlist = mapped(text, target)
    console.print(f"{target}: compile {netlist.kinds.total():,} cells")
    design = plain_design(config, target)
    compiled = machine_verilator.place(design).name
    driver = _built(design, compiled)
    console.print(f"{target}: run {', '.join(programs)}")
    session = Session(design.ports, jobs, unset=target in UNSET)
    with timed(compiled, "run"):
        recording = machine_verilator.run(driver, design.ports, session.phases(), None, LIMIT)
    results = session.results(recording)
    taken: dict[str, float] = {}
    for key in (emission_key(config, target), netlist.key, compiled):
        taken |= seconds(key)
    outcomes = tuple(map(_outcome, programs, jobs, results))
    return Run(target, dict(netlist.kinds), taken, outcomes)


def _built(design: Design, key: str) -> Path:
    if machine_verilator.place(design).exists():
        return machine_verilator.build(design)
    with timed(key, "compile"):
        return machine_verilator.build(design)


def _outcome(name: str, given: Job, got: Result) -> Outcome:
    want = run_model(given)
    differences = got.differences(want)
    if given.config == MachineConfig():
        with np.load(_IMAGES / f"{name}.expected.npz") as expected:
            tiles = expected["tiles"].ravel()
        wrong = int((got.memory[: len(tiles)] != tiles).sum())
        differences += [f"{wrong} words are not as in {name}.expected.npz"] * bool(wrong)
    if want.report.fault:
        differences.append(f"fault of the program: {want.report.fault!r}")
    lanes = sum(len(row.data) for row in want.report.results)
    words = len(want.memory) + lanes + len(Counter)
    return Outcome(name, want.report[Counter.CYCLES], words, tuple(differences))


def show(run: Run, config: MachineConfig, console: Console) -> None:
    """Print what was compared."""
    size = f"{config.format} {config.rows} x {config.columns}"
    table = Table(title=f"{run.target}, {size}, {sum(run.cells.values()):,} cells")
    for heading in ("program", "cycles", "words compared", "differ"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for outcome in run.outcomes:
        count = str(len(outcome.differences)) if outcome.differences else "none"
        table.add_row(outcome.program, f"{outcome.cycles:,}", f"{outcome.words:,}", count)
    console.print(table)
    for outcome in run.outcomes:
        for sentence in outcome.differences:
            console.print(f"{run.target}, {outcome.program}: {sentence}")
    console.print(", ".join(f"{stage} {taken:,} s" for stage, taken in run.seconds.items()))


def _choices(text: str, known: Sequence[str], thing: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    for part in chosen or [""]:
        if part not in known:
            raise typer.BadParameter(f"{thing} must be one of {', '.join(known)}, not {part!r}")
    return chosen


def command(
    target: Annotated[str, typer.Option(help="Netlists, with commas.")] = ",".join(NETLISTS),
    program: Annotated[str, typer.Option(help="Programs, with commas.")] = ",".join(PROGRAMS),
    rows: Annotated[int, typer.Option(help="Of the array; there are always 8 columns.")] = 8,
    bits: Annotated[int, typer.Option(help="Of a word.")] = 16,
    slots: Annotated[int | None, typer.Option(help="Tile slots; 1,024 words if left.")] = None,
    parameters: Annotated[
        int | None,
        typer.Option(help="Column parameter entries, with one row entry; 256 and 1,024 if left."),
    ] = None,
    max_terms: Annotated[int, typer.Option(help="K_max.")] = MAX_TERMS,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what was found.")
    ] = None,
) -> None:
    """Run programs/ on netlists of the machine and compare with the model, word for word.

    Ends with status 1 if anything differs. What a stage made lies in build/sim and is used again.
    """
    console = Console()
    try:
        targets = _choices(target, NETLISTS, "target")
        programs = _choices(program, PROGRAMS, "program")
        config = machine(rows, bits, slots, parameters, max_terms)
        for name in targets:
            check_netlist(name)
        for name in programs:
            job(name, config)
    except (TypeError, ValueError, SynthesisError) as error:
        raise typer.BadParameter(str(error)) from error
    runs = []
    for name in targets:
        try:
            runs.append(run_target(name, config, programs, console))
        except (SynthesisError, MissingSimulator, SimulationFailed, MachineFailed) as error:
            typer.echo(f"{name}: {error}", err=True)
            raise typer.Exit(1) from error
        show(runs[-1], config, console)
        if json_file is not None:
            content = {"config": asdict(config), "runs": [asdict(run) for run in runs]}
            keep(json_file, json.dumps(content, indent=2).encode())
    if any(outcome.differences for run in runs for outcome in run.outcomes):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line's exit status; a mistake of the user is one sentence and status 2."""
    app = typer.Typer(add_completion=False)
    app.command()(command)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(words, prog_name="python -m sim.netlist_programs", standalone_mode=False)
    except TyperException as error:
        plain = hasattr(error, "param") and error.param is None  # with no option to name
        message = error.message if plain else error.format_message()
        print(f"sim.netlist_programs: {' '.join(message.split()).rstrip('.')}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
