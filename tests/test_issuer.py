"""Slices in order, none lost, the spacing kept, and every waiting cycle under its cause."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from amaranth.hdl import Cat
from amaranth.sim import Simulator

from hw.issuer import Issuer
from hw.tile_record import tile_layout
from sw.config import MachineConfig

SEED = 20261122
GEMM, MATMUL, DRAIN = 0, 1, 2
CONFIGS = {
    "8x8": MachineConfig(),
    "3x5": MachineConfig(bits=4, rows=3, columns=5, blocks=True),
    "1x2": MachineConfig(bits=3, rows=1, columns=2),
    "32x16": MachineConfig(bits=8, rows=32, columns=16),
}
TOTALS = ("macs", "zero_operands", "unity_operands")
STALLS = ("stall_a", "stall_b", "stall_drain", "stall_results")


@dataclass
class Work:
    """One start: its mode, and what the queues bring for it."""

    mode: int
    tiles: list[dict[str, int]]  # MATMUL and DRAIN: the one tile that they stand for
    slices: list[tuple[list[dict], list[dict], int, int]]  # words of A, of B, first, last
    to_stream: bool = False
    terms: int = 0


@dataclass
class Seen:
    """What left the issuer."""

    controls: list[tuple] = field(default_factory=list)
    counters: Counter = field(default_factory=Counter)


def random_word(config: MachineConfig, rng: random.Random) -> dict[str, int]:
    return {
        "word": rng.getrandbits(config.bits),
        "zero": int(rng.random() < 0.3),
        "unity": int(rng.random() < 0.3),
    }


def packed(config: MachineConfig, words: list[dict[str, int]]) -> int:
    """Stored words as one number, lane 0 lowest: word, then zero, then unity."""
    width = config.bits + 2
    values = [w["word"] | w["zero"] << width - 2 | w["unity"] << width - 1 for w in words]
    return sum(value << i * width for i, value in enumerate(values))


def random_work(config: MachineConfig, rng: random.Random, tile_fields: dict[str, int]) -> Work:
    """A few tiles of slices, one MATMUL or one drain."""
    mode = rng.choice((GEMM, GEMM, MATMUL, DRAIN))
    tiles, slices = [], []
    count = rng.randint(1, 8) if mode == GEMM else 1
    for index in range(count):
        tile = {name: rng.getrandbits(width) for name, width in tile_fields.items()}
        tile |= {
            "rows": rng.choice((config.rows, rng.randint(1, config.rows))),
            "columns": rng.randint(1, config.columns),
            "last": int(index == count - 1),
        }
        if mode != GEMM:
            tile = dict.fromkeys(tile_fields, 0) | {
                "rows": tile["rows"],
                "columns": tile["columns"],
                "first_block": 1,
                "last_block": 1,
                "last": 1,
            }
        tiles.append(tile)
        length = rng.choice((1, 1, 2, rng.randint(1, 12)))
        length = {MATMUL: min(length, config.rows, config.columns), DRAIN: 0}.get(mode, length)
        for k in range(length):
            words = [
                [random_word(config, rng) for _ in range(n)] for n in (config.rows, config.columns)
            ]
            marks = (int(k == 0), int(k == length - 1)) if mode == GEMM else (rng.randrange(2), 1)
            slices.append((*words, *marks))
    return Work(mode, tiles, slices, mode == GEMM and rng.random() < 0.7, len(slices))


class Expected:
    """Which slice must be issued in a cycle, from what the specification says alone."""

    def __init__(self) -> None:
        self.drained = 0  # the first cycle in which a sum may leave again

    def cause(self, work: Work, tile: dict[str, int], now: int, **inputs: int) -> str:
        """``issue``, or why not."""
        if work.mode == DRAIN:
            return "issue" if now >= self.drained else "stall_drain"
        if not inputs["a_valid"]:
            return "stall_a"
        if not inputs["b_valid"]:
            return "stall_b"
        if work.mode == GEMM and inputs["last"]:
            if now < self.drained:
                return "stall_drain"
            if work.to_stream and tile["last_block"] and inputs["credits"] < tile["rows"]:
                return "stall_results"
        return "issue"


def check(config: MachineConfig, works: list[Work], busy: float, rng: random.Random) -> Counter:
    """Run the works one after the other and compare each cycle; how often each cause was met."""
    unit = Issuer(config)
    row_words, column_words = (Cat(w.as_value() for w in side) for side in (unit.a, unit.b))
    expected, counted, wanted = Expected(), Counter(), Counter()
    clock = 0
    depth = 2 * config.rows
    free = depth  # rows that the result queue can still promise

    def offer(context, stream, words, marks, valid) -> None:
        context.set(stream.valid, valid)
        if not valid:
            words, marks = [random_word(config, rng) for _ in words], (rng.randrange(2),) * 2
        context.set(stream.payload.words.as_value(), packed(config, words))
        context.set(stream.payload.first, marks[0])
        context.set(stream.payload.last, marks[1])

    async def tick(context) -> None:
        nonlocal clock
        for name in TOTALS:
            counted[name] += context.get(getattr(unit, name))
        await context.tick()
        clock += 1

    async def start(context, work: Work) -> None:
        tile = work.tiles[0]
        context.set(unit.mode, work.mode)
        context.set(unit.rows, tile["rows"] if work.mode != GEMM else rng.randint(1, config.rows))
        context.set(unit.columns, tile["columns"])
        context.set(unit.terms, work.terms % (1 << len(unit.terms)))
        context.set(unit.to_stream, work.to_stream)
        context.set(unit.start, 1)
        for stream in (unit.row_slices, unit.column_slices):
            context.set(stream.valid, rng.randrange(2))
        assert not context.get(unit.busy)
        assert not context.get(unit.control.valid)
        assert not context.get(unit.event.valid)
        await tick(context)
        context.set(unit.start, 0)

    async def perform(context, work: Work) -> None:
        nonlocal free
        await start(context, work)
        slices, tiles, done = list(work.slices), list(work.tiles), False
        first = True
        while not done:
            free = min(depth, free + (rng.random() < 0.15))
            a, b, *marks = slices[0] if slices else ([], [], 0, 0)
            valid = [bool(slices) and rng.random() >= busy for _ in "ab"]
            a = a or [random_word(config, rng) for _ in range(config.rows)]
            b = b or [random_word(config, rng) for _ in range(config.columns)]
            offer(context, unit.row_slices, a, (rng.randrange(2), rng.randrange(2)), valid[0])
            offer(context, unit.column_slices, b, marks, valid[1])
            tile = tiles[0]
            context.set(unit.tiles.valid, work.mode == GEMM)
            context.set(unit.tiles.payload, tile)
            context.set(unit.room, (1 << min(free, config.rows)) - 1)
            cause = expected.cause(
                work, tile, clock, a_valid=valid[0], b_valid=valid[1], last=marks[1], credits=free
            )
            issue, drain = cause == "issue", work.mode == DRAIN
            message = f"{work} cycle {clock} {cause} seed={SEED}"
            leaves = issue and (drain or (work.mode == GEMM and marks[1] == 1))
            assert context.get(unit.busy), message
            for name in STALLS:
                got = context.get(getattr(unit, name))
                assert got == (name == cause and not drain), f"{name} {message}"
            wanted[cause] += 1
            slice_taken = issue and not drain
            assert context.get(unit.issued) == slice_taken, message
            assert context.get(unit.row_slices.ready) == slice_taken, message
            assert context.get(unit.column_slices.ready) == slice_taken, message
            assert context.get(unit.control.valid) == slice_taken, message
            assert context.get(unit.control.last) == leaves, message
            assert context.get(unit.event.valid) == leaves, message
            assert context.get(unit.tiles.ready) == (leaves and work.mode == GEMM), message
            if issue:
                masks = context.get(unit.row_mask), context.get(unit.column_mask)
                assert masks == ((1 << tile["rows"]) - 1, (1 << tile["columns"]) - 1), message
            if slice_taken:
                starts = marks[0] if work.mode == GEMM else int(first)
                assert context.get(unit.control.first) == starts, message
                assert context.get(row_words) == packed(config, a), message
                assert context.get(column_words) == packed(config, b), message
                used = a[: tile["rows"]] + b[: tile["columns"]]
                wanted["macs"] += tile["rows"] * tile["columns"]
                wanted["zero_operands"] += sum(word["zero"] for word in used)
                wanted["unity_operands"] += sum(word["unity"] for word in used)
                slices.pop(0)
                first = False
            if leaves:
                event = unit.event.tile
                got = {name: context.get(event[name]) for name, _ in event.shape()}
                assert got == tile, message
                expected.drained = clock + tile["rows"]
                free -= tile["rows"] * (work.to_stream and tile["last_block"])
                tiles.pop(0)
            done = issue and not slices and (work.mode == MATMUL or not tiles)
            assert context.get(unit.done) == done, message
            await tick(context)
        for stream in (unit.row_slices, unit.column_slices):
            context.set(stream.valid, 1)
        context.set(unit.tiles.valid, 0)
        assert not context.get(unit.busy)
        assert not context.get(unit.row_slices.ready)
        assert not context.get(unit.column_slices.ready)

    async def testbench(context) -> None:
        for work in works:
            await perform(context, work)
        for _ in range(unit.count_latency):
            await tick(context)
        for name in TOTALS:
            assert counted[name] == wanted[name], f"{name} seed={SEED}"

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return wanted


@pytest.mark.parametrize("busy", [0.0, 0.4])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_slice_is_issued_once_in_order_and_every_wait_has_its_cause(name, busy):
    config = CONFIGS[name]
    rng = random.Random(f"{SEED} {name} {busy}")
    count = 25 if config.rows < 32 else 12
    works = [random_work(config, rng, tile_widths(config)) for _ in range(count)]
    met = check(config, works, busy, rng)
    causes = {"issue"} | ({"stall_a", "stall_b"} if busy else set())
    if config.rows > 1:
        causes |= {"stall_drain"} | (set() if busy else {"stall_results"})
    assert causes <= set(met), f"the stimulus reaches only {set(met)}"


def tile_widths(config: MachineConfig) -> dict[str, int]:
    return {name: shape.width for name, shape in tile_layout(config)}


def test_short_tiles_leave_a_tile_per_rows_and_long_ones_never_wait():
    """Slices always there: a tile of one slice waits for the one before, one of 8 does not."""
    config = CONFIGS["8x8"]
    rng = random.Random(SEED)
    widths = tile_widths(config)
    for length, stalls in ((1, 7 * 7), (3, 7 * 5), (8, 0), (9, 0)):
        tile = dict.fromkeys(widths, 0) | {"rows": 8, "columns": 8, "last_block": 1}
        tiles = [tile | {"last": int(i == 7)} for i in range(8)]
        words = [[random_word(config, rng) for _ in range(8)] for _ in range(2)]
        slices = [
            (*words, int(k == 0), int(k == length - 1)) for _ in range(8) for k in range(length)
        ]
        met = check(config, [Work(GEMM, tiles, slices)], 0.0, rng)
        assert met["stall_drain"] == stalls
        assert met["issue"] == 8 * length
        assert met["macs"] == 64 * 8 * length
