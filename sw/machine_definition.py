"""What a GEMM means, in slow, obvious integers: the definition that the fast model is held to."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sw.activation import ALL_ACTIVATIONS, drain
from sw.isa import Destination, Flag
from sw.machine_counts import Counts
from sw.machine_gemm import Walk
from sw.machine_operands import ResultRows
from sw.machine_state import Parameters, TileMemory
from sw.registers import AMode, BMode
from sw.scale import BLOCK


def define_rows(
    walk: Walk, memory: TileMemory, parameters: Parameters
) -> tuple[ResultRows, Counts]:
    """As :func:`sw.machine_products.gemm_rows`, one word at a time."""
    words, counts, addresses = [], [], []
    total = Counts()
    for batch in range(walk["G"]):
        for row_tile in range(walk.row_tiles):
            for tile in range(walk.tiles):
                total += _count(walk, memory, batch, row_tile, tile)
                lanes = walk.tile_columns(tile)
                for i in range(walk.tile_rows(row_tile)):
                    m = row_tile * walk.side + i
                    row = [
                        _element(walk, memory, parameters, batch, m, tile, j) for j in range(lanes)
                    ]
                    words.append(row + [0] * (walk.lanes - lanes))
                    counts.append(lanes)
                    addresses.append(_output_address(walk, batch, m, tile))
    return (
        ResultRows(np.array(words, dtype=object), np.array(counts), np.array(addresses)),
        total,
    )


def _terms(walk: Walk) -> Iterator[tuple[int, int, int]]:
    """``(k0, k1, k2)`` of every term, in order."""
    for k2 in range(walk["K2"]):
        for k1 in range(walk["K1"]):
            for k0 in range(walk["K0"]):
                yield k0, k1, k2


def _a(walk: Walk, memory: TileMemory, batch: int, m: int, tile: int) -> list[int]:
    """The words of row m of A."""
    y, x = divmod(m, walk["MX"])
    words = []
    for k0, k1, k2 in _terms(walk):
        address = walk["A_BASE"] + batch * walk["A_G"] + tile * walk["A_N"]
        address += k1 * walk["A_K1"] + k2 * walk["A_K2"]
        if walk.a_mode == AMode.LANES:
            address += x * walk["A_X"] + y * walk["A_Y"] + k0
        else:
            address += m + k0 * walk["A_K0"]
        words.append(int(memory.words[address]))
    return words


def _b_address(walk: Walk, batch: int, tile: int, j: int, k: tuple[int, int, int]) -> int:
    k0, k1, k2 = k
    address = walk["B_BASE"] + batch * walk["B_G"] + tile * walk["B_N"]
    address += k1 * walk["B_K1"] + k2 * walk["B_K2"]
    if walk.b_mode == BMode.SLICES:
        return address + j + k0 * walk["B_K0"]
    return address + j * walk["B_X"] + k0


def _b(walk: Walk, memory: TileMemory, batch: int, tile: int, j: int) -> list[int]:
    """The words of column j of a tile of B."""
    if walk.b_mode != BMode.IDENTITY:
        return [int(memory.words[_b_address(walk, batch, tile, j, k)]) for k in _terms(walk)]
    f = memory.config.format
    words = []
    for k0, k1, _ in _terms(walk):
        shift = walk["B_K1" if k1 else "B_K0"] % 16
        power = f.max_code if shift == 0 else 2 ** (f.fraction_bits - shift)  # all ones: unity
        words.append(int(power) if k0 == j else 0)
    return words


def _element(
    walk: Walk,
    memory: TileMemory,
    parameters: Parameters,
    batch: int,
    m: int,
    tile: int,
    j: int,
) -> int:
    """One result: a word, or a sum with an exact destination."""
    config = memory.config
    f = config.format
    a, b = _a(walk, memory, batch, m, tile), _b(walk, memory, batch, tile, j)
    blocks = walk.blocks
    row = walk["P_ROW"] + batch * walk["P_ROW_G"] + m * blocks
    column = walk["P_COLUMN"] + batch * walk["P_COLUMN_G"] + tile * blocks
    rows = [(row + kb) % config.row_parameters for kb in range(blocks)]
    columns = [(column + kb) % config.parameters for kb in range(blocks)]
    total = f.dot(a, b)
    if walk.has(Flag.BLOCK):
        total = 0
        for kb in range(blocks):
            part = slice(kb * BLOCK, (kb + 1) * BLOCK)
            lift = parameters.row_lifts[rows[kb]] + parameters.column_lifts[columns[kb], j]
            total += f.dot(a[part], b[part]) << int(lift)
        half = 1 << (config.aligned_bits - 1)
        total = (total + half) % (2 * half) - half
    if walk.destination == Destination.EXACT:
        return total
    by_row, by_column = walk.has(Flag.ROW), walk.has(Flag.COLUMN)
    return drain(
        f,
        total,
        row_shift=int(parameters.row_shifts[rows[-1]]) if by_row else 0,
        column_shift=int(parameters.column_shifts[columns[-1], j]) if by_column else 0,
        bias=int(parameters.biases[columns[-1], j]) if by_column else 0,
        bias_format=config.bias_format,
        activation=ALL_ACTIVATIONS[walk.function],
        limit=walk["CLAMP"],
        table=parameters.table,
        output=f if walk.destination == Destination.MEMORY else config.output,
    )


def _output_address(walk: Walk, batch: int, m: int, tile: int) -> int:
    y, x = divmod(m, walk["MX"])
    address = walk["O_BASE"] + batch * walk["O_G"] + tile * walk["O_N"]
    return address + x * walk["O_X"] + y * walk["O_Y"]


def _issued(walk: Walk, memory: TileMemory, batch: int, tile: int) -> list[list[int]]:
    """Of every block of a tile, the terms whose slices are issued."""
    terms = list(_terms(walk))
    wanted = []
    for k in terms:
        zero = False
        if walk.skips:
            segment = _b_address(walk, batch, tile, 0, k) // walk.lanes
            zero = bool(memory.zero_segments[segment])
        wanted.append(not zero)
    length = BLOCK if walk.has(Flag.BLOCK) else len(terms)
    blocks = []
    for start in range(0, len(terms), length):
        block = [k for k in range(start, min(start + length, len(terms))) if wanted[k]]
        if not block:
            end = min(start + length, len(terms))
            block = [max(int(first) for first in walk.chunk_starts if first < end)]
        blocks.append(block)
    return blocks


def _count(walk: Walk, memory: TileMemory, batch: int, row_tile: int, tile: int) -> Counts:
    """What the slices of one tile count for."""
    f = memory.config.format
    rows = range(row_tile * walk.side, row_tile * walk.side + walk.tile_rows(row_tile))
    columns = range(walk.tile_columns(tile))
    lanes = [_a(walk, memory, batch, m, tile) for m in rows]
    lanes += [_b(walk, memory, batch, tile, j) for j in columns]
    blocks = _issued(walk, memory, batch, tile)
    slices = [k for block in blocks for k in block]
    later = [k for block in blocks for k in block[1:]]

    def count(which: list[int], operand: int) -> int:
        return sum(abs(f.operand(lane[k])) == operand for k in which for lane in lanes)

    return Counts(
        macs=len(slices) * len(rows) * len(columns),
        slices=len(slices),
        skipped_slices=walk.terms - len(slices),
        zero_operands=count(slices, 0),
        held_operands=count(later, 0) if memory.config.hold else 0,
        unity_operands=count(slices, 1 << f.fraction_bits),
    )
