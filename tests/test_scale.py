"""The slow definitions around the words: exponents of groups, block sums, binary32 of the host."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw.format import SFx
from sw.scale import align_blocks, check_shift, exponent, power_of_two, squared_error, to_binary32

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
any_format = st.builds(SFx, st.integers(3, 16), st.booleans())


@given(st.lists(finite, min_size=1, max_size=8), any_format)
def test_the_maximum_rule_gives_the_smallest_exponent_that_covers(values, format):
    e = exponent(values, format)
    largest = Fraction(max(map(abs, values)))
    if largest == 0:
        assert e == 0
    elif format.unity:
        assert power_of_two(e - 1) < largest <= power_of_two(e)
    else:
        assert power_of_two(e - 1) <= largest < power_of_two(e)


@given(st.lists(finite, min_size=1, max_size=8), any_format)
def test_the_squared_error_rule_is_the_first_best_of_three(values, format):
    top, best = exponent(values, format), exponent(values, format, "squared_error")
    if not any(values):
        assert best == 0
        return
    errors = [squared_error(values, format, e) for e in (top, top - 1, top - 2)]
    assert best == top - errors.index(min(errors))


def test_a_tie_of_squared_errors_goes_to_the_larger_exponent():
    assert squared_error([0.6], SFx(3), 0) == squared_error([0.6], SFx(3), -1)
    assert exponent([0.6], SFx(3), "squared_error") == 0


def test_an_all_zero_or_empty_group_has_exponent_zero():
    for rule in ("maximum", "squared_error"):
        assert exponent([0.0, -0.0], SFx(8), rule) == exponent([], SFx(8), rule) == 0


@given(st.fractions(-(2**130), 2**130) | finite.map(Fraction))
def test_to_binary32_is_the_processor_s_rounding(value):
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.copysign(math.inf, value)
    exact_double = not math.isinf(nearest) and Fraction(nearest) == value
    got = to_binary32(value)
    if exact_double:
        with np.errstate(over="ignore"):
            assert got == float(np.float32(nearest))
    if not math.isinf(got):
        low, high = (np.nextafter(np.float32(got), np.float32(s)) for s in (-np.inf, np.inf))
        for other in (low, high):
            if not np.isinf(other):
                assert abs(Fraction(got) - value) <= abs(Fraction(float(other)) - value)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (Fraction(2**24 + 1), 2.0**24),
        (Fraction(2**24 + 3), 2.0**24 + 4),
        (Fraction(1, 2**150), 0.0),
        (Fraction(3, 2**150), 2.0**-148),
        (Fraction(2**128 - 2**103), math.inf),
        (Fraction(2**128 - 2**103 - 1), 3.4028234663852886e38),
        (-Fraction(1, 2**151), -0.0),
    ],
)
def test_to_binary32_rounds_ties_to_even_and_overflows_to_infinity(value, want):
    got = to_binary32(value)
    assert struct.pack("<f", got) == struct.pack("<f", want)


@given(st.data())
def test_aligned_block_sums_are_the_exact_scaled_sum(data):
    count = data.draw(st.integers(1, 6))
    sums = data.draw(st.lists(st.integers(-(2**40), 2**40), min_size=count, max_size=count))
    rows = data.draw(st.lists(st.integers(-10, 5), min_size=count, max_size=count))
    columns = data.draw(st.lists(st.integers(100, 115), min_size=count, max_size=count))
    total, row, column = align_blocks(sums, rows, columns)
    want = sum(s * power_of_two(-r - c) for s, r, c in zip(sums, rows, columns, strict=True))
    assert total * power_of_two(-row - column) == want


def test_bad_shifts_and_blocks_are_refused():
    assert check_shift("part", -128) == -128
    assert check_shift("part", 127) == 127
    for part in (-129, 128):
        with pytest.raises(ValueError, match=f"part must be -128 to 127, not {part}"):
            check_shift("part", part)
    with pytest.raises(ValueError, match="row_shifts must lie at most 15 apart, not 16"):
        align_blocks([1, 1], [0, 16], [0, 0])
    with pytest.raises(ValueError, match="must have one entry per block, not 0, 0 and 0"):
        align_blocks([], [], [])
    with pytest.raises(ValueError, match="must have one entry per block, not 2, 1 and 2"):
        align_blocks([1, 2], [0], [0, 0])
