"""Stimulus and expected words of a top's testbench, from the model: a process of its own.

``python -m sim.fusesoc_stimulus TOP`` reads options of ``hw.tops`` as JSON and writes JSON:
``hw.build`` asks so for what hardware must not compute itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Final

from hw.fusesoc import Beats, Steps
from hw.machine import make_machine
from hw.shift_register import ShiftRegister
from hw.tops import Options, build_top
from sim.case import DEFAULT_SEED, Case, plan_of
from sim.clocked_units import accumulate, draw_terms, shift
from sim.machine_job import Job
from sim.machine_model import run_model
from sim.machine_ports import Ports
from sim.machine_session import Session
from sim.machine_stimulus import Stimulus
from sim.plan import StreamLane, rows_of
from sim.stimulus import Operand, number_operand, word_operand
from sim.units import UNITS, cycle_count_case, drain_case
from sw.machine_report import ResultRow
from sw.machine_state import Parameters
from sw.registers import Counter, ResultKind

#: Steps or tokens of a unit, and instructions of the machine's program.
LIMIT: Final = 500
INSTRUCTIONS: Final = 40
#: Rows that it should send, and how many programs are tried for one without a fault that does.
ROWS: Final = 8
_TRIES: Final = 50
MACHINE: Final = "atreides"
#: Tops whose stimulus is another one's program: no testbench of their own.
WITHOUT: Final = ("coprocessor",)
#: Tops that are called otherwise among the units.
_NAMES: Final = {"sfx-to-binary32": "to-binary32"}


def stimulus_of(top: str, options: Options) -> Steps | Beats | None:
    """What a top's testbench drives and expects; None if it has none.

    Parameters
    ----------
    top : str
    options : Options
    """
    if top in WITHOUT:
        return None
    if top == MACHINE:
        return _machine(options)
    plan = plan_of([case_of(top, options)], LIMIT)
    (lane,) = plan.lanes
    if isinstance(lane, StreamLane):
        width = {f.name: f.width for f in lane.layout.outputs}
        return Beats(
            {name: [(token, 0) for token in tokens] for name, tokens in lane.sent.items()},
            {
                name: [(token, (1 << width[f"{name}_payload"]) - 1) for token in tokens]
                for name, tokens in lane.expected.items()
            },
        )
    rows = rows_of(plan)
    return Steps(rows.inputs, rows.expected, rows.mask, list(plan.resets))


def case_of(top: str, options: Options) -> Case:
    """The unit under these options, with its model."""
    format, build = options.format, lambda: build_top(top, options)
    if top == "drain":
        made = drain_case(
            *(format, options.rounding, options.output_format, options.bias_format),
            options.max_terms,
        )
        return replace(made, build=build)
    if top == "cycle-count":
        return cycle_count_case(options.size_bits)
    if top == "mac":
        return _mac(options)
    if top == "shift-register":
        return _shift_register(options)
    for case in UNITS[_NAMES.get(top, top)]([options.bits]):
        wanted = {"unity": options.unity, "rounding": options.rounding}
        if all(case.parameters.get(name, value) == value for name, value in wanted.items()):
            return replace(case, build=build)
    raise AssertionError(f"{top} must have a model")


def _mac(options: Options) -> Case:
    format = options.format
    bits = format.accumulator_bits(options.max_terms)

    def model(cycles: Any) -> Iterator[dict[str, int | None]]:
        for outputs in accumulate(format, 0, cycles):
            total = outputs["accumulator"]  # a sum of more than K_max terms wraps
            yield {"accumulator": None if total is None else total % (1 << bits)}

    return Case(
        "mac",
        {},
        lambda: build_top("mac", options),
        (
            *(word_operand("a", format), word_operand("b", format)),
            *(Operand("first", 1), Operand("valid", 1)),
        ),
        model=model,
        draw=lambda random: draw_terms(random, format),
    )


def _shift_register(options: Options) -> Case:
    lanes, depth, bits = options.rows, options.depth, options.bits
    return Case(
        "shift-register",
        {},
        lambda: ShiftRegister(lanes, depth, bits),
        (number_operand("i", lanes * bits), Operand("enable", 1)),
        model=lambda cycles: shift(lanes, depth, bits, cycles),
    )


def _machine(options: Options) -> Beats:
    """A random program, if one is soon found without a fault: its rows, status and memory."""
    config = options.machine
    for seed in range(DEFAULT_SEED, DEFAULT_SEED + _TRIES):
        found = Stimulus(config, seed)
        job = Job(config, found.job(INSTRUCTIONS).words, found.memory(), Parameters(config))
        result = run_model(job)
        if not result.report.fault and len(result.report.results) >= ROWS:
            break
    component = make_machine(config)
    ports = Ports.of(component)
    component._Elaboratable__used = True  # type: ignore[attr-defined]  # only its ports are wanted
    load, program, read = Session(ports, [job]).phases()
    lane, columns = config.result_bits, config.columns
    widths = {ResultKind.WORDS: config.output.bits, ResultKind.EXACT: lane}
    rows = [_beat(ports, row, lane, widths[row.kind]) for row in result.report.results]
    words = [result.memory[n : n + columns].tolist() for n in range(0, len(result.memory), columns)]
    replies = [
        _beat(ports, ResultRow(ResultKind.READ, tuple(data), True), lane, config.bits)
        for data in words
    ]
    status = ports.pack(
        "status", fault=int(result.report.fault), counter=int(result.report.counter)
    )
    before = len(rows) + 1
    requests = read.host[len(Counter) :]  # counters depend on when rows are taken
    return Beats(
        {
            "host": [(p, 0) for p in load.host] + [(p, before) for p in requests],
            "instructions": [(p, 0) for p in program.instructions],
        },
        {
            "results": [*rows, *replies],
            "status": [(status, (1 << ports.width("status")) - 1)],
        },
    )


def _beat(ports: Ports, row: ResultRow, lane: int, bits: int) -> tuple[int, int]:
    """A beat of the result stream: of each lane the bits of its value count."""
    field = ports.field("results", "data")
    ones = (1 << bits) - 1
    data = sum((value & ones) << lane * place for place, value in enumerate(row.data))
    beat = ports.pack("results", kind=int(row.kind), count=row.count, last=int(row.last), data=data)
    counted = sum(ones << lane * place for place in range(row.count))
    others = (1 << ports.width("results")) - 1 & ~(((1 << field.width) - 1) << field.offset)
    return beat, others | counted << field.offset


def main() -> None:
    """Answer ``hw.build``."""
    found = stimulus_of(sys.argv[1], Options(**json.load(sys.stdin)))
    print(json.dumps(None if found is None else {type(found).__name__: asdict(found)}))


if __name__ == "__main__":
    main()
