"""The converters against the integer model, on the numbers where they could go wrong."""

from __future__ import annotations

import math
import random
import struct

import pytest

from hw.convert import Binary16ToSFx, Binary32ToSFx, SFxToBinary32
from sw.format import MAX_BITS, MIN_BITS, ROUNDINGS, Rounding, SFx
from tests.simulation import assert_equal, evaluate

SEED = 20261122
WIDTHS = range(MIN_BITS, MAX_BITS + 1)


def binary32(pattern: int) -> float:
    return struct.unpack("<f", struct.pack("<I", pattern))[0]


def binary16(pattern: int) -> float:
    return struct.unpack("<e", struct.pack("<H", pattern))[0]


def encode(format: SFx, value: float, rounding: Rounding) -> int:
    """What a converter must give: the model's word, and zero for NaN."""
    return 0 if math.isnan(value) else format.encode(value, rounding)


def pattern32(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", value))[0]


def patterns32(format: SFx, rng: random.Random) -> list[int]:
    """Words and ties with their neighbours, both ends, subnormals, infinities, NaN, and random."""
    bits = format.fraction_bits
    halves = {0, 1, 2, 3, 1 << bits, *(2 * format.max_code + d for d in range(-4, 4))}
    halves |= {rng.randrange(2 << bits) for _ in range(20)}
    near = {pattern32(math.ldexp(h, -bits - 1)) + d for h in halves for d in (-1, 0, 1)}
    powers = [exponent << 23 for exponent in range(104, 132)]
    drawn = [rng.choice(powers) | rng.getrandbits(23) for _ in range(60)]
    special = [1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]
    magnitudes = [p & 0x7FFFFFFF for p in (*near, *powers, *drawn, *special)]
    return [p | sign for p in magnitudes for sign in (0, 1 << 31)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_binary32_converter_equals_the_model(bits: int, unity: bool, rounding: Rounding) -> None:
    format = SFx(bits, unity)
    vectors = [(pattern,) for pattern in patterns32(format, random.Random(SEED))]
    got = [o for (o,) in evaluate(Binary32ToSFx(format, rounding), vectors)]
    want = [encode(format, binary32(pattern), rounding) for (pattern,) in vectors]
    assert_equal(f"binary32 to {format} {rounding}", vectors, got, want, SEED, ("i",))


@pytest.mark.parametrize("bits", WIDTHS)
def test_truncating_binary32_gives_zero_just_below_the_published_exponent(bits: int) -> None:
    format = SFx(bits)
    least = 127 - format.fraction_bits
    vectors = [
        ((exponent << 23) | significand | sign,)
        for exponent in range(least - 2, least + 2)
        for significand in (0, 0x7FFFFF)
        for sign in (0, 1 << 31)
    ]
    got = evaluate(Binary32ToSFx(format, "truncate"), vectors)
    for (pattern,), (word,) in zip(vectors, got, strict=True):
        assert (word == 0) == ((pattern >> 23) & 0xFF < least), f"{format}: {pattern:#x}: {word:#x}"


def patterns16(format: SFx, rng: random.Random) -> list[int]:
    ends = [
        *range(40),
        *range(0x3FC, 0x404),
        *range(0x3BF0, 0x3C10),
        0x7BFF,
        *range(0x7C00, 0x7C04),
    ]
    lowest = (15 - format.fraction_bits) << 10 if format.fraction_bits < 15 else 0
    steps = [max(0, lowest + d * 256 + e) for d in range(-8, 9) for e in (-1, 0, 1)]
    drawn = [rng.randrange(0x7FFF) for _ in range(150)]
    return [p | sign for p in (*ends, *steps, *drawn, 0x7FFF) for sign in (0, 1 << 15)]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_binary16_converter_equals_the_model(bits: int, unity: bool, rounding: Rounding) -> None:
    format = SFx(bits, unity)
    check_binary16(format, rounding, patterns16(format, random.Random(SEED)))


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_binary16_converter_equals_the_model_for_every_number(
    bits: int, unity: bool, rounding: Rounding
) -> None:
    check_binary16(SFx(bits, unity), rounding, list(range(1 << 16)))


def check_binary16(format: SFx, rounding: Rounding, patterns: list[int]) -> None:
    vectors = [(pattern,) for pattern in patterns]
    got = [o for (o,) in evaluate(Binary16ToSFx(format, rounding), vectors)]
    want = [encode(format, binary16(pattern), rounding) for pattern in patterns]
    assert_equal(f"binary16 to {format} {rounding}", vectors, got, want, SEED, ("i",))


def test_truncating_binary16_keeps_the_subnormals_that_sixteen_bits_hold() -> None:
    format = SFx(16)
    vectors = [(1 << 9,), ((1 << 9) - 1,), (0x3FF,), ((1 << 15) | (1 << 9),)]
    words = [o for (o,) in evaluate(Binary16ToSFx(format, "truncate"), vectors)]
    assert words == [1, 0, 1, format.sign_bit | 1]


@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", WIDTHS)
def test_word_to_binary32_is_exact(bits: int, unity: bool) -> None:
    format = SFx(bits, unity)
    words = range(1 << bits)
    if bits > 11:
        rng = random.Random(SEED)
        powers = [(1 << n) + d for n in range(bits) for d in (-1, 0, 1)]
        drawn = [rng.getrandbits(bits) for _ in range(400)]
        words = [*powers, *drawn, format.max_code, format.sign_bit | format.max_code]
    vectors = [(word,) for word in words]
    got = [o for (o,) in evaluate(SFxToBinary32(format), vectors)]
    want = [pattern32(float(format.decode(word))) for word in words]
    assert_equal(f"{format} to binary32", vectors, got, want, SEED, ("i",))


def test_numbers_that_are_none_give_zero_and_infinities_saturate() -> None:
    format = SFx(8)
    for unit, infinity, not_a_number in (
        (Binary32ToSFx(format), 0x7F800000, 0xFFC00000),
        (Binary16ToSFx(format), 0x7C00, 0xFE00),
    ):
        minus = infinity | (infinity + (infinity & -infinity))
        words = [o for (o,) in evaluate(unit, [(infinity,), (minus,), (not_a_number,)])]
        assert words == [0x7F, 0xFF, 0]
