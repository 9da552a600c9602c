"""The slow integer model keeps the contract: the definition that all else is compared with."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw.format import SFx

FORMATS = [SFx(bits, unity) for bits in range(3, 17) for unity in (True, False)]
SMALL = [format for format in FORMATS if format.bits <= 6]
EVERY_FORMAT = pytest.mark.parametrize("format", FORMATS, ids=str)
EVERY_SMALL_FORMAT = pytest.mark.parametrize("format", SMALL, ids=str)

any_format = st.sampled_from(FORMATS)
real = st.one_of(
    st.fractions(-2, 2),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(Fraction),
    st.integers(-(1 << 17), 1 << 17).map(lambda k: Fraction(k, 1 << 16)),  # words and all ties
)


def grid(format: SFx) -> list[Fraction]:
    """Every value of the format, in order."""
    return sorted({format.decode(word) for word in range(1 << format.bits)})


@EVERY_FORMAT
def test_decode_inverts_encode_for_every_word_but_minus_zero(format):
    for word in range(1 << format.bits):
        want = 0 if word == format.sign_bit else word
        for rounding in ("nearest", "truncate"):
            assert format.encode(format.decode(word), rounding) == want


@EVERY_FORMAT
def test_a_word_is_sign_and_magnitude(format):
    one = Fraction(1) if format.unity else Fraction(format.max_code, format.sign_bit)
    assert format.decode(format.max_code) == one
    assert format.decode(format.max_code | format.sign_bit) == -one
    for magnitude in range(format.max_code):
        value = Fraction(magnitude, 1 << format.bits - 1)
        assert format.decode(magnitude) == value
        assert format.decode(magnitude | format.sign_bit) == -value


@EVERY_FORMAT
def test_minus_zero_is_zero_and_never_produced(format):
    zero = format.sign_bit
    assert format.decode(zero) == 0
    assert format.operand(zero) == 0
    assert format.multiply(zero, format.max_code) == 0
    tiny = Fraction(-1, 1 << 40)
    for value in (-0.0, tiny, -5e-324):
        assert format.encode(value) == format.encode(value, "truncate") == 0
    assert format.fma(zero, zero, zero) == 0
    assert format.drain(-1, row_shift=100) == 0


@EVERY_FORMAT
def test_ties_go_away_from_zero(format):
    for magnitude in range(min(format.max_code - 1, 300)):
        tie = Fraction(2 * magnitude + 1, 2 * format.sign_bit)
        up = magnitude + 1
        if up == format.max_code and format.unity:
            up = magnitude  # only step 2 of the contract produces all ones
        assert format.encode(tie) == up
        assert format.encode(-tie) == up | format.sign_bit
        assert format.encode(tie, "truncate") == magnitude


@EVERY_FORMAT
def test_all_ones_begins_at_its_own_code_and_both_ends_saturate(format):
    first = Fraction(format.max_code, format.sign_bit)
    below = first - Fraction(1, 1 << 60)
    for rounding in ("nearest", "truncate"):
        for value in (first, 1, 1.5, 10**30, math.inf):
            assert format.encode(value, rounding) == format.max_code
            assert format.encode(-value, rounding) == format.max_code | format.sign_bit
    want = format.max_code - 1 if format.unity else format.max_code
    assert format.encode(below) == want
    assert format.encode(below, "truncate") == format.max_code - 1


@pytest.mark.parametrize(("bits", "largest"), [(16, 0.999969482421875), (8, 0.9921875), (4, 0.875)])
def test_without_unity_the_largest_values_are_the_published_ones(bits, largest):
    assert SFx(bits, unity=False).decode((1 << bits - 1) - 1) == Fraction(largest)


@EVERY_SMALL_FORMAT
def test_nearest_is_a_nearest_value_or_what_step_2_says(format):
    values = grid(format)
    step = Fraction(1, 8 * format.sign_bit)
    limit = Fraction(format.max_code, format.sign_bit)
    for k in range(-9 * format.sign_bit, 9 * format.sign_bit):
        value = k * step
        got = format.decode(format.encode(value))
        if abs(value) >= limit:
            assert abs(got) == max(values)
        elif format.unity:  # the value 1 belongs to step 2 alone
            inner = values[1:-1]
            assert abs(got - value) == min(abs(v - value) for v in inner)
        else:
            assert abs(got - value) == min(abs(v - value) for v in values)


@EVERY_SMALL_FORMAT
def test_truncate_is_the_value_next_toward_zero_but_for_step_2(format):
    values = grid(format)
    limit = Fraction(format.max_code, format.sign_bit)
    for k in range(9 * format.sign_bit):
        value = Fraction(k, 8 * format.sign_bit)
        want = max(v for v in values if v <= value)
        if format.unity and limit <= value < 1:
            want = Fraction(1)
        assert format.decode(format.encode(value, "truncate")) == want
        assert format.decode(format.encode(-value, "truncate")) == -want


@given(any_format, real, real, st.sampled_from(["nearest", "truncate"]))
def test_encode_is_monotonic(format, a, b, rounding):
    low, high = sorted((a, b))
    first, second = (format.decode(format.encode(v, rounding)) for v in (low, high))
    assert first <= second, f"{format}: {low} gives {first}, {high} gives {second}"


@given(any_format, real)
def test_encode_is_odd_and_within_half_a_unit(format, value):
    got = format.decode(format.encode(value))
    assert format.decode(format.encode(-value)) == -got
    if abs(value) < Fraction(format.max_code, format.sign_bit) - Fraction(1, format.sign_bit):
        assert abs(got - value) <= Fraction(1, 2 * format.sign_bit)


@pytest.mark.parametrize("bits", range(3, 17))
def test_truncated_binary32_is_zero_below_the_published_exponent(bits):
    """The 111 reduction trick: SF16 is zero for every biased exponent up to 111."""
    format, biased = SFx(bits), 127 - (bits - 1)
    assert bits != 16 or biased - 1 == 111
    below = math.ldexp(1 + (2**23 - 1) / 2**23, biased - 1 - 127)
    assert format.encode(below, "truncate") == 0
    assert format.encode(math.ldexp(1.0, biased - 127), "truncate") == 1


@given(any_format, st.data())
def test_fma_and_dot_equal_rational_arithmetic(format, data):
    word = st.integers(0, (1 << format.bits) - 1)
    a, b, c = (data.draw(word) for _ in range(3))
    exact = format.decode(a) * format.decode(b) + format.decode(c)
    assert format.fma(a, b, c) == format.encode(exact)
    left = data.draw(st.lists(word, max_size=20))
    right = data.draw(st.lists(word, min_size=len(left), max_size=len(left)))
    sums = sum(format.decode(x) * format.decode(y) for x, y in zip(left, right, strict=True))
    assert Fraction(format.dot(left, right), format.sign_bit**2) == sums


@EVERY_FORMAT
def test_multiplying_by_unity_returns_the_other_operand(format):
    if not format.unity:
        return
    for word in range(0, 1 << format.bits, max(1, format.sign_bit >> 8)):
        want = 0 if word == format.sign_bit else word
        assert format.fma(word, format.max_code, 0) == want
    assert format.fma(format.max_code, format.max_code, 0) == format.max_code


@given(any_format, st.data())
def test_clamping_the_shift_gives_the_same_words(format, data):
    accumulator = data.draw(st.integers(-(1 << 46), 1 << 46))
    row, column = (data.draw(st.integers(-128, 127)) for _ in range(2))
    bias = data.draw(st.integers(0, (1 << format.bits) - 1))
    low = -(2 * format.fraction_bits + 1)
    high = max(format.accumulator_bits(), 48)
    clamped = max(low, min(high, row + column))
    got = format.drain(accumulator, row_shift=row, column_shift=column, bias=bias)
    part = clamped // 2
    want = format.drain(accumulator, row_shift=part, column_shift=clamped - part, bias=bias)
    assert got == want


@given(any_format, st.data())
def test_drain_rounds_an_exact_rational_once(format, data):
    output = SFx(data.draw(st.integers(3, 16)), format.unity)
    accumulator = data.draw(st.integers(-(1 << 32), 1 << 32))
    shift, bias = data.draw(st.integers(-40, 40)), data.draw(st.integers(0, format.max_code))
    exact = Fraction(accumulator, format.sign_bit**2) / Fraction(2) ** shift + format.decode(bias)
    for activation in ("linear", "relu"):
        value = max(exact, Fraction(0)) if activation == "relu" else exact
        for rounding in ("nearest", "truncate"):
            got = format.drain(
                accumulator,
                row_shift=shift,
                bias=bias,
                output=output,
                activation=activation,
                rounding=rounding,
            )
            assert got == output.encode(value, rounding)


@pytest.mark.parametrize("narrow", FORMATS[:12], ids=str)
def test_every_value_is_a_value_of_every_wider_format(narrow):
    for bits in range(narrow.bits, 17):
        wide = SFx(bits, narrow.unity)
        for word in range(1 << narrow.bits):
            assert wide.decode(narrow.widen(word, wide)) == narrow.decode(word)


def test_bad_input_is_refused_in_one_sentence():
    for call, error, message in (
        (lambda: SFx(2), ValueError, "bits must be 3 to 16, not 2"),
        (lambda: SFx(17), ValueError, "bits must be 3 to 16, not 17"),
        (lambda: SFx(True), TypeError, "bits must be an integer, not True"),
        (lambda: SFx(8, 1), TypeError, "unity must be True or False, not 1"),
        (lambda: SFx(8).encode(math.nan), ValueError, "value must be a number, not NaN"),
        (lambda: SFx(8).encode("1"), TypeError, "value must be a real number, not '1'"),
        (lambda: SFx(8).encode(1, "up"), ValueError, "rounding must be one of nearest, truncate"),
        (lambda: SFx(8).decode(256), ValueError, "word must be 0 to 255 for SF8, not 256"),
        (lambda: SFx(8).decode(1.0), TypeError, "word must be an integer, not 1.0"),
        (lambda: SFx(8).dot([1], []), ValueError, "b must have 1 words like a, not 0"),
        (lambda: SFx(8).dot([1] * 3, [1] * 3, max_terms=2), ValueError, "at most 2 terms, not 3"),
        (lambda: SFx(8).drain(0, row_shift=128), ValueError, "row_shift must be -128 to 127"),
        (lambda: SFx(8).multiply(1, 1, SFx(8, False)), ValueError, "must have the same unity"),
        (lambda: SFx(8).accumulator_bits(1), ValueError, "max_terms must be at least 2, not 1"),
    ):
        with pytest.raises(error, match=message):
            call()


@EVERY_FORMAT
def test_the_accumulator_holds_the_largest_dot_product(format):
    for terms in (2, 3, 65536):
        largest = terms * format.operand(format.max_code) ** 2
        assert largest < 1 << format.accumulator_bits(terms) - 1
