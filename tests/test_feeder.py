"""Feeders turn chunks into slices: every word, every cycle as their docstring states it."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.chunk import FeedMode
from hw.feeder import Feeder
from sw.config import MachineConfig

SEED = 20261122
LANES, SLICES, IDENTITY = FeedMode.LANES, FeedMode.SLICES, FeedMode.IDENTITY
CONFIGS = [
    MachineConfig(bits=4, rows=8, columns=8, slots=8),
    MachineConfig(bits=3, rows=1, columns=1, slots=12),
    MachineConfig(bits=3, rows=2, columns=2, slots=9, unity=False),
    MachineConfig(bits=6, rows=3, columns=5, slots=7),
    MachineConfig(bits=16, rows=4, columns=4, slots=5),
    MachineConfig(bits=3, rows=9, columns=2, slots=4),
]
NAMES = [f"{config.rows}x{config.columns}" for config in CONFIGS]
MODES = [("a", LANES), ("a", SLICES), ("b", LANES), ("b", SLICES), ("b", IDENTITY)]
#: x_count, x_stride, y_stride
Walk = tuple[int, int, int]
Slice = tuple[tuple[int, ...], int, int]


@dataclass(frozen=True)
class Chunk:
    mode: FeedMode
    address: int
    stride: int
    lanes: int
    bitmap: int
    first: int = 0
    last: int = 0
    advance: int = 0
    reset: int = 0

    @property
    def indices(self) -> list[int]:
        return [i for i in range(self.bitmap.bit_length()) if self.bitmap >> i & 1]

    def fields(self) -> dict[str, int | FeedMode]:
        found = {"lowest": self.indices[0], "alone": int(len(self.indices) == 1)}
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | found


class Memory:
    """Random words with random flags at every address that has a number."""

    def __init__(self, config: MachineConfig, seed: int) -> None:
        generator = random.Random(seed)
        self.width = config.bits + 2
        self.vector = config.vector
        self.mask = (1 << config.address_bits) - 1
        self.words = [generator.getrandbits(self.width) for _ in range(self.mask + 1)]

    def __getitem__(self, address: int) -> int:
        return self.words[address & self.mask]

    def packed(self, address: int) -> int:
        return sum(self[address + i] << i * self.width for i in range(self.vector))

    def banks(self, address: int) -> int:
        """The same words, each where its bank is."""
        places = ((address + i, (address + i) % self.vector) for i in range(self.vector))
        return sum(self[word] << place * self.width for word, place in places)


def identity_word(config: MachineConfig, shift: int) -> int:
    """The stored word 2**-shift, from the model of the format."""
    format = config.format
    if shift > format.fraction_bits or (shift == 0 and not format.unity):
        return 1 << format.bits
    word = format.encode(Fraction(1, 1 << shift))
    assert format.decode(word) == Fraction(1, 1 << shift)
    return word | int(shift == 0) << format.bits + 1


class Model:
    """The feeder's docstring, cycle by cycle, for one mode."""

    def __init__(self, feeder: Feeder, memory: Memory, walk: Walk) -> None:
        self.config, self.side, self.depth = feeder.config, feeder.side, feeder.depth
        self.lanes, self.pages = feeder.lanes, feeder.pages
        self.memory, self.walk = memory, walk
        self.now = 0
        self.held: Chunk | None = None
        self.step = 0
        self.lane = self.start = 0  # of side A's walk: rows of the output
        self.credits = self.depth
        self.leaves = False  # the oldest chunk's last slices are about to leave
        self.open: list[list] = []  # chunks of LANES: slices left, cycle of the first offer
        self.entering: dict[int, Slice] = {}  # by cycle
        self.reads: dict[int, int] = {}  # address by cycle
        self.buffer: deque[Slice] = deque()
        self.last_step = -10

    def room(self) -> bool:
        if len(self.open) < self.pages:
            return True
        return len(self.open) == self.pages and self.leaves

    def steps(self) -> bool:
        """Whether a step is issued in this cycle."""
        if self.held is None:
            return False
        if self.held.mode is not LANES:
            return self.credits >= 1
        return self.step > 0 or self.room()

    def ready(self) -> bool:
        return self.held is None or (self.steps() and self.step == self.count() - 1)

    def count(self) -> int:
        return self.held.lanes if self.held.mode is LANES else len(self.held.indices)

    def offset(self, chunk: Chunk, lane: int) -> int:
        if self.side == "b":
            return lane * chunk.stride
        x_count, x_stride, y_stride = self.walk
        return lane % x_count * x_stride + lane // x_count * y_stride

    def busy(self) -> bool:
        coming = bool(self.open) or self.now <= self.last_step + 4 or self.now in self.entering
        return self.held is not None or coming

    def tick(self, offered: Chunk | None, taken: bool) -> None:
        """One cycle, in which ``offered`` is at the port and the consumer takes a slice or not."""
        accepted = offered if offered and self.ready() else None
        spent = 0
        page = self.open[0] if self.open else None
        pushed = page and page[1] is not None and page[1] <= self.now and self.credits >= 1
        leaves = False
        if page and page[1] is not None and page[1] <= self.now:
            left = len(page[0])
            leaves = left <= 6 and self.credits >= left and not (pushed and left == 1)
        if self.steps():
            spent += self.issue(self.held)
        self.leaves = leaves
        if pushed:
            spent += 1
            self.entering[self.now + 1] = page[0].pop(0)
            if not page[0]:
                self.open.pop(0)
                if self.open and self.open[0][1] is not None:
                    self.open[0][1] = max(self.open[0][1], self.now + 1)
        if taken:
            self.buffer.popleft()
        if self.now in self.entering:
            self.buffer.append(self.entering.pop(self.now))
        self.credits += taken - spent
        if accepted:
            self.held, self.step = accepted, 0
            if accepted.reset:
                self.lane = self.start = 0
        self.now += 1

    def issue(self, chunk: Chunk) -> int:
        """The step of this cycle; how many credits it takes."""
        self.last_step = self.now
        number, last = self.step, self.step == self.count() - 1
        self.step += 1
        if last:
            self.held = None
        if chunk.mode is not LANES:
            self.issue_slice(chunk, chunk.indices[number], number == 0, last)
            return 1
        if number == 0:
            self.open.append([self.slices(chunk), None])
        lane = self.lane if self.side == "a" else number
        self.reads[self.now + 2] = chunk.address + self.offset(chunk, lane)
        self.lane += 1
        if last:
            self.open[-1][1] = self.now + 5
            self.start = self.lane if chunk.advance else self.start
            self.lane = self.start
        return 0

    def issue_slice(self, chunk: Chunk, index: int, is_first: bool, is_last: bool) -> None:
        if chunk.mode is SLICES:
            address = chunk.address + index * chunk.stride
            self.reads[self.now + 2] = address
            words = [self.memory[address + lane] for lane in range(self.lanes)]
        else:
            one, zero = identity_word(self.config, chunk.stride & 15), 1 << self.config.bits
            hit = chunk.address + index
            words = [one if hit == lane else zero for lane in range(self.lanes)]
        marks = chunk.first & is_first, chunk.last & is_last
        self.entering[self.now + 4] = (tuple(words), *marks)

    def slices(self, chunk: Chunk) -> list[Slice]:
        """Of a chunk of LANES whose first lane is the current one."""
        first = self.lane if self.side == "a" else 0
        found = []
        for index in chunk.indices:
            words = [
                self.memory[chunk.address + self.offset(chunk, first + lane) + index]
                for lane in range(chunk.lanes)
            ]
            marks = index == chunk.indices[0], index == chunk.indices[-1]
            found.append((tuple(words), chunk.first & marks[0], chunk.last & marks[1]))
        return found


class Bench:
    """A feeder on a memory with two cycles of latency, beside the model."""

    def __init__(self, feeder: Feeder, walk: Walk = (1, 0, 0), seed: int = SEED) -> None:
        self.feeder, self.seed = feeder, seed
        self.memory = Memory(feeder.config, seed)
        self.model = Model(feeder, self.memory, walk)
        self.walk = walk
        self.read_words: deque[int | None] = deque([None, None])  # their address
        self.chunks: deque[Chunk] = deque()
        self.taken: list[int] = []  # cycles in which slices left
        self.offered: Chunk | None = None
        self.first_read: int | None = None

    async def cycle(self, context: SimulatorContext, offers: bool, takes: bool) -> None:
        feeder, model = self.feeder, self.model
        found, memory = self.read_words.popleft(), self.memory
        words = random.getrandbits(9) if found is None else memory.packed(found)
        context.set(feeder.words.as_value(), 0 if context.get(feeder.mute) else words)
        context.set(feeder.banks.as_value(), words if found is None else memory.banks(found))
        if self.offered is None and offers and self.chunks:
            self.offered = self.chunks.popleft()  # and stays until it is taken
        context.set(feeder.chunks.valid, self.offered is not None)
        if self.offered:
            context.set(feeder.chunks.payload, self.offered.fields())
        context.set(feeder.o.ready, takes)
        self.check(context)
        address = model.reads.pop(model.now, None)
        self.read_words.append(address)
        if address is not None and self.first_read is None:
            self.first_read = model.now
        leaves = takes and bool(model.buffer)
        if leaves:
            self.taken.append(model.now)
        offered = self.offered
        if offered and model.ready():
            self.offered = None
        model.tick(offered, leaves)
        await context.tick()

    def check(self, context: SimulatorContext) -> None:
        """Every output of this cycle is the model's."""
        feeder, model = self.feeder, self.model
        address = model.reads.get(model.now)
        want = {
            "ready": int(model.ready()),
            "read": None if address is None else address & self.memory.mask,
            "valid": int(bool(model.buffer)),
            "slice": model.buffer[0] if model.buffer else None,
            "busy": int(model.busy()),
            "level": len(model.buffer),
        }
        got = {
            "ready": context.get(feeder.chunks.ready),
            "read": context.get(feeder.read.address) if context.get(feeder.read.enable) else None,
            "valid": context.get(feeder.o.valid),
            "slice": self.front(context) if model.buffer else None,
            "busy": context.get(feeder.busy),
            "level": context.get(feeder.level),
        }
        assert got == want, f"cycle {model.now} seed {self.seed}:\ngot  {got}\nwant {want}"

    def front(self, context: SimulatorContext) -> Slice:
        """The slice offered, without the lanes that its chunk does not have."""
        payload = self.feeder.o.payload
        packed, width = context.get(payload.words.as_value()), self.memory.width
        lanes = range(len(self.model.buffer[0][0]))
        words = tuple(packed >> lane * width & (1 << width) - 1 for lane in lanes)
        return words, context.get(payload.first), context.get(payload.last)

    def done(self) -> bool:
        waiting = self.chunks or self.offered or self.model.busy() or self.model.buffer
        return not waiting

    def simulate(self, testbench) -> None:
        async def begin(context: SimulatorContext) -> None:
            if self.feeder.side == "a":
                names = ("x_count", "x_stride", "y_stride")
                context.set(self.feeder.walk, dict(zip(names, self.walk, strict=True)))
            await testbench(context)

        simulator = Simulator(self.feeder)
        simulator.add_clock(1e-6)
        simulator.add_testbench(begin)
        simulator.run()


def random_chunks(
    generator: random.Random, config: MachineConfig, lanes: int, mode: FeedMode, count: int
) -> list[Chunk]:
    """Tiles of a few chunks each, walked over several times, with resets between batches."""
    chunks: list[Chunk] = []
    while len(chunks) < count:
        wanted = generator.choice([lanes, generator.randint(1, lanes)])
        length = generator.randint(1, 3)
        for number in range(length):
            bitmap = generator.getrandbits(config.vector) or 1
            kinds = [bitmap, (1 << generator.randint(1, config.vector)) - 1, bitmap & -bitmap]
            chunks.append(
                Chunk(
                    mode=mode,
                    address=generator.getrandbits(config.address_bits)
                    if mode is not IDENTITY
                    else generator.choice([0, config.vector // 2]),
                    stride=generator.getrandbits(config.address_bits),
                    lanes=wanted,
                    bitmap=generator.choice(kinds),
                    first=int(number == 0),
                    last=int(number == length - 1),
                    advance=generator.getrandbits(1) if number == length - 1 else 0,
                    reset=int(not chunks or (number == 0 and generator.random() < 0.4)),
                )
            )
    return chunks


@pytest.mark.parametrize(("side", "mode"), MODES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_random_chunks_under_random_stalls_follow_the_stated_cycles(config, side, mode):
    trials = [(1.0, 0.4), (0.2, 0.8)]  # shares of cycles that offer chunks and take slices
    for trial, (offers, takes) in enumerate(trials):
        seed = SEED + trial
        generator = random.Random(seed)
        feeder = Feeder(config, side)
        strides = [generator.getrandbits(config.address_bits) for _ in range(2)]
        bench = Bench(feeder, (generator.choice([1, 2, 3, 7, 65535]), *strides), seed)
        bench.chunks.extend(random_chunks(generator, config, feeder.lanes, mode, 10))
        wanted = sum(len(chunk.indices) for chunk in bench.chunks)

        async def testbench(context, bench=bench, generator=generator, shares=(offers, takes)):
            while not bench.done():
                assert bench.model.now < 3000
                # The consumer sleeps now and then, so that the buffer fills.
                sleeps = bench.model.now // 40 % 3 == 1 and shares[1] < 1
                takes = not sleeps and generator.random() < shares[1]
                await bench.cycle(context, generator.random() < shares[0], takes)

        bench.simulate(testbench)
        assert len(bench.taken) == wanted


def run_of_chunks(config: MachineConfig, terms: int) -> list[int]:
    """Lengths of the chunks of a run of K: the planner's rule."""
    lengths, vector = [], config.vector
    while terms:
        short = vector < terms < vector + vector // 2
        lengths.append(vector // 2 if short else min(vector, terms))
        terms -= lengths[-1]
    return lengths


@pytest.mark.parametrize(("side", "mode"), MODES, ids=lambda value: getattr(value, "name", value))
@pytest.mark.parametrize(
    ("config", "sleep"), [(config, 0) for config in CONFIGS] + [(CONFIGS[0], 40), (CONFIGS[2], 40)]
)
def test_a_slice_leaves_every_cycle_chunk_after_chunk(config, side, mode, sleep):
    feeder = Feeder(config, side)
    bench = Bench(feeder, (3, 5, 7))
    half = config.vector // 2
    lengths = [
        length
        for terms in (half, 3 * half - 1, half, 4 * half, 5 * half - 1, half, half)
        for length in run_of_chunks(config, terms)
    ]
    for length in lengths:
        starts = int(not bench.chunks)
        chunk = Chunk(mode, 3, 5, feeder.lanes, (1 << length) - 1, advance=1, reset=starts)
        bench.chunks.append(chunk if mode is not IDENTITY else replace(chunk, address=0))

    async def testbench(context: SimulatorContext) -> None:
        while not bench.done():
            assert bench.model.now < 1000
            await bench.cycle(context, True, bench.model.now >= sleep)

    bench.simulate(testbench)
    # Accepted in cycle 0, first step in 1, first read in 3.
    latency = 7 + feeder.lanes if mode is LANES else 6
    begin = sleep or latency
    assert bench.taken == list(range(begin, begin + sum(lengths)))
    assert bench.first_read == (None if mode is IDENTITY else 3)


@pytest.mark.parametrize(("side", "mode"), MODES, ids=lambda value: getattr(value, "name", value))
def test_flush_empties_the_buffer_and_gives_all_places_back(side, mode):
    config = CONFIGS[0]
    feeder = Feeder(config, side)
    bench = Bench(feeder, (3, 5, 7))
    bitmap = (1 << config.rows) - 1
    chunk = Chunk(mode, 0, 9, feeder.lanes, bitmap, first=1, last=1, reset=1)

    async def testbench(context: SimulatorContext) -> None:
        for load in range(4):
            bench.chunks.append(replace(chunk, address=0 if mode is IDENTITY else 11 * load))
            while bench.chunks or bench.offered or bench.model.busy():
                await bench.cycle(context, True, False)
            assert len(bench.model.buffer) == config.rows
            if load < 3:
                context.set(feeder.flush, 1)
                await bench.cycle(context, False, False)
                context.set(feeder.flush, 0)
                bench.model.buffer.clear()
                bench.model.credits = feeder.depth
        while not bench.done():
            await bench.cycle(context, False, True)

    bench.simulate(testbench)
    assert len(bench.taken) == config.rows


def test_feeder_refuses_a_side_that_is_neither():
    with pytest.raises(ValueError, match="side must be a or b, not 'c'"):
        Feeder(CONFIGS[0], "c")
