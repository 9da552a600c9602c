"""How busy the array is, by the machine's own counters in RTL simulation under Verilator.

    python -m bench.utilisation [--bits 8] [--quick]

Operands lie in tile memory, A row-major, B in panels; ragged shapes, matrix-vector products and a
convolution's short runs too. For every shape: the counter COMPUTE_CYCLES of the RTL (first load to
last result), the same of the machine model, the closed form of ``sw.estimate``; the share of these
cycles in which a slice entered the array, and the share of the array's peak in multiply-
accumulates. Prints a table and writes build/bench/utilisation.json.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.timing import machine, write_json
from sim.machine_backends import execute
from sim.machine_job import Job, Result
from sw.config import MachineConfig
from sw.estimate import Product, compute_cycles
from sw.isa import Destination, Function, Instruction, Opcode, encode
from sw.machine_state import Parameters
from sw.registers import Counter, Register


@dataclass(frozen=True)
class Shape:
    """M x K x N, the terms in ``runs`` runs that lie apart."""

    name: str
    rows: int
    terms: int
    columns: int
    runs: int = 1


SHAPES = (
    Shape("64^3", 64, 64, 64),
    Shape("128^3", 128, 128, 128),
    Shape("256 x 192 x 512", 256, 192, 512),
    Shape("ragged 61 x 59 x 67", 61, 59, 67),
    Shape("ragged 100 x 300 x 10", 100, 300, 10),
    Shape("short sums 128 x 5 x 128", 128, 5, 128),
    Shape("matrix-vector 1 x 512 x 512", 1, 512, 512),
    Shape("matrix-vector 512 x 512 x 1", 512, 512, 1),
    Shape("3x3 convolution, 3 channels, 256 x 27 x 16", 256, 27, 16, runs=3),
    Shape("3x3 convolution, 16 channels, 256 x 144 x 16", 256, 144, 16, runs=3),
)
SIDES = (8, 16)


def program(config: MachineConfig, shape: Shape) -> tuple[list[int], int]:
    """The words, and how many words of memory they reach."""
    tiles = -(-shape.columns // config.columns)
    run = shape.terms // shape.runs
    b = shape.rows * shape.terms
    output = b + tiles * config.columns * shape.terms
    registers = {
        Register.MX: shape.rows,
        Register.K0: run,
        Register.K1: shape.runs,
        Register.NT: tiles,
        Register.NL: shape.columns - (tiles - 1) * config.columns,
        Register.A_X: shape.terms,
        Register.A_K1: run,
        Register.B_BASE: b,
        Register.B_K0: config.columns,
        Register.B_K1: config.columns * run,
        Register.B_N: config.columns * shape.terms,
        Register.O_BASE: output,
        Register.O_X: shape.columns,
        Register.O_N: config.columns,
    }
    words: list[int] = []
    for register, value in registers.items():
        words += encode(Instruction(Opcode.SET, (register, value)))
    words += encode(Instruction(Opcode.GEMM, (Destination.MEMORY, Function.LINEAR, 0)))
    return words, output + shape.rows * tiles * config.columns


def jobs(side: int, bits: int, shapes: tuple[Shape, ...]) -> list[Job]:
    """A job per shape, all on a machine that is large enough for each."""
    small = MachineConfig(bits=bits, rows=side, columns=side)
    reach = max(program(small, shape)[1] for shape in shapes)
    config = MachineConfig(bits=bits, rows=side, columns=side, slots=-(-reach // side**2))
    generator = np.random.default_rng(0)
    memory = generator.integers(0, 1 << bits, config.memory_words, dtype=np.uint16)
    parameters = Parameters(config)
    return [Job(config, tuple(program(config, s)[0]), memory, parameters) for s in shapes]


def row(job: Job, shape: Shape, found: Result, modelled: Result) -> dict[str, object]:
    """One line of the table; the model and the RTL must agree."""
    config = job.config
    if found.report != modelled.report or (found.memory != modelled.memory).any():
        sys.exit(f"bench.utilisation: model and RTL differ at {shape.name}")
    cycles = found.report[Counter.COMPUTE_CYCLES]
    run = shape.terms // shape.runs
    form = compute_cycles(config, Product(shape.rows, shape.columns, run, shape.runs))
    peak = config.rows * config.columns * cycles
    return {
        "array": f"{config.rows}x{config.columns}",
        "shape": shape.name,
        "rtl_cycles": cycles,
        "model_cycles": modelled.report[Counter.COMPUTE_CYCLES],
        "closed_form": form,
        "difference": form / cycles - 1,
        "slices_per_cycle": found.report[Counter.SLICES] / cycles,
        "macs_per_peak": found.report[Counter.MACS] / peak,
    }


def main() -> None:
    parser = Parser("utilisation", __doc__ or "")
    parser.add_argument("--bits", type=count, default=8)
    parser.add_argument("--quick", action="store_true", help="without the largest shape")
    parser.add_argument("-o", "--output", type=writable, default="build/bench/utilisation.json")
    options = parser.parse_args()
    try:
        MachineConfig(bits=options.bits)
    except ValueError as error:
        parser.error(str(error))
    shapes = tuple(s for s in SHAPES if not options.quick or s.rows * s.terms * s.columns < 1 << 23)
    rows = []
    for side in track(SIDES, "arrays", transient=True):
        wanted = jobs(side, options.bits, shapes)
        found, modelled = execute(wanted, "verilator"), execute(wanted, "model")
        rows += [row(*parts) for parts in zip(wanted, shapes, found, modelled, strict=True)]
    table = Table("array", "M x K x N", "RTL", "model", "closed form", "slices/cycle", "MACs/peak")
    for found_row in rows:
        table.add_row(
            *(str(found_row[name]) for name in ("array", "shape", "rtl_cycles", "model_cycles")),
            f"{found_row['closed_form']} ({found_row['difference']:+.2%})",
            *(f"{found_row[name]:.2%}" for name in ("slices_per_cycle", "macs_per_peak")),
        )
    Console().print(table)
    write_json(Path(options.output), {"machine": machine(), "bits": options.bits, "rows": rows})


if __name__ == "__main__":
    main()
