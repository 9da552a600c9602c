"""Breaks the units on purpose and counts how many of the mutants the testbenches notice.

``python -m sim.mutate`` changes one operator, constant, bit selection or condition at a time in the
emitted Verilog of each unit and runs the stimulus, the model and the testbench of the tests on it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Final

import typer
from amaranth.hdl import UnusedElaboratable
from rich.console import Console
from rich.progress import Progress
from typer.exceptions import TyperException

from hw.emit import emit
from sim.case import DEFAULT_SEED, Case, plan_of
from sim.lanes import wrap
from sim.netlist import Netlist, read_verilog
from sim.plan import Plan
from sim.runner import MissingSimulator, SimulationFailed, compare, simulator_version
from sim.satisfiability import find_difference
from sim.units import ALL_BITS, UNITS

PROGRAM: Final = "python -m sim.mutate"
#: Share of mutants, in percent, that must die.
REQUIRED: Final = 95.0
#: Vectors, cycles or tokens per mutant.
LIMIT: Final = 1500
#: Seconds for one harness of mutants, and for one mutant that runs alone.
PATIENCE: Final = (120.0, 20.0)

_SWAPS: Final = {
    "&": "|",
    "|": "&",
    "^": "&",
    "+": "-",
    "-": "+",
    "==": "!=",
    "!=": "==",
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "<=": ">",
    ">>": "<<",
    "<<": ">>",
    "&&": "||",
    "||": "&&",
    ">>>": "<<",
    "*": "+",
}
_BINARY: Final = re.compile(r" (&&|\|\||==|!=|>>>|>>|<<|<=|>=|[&|^+\-<>*]) ")
_UNARY: Final = re.compile(r"(?<=[ (\[{,])([~!&|])(?=[\w(\\{])")
_CONSTANT: Final = re.compile(r"(\d+)'(h)([0-9a-f]+)")
_SELECT: Final = re.compile(r"(?<=[\w ])\[(\d+)\]")
_CONDITION: Final = re.compile(r"([\w\\.$\[\]]+) \? ")
_IF: Final = re.compile(r"\bif \((.*)\)")
_SKIPPED: Final = re.compile(
    r"^\s*(//|/\*|\(\*|module|endmodule|input|output|wire|reg|end\b|begin|endcase|$)"
)


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of one line.

    Parameters
    ----------
    line : int
        Counted from 1.
    before, after : str
        The line.
    kind : str
    """

    line: int
    before: str
    after: str
    kind: str

    def apply(self, text: str) -> str:
        """The text with the change."""
        lines = text.splitlines(keepends=True)
        lines[self.line - 1] = self.after + "\n"
        return "".join(lines)

    def __str__(self) -> str:
        return f"line {self.line}: {self.before.strip()} -> {self.after.strip()}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant.

    Parameters
    ----------
    case : str
        Unit and parameters.
    mutation : str
    kind : str
    verdict : {"killed", "survived", "equivalent", "invalid"}
    reason : str
        How it died, why it could not, or what it changed.
    """

    case: str
    mutation: str
    kind: str
    verdict: str
    reason: str


def mutations(text: str) -> list[Mutation]:
    """Every change that is possible, in the order of the text."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if _SKIPPED.match(line):
            continue
        for kind, after in _changes(line):
            if after != line:
                found.append(Mutation(number, line, after, kind))
    return found


def _changes(line: str) -> Iterator[tuple[str, str]]:
    assignment = re.match(r"^(?:\s*assign)?\s*[^=<]*<?= ", line)
    start = assignment.end() - 1 if assignment else 0

    def replaced(match: re.Match[str], text: str, group: int = 0) -> str:
        return line[: match.start(group)] + text + line[match.end(group) :]

    for match in _BINARY.finditer(line, start):
        yield f"operator {match[1]}", replaced(match, _SWAPS[match[1]], 1)
    for match in _UNARY.finditer(line, start):
        yield f"unary {match[1]}", replaced(match, {"&": "|", "|": "&"}.get(match[1], ""), 1)
    for match in _CONSTANT.finditer(line, start):
        width = int(match[1])
        for position in {0, width // 2, width - 1}:
            value = int(match[3], 16) ^ (1 << position)
            yield "constant", replaced(match, f"{width}'h{value:x}")
    for match in _SELECT.finditer(line, start):
        index = int(match[1])
        for other in {index + 1, max(0, index - 1)} - {index}:
            yield "bit select", replaced(match, f"[{other}]")
    for match in _CONDITION.finditer(line, start):
        yield "choice", replaced(match, f"!{match[1]} ? ")
    for match in _IF.finditer(line):
        yield "condition", replaced(match, f"if (!({match[1]}))")
        yield "enable", replaced(match, "if (1'h1)")


def choose(text: str, count: int, random: Random) -> list[Mutation]:
    """A sample that takes every kind of change in turn."""
    kinds: dict[str, list[Mutation]] = {}
    for mutation in mutations(text):
        kinds.setdefault(mutation.kind, []).append(mutation)
    for group in kinds.values():
        random.shuffle(group)
    chosen: list[Mutation] = []
    while len(chosen) < count and any(kinds.values()):
        for group in kinds.values():
            if group and len(chosen) < count:
                chosen.append(group.pop())
    return chosen


def mutate_case(case: Case, count: int, seed: int) -> list[Outcome]:
    """Break one variant of a unit ``count`` times and run its testbench on each mutant.

    Raises
    ------
    RuntimeError
        If the unit fails without any change.
    """
    text = emit(case.build(), "original")
    plan = plan_of([case], LIMIT, seed)
    outcomes: list[Outcome] = []
    valid: list[Mutation] = []
    for mutation in choose(text, count, Random(f"{seed} {case}")):
        if reason := _refusal(mutation.apply(text)):
            outcomes.append(Outcome(str(case), str(mutation), mutation.kind, "invalid", reason))
        else:
            valid.append(mutation)
    original: Netlist | None = None
    for mutation, reason in zip(valid, _run(case, text, valid, plan), strict=True):
        verdict = "killed"
        if reason is None:
            original = original or read_verilog(text, "original")
            verdict, reason = _explain(original, mutation.apply(text))
        outcomes.append(Outcome(str(case), str(mutation), mutation.kind, verdict, reason))
    return outcomes


def _refusal(text: str) -> str | None:
    """What Icarus has against a mutant."""
    with tempfile.TemporaryDirectory(prefix="atreides-mutant-") as directory:
        source = Path(directory, "mutant.v")
        source.write_text(text, encoding="utf-8")
        command = ["iverilog", "-g2012", "-t", "null", source]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return (ran.stderr.splitlines() or ["refused"])[0] if ran.returncode else None


def _run(case: Case, text: str, valid: Sequence[Mutation], plan: Plan) -> list[str | None]:
    """How each mutant died, None if it lives; all in one harness beside the original."""
    names = [f"mutant{number}" for number in range(len(valid))]
    modules = [
        _rename(mutation.apply(text), name) for mutation, name in zip(valid, names, strict=True)
    ]
    layout = plan.lanes[0].layout
    harness = wrap(["original", *names], layout, clocked=case.clocked)
    try:
        board = compare(
            "\n".join([text, *modules, harness]),
            plan.repeat(1 + len(names)),
            "icarus",
            timeout=PATIENCE[0],
        )
    except SimulationFailed:
        pairs = zip(modules, names, strict=True)
        return [_run_alone(case, module, name, plan) for module, name in pairs]
    if 0 in board.failed_lanes:
        raise RuntimeError(f"{case} must pass unchanged:\n{board.report()}")
    killers = {m.lane: m for m in reversed(board.mismatches)}
    return [
        f"step {killers[lane].step}: {killers[lane].inputs}: got {killers[lane].got}"
        if lane in killers
        else None
        for lane in range(1, 1 + len(names))
    ]


def _run_alone(case: Case, module: str, name: str, plan: Plan) -> str | None:
    """A mutant that oscillates never ends, and would take the others with it."""
    harness = wrap([name], plan.lanes[0].layout, clocked=case.clocked)
    try:
        board = compare(f"{module}\n{harness}", plan, "icarus", timeout=PATIENCE[1])
    except SimulationFailed as error:
        return str(error).splitlines()[0]
    return board.report().splitlines()[0] if board.mismatches else None


def _rename(text: str, name: str) -> str:
    return re.sub(r"^module original\b", f"module {name}", text, count=1, flags=re.MULTILINE)


def _explain(original: Netlist, mutant: str) -> tuple[str, str]:
    """Whether a survivor can be told from the original at all, and by what."""
    try:
        difference = find_difference(original, read_verilog(mutant, "original"))
    except (ValueError, RuntimeError) as error:
        return "survived", f"not decided: {error}"
    if difference is None:
        return "equivalent", "proven equivalent by the solver"
    shown = " ".join(f"{name}={value:#x}" for name, value in difference.items())
    return "survived", f"differs at {shown}"


def select_cases(units: Sequence[str], bits: Sequence[int], seed: int) -> list[Case]:
    """One variant per unit and width, chosen by the seed."""
    chosen = []
    for unit in units:
        for width in bits:
            cases = list(UNITS[unit]((width,)))
            chosen.append(Random(f"{seed} {unit} {width}").choice(cases))
    return chosen


def summarize(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Counts and both rates in percent: with equivalent mutants left out, and with them counted."""
    count = {
        verdict: sum(outcome.verdict == verdict for outcome in outcomes)
        for verdict in ("killed", "survived", "equivalent", "invalid")
    }
    distinct = count["killed"] + count["survived"]
    valid = distinct + count["equivalent"]
    return {
        **count,
        "rate": 100 * count["killed"] / distinct if distinct else 0.0,
        "rate_with_equivalent": 100 * count["killed"] / valid if valid else 0.0,
    }


def main(
    units: Annotated[list[str] | None, typer.Argument(help="Units; all if omitted.")] = None,
    bits: Annotated[list[int] | None, typer.Option(help="Widths; 5 and 8 if omitted.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Mutants per unit and width.")] = 15,
    seed: Annotated[int, typer.Option(help="Of variants, mutants, stimulus.")] = DEFAULT_SEED,
    jobs: Annotated[int, typer.Option(min=1, help="Units at a time.")] = 2,
    report: Annotated[Path | None, typer.Option(help="Write every outcome as JSON.")] = None,
) -> None:
    """Break the units on purpose; exit with 1 unless at least 95 % of the mutants die."""
    units, bits = units or list(UNITS), bits or [5, 8]
    for unit in units:
        if unit not in UNITS:
            raise typer.BadParameter(f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
    for width in bits:
        if width not in ALL_BITS:
            raise typer.BadParameter(f"bits must be {ALL_BITS[0]} to {ALL_BITS[-1]}, not {width!r}")
    if report is not None and not (report.parent.is_dir() and os.access(report.parent, os.W_OK)):
        raise typer.BadParameter(f"report must be in a writable directory, not {str(report)!r}")
    console = Console()
    try:
        simulator_version("icarus")
    except MissingSimulator as error:
        raise typer.BadParameter(str(error)) from None
    outcomes = run_all(select_cases(units, bits, seed), count, seed, jobs, console)
    summary = summarize(outcomes)
    _print(console, outcomes, summary)
    if report is not None:
        data = {"seed": seed, **summary, "outcomes": [asdict(outcome) for outcome in outcomes]}
        unfinished = report.with_name(f".{report.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, report)
    raise typer.Exit(0 if summary["rate"] >= REQUIRED else 1)


def run_all(
    cases: Sequence[Case], count: int, seed: int, jobs: int, console: Console | None = None
) -> list[Outcome]:
    """The outcomes of all cases, in their order whatever the number of jobs."""
    outcomes: list[Outcome] = []
    with Progress(console=console, disable=console is None) as progress:
        task = progress.add_task("mutants", total=len(cases))
        with ThreadPoolExecutor(jobs) as pool:
            for case, found in zip(
                cases, pool.map(lambda c: mutate_case(c, count, seed), cases), strict=True
            ):
                outcomes += found
                progress.update(task, advance=1, description=str(case))
    return outcomes


def _print(console: Console, outcomes: Sequence[Outcome], summary: dict[str, object]) -> None:
    for outcome in outcomes:
        if outcome.verdict in ("survived", "equivalent"):
            console.print(
                f"{outcome.verdict}: {outcome.case}: {outcome.mutation}: {outcome.reason}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    console.print(
        f"{summary['killed']} killed, {summary['survived']} survived, {summary['equivalent']} "
        f"equivalent, {summary['invalid']} invalid: {summary['rate']:.1f} % of the mutants that "
        f"differ died ({summary['rate_with_equivalent']:.1f} % of all valid ones)"
    )


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status; a mistake is one sentence and status 2."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    application.command()(main)
    try:
        status = application(list(arguments), prog_name=PROGRAM, standalone_mode=False)
    except TyperException as error:
        print(f"mutate: {_sentence(error)}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return status if isinstance(status, int) else 0


def _sentence(error: TyperException) -> str:
    """What is wrong; typer puts "Invalid value:" before what names no parameter."""
    named = getattr(error, "param", None) is not None or not hasattr(error, "param")
    message = " ".join((error.format_message() if named else error.message).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    if hasattr(error, "param") or context is None:
        return message
    options = sorted(
        option
        for parameter in context.command.get_params(context)
        for option in parameter.opts
        if option.startswith("--")
    )
    return f"{message}; options are {', '.join(options)}"


if __name__ == "__main__":
    # Units are also made to read their ports, without being elaborated.
    warnings.simplefilter("ignore", UnusedElaboratable)
    sys.exit(run(sys.argv[1:]))
