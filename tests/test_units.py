"""The small units against what their words say."""

from __future__ import annotations

import gc
import itertools
import random

import pytest

from hw.activation import ActivationUnit
from hw.cycle_count import CycleCount
from hw.detect import UnityDetector, ZeroDetector
from hw.operand_hold import OperandHold
from hw.shift_register import ShiftRegister
from sw.format import ACTIVATIONS, MAX_BITS, MIN_BITS, SFx
from tests.simulation import assert_equal, evaluate

SEED = 20261122
WIDTHS = range(MIN_BITS, MAX_BITS + 1)


def words_of(format: SFx) -> list[int]:
    """Every word up to 9 bits, else both ends, every single bit and random ones."""
    if format.bits <= 9:
        return list(range(1 << format.bits))
    rng = random.Random(SEED)
    top, sign = format.max_code, format.sign_bit
    magnitudes = [0, top, top - 1, *(1 << n for n in range(format.fraction_bits))]
    magnitudes += [top ^ (1 << n) for n in range(format.fraction_bits)]
    drawn = [rng.getrandbits(format.bits) for _ in range(100)]
    return [*magnitudes, *(m | sign for m in magnitudes), *drawn]


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_detectors_find_zero_and_one_of_both_signs(bits: int, unity: bool) -> None:
    format = SFx(bits, unity)
    vectors = [(word,) for word in words_of(format)]
    values = [format.decode(word) for (word,) in vectors]
    got = [bool(o) for (o,) in evaluate(ZeroDetector(format), vectors)]
    assert_equal(f"zero of {format}", vectors, got, [v == 0 for v in values], names=("word",))
    got = [bool(o) for (o,) in evaluate(UnityDetector(format), vectors)]
    assert_equal(f"one of {format}", vectors, got, [abs(v) == 1 for v in values], names=("word",))


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_activation_equals_the_model_and_never_gives_minus_zero(bits: int, unity: bool) -> None:
    format = SFx(bits, unity)
    vectors = [(word, select) for word in words_of(format) for select in (0, 1)]
    got = [o for (o,) in evaluate(ActivationUnit(format), vectors)]
    want = []
    for word, select in vectors:
        value = format.decode(word)
        value = max(value, 0) if ACTIVATIONS[select] == "relu" else value
        want.append(format.encode(value))
    assert_equal(f"activation of {format}", vectors, got, want, names=("i", "select"))


def test_cycle_count_is_the_published_formula_for_every_size() -> None:
    sizes = [16, *range(1, 16)]  # a code of 0 means 16
    vectors = list(itertools.product(range(16), repeat=3))
    got = [o for (o,) in evaluate(CycleCount(), vectors)]
    want = [sum(sizes[code] for code in codes) - 2 for codes in vectors]
    assert_equal("cycle count", vectors, got, want, names=("rows", "inner", "columns"))


@pytest.mark.parametrize("size_bits", [1, 2, 9])
def test_cycle_count_holds_the_largest_sizes(size_bits: int) -> None:
    unit = CycleCount(size_bits)
    largest = (1 << size_bits) - 1
    assert evaluate(unit, [(0, 0, 0), (largest, 0, 1)]) == [
        (3 * (1 << size_bits) - 2,),
        (largest + (1 << size_bits) - 1,),
    ]


@pytest.mark.parametrize(("lanes", "depth", "bits"), [(1, 8, 16), (3, 2, 5), (2, 1, 4), (8, 8, 3)])
def test_shift_register_shows_the_last_words_of_every_lane(
    lanes: int, depth: int, bits: int
) -> None:
    rng = random.Random(SEED)
    vectors = [(rng.getrandbits(1), rng.getrandbits(lanes * bits)) for _ in range(120)]
    rows = [[0] * depth for _ in range(lanes)]
    want = []
    for enable, words in vectors:
        flat = [word for row in rows for word in row]
        want.append(sum(word << n * bits for n, word in enumerate(flat)))
        if enable:
            for lane, row in enumerate(rows):
                rows[lane] = [(words >> lane * bits) & ((1 << bits) - 1), *row[:-1]]
    got = evaluate_packed(ShiftRegister(lanes, depth, bits), vectors)
    label = f"shift register {lanes}x{depth}x{bits}"
    assert_equal(label, vectors, got, want, SEED, ("enable", "i"))


def evaluate_packed(unit: ShiftRegister, vectors: list[tuple[int, int]]) -> list[int]:
    """Outputs as one integer each, arrays of words packed into one too."""
    bits = len(unit.i[0])
    unpacked = [
        (enable, [(words >> n * bits) & ((1 << bits) - 1) for n in range(unit.lanes)])
        for enable, words in vectors
    ]
    results = evaluate(unit, unpacked, clocked=True)
    return [taps.as_bits() for (taps,) in results]


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_operand_hold_keeps_the_last_pair_without_a_zero(bits: int, unity: bool) -> None:
    format = SFx(bits, unity)
    rng = random.Random(SEED + bits)
    common = [0, format.sign_bit, format.max_code, (1 << bits) - 1, 1]
    vectors = [
        (*(rng.choice([*common, rng.getrandbits(bits)]) for _ in "ab"), rng.randrange(4) > 0)
        for _ in range(150)
    ]
    held, valid_before, zero_before = (0, 0), 0, 0
    want = []
    for a, b, valid in vectors:
        ones = [int(abs(format.operand(word)) == 1 << format.fraction_bits) for word in held]
        want.append((*held, *ones, int(valid_before), int(zero_before)))
        zero = format.operand(a) * format.operand(b) == 0
        if valid and not zero:
            held = a, b
        valid_before, zero_before = valid, valid and zero
    got = evaluate(OperandHold(format), vectors, clocked=True)
    assert_equal(f"operand hold {format}", vectors, got, want, SEED, ("a", "b", "valid"))


@pytest.mark.filterwarnings("ignore:.*created but never used")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "lanes must be at least 1, not 0"),
        ((1, 0), "depth must be at least 1, not 0"),
        ((1, 1, -3), "bits must be at least 1, not -3"),
    ],
)
def test_shift_register_refuses_empty_sizes(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShiftRegister(*arguments)
    gc.collect()  # here, where Amaranth's complaint about the unused unit is expected
