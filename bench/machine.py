"""How fast the machine model runs: exact multiply-accumulates per second, counters and cycles too.

    python -m bench.machine [--size 512] [--repeats 5]

Prints a table and writes build/bench/machine.json. Each timed call runs a whole program: SETs and
one GEMM of size^3, operands in tile memory; words, every counter and the cycles are all inside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.timing import machine, medians, write_json
from sw.config import MachineConfig
from sw.isa import Destination, Flag, Function, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_report import Report
from sw.registers import Counter, Register


def product(config: MachineConfig, size: int, destination: Destination, flags: int) -> list[int]:
    """A program: one product of square matrices, A row-major, B in panels of ``columns``."""
    registers = {
        Register.MX: size,
        Register.K0: size,
        Register.NT: size // config.columns,
        Register.A_X: size,
        Register.B_BASE: size * size,
        Register.B_K0: config.columns,
        Register.B_N: config.columns * size,
        Register.O_BASE: 2 * size * size,
        Register.O_X: size,
        Register.O_N: config.columns,
    }
    words: list[int] = []
    for register, value in registers.items():
        words += encode(Instruction(Opcode.SET, (register, value)))
    function = Function.LINEAR if destination == Destination.EXACT else Function.RELU
    return [*words, *encode(Instruction(Opcode.GEMM, (destination, function, flags)))]


def loaded(config: MachineConfig, size: int, zeros: float) -> Machine:
    """A machine with random operands; a share of B's segments is zero."""
    generator = np.random.default_rng(0)
    words = generator.integers(0, 1 << config.bits, 2 * size * size)
    segments = words[size * size :].reshape(-1, config.columns)
    segments[generator.random(len(segments)) < zeros] = 0
    made = Machine(config)
    made.load(words)
    return made


def main() -> None:
    parser = Parser("machine", __doc__ or "")
    parser.add_argument("--size", type=count, default=512, help="M, K and N, a multiple of 16")
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("-o", "--output", type=writable, default="build/bench/machine.json")
    options = parser.parse_args()
    size = options.size
    if size < 16 or size % 16:
        parser.error(f"size must be a multiple of 16, not {size}")
    rows: dict[str, Callable[[], object]] = {}
    reports: dict[str, Report] = {}
    for bits, side, destination, zeros in (
        (16, 8, Destination.MEMORY, 0.0),
        (16, 8, Destination.STREAM, 0.0),
        (16, 8, Destination.EXACT, 0.0),
        (16, 8, Destination.MEMORY, 0.5),
        (8, 8, Destination.MEMORY, 0.0),
        (4, 8, Destination.MEMORY, 0.0),
        (16, 16, Destination.MEMORY, 0.0),
    ):
        config = MachineConfig(
            bits=bits, rows=side, columns=side, slots=3 * size * size // (side * side)
        )
        made = loaded(config, size, zeros)
        words = product(config, size, destination, Flag.SKIP if zeros else 0)
        name = f"SF{bits} {side}x{side} to {destination.name.lower()}"
        if zeros:
            name += f", {zeros:.0%} of B's segments zero"
        reports[name] = made.run(words)
        rows[name] = lambda made=made, words=words: made.run(words)
    seconds = medians(rows, options.repeats)
    table = Table("", "s", "M products/s", "cycles", "array busy")
    results = []
    for name, taken in seconds.items():
        report = reports[name]
        rate = size**3 / taken
        busy = report[Counter.SLICES] / report[Counter.COMPUTE_CYCLES]
        counters = {counter.name.lower(): report[counter] for counter in Counter}
        results.append(
            {"name": name, "seconds": taken, "products_per_second": rate, "counters": counters}
        )
        table.add_row(name, f"{taken:.3f}", f"{rate / 1e6:.0f}", str(report.cycles), f"{busy:.2%}")
    Console().print(table)
    write_json(Path(options.output), {"machine": machine(), "size": size, "rows": results})


if __name__ == "__main__":
    main()
