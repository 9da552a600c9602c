"""What a planner must plan, by nested loops over the instruction set's address formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sw.config import MachineConfig
from sw.registers import REGISTERS

LANES, SLICES, IDENTITY = 0, 1, 2


@dataclass(frozen=True)
class Product:
    """One GEMM: registers by name, and the two flags that change its plan."""

    config: MachineConfig
    registers: dict[str, int]
    skip: bool = False
    blocks: bool = False

    def __getattr__(self, name: str) -> int:
        try:
            return self.registers[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def rows(self) -> int:
        return self.mx * self.my

    @property
    def terms(self) -> int:
        return self.k0 * self.k1 * self.k2

    @property
    def skips(self) -> bool:
        """Whether SKIP has an effect."""
        aligned = all(
            self.registers[name] % self.config.columns == 0
            for name in ("b_base", "b_k1", "b_k2", "b_n", "b_g")
        )
        in_slices = self.b_mode == 0 and self.b_k0 == self.config.columns
        return self.skip and self.config.columns.bit_count() == 1 and in_slices and aligned


def defaults(config: MachineConfig) -> dict[str, int]:
    """All registers as a program starts."""
    return {r.name.lower(): d.kind.default(config) for r, d in REGISTERS.items()}


@dataclass
class Chunk:
    """One chunk of both sides and where it stands."""

    g: int
    m: int
    t: int
    k: list[tuple[int, int, int]]  # (k2, k1, k0) of its slices
    block: int
    end: bool
    bitmap: int = 0
    first: bool = False
    last: bool = False


def chunk_lengths(remaining: int, vector: int) -> Iterator[int]:
    """How a run is cut."""
    while remaining:
        in_between = vector < remaining < vector + vector // 2
        length = vector // 2 if in_between else min(remaining, vector)
        yield length
        remaining -= length


def all_chunks(p: Product) -> Iterator[Chunk]:
    """Every chunk in order, before any is dropped."""
    config = p.config
    step = 32 if p.blocks else p.k0
    for g in range(p.g):
        for m in range(0, p.rows, config.rows):
            for t in range(p.nt):
                for k2 in range(p.k2):
                    for k1 in range(p.k1):
                        for start in range(0, p.k0, step):
                            k0, stop = start, min(start + step, p.k0)
                            for length in chunk_lengths(stop - start, config.vector):
                                run = [(k2, k1, k) for k in range(k0, k0 + length)]
                                k0 += length
                                end = k0 == stop
                                if not p.blocks:
                                    end = end and (k2, k1) == (p.k2 - 1, p.k1 - 1)
                                yield Chunk(g, m, t, run, start // step * p.blocks, end)


def zero_slices(p: Product, zero: Callable[[int], bool], c: Chunk) -> list[bool]:
    """Per slice of a chunk, whether its segment of B is all zero and may be skipped."""
    if not p.skips:
        return [False] * len(c.k)
    address = b_address(p, c.g, c.t, 0, c.k[0]) % (1 << p.config.address_bits)
    return [zero(address // p.config.columns + i) for i in range(len(c.k))]


def plan(p: Product, zero: Callable[[int], bool]) -> tuple[list[Chunk], list[Chunk]]:
    """All chunks with their bitmaps (0 if dropped), and those that are kept."""
    walked, kept = list(all_chunks(p)), []
    tile: list[Chunk] = []
    for chunk in walked:
        is_zero = zero_slices(p, zero, chunk)
        chunk.bitmap = sum((not bit) << i for i, bit in enumerate(is_zero))
        tile.append(chunk)
        if chunk.end:
            rest = [c for c in tile if c.bitmap] or [chunk]
            chunk.bitmap = chunk.bitmap or int(rest == [chunk])
            rest[0].first = rest[-1].last = True
            kept += rest
            tile = []
    return walked, kept


def a_address(p: Product, g: int, t: int, row: int, k: tuple[int, int, int]) -> int:
    """Of a word of A."""
    k2, k1, k0 = k
    address = p.a_base + g * p.a_g + t * p.a_n + k1 * p.a_k1 + k2 * p.a_k2
    if p.a_mode == 1:
        return address + row + k0 * p.a_k0
    return address + row % p.mx * p.a_x + row // p.mx * p.a_y + k0


def b_address(p: Product, g: int, t: int, column: int, k: tuple[int, int, int]) -> int:
    """Of a word of B, in memory."""
    k2, k1, k0 = k
    address = p.b_base + g * p.b_g + t * p.b_n + k1 * p.b_k1 + k2 * p.b_k2
    if p.b_mode == 1:
        return address + column * p.b_x + k0
    return address + column + k0 * p.b_k0


def a_chunk(p: Product, c: Chunk) -> dict[str, int]:
    """The fields of a chunk of side A, but for ``stride`` where nothing reads it."""
    first_row = 0 if p.a_mode == 0 else c.m
    last_tile = c.t == p.nt - 1 and last_block(p, c)
    fields = {
        "mode": LANES if p.a_mode == 0 else SLICES,
        "address": a_address(p, c.g, c.t, first_row, c.k[0]) % (1 << p.config.address_bits),
        "lanes": min(p.rows - c.m, p.config.rows),
        "bitmap": c.bitmap,
        "lowest": bin(c.bitmap)[::-1].index("1"),
        "alone": int(c.bitmap.bit_count() == 1),
        "first": int(c.first),
        "last": int(c.last),
        "reset": int(c.first and c.m == 0 and c.t == 0 and c.block == 0),
        "advance": int(c.last and last_tile),
    }
    return fields | ({"stride": p.a_k0} if p.a_mode == 1 else {})


def b_chunk(p: Product, c: Chunk) -> dict[str, int]:
    """The fields of a chunk of side B."""
    mode = {0: SLICES, 1: LANES, 2: IDENTITY}[p.b_mode]
    if mode == IDENTITY:
        _, k1, k0 = c.k[0]
        address = p.config.vector // 2 if k0 else 0
        stride = p.b_k1 if k1 else p.b_k0
    else:
        address = b_address(p, c.g, c.t, 0, c.k[0]) % (1 << p.config.address_bits)
        stride = p.b_x if mode == LANES else p.b_k0
    return {
        "mode": mode,
        "address": address,
        "stride": stride,
        "lanes": columns_of(p, c),
        "bitmap": c.bitmap,
        "lowest": bin(c.bitmap)[::-1].index("1"),
        "alone": int(c.bitmap.bit_count() == 1),
        "first": int(c.first),
        "last": int(c.last),
        "reset": 0,
        "advance": 0,
    }


def columns_of(p: Product, c: Chunk) -> int:
    return p.nl if c.t == p.nt - 1 else p.config.columns


def last_block(p: Product, c: Chunk) -> bool:
    return not p.blocks or c.block == (p.terms - 1) // 32


def tile_record(p: Product, c: Chunk) -> dict[str, int]:
    """The record that goes with a tile's (or block's) first chunk."""
    blocks = -(-p.terms // 32) if p.blocks else 1
    column = p.p_column + c.g * p.p_column_g + c.t * blocks + c.block
    row = p.p_row + c.g * p.p_row_g + c.m * blocks + c.block
    offset = p.o_base + c.g * p.o_g + c.t * p.o_n
    ends = last_block(p, c) and c.t == p.nt - 1
    row_entries = p.config.row_parameters
    modulus = 1 << max(1, (row_entries - 1).bit_length())
    return {
        "rows": min(p.rows - c.m, p.config.rows),
        "columns": columns_of(p, c),
        "column_entry": column % p.config.parameters,
        "row_entry": row % row_entries,
        "row_stride": blocks % modulus,
        "offset": offset % (1 << p.config.address_bits),
        "reset": int(c.m == 0 and c.t == 0),
        "advance": int(ends),
        "first_block": int(c.block == 0),
        "last_block": int(last_block(p, c)),
        "last": int(ends and c.m + p.config.rows >= p.rows and c.g == p.g - 1),
    }
