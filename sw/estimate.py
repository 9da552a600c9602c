"""The analytic model of a tiled product: cycles from its sizes alone, in closed form.

A slice enters the array per cycle. A chunk of a run takes as many cycles as it has slices, or as
the side that is read in lanes has lanes; a tile as many as its chunks, or as the tile before has
rows to drain. What is paid once per instruction is the first fill and the last drain. The machine
model counts the same cycles slice by slice, the hardware by its counter. With serial control each
part follows the one before: ``sw.serial_gemm``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sw import timing as t
from sw.checks import Gemm, initial_registers
from sw.config import MachineConfig
from sw.isa import Destination, Function, Instruction, Opcode
from sw.machine_gemm import Walk
from sw.registers import AMode, BMode, Register
from sw.serial_gemm import SerialLoops


@dataclass(frozen=True, slots=True)
class Product:
    """The sizes of a product and how its operands are read.

    Parameters
    ----------
    rows, columns : int
        M and N.
    run : int
        Terms along K that are read in one go, K0.
    runs : int
        How many of them there are, K1 * K2.
    a_lanes, b_lanes : bool
        Whether A or B is read in lanes, else in slices.
    destination : Destination
    """

    rows: int
    columns: int
    run: int
    runs: int = 1
    a_lanes: bool = True
    b_lanes: bool = False
    destination: Destination = Destination.MEMORY


def chunks(run: int, vector: int) -> list[int]:
    """The lengths into which a run is cut: none is short unless the run is."""
    lengths = []
    while run:
        lengths.append(vector // 2 if vector < run < vector + vector // 2 else min(run, vector))
        run -= lengths[-1]
    return lengths


def fill_cycles(a_lanes: int, b_lanes: int) -> int:
    """Cycles from the first read to the first slice, of sides with so many lanes, 0 in slices."""
    lanes = max(a_lanes, b_lanes)
    if not lanes:
        return t.SLICE_PUSH - t.READ + t.SHIFT_BUFFER
    return t.LANES_PUSH + t.TRANSPOSED - t.READ + lanes


def compute_cycles(config: MachineConfig, product: Product) -> int:
    """Cycles from the first load to the last result, without skipping or a full result queue.

    With serial control: from the end of the checks on, of operands that lie as closely as they can,
    linear and without parameters.
    """
    if config.control == "serial":
        return SerialLoops(_walk(config, product)).cycles
    lengths = chunks(product.run, config.vector)

    def chunk_cycles(length: int, rows: int, columns: int) -> int:
        return max(length, rows * product.a_lanes, columns * product.b_lanes)

    def tile_cycles(rows: int, columns: int) -> int:
        found = product.runs * sum(chunk_cycles(length, rows, columns) for length in lengths)
        return max(found, rows)

    full_rows, last_rows = divmod(product.rows - 1, config.rows)
    full_columns, last_columns = divmod(product.columns - 1, config.columns)
    last_rows, last_columns = last_rows + 1, last_columns + 1
    busy = (
        full_rows * full_columns * tile_cycles(config.rows, config.columns)
        + full_rows * tile_cycles(config.rows, last_columns)
        + full_columns * tile_cycles(last_rows, config.columns)
        + tile_cycles(last_rows, last_columns)
    )
    first_rows = min(product.rows, config.rows)
    first_columns = min(product.columns, config.columns)
    fill = fill_cycles(first_rows * product.a_lanes, first_columns * product.b_lanes)
    drain = t.Timing(config).row_latency(product.destination) + last_rows - 1
    return fill + busy + drain


def _walk(config: MachineConfig, product: Product) -> Walk:
    """The product as a GEMM."""
    tiles, last = divmod(product.columns - 1, config.columns)
    registers = {
        **initial_registers(config),
        Register.MX: product.rows,
        Register.K0: product.run,
        Register.K1: product.runs,
        Register.NT: tiles + 1,
        Register.NL: last + 1,
        Register.A_MODE: AMode.LANES if product.a_lanes else AMode.SLICES,
        Register.B_MODE: BMode.LANES if product.b_lanes else BMode.SLICES,
        Register.A_K0: product.rows,
        Register.B_K0: product.columns,
    }
    instruction = Instruction(Opcode.GEMM, (product.destination, Function.LINEAR, 0))
    return Walk(Gemm(instruction, registers, config))
