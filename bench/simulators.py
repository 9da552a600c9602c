"""Cycles per second of the simulators: ``python -m bench.simulators [options]``.

The Verilator back end is timed beside the least C++ there can be: a loop that clocks the same
verilated model through the same program, with its words already in the loop. The program is one
GEMM that keeps the array busy. Icarus and Amaranth run a shorter one.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.arguments import Parser, count
from bench.timing import machine, write_json
from sim import machine_verilator
from sim.machine_backends import execute
from sim.machine_design import Design, design
from sim.machine_job import Job
from sim.machine_session import Session
from sw.config import MachineConfig
from sw.isa import Destination, Instruction, Opcode, encode
from sw.machine_state import Parameters
from sw.registers import Counter, Register

#: Nothing but clock and program: what a person would write in ten minutes.
MINIMAL: Final = """
#include "Vatreides.h"
#include <cstdio>
static const unsigned words[] = {%(words)s};
int main() {
    Vatreides top;
    top.results_ready = top.status_ready = top.rst = 1;
    unsigned long cycles = 0, next = 0;
    for (int i = 0; i < 4; ++i) { top.clk = i & 1; top.eval(); }
    top.rst = 0;
    do {
        top.instructions_valid = next < %(count)s;
        top.instructions_payload = words[next < %(count)s ? next : 0];
        top.clk = 0; top.eval();
        next += top.instructions_valid && top.instructions_ready;
        const bool done = top.status_valid;
        top.clk = 1; top.eval();
        ++cycles;
        if (done) break;
    } while (true);
    std::printf("%%lu\\n", cycles);
}
"""
TARGET: Final = 1.5


def job(config: MachineConfig, batches: int) -> Job:
    """A GEMM of 64 x 64 by 64 x as much as fits, over and over; the rows leave on the stream."""
    side = 64
    tiles = side // config.columns
    panel = side * config.columns
    registers = {
        **{Register.MX: side, Register.K0: side, Register.NT: tiles, Register.G: batches},
        **{Register.A_X: side, Register.B_BASE: side * side},
        **{Register.B_K0: config.columns, Register.B_N: panel},
        **{Register.O_BASE: 2 * side * side, Register.O_X: side, Register.O_N: config.columns},
    }
    made = [Instruction(Opcode.SET, pair) for pair in registers.items()]
    made.append(Instruction(Opcode.GEMM, (int(Destination.MEMORY), 0, 0)))
    words = tuple(word for instruction in made for word in encode(instruction))
    random = np.random.default_rng(1)
    memory = random.integers(0, 1 << config.bits, config.memory_words, dtype=np.uint16)
    return Job(config, words, memory, Parameters(config))


def seconds_of(run: Callable[[], int], repeats: int) -> tuple[float, int]:
    """The median seconds of a run, and the cycles it says it took."""
    run()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        cycles = run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), cycles


def verilator(made: Design, work: Job) -> Callable[[], int]:
    """The back end's driver, as ``atreides run`` calls it: load, run, read back, take apart."""
    session = Session(made.ports, [work])
    driver = machine_verilator.build(made)

    def run() -> int:
        found = machine_verilator.run(driver, made.ports, session.phases(), None, 1 << 40)
        session.results(found)
        return found.cycles

    return run


def minimal(made: Design, work: Job) -> Callable[[], int]:
    """The least C++ around the same model; memory holds what reset leaves there."""
    words = list(Session(made.ports, [work]).program(work))
    text = MINIMAL % {"words": ",".join(map(str, words)), "count": len(words)}
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "minimal.cpp")
        source.write_text(text)
        program = machine_verilator.build(made, driver=source)
    return lambda: int(subprocess.check_output([str(program)]))


def python_back_end(name: str, work: Job) -> Callable[[], int]:
    """A back end with Python in every cycle; its cycles are those of the program alone."""
    return lambda: execute([work], name)[0].report[Counter.CYCLES]


def main() -> None:
    parser = Parser("simulators", __doc__ or "")
    for name, value in (("bits", 16), ("rows", 8), ("columns", 8), ("batches", 200)):
        parser.add_argument(f"--{name}", type=count, default=value)
    parser.add_argument("--repeats", type=count, default=5)
    given = parser.parse_args()
    slots = -(-3 * 64 * 64 // (given.rows * given.columns))
    try:
        config = MachineConfig(bits=given.bits, rows=given.rows, columns=given.columns, slots=slots)
    except ValueError as error:
        parser.error(str(error))
    made = design(config)
    long, short = job(config, given.batches), job(config, 1)
    rows: dict[str, Any] = {}
    for name, run, repeats in (
        ("minimal C++", minimal(made, long), given.repeats),
        ("verilator", verilator(made, long), given.repeats),
        ("icarus", python_back_end("icarus", short), 1),
        ("amaranth", python_back_end("amaranth", short), 1),
    ):
        seconds, cycles = seconds_of(run, repeats)
        rows[name] = {"seconds": seconds, "cycles": cycles, "cycles_per_second": cycles / seconds}
        print(f"{name:12} {cycles:>10,} cycles {cycles / seconds:>12,.0f} per second", flush=True)
    fastest = rows["minimal C++"]["cycles_per_second"]
    ratio = fastest / rows["verilator"]["cycles_per_second"]
    print(f"the back end takes {ratio:.2f} times the least C++ (target: {TARGET})")
    found = {"machine": machine(), "config": str(config), "rows": rows, "ratio": ratio}
    write_json(Path("build/bench/simulators.json"), found)


if __name__ == "__main__":
    main()
