"""Chunks and tile records against nested loops, their cycles against the stated recurrences."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from amaranth.sim import Simulator

from hw.planner import CHUNK_QUEUE, TILE_QUEUE, Planner
from hw.tile_memory import TileMemory
from sw.config import MachineConfig
from tests.planning import (
    Chunk,
    Product,
    a_address,
    a_chunk,
    b_address,
    b_chunk,
    defaults,
    plan,
    tile_record,
)

SEED = 20261122
LATENCY = TileMemory.latency
CONFIGS = {
    "8x8": MachineConfig(blocks=True),
    "4x8": MachineConfig(bits=4, rows=4, columns=8, slots=40, blocks=True, parameters=8),
    "3x5": MachineConfig(bits=8, rows=3, columns=5, slots=9, blocks=True, row_parameters=16),
    "2x2": MachineConfig(bits=3, rows=2, columns=2, slots=50, parameters=1, row_parameters=1),
    "1x1": MachineConfig(rows=1, columns=1, slots=64),
    "32x16": MachineConfig(rows=32, columns=16, slots=4, blocks=True),
}


@dataclass
class Run:
    """What left a planner: payloads and the cycles in which they were taken, start in cycle 0."""

    a: list[dict[str, int]] = field(default_factory=list)
    b: list[dict[str, int]] = field(default_factory=list)
    tiles: list[dict[str, int]] = field(default_factory=list)
    cycles: dict[str, list[int]] = field(default_factory=dict)
    seen: dict[str, list[int]] = field(default_factory=dict)  # the first cycle with valid
    skipped: int = 0
    idle: int = 0  # the first cycle that is not busy


def run(
    products: list[Product], zero: Callable[[int], bool], ready: float, rng: random.Random
) -> list[Run]:
    """Plan the products one after the other; ``ready`` is the share of ready cycles."""
    unit = Planner(products[0].config)
    runs = []

    async def one(context, product: Product) -> Run:
        found = Run()
        streams = {"a": unit.a, "b": unit.b, "tiles": unit.tiles}
        for name in streams:
            found.cycles[name], found.seen[name] = [], []
        for name, value in product.registers.items():
            context.set(unit.registers[name], value)
        context.set(unit.rows, product.rows)
        context.set(unit.terms, product.terms)
        context.set(unit.skip, product.skip)
        context.set(unit.blocks, product.blocks)
        context.set(unit.start, 1)
        replies: list[int] = [rng.getrandbits(len(unit.zero)) for _ in range(LATENCY)]
        cycle, quiet = 0, 0
        while quiet < 12:
            for stream in streams.values():
                context.set(stream.ready, rng.random() < ready)
            context.set(unit.zero, replies[cycle])
            if context.get(unit.flags.enable):
                segment = context.get(unit.flags.segment)
                flags = [zero(segment + i) for i in range(len(unit.zero))]
                replies.append(sum(bit << i for i, bit in enumerate(flags)))
            else:
                replies.append(rng.getrandbits(len(unit.zero)))
            for name, stream in streams.items():
                if context.get(stream.valid):
                    if len(found.seen[name]) == len(found.cycles[name]):
                        found.seen[name].append(cycle)
                    if context.get(stream.ready):
                        payload = stream.payload
                        fields = {f: context.get(payload[f]) for f, _ in payload.shape()}
                        fields = {f: getattr(v, "value", v) for f, v in fields.items()}
                        getattr(found, name).append(fields)
                        found.cycles[name].append(cycle)
            found.skipped += context.get(unit.skipped)
            if not context.get(unit.busy) and cycle and not found.idle:
                found.idle = cycle
            quiet = 0 if context.get(unit.busy) else quiet + 1
            quiet *= not any(context.get(stream.valid) for stream in streams.values())
            await context.tick()
            context.set(unit.start, 0)
            cycle += 1
            assert cycle < 5000, f"{product} never ends"
        return found

    async def testbench(context) -> None:
        for product in products:
            runs.append(await one(context, product))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return runs


def random_product(config: MachineConfig, rng: random.Random) -> Product:
    """A product of any shape, addresses modulo the memory's."""
    registers = defaults(config)
    words, count = 1 << config.address_bits, config.address_bits
    for name in registers:
        if name[:2] in ("a_", "b_", "o_") and name[2:] != "mode":
            registers[name] = rng.getrandbits(rng.randint(1, count))
        elif name[:2] == "p_":
            registers[name] = rng.getrandbits(16)
    blocks = config.blocks and rng.random() < 0.3
    vector = config.vector
    for name in ("mx", "my", "nt", "g"):
        registers[name] = rng.choice((1, 1, 2, 3))
    registers["mx"] = rng.choice((1, config.rows, rng.randint(1, 2 * config.rows + 1)))
    registers["nl"] = rng.randint(1, config.columns)
    near = rng.choice((1, vector // 2, vector, vector * 3 // 2, 2 * vector, 32))
    registers["k0"] = max(1, near + rng.randint(-1, 1))
    if blocks:
        registers["k0"] = rng.choice((1, 31, 32, 33, 64, 65, rng.randint(1, 130)))
    else:
        registers["k1"], registers["k2"] = rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))
    registers["a_mode"], registers["b_mode"] = rng.randrange(2), rng.randrange(3)
    if rng.random() < 0.5:  # where slices can be skipped, nearly
        registers |= {"b_mode": 0, "b_k0": config.columns}
        for name in ("b_base", "b_k1", "b_k2", "b_n", "b_g"):
            registers[name] = rng.randrange(words) // config.columns * config.columns
        if rng.random() < 0.2:
            registers[rng.choice(("b_base", "b_k1", "b_n", "b_k0"))] ^= 1
    return Product(config, registers, rng.random() < 0.7, blocks)


def zeros(config: MachineConfig, share: float, rng: random.Random) -> Callable[[int], bool]:
    """Which segments are all zero: alone, and in runs as pruned weights have them."""
    count = config.memory_words // config.columns + 2 * config.vector
    flags = [rng.random() < share for _ in range(count)]
    for _ in range(count // 40):
        start = rng.randrange(count)
        for i in range(start, min(count, start + 2 * config.vector)):
            flags[i] = True
    return lambda segment: flags[segment % count]


def check(product: Product, zero: Callable[[int], bool], found: Run) -> None:
    """Chunks, records and skipped slices are those of the nested loops, every one in its cycle."""
    walked, kept = plan(product, zero)
    message = f"{product} seed={SEED}"
    want_a = [a_chunk(product, c) for c in kept]
    got_a = [{f: v for f, v in c.items() if f in want_a[0]} for c in found.a]
    assert_same(got_a, want_a, message)
    assert_same(found.b, [b_chunk(product, c) for c in kept], message)
    assert_same(found.tiles, [tile_record(product, c) for c in kept if c.first], message)
    pushed = sum(c.bitmap.bit_count() for c in kept)
    assert found.skipped == sum(len(c.k) for c in walked) - pushed, message
    leave = leaving_cycles(product, walked, found.cycles)
    for name in ("a", "b", "tiles"):
        pops = found.cycles[name]
        pushes = [leave[id(c)] for c in kept if name != "tiles" or c.first]
        late = 2 * (name == "tiles")  # a register before the queue and one behind it
        ends = [max(p + late, q) + 1 for p, q in zip(pushes, [-1, *pops], strict=False)]
        assert found.seen[name] == ends, f"{name} {message}"
    assert found.idle == max(leave.values()) + 1, message


def all_zero(segment: int) -> bool:
    """Flags that a product without SKIP must not look at."""
    return True


def assert_same(got: list, want: list, message: str) -> None:
    for i, (g, w) in enumerate(zip(got, want, strict=False)):
        assert g == w, f"{i}: got={g} want={w} {message}"
    assert len(got) == len(want), message


def leaving_cycles(p: Product, walked: list[Chunk], pops: dict[str, list[int]]) -> dict[int, int]:
    """The recurrences of the planner's docstring: when each kept chunk leaves, by identity."""
    walk: list[int] = []
    take: list[int] = []
    leave: dict[int, int] = {}
    pushes: dict[str, list[int]] = {name: [] for name in pops}
    held_take = 0

    def leaves(chunk: Chunk, cycle: int) -> int:
        names = ["a", "b"] + ["tiles"] * chunk.first
        depths = {"a": CHUNK_QUEUE, "b": CHUNK_QUEUE, "tiles": TILE_QUEUE}
        while any(len(pushes[n]) - sum(pop < cycle for pop in pops[n]) >= depths[n] for n in names):
            cycle += 1
        for n in names:
            pushes[n].append(cycle)
        leave[id(chunk)] = cycle
        return cycle

    held: Chunk | None = None
    for c, chunk in enumerate(walked):
        behind = c - (LATENCY + 3)
        walk.append(max(1, walk[-1] + 1 if walk else 0, take[behind] + 1 if behind >= 0 else 0))
        cycle = max(walk[c] + LATENCY + 2, take[-1] + 1 if take else 0)
        if held and (chunk.bitmap or chunk.end):
            settled = held.end or not p.skips
            cycle = max(
                cycle, leaves(held, held_take + 1 if settled else max(held_take + 1, cycle))
            )
            held = None
        take.append(cycle)
        if chunk.bitmap:
            held, held_take = chunk, cycle
    if held:
        leaves(held, held_take + 1)
    return leave


@pytest.mark.parametrize("ready", [1.0, 0.6, 0.15])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_products_give_the_chunks_of_nested_loops_in_their_cycles(name, ready):
    config = CONFIGS[name]
    rng = random.Random(f"{SEED} {name} {ready}")
    zero = zeros(config, rng.choice((0.3, 0.9)), rng)
    products = [random_product(config, rng) for _ in range(8)]
    for product, found in zip(products, run(products, zero, ready, rng), strict=True):
        check(product, zero, found)


@pytest.mark.parametrize("skip", [False, True])
def test_a_product_without_zeros_gives_a_chunk_per_cycle(skip):
    config = MachineConfig()
    registers = defaults(config) | {"mx": 17, "k0": 70, "nt": 3, "b_k0": 8, "b_n": 64}
    product = Product(config, registers, skip)
    (found,) = run([product], lambda segment: False, 1.0, random.Random(SEED))
    check(product, lambda segment: False, found)
    assert found.cycles["a"][0] == LATENCY + 5
    assert len(found.cycles["a"]) == 3 * 3 * 5
    assert found.cycles["a"][-1] == LATENCY + 5 + 3 * 3 * 5 - 1


def test_zeros_cost_a_cycle_per_chunk_and_a_tile_of_zeros_keeps_one_slice():
    config = MachineConfig()
    registers = defaults(config) | {"k0": 64, "nt": 2, "b_k0": 8, "b_n": 512}
    product = Product(config, registers, True)

    def zero(segment: int) -> bool:
        return not 40 <= segment < 43

    (found,) = run([product], zero, 1.0, random.Random(SEED))
    check(product, zero, found)
    assert [chunk["bitmap"] for chunk in found.b] == [0b111 << 8, 1]
    assert [chunk["first"] & chunk["last"] for chunk in found.b] == [1, 1]
    # the third chunk is kept back until the fourth, the tile's last, is taken
    assert found.cycles["b"] == [LATENCY + 5 + 3 - 1, LATENCY + 5 + 7]
    assert found.skipped == 128 - 4


def test_what_is_planned_covers_every_word_once():
    """The slices of the chunks, expanded as feeders do, are those of the address formulas."""
    config = CONFIGS["3x5"]
    rng = random.Random(SEED)
    for product in [random_product(config, rng) for _ in range(10)]:
        (found,) = run([product], lambda segment: False, 1.0, rng)
        want = []
        for g in range(product.g):
            for m in range(0, product.rows, config.rows):
                for t in range(product.nt):
                    want += [
                        (g, m, t, (k2, k1, k0))
                        for k2 in range(product.k2)
                        for k1 in range(product.k1)
                        for k0 in range(product.k0)
                    ]
        assert_same(expand_a(product, found.a), [words_of_a(product, *w) for w in want], SEED)
        assert_same(expand_b(product, found.b), [words_of_b(product, *w) for w in want], SEED)


def words_of_a(p: Product, g: int, m: int, t: int, k: tuple[int, int, int]) -> list[int]:
    """Addresses of the words of one slice of A."""
    rows = range(m, min(m + p.config.rows, p.rows))
    return [a_address(p, g, t, row, k) % (1 << p.config.address_bits) for row in rows]


def words_of_b(p: Product, g: int, m: int, t: int, k: tuple[int, int, int]) -> list[object]:
    """Addresses of the words of one slice of B, or the shift of the identity's word and zeros."""
    columns = range(p.nl if t == p.nt - 1 else p.config.columns)
    if p.b_mode == 2:
        shift = (p.b_k1 if k[1] else p.b_k0) % 16
        return [shift if k[2] == j else None for j in columns]
    return [b_address(p, g, t, j, k) % (1 << p.config.address_bits) for j in columns]


def expand_a(p: Product, chunks: list[dict[str, int]]) -> list[list[int]]:
    """As side A's feeder reads chunks: lanes walk over x and y, slices follow their stride."""
    slices, row = [], 0
    for chunk in chunks:
        row = 0 if chunk["reset"] else row
        lanes = range(chunk["lanes"])
        walk = [(row + i) % p.mx * p.a_x + (row + i) // p.mx * p.a_y for i in lanes]
        step = 1 if chunk["mode"] == 0 else chunk["stride"]
        offsets = walk if chunk["mode"] == 0 else lanes
        for i in range(chunk["bitmap"].bit_length()):
            words = [chunk["address"] + i * step + offset for offset in offsets]
            slices.append([word % (1 << p.config.address_bits) for word in words])
        row += chunk["lanes"] * chunk["advance"]
    return slices


def expand_b(p: Product, chunks: list[dict[str, int]]) -> list[list[object]]:
    """As side B's feeder reads chunks."""
    slices: list[list[object]] = []
    for c in chunks:
        lanes = range(c["lanes"])
        for i in range(c["bitmap"].bit_length()):
            if c["mode"] == 2:
                shift = c["stride"] % 16
                slices.append([shift if c["address"] + i == j else None for j in lanes])
                continue
            by_lane, by_slice = (c["stride"], 1) if c["mode"] == 0 else (1, c["stride"])
            words = [c["address"] + i * by_slice + j * by_lane for j in lanes]
            slices.append([word % (1 << p.config.address_bits) for word in words])
    return slices


@pytest.mark.parametrize("columns", [2, 8])
def test_runs_of_every_length_are_cut_by_the_rule(columns):
    config = MachineConfig(rows=2, columns=columns, slots=64, blocks=True)
    products = []
    for k0 in range(1, 2 * config.vector + 4):
        for blocks in (False, True):
            products.append(Product(config, defaults(config) | {"k0": k0}, False, blocks))
    rng = random.Random(SEED)
    for product, found in zip(products, run(products, all_zero, 1.0, rng), strict=True):
        check(product, all_zero, found)


def test_an_identity_takes_its_second_shift_where_k1_is_not_0():
    config = MachineConfig()
    registers = {"k0": 20, "k1": 3, "k2": 2, "nt": 2, "b_mode": 2, "b_k0": 3, "b_k1": 5}
    product = Product(config, defaults(config) | registers)
    (found,) = run([product], all_zero, 1.0, random.Random(SEED))
    check(product, all_zero, found)
    assert [chunk["stride"] for chunk in found.b] == [3, 3, 5, 5, 5, 5] * 4


@pytest.mark.parametrize("ready", [1.0, 0.3])
def test_every_pattern_of_empty_chunks_in_a_tile_is_planned(ready):
    """16 tiles of 4 chunks: chunk c of tile t is all zero where bit c of t is set."""
    config = MachineConfig(rows=2, columns=2, slots=128)
    vector = config.vector
    registers = defaults(config) | {"k0": 4 * vector, "nt": 16, "b_k0": 2, "b_n": 8 * vector}
    product = Product(config, registers, True)

    def zero(segment: int) -> bool:
        tile, chunk = divmod(segment // vector, 4)
        return bool(tile >> chunk & 1)

    (found,) = run([product], zero, ready, random.Random(SEED))
    check(product, zero, found)
    assert len(found.b) == 32 + 1  # half of all chunks, and one of the tile of zeros
    assert found.skipped == 32 * vector - 1
