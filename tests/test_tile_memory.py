"""The tile memory gives back what was written, at any address, with the right flags."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.sim import Simulator, SimulatorContext

from hw.banked_memory import BankedMemory
from hw.rotator import Rotator
from hw.tile_memory import TileMemory
from sw.config import MachineConfig
from tests.simulation import evaluate

SEED = 20261122
CONFIGS = [
    MachineConfig(bits=16, rows=8, columns=8, slots=3),
    MachineConfig(bits=4, unity=False, rows=2, columns=2, slots=5),
    MachineConfig(bits=3, rows=1, columns=1, slots=9),
    MachineConfig(bits=3, rows=1, columns=1, slots=1),
    MachineConfig(bits=8, rows=4, columns=8, slots=4),
    MachineConfig(bits=9, rows=3, columns=5, slots=3),
    MachineConfig(bits=8, rows=32, columns=1, slots=8),
    MachineConfig(bits=5, rows=1, columns=32, slots=9),
]
NAMES = [f"{c.format}-{c.rows}x{c.columns}x{c.slots}" for c in CONFIGS]

Words = Sequence[int]


class Reference:
    """Words in a list; what reads see lags behind writes by ``write_latency`` cycles."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.words = [0] * config.memory_words
        self.segments = [True] * (config.memory_words // config.columns)
        self.flags_set = 0  # by writes, after others had cleared them

    def write(self, address: int, words: Words) -> None:
        zero, columns = self.zero, self.config.columns
        self.words[address : address + len(words)] = words
        if not words or not self.config.skips:
            return
        for segment in range(address // columns, (address + len(words) - 1) // columns + 1):
            start = segment * columns - address
            covered = words[start : start + columns] if start >= 0 else []
            before = self.segments[segment]
            self.segments[segment] = len(covered) == columns and all(map(zero, covered))
            self.flags_set += self.segments[segment] > before

    def zero(self, word: int) -> bool:
        return word & self.config.format.max_code == 0

    def stored(self, address: int) -> list[tuple[int, int, int] | None]:
        """Words with flags; None past the end."""
        format = self.config.format
        return [
            (word, int(self.zero(word)), int(format.unity and word | format.sign_bit == ones))
            for word in self.words[address : address + self.config.vector]
            for ones in [format.sign_bit | format.max_code]
        ]

    def flags(self, segment: int) -> list[int]:
        found = self.segments[segment : segment + self.config.vector]
        return [int(flag and self.config.skips) for flag in found]


def random_words(generator: random.Random, config: MachineConfig, count: int) -> list[int]:
    """Many zeros of both signs and ones, sometimes nothing else."""
    format = config.format
    special = [0, format.sign_bit, format.max_code, format.max_code | format.sign_bit]
    share = generator.choice([0.3, 1.0])
    choices = special[: generator.choice([1, 2, 4])]
    return [
        generator.choice(choices)
        if generator.random() < share
        else generator.getrandbits(format.bits)
        for _ in range(count)
    ]


def simulate(memory: TileMemory | BankedMemory, testbench) -> None:
    simulator = Simulator(memory)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def read_words(
    context: SimulatorContext, memory: TileMemory, side: str, port: str = "words"
) -> list[tuple[int, ...]]:
    """Each as word, zero flag, unity flag."""
    bits = memory.config.bits
    packed = context.get(getattr(memory, f"{port}_{side}").as_value())
    width = bits + 2
    found = [packed >> i * width & (1 << width) - 1 for i in range(memory.config.vector)]
    return [(v & (1 << bits) - 1, v >> bits & 1, v >> bits + 1) for v in found]


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_random_reads_see_every_write_exactly_write_latency_cycles_later(config):
    memory, reference = TileMemory(config), Reference(config)
    generator = random.Random(SEED)
    cycles = 400 if config.vector < 64 else 160
    last_address = config.memory_words - 1
    writes: dict[int, tuple[int, list[int]]] = {}
    expected: dict[int, dict[str, tuple[int, list]]] = {}

    async def testbench(context: SimulatorContext) -> None:
        while context.get(memory.busy):
            await context.tick()
        for cycle in range(cycles):
            if cycle - memory.write_latency in writes:
                reference.write(*writes[cycle - memory.write_latency])
            near = generator.randrange(last_address + 1)
            for side in "ab":
                distance = generator.choice([0, 1, config.columns, config.vector])
                address = min(last_address, near + generator.randrange(distance + 1))
                enable = generator.random() < 0.8
                context.set(getattr(memory, f"read_{side}"), {"enable": enable, "address": address})
                if enable:
                    want = reference.stored(address)
                    expected.setdefault(cycle + memory.latency, {})[side] = (address, want)
            segment = min(near // config.columns, len(reference.segments) - 1)
            context.set(memory.flags, {"enable": 1, "segment": segment})
            found = (segment, reference.flags(segment))
            expected.setdefault(cycle + memory.latency, {})["zero"] = found
            count = min(generator.randrange(config.vector + 1), config.memory_words - near)
            if generator.random() < 0.3:  # whole segments
                near -= near % config.columns
                count = min(config.columns * generator.choice([1, 2]), config.vector)
                count = min(count, config.memory_words - near)
            words = random_words(generator, config, count)
            enable = generator.random() < 0.7
            rest = random_words(generator, config, config.vector - count)
            context.set(
                memory.write,
                {"enable": enable, "address": near, "count": count, "words": words + rest},
            )
            if enable:
                writes[cycle] = near, words
            for port, (address, want) in expected.pop(cycle, {}).items():
                if port == "zero":
                    packed = context.get(memory.zero)
                    got: list = [packed >> i & 1 for i in range(config.vector)]
                else:
                    got = read_words(context, memory, port)
                    context.set(getattr(memory, f"mute_{port}"), 1)
                    assert read_words(context, memory, port) == [(0, 0, 0)] * len(got)
                    context.set(getattr(memory, f"mute_{port}"), 0)
                    banks, turn = read_words(context, memory, port, "banks"), address % len(got)
                    assert banks[turn:] + banks[:turn] == got
                assert got[: len(want)] == want, (
                    f"{port} address {address} cycle {cycle}: got {got}, want {want}, seed {SEED}"
                )
            await context.tick()

    simulate(memory, testbench)
    assert any(reference.words)
    assert reference.flags_set or not config.skips


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_reset_clears_words_and_sets_flags_in_the_stated_time(config):
    memory = TileMemory(config)
    generator = random.Random(SEED)
    rows = config.memory_words // config.vector

    async def write_all(context: SimulatorContext) -> None:
        """One more than any word of each row, so that no flag is set."""
        for address in range(0, config.memory_words, config.vector):
            words = [generator.getrandbits(config.bits) | 1 for _ in range(config.vector)]
            context.set(
                memory.write,
                {"enable": 1, "address": address, "count": config.vector, "words": words},
            )
            await context.tick()

    async def wait_until_clear(context: SimulatorContext) -> None:
        for cycle in range(rows + 1):
            assert context.get(memory.busy), f"cycle {cycle}"
            await context.tick()
        assert not context.get(memory.busy)

    async def check_clear(context: SimulatorContext, clear: bool) -> None:
        for address in range(0, config.memory_words, config.vector):
            context.set(memory.read_a, {"enable": 1, "address": address})
            context.set(memory.read_b, {"enable": 1, "address": address})
            context.set(memory.flags, {"enable": 1, "segment": address // config.columns})
            for _ in range(memory.latency):
                await context.tick()
            want = [(0, 1, 0)] * config.vector
            for side in "ab":
                assert (read_words(context, memory, side) == want) == clear, f"address {address}"
            segments = config.vector // config.columns
            flags = context.get(memory.zero) & (1 << segments) - 1
            assert flags == (1 << segments) - 1 if clear and config.skips else flags == 0

    async def testbench(context: SimulatorContext) -> None:
        # Writes while the memory clears itself are ignored.
        context.set(memory.write, {"enable": 1, "count": 1, "words": [1] * config.vector})
        await wait_until_clear(context)
        context.set(memory.write.enable, 0)
        await check_clear(context, True)
        await write_all(context)
        context.set(memory.write.enable, 0)
        await context.tick()
        await check_clear(context, False)
        context.set(reset, 1)
        await context.tick()
        context.set(reset, 0)
        await wait_until_clear(context)
        await check_clear(context, True)

    reset, top = with_reset(memory)
    simulate(top, testbench)


def with_reset(component):
    """The component under a reset that the testbench drives: the signal, the whole."""
    reset, top = Signal(), Module()
    top.submodules.unit = ResetInserter(reset)(component)
    return reset, top


@pytest.mark.parametrize(
    ("width", "lanes", "outputs"),
    [(1, 2, 2), (3, 4, 4), (18, 16, 16), (5, 64, 64), (3, 16, 5), (4, 16, 8), (2, 8, 1)],
)
def test_rotator_turns_lanes_by_any_amount(width, lanes, outputs):
    generator = random.Random(SEED)
    vectors = [(generator.getrandbits(width * lanes), amount) for amount in range(lanes)]
    got = evaluate(Rotator(width, lanes, outputs), vectors)
    for (value, amount), (found,) in zip(vectors, got, strict=True):
        parts = [value >> i * width & (1 << width) - 1 for i in range(lanes)]
        want = sum(parts[(i + amount) % lanes] << i * width for i in range(outputs))
        assert found == want, f"{value:#x} by {amount}: got {found:#x}, want {want:#x}"


def test_rotator_refuses_lanes_that_are_no_power_of_two():
    with pytest.raises(ValueError, match="lanes must be a power of two and at least 2, not 6"):
        Rotator(3, 6)
