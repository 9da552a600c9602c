"""The array behind its edge: every sum on its bus in its cycle, and nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from amaranth.hdl import Fragment, Module
from amaranth.sim import Simulator

from hw.array import SystolicArray
from hw.carry_chain import BEHAVIOURAL
from hw.edge import ArrayEdge
from sw.format import SFx
from tests.operands import SEED, random_word, special_words, stored


@dataclass(frozen=True)
class Slice:
    """One cycle at the edge: the words of a slice, its control and its tile's size."""

    a: list[int]
    b: list[int]
    valid: int = 1
    first: int = 0
    last: int = 0
    rows: int = 0
    columns: int = 0


@dataclass
class Expected:
    """The integer model's sums: per cell, and per cycle and column what the bus must show."""

    format: SFx
    sums: dict[tuple[int, int], int] = field(default_factory=dict)
    buses: dict[tuple[int, int], int] = field(default_factory=dict)

    def take(self, cycle: int, s: Slice) -> None:
        """The slice enters; its sums leave row i, column j after ``cycle + i + j``."""
        for i in range(s.rows):
            for j in range(len(s.b)):
                total = self.sums.get((i, j), 0)
                if s.valid:
                    b = s.b[j] if j < s.columns else 0
                    total = (0 if s.first else total) + self.format.multiply(s.a[i], b)
                self.sums[i, j] = total
                if s.last:
                    place = cycle + i + j, j
                    assert place not in self.buses, "the stimulus must not collide on a bus"
                    self.buses[place] = total


def run(edge: ArrayEdge, array: SystolicArray, slices: list[Slice]) -> list[int]:
    """Feed the slices, one per cycle, and compare every bus in every cycle; the counts held."""
    format = edge.format
    expected = Expected(format)
    for cycle, s in enumerate(slices):
        expected.take(cycle, s)
    latency = edge.latency + array.latency
    m = Module()
    m.submodules.edge, m.submodules.array = edge, array
    for i in range(edge.rows):
        m.d.comb += [
            array.a[i].eq(edge.a_skewed[i]),
            array.control[i].eq(edge.control_skewed[i]),
        ]
    for j in range(edge.columns):
        m.d.comb += array.b[j].eq(edge.b_skewed[j])
    held: list[int] = []

    async def testbench(context) -> None:
        rest = Slice([0] * edge.rows, [0] * edge.columns, valid=0)
        for cycle in range(len(slices) + latency + edge.rows + edge.columns):
            s = slices[cycle] if cycle < len(slices) else rest
            for lanes, words in ((edge.a, s.a), (edge.b, s.b)):
                for lane, word in zip(lanes, words, strict=True):
                    context.set(lane, stored(format, word))
            context.set(edge.control, {"valid": s.valid, "first": s.first, "last": s.last})
            context.set(edge.row_mask, (1 << s.rows) - 1)
            context.set(edge.column_mask, (1 << s.columns) - 1)
            held.append(context.get(edge.held))
            for j in range(edge.columns):
                got = context.get(array.bus[j])
                want = expected.buses.get((cycle - latency, j), 0)
                assert got == want, (
                    f"{format} {edge.rows}x{edge.columns} cycle {cycle} column {j} "
                    f"{got=} {want=} seed={SEED}"
                )
            await context.tick()

    simulator = Simulator(Fragment.get(m, BEHAVIOURAL))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return held[edge.held_latency :]


def tile(
    format: SFx,
    shape: tuple[int, int],
    used: tuple[int, int],
    inner: int,
    generator: random.Random,
    bubbles: float = 0.0,
) -> list[Slice]:
    """The slices of one tile, with idle cycles between them and noise in lanes not used."""
    slices = []
    for k in range(inner):
        while generator.random() < bubbles:
            slices.append(Slice(*noise(format, shape, generator), 0, 1, 0, *used))
        words = noise(format, shape, generator)
        slices.append(Slice(*words, 1, int(k == 0), int(k == inner - 1), *used))
    return slices


def noise(format: SFx, shape: tuple[int, int], generator: random.Random) -> list[list[int]]:
    """Words for every lane of both sides."""
    return [[random_word(format, generator) for _ in range(side)] for side in shape]


def back_to_back(format: SFx, shape: tuple[int, int], count: int, seed: int) -> list[Slice]:
    """Tiles of random sizes, as close as they may be.

    A sum starts in the cycle after the one before ended, and from one drain of row 0 to the next
    are often exactly as many cycles as rows drain.
    """
    generator = random.Random(seed)
    slices: list[Slice] = []
    drained = 1
    for number in range(count):
        used = shape if number < 2 else tuple(generator.randint(1, side) for side in shape)
        inner = max(drained, 1 if number < 3 else generator.randint(1, 2 * shape[0]))
        slices += tile(format, shape, used, inner, generator, bubbles=0.3 * (number % 2))
        drained = used[0]
        if number % 3 == 2:  # the same sums once more, then the next tile
            words = noise(format, shape, generator)
            slices += [Slice(*words, 0, 0, 0, *used)] * (drained - 1)
            slices.append(Slice(*words, 0, 1, 1, *used))
    return slices


#: Formats and sides.
ARRAYS = [
    (3, True, 2, 2),
    (4, True, 3, 3),
    (5, False, 1, 4),
    (8, True, 4, 2),
    (8, False, 2, 3),
    (11, True, 5, 1),
    (16, True, 3, 4),
    (16, False, 2, 2),
    (3, False, 1, 1),
]


@pytest.mark.parametrize(
    ("bits", "unity", "rows", "columns", "target", "hold"),
    [  # the edge holds, the cells are made for a target: every array has both of both
        (*array, target, (target == "generic") ^ (number % 2))
        for number, array in enumerate(ARRAYS)
        for target in ("generic", "ecp5")
    ],
)
def test_every_sum_leaves_in_its_cycle(bits, unity, rows, columns, target, hold):
    format = SFx(bits, unity)
    edge = ArrayEdge(format, rows, columns, hold)
    array = SystolicArray(format, rows, columns, 256, target=target)
    run(edge, array, back_to_back(format, (rows, columns), 8, SEED + bits))


@pytest.mark.parametrize(("rows", "latency"), [(16, 4), (17, 5), (32, 5)])
def test_the_bus_of_more_than_16_rows_has_a_second_register(rows, latency):
    format = SFx(4)
    array = SystolicArray(format, rows, 1, 256)
    assert array.latency == latency
    run(ArrayEdge(format, rows, 1), array, back_to_back(format, (rows, 1), 3, SEED))


def test_32_columns_are_skewed_alike():
    format = SFx(3)
    slices = back_to_back(format, (1, 32), 4, SEED)
    run(ArrayEdge(format, 1, 32), SystolicArray(format, 1, 32, 256), slices)


@pytest.mark.parametrize("format", [SFx(8), SFx(16), SFx(8, unity=False)], ids=str)
def test_holding_changes_no_sum_and_counts_what_it_held(format):
    """Mostly zeros and unities, of both signs, so that most operands in the array are stale."""
    generator = random.Random(SEED)
    words = [0, format.sign_bit, *special_words(format)]
    shape = (3, 3)
    slices = []
    for used in ((3, 3), (2, 3), (3, 1), (3, 3)):
        for k in range(9):
            a, b = ([generator.choice(words) for _ in range(side)] for side in shape)
            slices.append(Slice(a, b, 1, int(k == 0), int(k == 8), *used))
    counts = []
    for hold in (True, False):
        edge = ArrayEdge(format, *shape, hold)
        counts.append(run(edge, SystolicArray(format, *shape, 256), slices))
    assert not any(counts[1])
    want = [
        (not s.first)
        * sum(format.operand(word) == 0 for word in [*s.a[: s.rows], *s.b[: s.columns]])
        for s in slices
    ]
    assert counts[0][: len(want)] == want
    assert not any(counts[0][len(want) :])


def test_k_max_terms_of_the_largest_product_fit():
    format, terms = SFx(6), 32
    ones = format.max_code
    slices = [
        Slice([ones] * 2, [ones | s] * 2, 1, int(k == 0), int(k == terms - 1), 2, 2)
        for s in (0, format.sign_bit)
        for k in range(terms)
    ]
    run(ArrayEdge(format, 2, 2), SystolicArray(format, 2, 2, terms), slices)


@pytest.mark.parametrize("value", [0, 33, True, 2.0])
@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("component", [SystolicArray, ArrayEdge])
def test_sides_outside_the_range_are_refused(component, side, value):
    sides = {"rows": 2, "columns": 2, side: value}
    with pytest.raises((TypeError, ValueError), match=f"{side} must be"):
        component(SFx(8), **sides)
