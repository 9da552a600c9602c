"""Chunks of lanes come out as slices: in order, once, without gaps."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.bitmap import BitmapWalker
from hw.transposer import Transposer
from sw.config import MachineConfig

SEED = 20261122
NOTICE = 4
PLACES = 16
#: Rows and columns, and how many of them are the lanes.
SHAPES = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (3, 5, 3), (3, 5, 5), (16, 2, 2), (1, 32, 32)]


@dataclass(frozen=True)
class Chunk:
    lanes: tuple[tuple[int, ...], ...]
    bitmap: int
    first: int
    last: int

    def slices(self) -> list[tuple[tuple[int, ...], int, int]]:
        wanted = [k for k in range(len(self.lanes[0])) if self.bitmap >> k & 1]
        return [
            (
                tuple(lane[k] for lane in self.lanes),
                self.first & (k == wanted[0]),
                self.last & (k == wanted[-1]),
            )
            for k in wanted
        ]


def configuration(shape: tuple[int, int, int]) -> MachineConfig:
    rows, columns, _ = shape
    return MachineConfig(bits=6, rows=rows, columns=columns, slots=4)


def random_chunk(generator: random.Random, width: int, vector: int, lanes: int, bitmap: int):
    words = tuple(tuple(generator.getrandbits(width) for _ in range(vector)) for _ in range(lanes))
    return Chunk(words, bitmap, generator.getrandbits(1), generator.getrandbits(1))


class Driver:
    """Starts chunks as soon as there is room, NOTICE cycles ahead of their vectors."""

    def __init__(self, transposer: Transposer, chunks: list[Chunk], vector_gap: float, seed: int):
        self.transposer = transposer
        self.chunks = list(chunks)
        self.generator = random.Random(seed)
        self.gap = vector_gap
        self.lane = 0
        self.pipeline: list[tuple[Chunk, int] | None] = [None] * NOTICE

    def drive(self, context: SimulatorContext) -> None:
        """The inputs of this cycle; ``go`` and ``places`` are set already."""
        unit, chunk = self.transposer, self.chunks[0] if self.chunks else None
        waits = self.lane == 0 and not context.get(unit.room)
        issued = chunk is not None and not waits and self.generator.random() >= self.gap
        start = int(issued and self.lane == 0)
        record = {"enable": start}
        if start:
            record |= {"bitmap": chunk.bitmap, "first": chunk.first, "last": chunk.last}
        context.set(unit.start, record)
        self.pipeline.append((chunk, self.lane) if issued else None)
        if issued:
            self.lane += 1
            if self.lane == len(chunk.lanes):
                self.lane = 0
                self.chunks.pop(0)
        arriving, following = self.pipeline.pop(0), self.pipeline[0]
        vector = {"enable": 0}
        if arriving:
            whole, lane = arriving
            close = int(lane == len(whole.lanes) - 1)
            words = whole.lanes[lane]
            skew = self.generator.randrange(len(words))
            packed = [unpack(words[(i - lane - skew) % len(words)]) for i in range(len(words))]
            vector = {"enable": 1, "lane": lane, "skew": skew, "close": close, "words": packed}
        context.set(unit.vector, vector)
        context.set(unit.full, int(bool(following) and following[1] == len(following[0].lanes) - 1))


def unpack(word: int) -> dict[str, int]:
    return {"word": word & 63, "zero": word >> 6 & 1, "unity": word >> 7}


def run(
    transposer: Transposer, chunks: list[Chunk], vector_gap: float, stall: float, seed: int
) -> list[tuple[int, tuple[tuple[int, ...], int, int]]]:
    """The slices that left, each with its cycle."""
    driver = Driver(transposer, chunks, vector_gap, seed)
    generator = random.Random(seed + 1)
    found = []
    wanted = sum(len(chunk.slices()) for chunk in chunks)

    async def testbench(context: SimulatorContext) -> None:
        places, limit = PLACES, 300 + 60 * wanted
        for cycle in range(limit):
            context.set(transposer.places, places)
            context.set(transposer.go, places > 0)
            driver.drive(context)
            pushed = places > 0 and context.get(transposer.valid)
            if pushed:
                packed = context.get(transposer.words.as_value())
                words = tuple(packed >> i * 8 & 255 for i in range(len(transposer.words)))
                marks = context.get(transposer.first), context.get(transposer.last)
                found.append((cycle, (words, *marks)))
            places += (places < PLACES and generator.random() >= stall) - pushed
            await context.tick()
            if len(found) == wanted and not context.get(transposer.busy):
                return
        raise AssertionError(f"{len(found)} of {wanted} slices in {limit} cycles, seed {seed}")

    simulator = Simulator(transposer)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return found


def check_slices(found, chunks: list[Chunk], seed: int) -> None:
    want = [slice for chunk in chunks for slice in chunk.slices()]
    for number, ((cycle, got), expected) in enumerate(zip(found, want, strict=True)):
        place = f"slice {number} cycle {cycle} seed {seed}"
        assert got == expected, f"{place}: got {got}, want {expected}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_chunks_are_transposed_in_order_under_random_stalls(shape):
    check_random_chunks(configuration(shape), shape[2])


@pytest.mark.parametrize("side", [2, 4])
def test_a_narrow_machine_transposes_as_many_lanes_as_a_vector_has(side):
    config = replace(configuration((side, side, side)), wide=False)
    assert config.vector == side
    check_random_chunks(config, side)


def check_random_chunks(config: MachineConfig, lanes: int) -> None:
    for trial, (gap, stall) in enumerate([(0.0, 0.0), (0.0, 0.5), (0.3, 0.0), (0.3, 0.7)]):
        seed = SEED + trial
        generator = random.Random(seed)
        chunks = []
        for _ in range(12):
            bitmap = generator.getrandbits(config.vector) or 1
            bitmap = generator.choice([bitmap, (1 << config.vector) - 1, 1, bitmap & -bitmap])
            count = generator.randint(1, lanes)
            chunks.append(random_chunk(generator, 8, config.vector, count, bitmap))
        target = ("generic", "ice40")[trial % 2]  # the second stalls, the fourth in both ways
        transposer = Transposer(config, lanes, NOTICE, PLACES, target)
        found = run(transposer, chunks, gap, stall, seed)
        # Lanes that a chunk does not have may hold anything.
        order = [len(chunk.lanes) for chunk in chunks for _ in chunk.slices()]
        found = [(c, (w[:n], f, e)) for (c, (w, f, e)), n in zip(found, order, strict=True)]
        check_slices(found, chunks, seed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_slice_leaves_every_cycle_with_half_vector_chunks_of_all_lanes(shape):
    config, lanes = configuration(shape), shape[2]
    generator = random.Random(SEED)
    half = (1 << config.vector // 2) - 1
    full = (1 << config.vector) - 1
    kinds = [half, half, half << config.vector // 2, full, half, full, full >> 1, half, half, half]
    kinds += [half] * 10
    chunks = [random_chunk(generator, 8, config.vector, lanes, bitmap) for bitmap in kinds]
    found = run(Transposer(config, lanes, NOTICE, PLACES, "ice40"), chunks, 0.0, 0.0, SEED)
    check_slices(found, chunks, SEED)
    # Started in cycle 0, the last vector in lanes - 1 + NOTICE, then one slice per cycle.
    begin = lanes + NOTICE
    assert [cycle for cycle, _ in found] == list(range(begin, begin + len(found)))


@pytest.mark.parametrize("bits", [2, 16, 64])
def test_bitmap_walker_gives_every_set_bit_once_in_ascending_order(bits):
    walker = BitmapWalker(bits)
    generator = random.Random(SEED)

    async def testbench(context: SimulatorContext) -> None:
        for bitmap in [1, 1 << bits - 1, (1 << bits) - 1] + [
            generator.getrandbits(bits) or 1 for _ in range(20)
        ]:
            context.set(walker.load, 1)
            context.set(walker.bitmap, bitmap)
            context.set(walker.lowest, (bitmap & -bitmap).bit_length() - 1)
            context.set(walker.alone, bitmap.bit_count() == 1)
            assert context.get(walker.following) == (bitmap & -bitmap).bit_length() - 1
            await context.tick()
            context.set(walker.load, 0)
            context.set(walker.bitmap, generator.getrandbits(bits))
            context.set(walker.lowest, generator.randrange(bits))
            context.set(walker.alone, generator.getrandbits(1))
            wanted = [bit for bit in range(bits) if bitmap >> bit & 1]
            for bit in wanted:
                assert context.get(walker.index) == bit, f"{bitmap:#x}"
                assert context.get(walker.last) == (bit == wanted[-1]), f"{bitmap:#x} {bit}"
                if bit != wanted[-1]:
                    context.set(walker.step, 0)
                    await context.tick()  # nothing moves without a step
                    assert context.get(walker.index) == bit, f"{bitmap:#x}"
                    assert context.get(walker.following) == bit, f"{bitmap:#x}"
                    context.set(walker.step, 1)
                    following = context.get(walker.following)
                    await context.tick()
                    assert context.get(walker.index) == following, f"{bitmap:#x}"
                context.set(walker.step, 0)

    simulator = Simulator(walker)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
