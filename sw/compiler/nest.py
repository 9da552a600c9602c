"""Loops over rows, terms, columns and batches of a product, and the GEMMs that run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import prod
from typing import Final

from sw.compiler.program import Operation
from sw.compiler.schedule import Collect
from sw.config import COUNT_BITS, MachineConfig
from sw.estimate import chunks
from sw.isa import Destination, Flag, Function, Instruction, Opcode
from sw.registers import AMode, BMode, Register

#: The largest count that a register holds, and the largest M, N and K.
MAX_COUNT: Final = (1 << COUNT_BITS) - 1
#: What a GEMM costs besides its slices, in cycles: its SETs, the first fill and the last drain.
OVERHEAD: Final = 60


@dataclass(frozen=True, slots=True)
class Loop:
    """How often, and what a step adds to the addresses of A, B, output and parameter entry."""

    count: int
    a: int = 0
    b: int = 0
    o: int = 0
    p: int = 0

    def holds(self, inner: Loop) -> bool:
        """Whether a step of this loop goes on where the inner loop ends."""
        steps = ((self.a, inner.a), (self.b, inner.b), (self.o, inner.o), (self.p, inner.p))
        return all(mine == inner.count * its for mine, its in steps)


@dataclass(frozen=True, slots=True)
class Nest:
    """A product as loops of any number, outer first, as :func:`lower` takes it.

    Parameters
    ----------
    layer : str
    rows : tuple of Loop
        Steps of A and output. Of a nest that sends exact sums the output's steps are flat rows of
        the layer's output.
    terms : tuple of Loop
        Steps of A and B; at most three.
    columns : int
    a, b, o : int
        Addresses; ``o`` of exact sums is the first flat row.
    batches : tuple of Loop
    a_tile, b_tile : int
        Added to the addresses per column tile; the output's is ``config.columns``.
    lane : int
        From one column of B to the next if B is read in lanes.
    a_mode, b_mode
        IDENTITY: the instruction is ADD, and terms' b are shifts.
    entry : int or None
        The parameter entry of the first column tile.
    destination : Destination
    function : Function
    clamp : int
        The word in CLAMP.
    skip : bool
    column : int
        First channel of exact sums in the output.
    pixels : int
        Rows of an image of the output, for exact sums.
    accumulate : bool
    """

    layer: str
    rows: tuple[Loop, ...]
    terms: tuple[Loop, ...]
    columns: int
    a: int
    b: int
    o: int
    batches: tuple[Loop, ...] = ()
    a_tile: int = 0
    b_tile: int = 0
    lane: int = 0
    a_mode: AMode = AMode.LANES
    b_mode: BMode = BMode.SLICES
    entry: int | None = None
    destination: Destination = Destination.MEMORY
    function: Function = Function.LINEAR
    clamp: int = 0
    skip: bool = False
    column: int = 0
    pixels: int = 1
    accumulate: bool = False


def lower(nest: Nest, config: MachineConfig) -> list[Operation]:
    """The GEMMs of a nest, in few cycles: which loops are rows, and which batches, is chosen."""
    limit = MAX_COUNT // config.columns * config.columns
    if nest.columns > limit:
        return [o for part in _column_parts(nest, limit, config) for o in lower(part, config)]
    wide = next((i for i, loop in enumerate(nest.rows) if loop.count > MAX_COUNT), None)
    if wide is not None:
        return [o for part in _row_parts(nest, wide) for o in lower(part, config)]
    _, inner, batch, outer = _best(nest, config)
    return [_operation(nest, inner, batch, a, b, o, p, config) for a, b, o, p in _offsets(outer)]


def cycles(nests: Sequence[Nest], config: MachineConfig) -> int:
    """About how long nests take, for choosing among them."""
    return sum(_best(nest, config)[0] for nest in nests)


def merge(loops: Sequence[Loop], limit: int = MAX_COUNT) -> tuple[Loop, ...]:
    """The same steps in fewer loops: none of a single step, none that another can take on."""
    found: list[Loop] = []
    for loop in loops:
        if loop.count == 1:
            continue
        if found and found[-1].holds(loop) and found[-1].count * loop.count <= limit:
            found[-1] = replace(loop, count=found[-1].count * loop.count)
        else:
            found.append(loop)
    return tuple(found)


def tile_cycles(nest: Nest, config: MachineConfig, rows: int, columns: int) -> int:
    """Cycles of one tile, by the closed form of :mod:`sw.estimate`."""
    *outer, run = _terms(nest)
    lanes_a = rows * (nest.a_mode == AMode.LANES)
    lanes_b = columns * (nest.b_mode == BMode.LANES)
    found = sum(max(length, lanes_a, lanes_b) for length in chunks(run.count, config.vector))
    return max(prod(loop.count for loop in outer) * found, rows)


def _terms(nest: Nest) -> tuple[Loop, ...]:
    if nest.b_mode == BMode.IDENTITY:
        return nest.terms
    found = merge(nest.terms)
    inner = found[-1] if found else Loop(1, 0, 0)
    a_fits = nest.a_mode == AMode.SLICES or inner.a == 1
    b_fits = nest.b_mode == BMode.SLICES or inner.b == 1
    if not found or not (a_fits and b_fits):
        found = (*found, Loop(1, 1, 1))
    return found


def _busy(nest: Nest, config: MachineConfig, rows: int) -> int:
    full_rows, last_rows = divmod(rows - 1, config.rows)
    full, last = divmod(nest.columns - 1, config.columns)
    return sum(
        tiles * column_tiles * tile_cycles(nest, config, side, lanes)
        for tiles, side in ((full_rows, config.rows), (1, last_rows + 1))
        for column_tiles, lanes in ((full, config.columns), (1, last + 1))
        if tiles and column_tiles
    )


Choice = tuple[int, tuple[Loop, ...], Loop, tuple[Loop, ...]]


def _best(nest: Nest, config: MachineConfig) -> Choice:
    """Cycles, the loops that are rows (at most two), the batch, and loops of whole GEMMs."""
    rows = merge(nest.rows)
    best: Choice | None = None
    for inner in _row_choices(nest, rows):
        rest = merge([*nest.batches, *(loop for loop in rows if loop not in inner)])
        count = prod(loop.count for loop in inner)
        busy = _busy(nest, config, count)
        for batch in rest or (Loop(1),):
            outer = tuple(loop for loop in rest if loop is not batch)
            total = prod(loop.count for loop in outer) * (batch.count * busy + OVERHEAD)
            if batch.count <= MAX_COUNT and (best is None or total < best[0]):
                best = total, inner, batch, outer
    assert best is not None, "one loop at a time always fits"
    return best


def _row_choices(nest: Nest, rows: tuple[Loop, ...]) -> Iterator[tuple[Loop, ...]]:
    """Loops that can be the rows of one GEMM, the most first."""
    if nest.destination == Destination.EXACT:
        # Collects name neighbouring rows.
        side_by_side = bool(rows) and rows[-1].o == 1
        if side_by_side and len(rows) > 1 and rows[-2].o == rows[-1].count:
            yield from [rows[-2:]] * (rows[-2].count * rows[-1].count <= MAX_COUNT)
        yield rows[-1:] if side_by_side else ()
        return
    for size in (2, 1, 0):
        for chosen in combinations(rows, size):
            if prod(loop.count for loop in chosen) <= MAX_COUNT:
                yield chosen


def _offsets(loops: Sequence[Loop]) -> Iterator[tuple[int, int, int, int]]:
    """What whole GEMMs add to the addresses."""
    for counts in product(*(range(loop.count) for loop in loops)):
        pairs = list(zip(counts, loops, strict=True))
        yield (
            sum(i * loop.a for i, loop in pairs),
            sum(i * loop.b for i, loop in pairs),
            sum(i * loop.o for i, loop in pairs),
            sum(i * loop.p for i, loop in pairs),
        )


def _column_parts(nest: Nest, limit: int, config: MachineConfig) -> Iterator[Nest]:
    exact = nest.destination == Destination.EXACT
    for first in range(0, nest.columns, limit):
        tile = first // config.columns
        yield replace(
            nest,
            columns=min(limit, nest.columns - first),
            a=nest.a + tile * nest.a_tile,
            b=nest.b + tile * nest.b_tile,
            o=nest.o if exact else nest.o + first,
            column=nest.column + first,
            entry=None if nest.entry is None else nest.entry + tile,
        )


def _row_parts(nest: Nest, index: int) -> Iterator[Nest]:
    loop = nest.rows[index]
    for first in range(0, loop.count, MAX_COUNT):
        part = replace(loop, count=min(MAX_COUNT, loop.count - first))
        yield replace(
            nest,
            rows=(*nest.rows[:index], part, *nest.rows[index + 1 :]),
            a=nest.a + first * loop.a,
            o=nest.o + first * loop.o,
        )


def _operation(
    nest: Nest,
    inner: tuple[Loop, ...],
    batch: Loop,
    a: int,
    b: int,
    o: int,
    p: int,
    config: MachineConfig,
) -> Operation:
    y, x = (Loop(1), Loop(1), *inner)[-2:]
    k0 = _terms(nest)[-1]
    # Only neighbouring slices of B can be skipped.
    skip = nest.skip and (k0.count == 1 or k0.b == config.columns)
    base = replace(nest, a=nest.a + a, b=nest.b + b, o=nest.o + o, skip=skip)
    registers = _registers(base, x, y, batch, config)
    flags = Flag.SKIP * skip
    if nest.entry is not None and nest.destination != Destination.EXACT:
        flags |= Flag.COLUMN
        registers[Register.P_COLUMN] = (nest.entry + p) % config.parameters
        if batch.count > 1:
            registers[Register.P_COLUMN_G] = batch.p
    if nest.function == Function.CLAMP:
        registers[Register.CLAMP] = nest.clamp
    opcode = Opcode.ADD if nest.b_mode == BMode.IDENTITY else Opcode.GEMM
    operands = int(nest.destination), int(nest.function), int(flags)
    collect = None
    if nest.destination == Destination.EXACT:
        collect = _collect(base, x.count * y.count, batch)
    return Operation(Instruction(opcode, operands), registers, collect)


def _collect(nest: Nest, rows: int, batch: Loop) -> Collect:
    image, row = divmod(nest.o, nest.pixels)
    return Collect(
        nest.layer,
        image,
        batch.count,
        row,
        rows,
        nest.column,
        nest.columns,
        nest.accumulate,
        batch.o if batch.count > 1 else 0,
    )


def _registers(
    nest: Nest, x: Loop, y: Loop, batch: Loop, config: MachineConfig
) -> dict[Register, int]:
    """The registers that matter, but for parameters and clamp."""
    k2, k1, k0 = (Loop(1), Loop(1), *_terms(nest))[-3:]
    tiles = -(-nest.columns // config.columns)
    tile = Loop(tiles, nest.a_tile, nest.b_tile, config.columns)
    found = {
        Register.MX: x.count,
        Register.MY: y.count,
        Register.K0: k0.count,
        Register.K1: k1.count,
        Register.K2: k2.count,
        Register.NT: tiles,
        Register.NL: nest.columns - (tiles - 1) * config.columns,
        Register.G: batch.count,
        Register.A_BASE: nest.a,
        Register.A_MODE: int(nest.a_mode),
    }
    steps = {"X": x, "Y": y, "K1": k1, "K2": k2, "N": tile, "G": batch}
    if nest.a_mode == AMode.SLICES:
        steps["K0"] = k0
        del steps["X"], steps["Y"]
    found |= _strides("A", {k: v for k, v in steps.items() if v.count > 1})
    if nest.destination == Destination.MEMORY:
        found[Register.O_BASE] = nest.o
        outer = {"X": x, "Y": y, "N": tile, "G": batch}
        found |= _strides("O", {k: v for k, v in outer.items() if v.count > 1})
    if nest.b_mode == BMode.IDENTITY:
        return found | {Register.B_K0: k0.b, Register.B_K1: k1.b}
    found |= {Register.B_BASE: nest.b, Register.B_MODE: int(nest.b_mode)}
    inner = {"K1": k1, "K2": k2, "N": tile, "G": batch}
    if nest.b_mode == BMode.LANES:
        found[Register.B_X] = nest.lane
    else:
        inner["K0"] = k0
    if nest.skip:  # all of these must be multiples of columns, steps of a single count too
        aligned = {k: v if v.count > 1 else Loop(1) for k, v in inner.items()}
        aligned["K0"] = Loop(k0.count, b=config.columns)
        return found | _strides("B", aligned)
    return found | _strides("B", {k: v for k, v in inner.items() if v.count > 1})


def _strides(side: str, loops: dict[str, Loop]) -> dict[Register, int]:
    return {Register[f"{side}_{name}"]: getattr(loop, side.lower()) for name, loop in loops.items()}
