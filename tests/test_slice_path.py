"""From registers to the array's edge: planner, tile memory, feeders and issuer together."""

from __future__ import annotations

import itertools
import random

import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hw.feeder import Feeder
from hw.issuer import Issuer
from hw.planner import Planner
from hw.tile_memory import TileMemory
from sw.config import MachineConfig
from sw.timing import TRANSPOSED
from tests.planning import Product, a_address, b_address, defaults, plan
from tests.test_planner import random_product

SEED = 20261122
CONFIGS = {
    "8x8": MachineConfig(slots=20, blocks=True),
    "4x8": MachineConfig(bits=4, rows=4, columns=8, slots=40, blocks=True),
    "3x5": MachineConfig(bits=8, unity=False, rows=3, columns=5, slots=50, blocks=True),
    "2x2": MachineConfig(bits=3, rows=2, columns=2, slots=100),
}


class Path:
    """The four parts, wired as in the machine."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.memory, self.planner = TileMemory(config), Planner(config)
        self.a, self.b = Feeder(config, "a"), Feeder(config, "b")
        self.issuer = Issuer(config)
        self.module = m = Module()
        registers = self.planner.registers
        for name in ("memory", "planner", "a", "b", "issuer"):
            m.submodules[name] = getattr(self, name)
        for side in ("a", "b"):
            feeder = getattr(self, side)
            wiring.connect(m, getattr(self.planner, side), feeder.chunks)
            m.d.comb += [
                getattr(self.memory, f"read_{side}").eq(feeder.read),
                feeder.words.eq(getattr(self.memory, f"words_{side}")),
                feeder.banks.eq(getattr(self.memory, f"banks_{side}")),
                getattr(self.memory, f"mute_{side}").eq(feeder.mute),
            ]
        wiring.connect(m, self.planner.tiles, self.issuer.tiles)
        wiring.connect(m, self.a.o, self.issuer.row_slices)
        wiring.connect(m, self.b.o, self.issuer.column_slices)
        m.d.comb += [
            self.a.walk.x_count.eq(registers.mx),
            self.a.walk.x_stride.eq(registers.a_x),
            self.a.walk.y_stride.eq(registers.a_y),
            self.memory.flags.eq(self.planner.flags),
            self.planner.zero.eq(self.memory.zero),
            self.issuer.start.eq(self.planner.start),
        ]

    def fill(self, words: list[int]):
        """A process that waits for the memory to be clear, and writes the words."""
        vector = self.config.vector

        async def process(context) -> None:
            while context.get(self.memory.busy):
                await context.tick()
            write = self.memory.write
            for address in range(0, len(words), vector):
                context.set(write.enable, 1)
                context.set(write.address, address)
                context.set(write.count, vector)
                context.set(write.words, words[address : address + vector])
                await context.tick()
            context.set(write.enable, 0)
            await context.tick().repeat(TileMemory.write_latency)

        return process

    def perform(self, product: Product):
        """A process that runs a product and gives the words of each slice, and their cycles.

        Cycles count from the first read of the memory.
        """
        row_words = Cat(word.word for word in self.issuer.a)
        column_words = Cat(word.word for word in self.issuer.b)

        async def process(context) -> tuple[list[tuple[int, ...]], list[int]]:
            for name, value in product.registers.items():
                context.set(self.planner.registers[name], value)
            context.set(self.planner.rows, product.rows)
            context.set(self.planner.terms, product.terms)
            context.set(self.planner.skip, product.skip)
            context.set(self.planner.blocks, product.blocks)
            context.set(self.planner.start, 1)
            found, cycles, cycle, first, done = [], [], 0, None, False
            while not done:
                reads = [context.get(f.read.enable) for f in (self.a, self.b)]
                if first is None and any(reads):
                    first = cycle
                if context.get(self.issuer.issued):
                    control = self.issuer.control
                    found.append(
                        (
                            context.get(row_words),
                            context.get(column_words),
                            context.get(control.first),
                            context.get(control.last),
                            context.get(self.issuer.row_mask).bit_count(),
                            context.get(self.issuer.column_mask).bit_count(),
                        )
                    )
                    cycles.append(cycle - first)
                done = context.get(self.issuer.done)
                await context.tick()
                context.set(self.planner.start, 0)
                cycle += 1
                assert cycle < 20000, f"{product} never ends"
            for unit in (self.planner, self.a, self.b, self.issuer):
                assert not context.get(unit.busy), f"{product} leaves {unit} busy"
            return found, cycles

        return process


def run(path: Path, words: list[int], products: list[Product]) -> list:
    results = []

    async def testbench(context) -> None:
        await path.fill(words)(context)
        for product in products:
            results.append(await path.perform(product)(context))

    simulator = Simulator(path.module)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return results


def fitting(p: Product) -> bool:
    """Whether no word that is read lies behind the memory's end."""
    last = (p.k2 - 1, p.k1 - 1, p.k0 - 1)
    ends = [a_address(p, p.g - 1, p.nt - 1, p.rows - 1, last)]
    ends.append(a_address(p, p.g - 1, p.nt - 1, p.mx - 1, last) + (p.my - 1) * p.a_y)
    ends += [b_address(p, p.g - 1, p.nt - 1, p.config.columns - 1, last)] * (p.b_mode != 2)
    return max(ends) < p.config.memory_words


def identity_word(config: MachineConfig, shift: int) -> int:
    """The word of 2**-shift, 0 where there is none."""
    if shift == 0:
        return config.format.max_code if config.unity else 0
    return 1 << config.bits - 1 - shift if shift < config.bits else 0


def wanted(p: Product, words: list[int]) -> list[tuple[int, ...]]:
    """Words, marks and lanes of every slice, from the address formulas."""
    config, columns = p.config, p.config.columns

    def zero(segment: int) -> bool:
        sign = config.format.sign_bit
        segment_words = words[segment * columns : (segment + 1) * columns]
        return all(word in (0, sign) for word in segment_words)

    slices = []
    for chunk in plan(p, zero)[1]:
        kept = [i for i in range(len(chunk.k)) if chunk.bitmap >> i & 1]
        rows = min(config.rows, p.rows - chunk.m)
        lanes = p.nl if chunk.t == p.nt - 1 else columns
        for i in kept:
            k = chunk.k[i]
            a = [words[a_address(p, chunk.g, chunk.t, chunk.m + r, k)] for r in range(rows)]
            if p.b_mode == 2:
                shift = (p.b_k1 if k[1] else p.b_k0) % 16
                b = [identity_word(config, shift) * (k[2] == j) for j in range(lanes)]
            else:
                b = [words[b_address(p, chunk.g, chunk.t, j, k)] for j in range(lanes)]
            first = int(chunk.first and i == kept[0])
            last = int(chunk.last and i == kept[-1])
            slices.append((a, b, first, last, rows, lanes))
    return slices


def check(p: Product, words: list[int], found: list[tuple[int, ...]]) -> None:
    bits = p.config.bits
    want = wanted(p, words)
    for i, (got, expected) in enumerate(zip(found, want, strict=False)):
        a, b = ([v >> n * bits & (1 << bits) - 1 for n in range(64)] for v in got[:2])
        seen = (a[: got[4]], b[: got[5]], *got[2:])
        assert seen == expected, f"slice {i} got={seen} want={expected} {p} seed={SEED}"
    assert len(found) == len(want), f"{p} seed={SEED}"


@pytest.mark.parametrize("name", CONFIGS)
def test_random_products_bring_the_words_of_the_address_formulas(name):
    config = CONFIGS[name]
    rng = random.Random(f"{SEED} {name}")
    words = [rng.getrandbits(config.bits) for _ in range(config.memory_words)]
    for start in range(0, len(words), config.columns):
        if rng.random() < 0.5:
            for i in range(start, min(start + config.columns, len(words))):
                words[i] = rng.choice((0, config.format.sign_bit))
    products = []
    while len(products) < 5:
        product = random_product(config, rng)
        if fitting(product):
            products.append(product)
    results = run(Path(config), words, products)
    for product, (found, _) in zip(products, results, strict=True):
        check(product, words, found)


def test_long_products_issue_a_slice_in_every_cycle():
    """From the first read to the last slice: the slices and the way of the first one."""
    config = CONFIGS["8x8"]
    rng = random.Random(SEED)
    words = [rng.getrandbits(config.bits) for _ in range(config.memory_words)]
    products = []
    for a_mode, b_mode, terms in itertools.product((0, 1), (0, 1), (40, 23, 8)):
        registers = defaults(config) | {"mx": 16, "k0": terms, "nt": 2, "nl": 8}
        registers |= {"a_mode": a_mode, "b_mode": b_mode, "b_base": 16 * 40}
        registers |= {"a_x": terms, "a_k0": 16, "b_x": terms, "b_k0": 8, "b_n": 8 * terms}
        products.append(Product(config, registers))
    for product, (found, cycles) in zip(products, run(Path(config), words, products), strict=True):
        check(product, words, found)
        in_lanes = product.a_mode == 0 or product.b_mode == 1
        start = config.rows + 3 + TRANSPOSED if in_lanes else 3
        assert cycles == list(range(start, start + 4 * product.terms)), product
