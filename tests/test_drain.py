"""The drain against the integer model, for any accumulator, shift and bias."""

from __future__ import annotations

import itertools
import random

import pytest

from hw.drain import Drain
from sw.format import ACTIVATIONS, MAX_BITS, MIN_BITS, ROUNDINGS, Rounding, SFx
from tests.simulation import assert_equal, evaluate

SEED = 20261122
WIDTHS = range(MIN_BITS, MAX_BITS + 1)
NAMES = ("accumulator", "row_shift", "column_shift", "bias", "select")
Vector = tuple[int, int, int, int, int]


def split_shift(shift: int) -> tuple[int, int]:
    row = max(-128, min(127, shift))
    return row, shift - row


def accumulators(width: int, rng: random.Random) -> list[int]:
    """The ends of the range, powers of two and their neighbours, and random ones of any length."""
    near = {s * (1 << n) + d for n in range(width - 1) for s in (1, -1) for d in (-1, 0, 1)}
    drawn = {rng.getrandbits(rng.randint(1, width)) - (1 << width - 1) for _ in range(20)}
    ends = {0, -(1 << width - 1), (1 << width - 1) - 1}
    low, high = -(1 << width - 1), (1 << width - 1) - 1
    return sorted(a for a in near | drawn | ends if low <= a <= high)


def biases(format: SFx, rng: random.Random) -> list[int]:
    top, sign = format.max_code, format.sign_bit
    return [0, sign, 1, sign | 1, top, sign | top, top - 1, sign | (top - 1),
            rng.getrandbits(format.bits), rng.getrandbits(format.bits)]  # fmt: skip


def vectors_for(unit: Drain, rng: random.Random, count: int) -> list[Vector]:
    """Every shift sum that changes anything, with drawn accumulators and biases."""
    width = len(unit.accumulator)
    found = accumulators(width, rng)
    shifts = [-256, -255, 253, 254, *range(unit.sizes.least_shift - 3, width + 20)]
    vectors = []
    for _ in range(count):
        for shift in shifts:
            row, column = split_shift(shift)
            bias = rng.choice(biases(unit.bias_format, rng))
            vectors.append((rng.choice(found), row, column, bias, rng.getrandbits(1)))
    for accumulator in (-(1 << width - 1), (1 << width - 1) - 1, -1):
        for shift in shifts:
            for bias in (0, (1 << unit.bias_format.bits) - 1):
                vectors.append((accumulator, *split_shift(shift), bias, 0))
    return vectors


def check(unit: Drain, rounding: Rounding, vectors: list[Vector]) -> None:
    want = [
        unit.format.drain(
            accumulator,
            row_shift=row,
            column_shift=column,
            bias=bias,
            bias_format=unit.bias_format,
            activation=ACTIVATIONS[select],
            rounding=rounding,
            output=unit.output,
        )
        for accumulator, row, column, bias, select in vectors
    ]
    got = [o for (o,) in evaluate(unit, vectors)]
    label = f"drain {unit.format} to {unit.output}, bias {unit.bias_format}, {rounding}"
    assert_equal(label, vectors, got, want, SEED, NAMES)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_drain_equals_the_model(bits: int, unity: bool, rounding: Rounding) -> None:
    unit = Drain(SFx(bits, unity), rounding=rounding)
    check(unit, rounding, vectors_for(unit, random.Random(SEED + bits), 1))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(
    ("bits", "output", "bias", "max_terms", "unity"),
    [
        (3, 16, 3, 2, True),
        (3, 3, 16, 2, True),
        (3, 16, 16, 16, False),
        (4, 16, 3, 2, False),
        (5, 9, 16, 65536, True),
        (8, 3, 16, 1000, True),
        (8, 16, 8, 65536, True),
        (16, 3, 3, 65536, True),
        (16, 8, 16, 2, False),
        (16, 16, 3, 2, True),
    ],
)
def test_drain_equals_the_model_between_any_widths(
    bits: int, output: int, bias: int, max_terms: int, unity: bool, rounding: Rounding
) -> None:
    formats = SFx(bits, unity), SFx(output, unity), SFx(bias, unity)
    unit = Drain(formats[0], max_terms, formats[1], formats[2], rounding)
    check(unit, rounding, vectors_for(unit, random.Random(SEED), 2))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("output", "bias"), [(3, 3), (6, 3), (3, 6)])
def test_drain_equals_the_model_for_every_accumulator_of_the_narrowest_format(
    output: int, bias: int, rounding: Rounding
) -> None:
    unit = Drain(SFx(3), 2, SFx(output), SFx(bias), rounding)
    width = len(unit.accumulator)
    top = unit.bias_format.max_code
    vectors = [
        (accumulator, *split_shift(shift), bias_word, 0)
        for accumulator, shift, bias_word in itertools.product(
            range(-(1 << width - 1), 1 << width - 1), range(-6, 13), (0, 2 * top)
        )
    ]
    check(unit, rounding, vectors)


def test_drain_adds_both_parts_of_the_shift() -> None:
    unit = Drain(SFx(8))
    rng = random.Random(SEED)
    vectors = [
        (rng.getrandbits(20) - (1 << 19), row, shift - row, 0, 0)
        for shift in range(-20, 20)
        for row in (-128 + 20, -7, 0, 5, 100)
    ]
    check(unit, "nearest", vectors)
