"""The floating-point rivals equal IEEE 754: exact integers and numpy's rounding are the oracles."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import pytest
from amaranth.sim import Simulator

from hw.adder import NETWORKS
from hw.emit import emit
from hw.float_adder import MagnitudeAdder
from hw.float_fma import FloatFusedMultiplyAdd
from hw.float_format import BFLOAT16, BINARY16, BINARY32, FloatFormat
from hw.float_mac import FloatMultiplyAccumulate
from hw.float_shift import AlignmentShifter, Normalizer
from hw.synthesis import SynthesisError, check_standard_cells, component_source, standard_cells
from sim.netlist import Netlist, read_verilog
from sim.netlist_arrays import evaluate_arrays
from tests.float_reference import Shape, fused, fused_arrays, round_to, units

SEED = 20261122
SHAPES = {"binary32": Shape(8, 23), "bfloat16": Shape(8, 7), "binary16": Shape(5, 10)}
SMALL = Shape(4, 2)
#: um2 and ns on osu018 that Berkeley's generator gives in the same flow: no rival is bloated.
BOUNDS = {"binary32": (230_000, 27.0), "bfloat16": (57_000, 15.0), "binary16": (74_000, 16.5)}


@cache
def netlist(shape: Shape, adder: str | None = None) -> Netlist:
    unit = FloatFusedMultiplyAdd(shape.exponent_bits, shape.fraction_bits, "generic", adder)
    return read_verilog(emit(unit, "unit"), "unit")


def results(shape: Shape, words: np.ndarray, adder: str | None = None) -> np.ndarray:
    """What the gates make of rows (a, b, c)."""
    made = netlist(shape, adder)
    made.check_ports(dict.fromkeys("abc", shape.bits), {"o": shape.bits})
    columns = np.ascontiguousarray(words.T.astype(np.uint64))
    return evaluate_arrays(made, dict(zip("abc", columns, strict=True)))["o"]


def corners(shape: Shape) -> list[int]:
    """Zeros, both ends of subnormals and normals, one, its neighbours, infinities, NaNs."""
    unit = 1 << shape.fraction_bits
    one = (2 ** (shape.exponent_bits - 1) - 1) * unit
    found = [0, 1, 2, unit // 2, unit - 1, unit, unit + 1, 2 * unit - 1, one - 1, one, one + 1]
    found += [one + unit - 1, one + unit // 2, shape.infinity - unit, shape.infinity - 1]
    found += [shape.infinity, shape.infinity + 1, shape.nan]
    return [word | sign for word in found for sign in (0, shape.sign)]


def near_words(shape: Shape, count: int, seed: int) -> np.ndarray:
    """Rows whose product and addend meet: near cancellation, near ties, next to subnormals."""
    random = Random(f"{SEED} {shape} {seed}")
    unit, top = 1 << shape.fraction_bits, shape.infinity
    bias = 2 ** (shape.exponent_bits - 1) - 1
    rows = []
    while len(rows) < count:
        exponents = [random.randrange(top // unit) for _ in range(2)]
        if random.random() < 0.3:
            exponents[random.randrange(2)] = 0
        reach = shape.fraction_bits + 4
        third = exponents[0] + exponents[1] - bias + random.randint(-reach, 2 * reach)
        sparse = random.random() < 0.5
        fractions = [
            random.choice((0, 1, unit // 2, unit - 1, 1 << random.randrange(unit.bit_length() - 1)))
            if sparse
            else random.randrange(unit)
            for _ in range(3)
        ]
        words = [
            (min(max(exponent, 0), top // unit - 1) * unit + fraction)
            | random.choice((0, shape.sign))
            for exponent, fraction in zip((*exponents, third), fractions, strict=True)
        ]
        if random.random() < 0.3:
            words[2] = cancelling(shape, words, random)
        rows.append(words)
    return np.array(rows, np.uint64)


def cancelling(shape: Shape, words: list[int], random: Random) -> int:
    """An addend that is the rounded product with the other sign, or its neighbour."""
    product = units(shape, words[0]) * units(shape, words[1])
    if not product:
        return words[2]
    word = round_to(shape, -product)
    magnitude = word % shape.sign + random.randint(-1, 1)
    return (word & shape.sign) | min(max(magnitude, 0), shape.infinity - 1)


def check(shape: Shape, rows: np.ndarray, adder: str | None = None) -> None:
    got = results(shape, rows, adder)
    for (a, b, c), found in zip(rows.tolist(), got.tolist(), strict=True):
        want = fused(shape, a, b, c)
        assert found == want, f"{a=:#x} {b=:#x} {c=:#x} {found=:#x} {want=:#x} {shape} {SEED=}"


@pytest.mark.parametrize("name", SHAPES)
def test_all_corners_together_equal_exact_arithmetic(name: str) -> None:
    words = corners(SHAPES[name])
    # The sign of b alone is that of a.
    check(SHAPES[name], np.array([(a, b, c) for a in words for b in words[::2] for c in words]))


@pytest.mark.parametrize("name", SHAPES)
def test_near_cancellation_ties_and_subnormals_equal_exact_arithmetic(name: str) -> None:
    check(SHAPES[name], near_words(SHAPES[name], 10_000, 0))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_a_million_operands_that_meet_equal_exact_arithmetic(name: str) -> None:
    for seed in range(10):
        check(SHAPES[name], near_words(SHAPES[name], 100_000, 10 + seed))


@pytest.mark.parametrize("adder", NETWORKS)
def test_every_network_of_carries_gives_the_same(adder: str) -> None:
    check(SMALL, near_words(SMALL, 2_000, 1), adder)


def small_rows(shape: Shape) -> np.ndarray:
    words = np.arange(1 << shape.bits)
    return np.stack(np.meshgrid(words, words, words), -1).reshape(-1, 3)


def test_operands_of_a_small_format_equal_exact_arithmetic() -> None:
    rows = small_rows(SMALL)
    check(SMALL, rows[np.random.default_rng(SEED).permutation(len(rows))[:30_000]])


@pytest.mark.slow
def test_every_operand_of_a_small_format_equals_exact_arithmetic() -> None:
    check(SMALL, small_rows(SMALL))


@pytest.mark.parametrize(("name", "kind"), [("binary16", np.float16), ("binary32", np.float32)])
@pytest.mark.parametrize("spread", ["all words", "like exponents"])
def test_a_million_random_words_equal_numpy(name: str, kind: type, spread: str) -> None:
    shape = SHAPES[name]
    generator = np.random.default_rng(SEED)
    rows = generator.integers(0, 1 << shape.bits, (1_000_000, 3), dtype=np.uint64)
    if spread == "like exponents":
        middle = 2 ** (shape.exponent_bits - 1) - 1 << shape.fraction_bits
        rows = rows & ~np.uint64(shape.infinity & ~(3 << shape.fraction_bits)) | np.uint64(
            middle & ~(3 << shape.fraction_bits)
        )
    got = results(shape, rows)
    words = np.dtype(f"uint{shape.bits}")
    a, b, c = (rows[:, i].astype(words).view(kind) for i in range(3))
    want = fused_arrays(a, b, c)
    expected = want.view(words).astype(np.uint64)
    expected[np.isnan(want)] = shape.nan
    wrong = np.flatnonzero(got != expected)
    first = wrong[:1]
    assert not len(wrong), f"{rows[first]} got {got[first]} want {expected[first]} {SEED=}"


def test_the_two_oracles_agree() -> None:
    for name, kind in (("binary16", np.float16), ("binary32", np.float32)):
        shape = SHAPES[name]
        rows = near_words(shape, 2_000, 2)
        words = np.dtype(f"uint{shape.bits}")
        found = fused_arrays(*(rows[:, i].astype(words).view(kind) for i in range(3)))
        assert found.view(words).tolist() == [fused(shape, *row) for row in rows.tolist()]


def test_the_accumulator_takes_valid_products_and_starts_at_first() -> None:
    shape = SHAPES["binary16"]
    unit = FloatMultiplyAccumulate(shape.exponent_bits, shape.fraction_bits)
    random = Random(SEED)
    special = corners(shape)

    async def testbench(context) -> None:
        held = None
        for cycle in range(120):
            a, b = (
                random.choice(special) if random.random() < 0.2 else random.getrandbits(16)
                for _ in range(2)
            )
            first, valid = cycle == 0 or random.random() < 0.2, cycle == 0 or random.random() < 0.8
            for port, given in ((unit.a, a), (unit.b, b), (unit.first, first), (unit.valid, valid)):
                context.set(port, given)
            await context.tick()
            if valid:
                held = fused(shape, a, b, 0 if first else held)
            assert context.get(unit.accumulator) == held, f"{a=:#x} {b=:#x} {cycle=} {SEED=}"

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_the_rival_is_no_larger_and_no_slower_than_berkeleys(name: str) -> None:
    try:
        check_standard_cells()
    except SynthesisError as error:
        pytest.skip(str(error))
    shape = SHAPES[name]
    unit = FloatMultiplyAccumulate(shape.exponent_bits, shape.fraction_bits, "osu018")
    found = standard_cells(component_source(unit), clocked=True)
    area, delay = BOUNDS[name]
    assert found.area <= area
    assert found.delay <= delay


def test_the_facts_of_the_formats_are_the_standards() -> None:
    assert (BINARY32.bits, BINARY32.bias, BINARY32.precision) == (32, 127, 24)
    assert (BINARY16.bits, BINARY16.bias, BINARY16.precision) == (16, 15, 11)
    assert (BFLOAT16.bits, BFLOAT16.bias, BFLOAT16.precision) == (16, 127, 8)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: FloatFormat(2, 3), ValueError, "exponent_bits must be 3 to 15, not 2"),
        (lambda: FloatFormat(8, True), TypeError, "fraction_bits must be an integer, not True"),
        (lambda: FloatFormat(4, 3), ValueError, "fraction_bits must be at most 2 with 4"),
        (lambda: MagnitudeAdder(8, "plain"), ValueError, "adder must be one of ripple"),
        (lambda: FloatFusedMultiplyAdd(5, 10, "asic"), ValueError, "target must be one of"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(make, error, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def small_netlist(unit, name: str = "unit") -> Netlist:
    return read_verilog(emit(unit, name), name)


def test_the_shifters_move_count_and_collect_for_every_input() -> None:
    shifter = small_netlist(AlignmentShifter(3, 9))
    rows = np.array([(s, n, k) for s in range(8) for n in range(10) for k in (0, 1)], np.uint64)
    given = dict(zip(("significand", "shift", "complement"), rows.T.copy(), strict=True))
    found = evaluate_arrays(shifter, given)
    for index, (significand, shift, complement) in enumerate(rows.tolist()):
        exact = significand << 6 << 9 >> shift
        assert int(found["aligned"][index]) == (exact >> 9) ^ (511 * complement)
        assert int(found["lost"][index]) == (exact & 511 != 0)
    normalizer = small_netlist(Normalizer(9, 3, 5))
    rows = np.array([(v, n) for v in range(512) for n in range(32) if v or n < 9], np.uint64)
    found = evaluate_arrays(normalizer, dict(zip(("value", "limit"), rows.T.copy(), strict=True)))
    for index, (word, limit) in enumerate(rows.tolist()):
        shift = min(9 - word.bit_length(), limit)
        moved = word << shift
        got = tuple(int(found[n][index]) for n in ("shift", "significand", "round", "sticky"))
        assert got == (shift, moved >> 6, moved >> 5 & 1, moved & 31 != 0), (word, limit)
