"""Exponents of groups equal the slow definition; without unity they are those of OCP MX."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from tensor_paths import PATHS, assert_same

from sw import tensor
from sw.format import SFx
from sw.scale import exponent

CASES = [SFx(bits, unity) for bits in (3, 4, 8, 16) for unity in (True, False)]


def spread_values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Values over many binades with exact powers of two, zeros and an all-zero group."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=shape) * 2.0 ** generator.integers(-8, 8, (*shape[:-1], 1))
    values[..., ::5] = np.sign(values[..., ::5]) * 2.0 ** generator.integers(-9, 9)
    values[0] = 0
    values[1] *= 2.0**-140
    return values.astype(np.float32)


def model(groups: np.ndarray, format: SFx, rule: str) -> np.ndarray:
    return np.array([exponent(group.tolist(), format, rule) for group in groups], np.int64)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", ["maximum", "squared_error"])
@pytest.mark.parametrize("format", CASES, ids=str)
def test_exponents_equal_the_model_at_every_granularity(format, rule, path):
    values = spread_values((3, 4, 70), format.bits)
    flat = values.reshape(12, 70)
    blocks = np.pad(flat, ((0, 0), (0, 26))).reshape(36, 32)
    want = {
        "tensor": model(values.reshape(1, -1), format, rule).reshape(()),
        "channel": model(values.reshape(3, 280), format, rule).reshape(3, 1, 1),
        "token": model(flat, format, rule).reshape(3, 4, 1),
        "block": model(blocks, format, rule).reshape(3, 4, 3),
    }
    middle = model(values.transpose(1, 0, 2).reshape(4, 210), format, rule).reshape(1, 4, 1)
    with path.active():
        for granularity, expected in want.items():
            got = tensor.exponents(path.send(values), format, granularity, rule)
            assert_same(path.fetch(got), expected, granularity=granularity, format=format)
        got = tensor.exponents(path.send(values), format, rule=rule, dim=(0, 2))
        assert_same(path.fetch(got), middle, dim=(0, 2), format=format)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("unity", [True, False])
def test_the_maximum_rule_is_exact_at_every_power_of_two(unity, path):
    powers = np.ldexp(1.0, np.arange(-149, 128)).astype(np.float32)
    values = np.concatenate(
        [powers, np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(np.inf))]
    )[:, None]
    want = model(values, SFx(8, unity), "maximum")
    with path.active():
        got = path.fetch(tensor.exponents(path.send(values), SFx(8, unity), "token"))
    assert_same(got, want[:, None], value=values)


@pytest.mark.parametrize("path", PATHS)
def test_the_first_exponent_wins_a_tie(path):
    """At SF3 0.6 becomes 0.5 at e = 0 by rounding and at e = -1 by saturation."""
    values = np.array([[0.6], [-0.6], [0.3]], np.float32)
    with path.active():
        got = tensor.exponents(path.send(values), SFx(3), "token", "squared_error")
    assert path.fetch(got).ravel().tolist() == [0, 0, -1]


def test_the_order_of_summation_decides_and_is_the_index_order():
    """Groups where float64 sums depend on their order still match the sequential definition."""
    generator = np.random.default_rng(11)
    values = generator.normal(size=(40, 900)) * 2.0 ** generator.integers(-30, 3, (40, 900))
    values = values.astype(np.float32)
    want = model(values, SFx(3), "squared_error")
    assert_same(tensor.exponents(values, SFx(3), "token", "squared_error").ravel(), want)


def mx_block(values: list[float], fraction_bits: int) -> tuple[int, list[int], list[bool]]:
    """The MX rule for integer elements: shared exponent, codes in 2**-fraction_bits, and ties.

    OCP Microscaling Formats (MX) Specification 1.0, section 6.3: X is floor(log2) of the largest
    magnitude (integer elements have an emax of 0); elements are v / 2**X rounded to nearest, ties
    to even, and clamped to the symmetric range.
    """
    largest = max(abs(v) for v in values)
    shared = math.frexp(largest)[1] - 1
    limit = (1 << fraction_bits + 1) - 1
    scaled = [Fraction(v) * Fraction(2) ** (fraction_bits - shared) for v in values]
    codes = [max(-limit, min(limit, round(s))) for s in scaled]
    return shared, codes, [s.denominator == 2 for s in scaled]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("bits", "fraction_bits"), [(8, 6), (4, 2)], ids=["MXINT8", "int4"])
def test_without_unity_words_equal_mx_integers_but_for_ties(bits, fraction_bits, path):
    format, generator = SFx(bits, unity=False), np.random.default_rng(bits)
    values = generator.normal(size=(60, 32)).astype(np.float32)
    values[:, ::3] = np.round(values[:, ::3] * 64) / 64  # so that ties occur
    with path.active():
        e = tensor.exponents(path.send(values), format, "block")
        words = path.fetch(tensor.encode(path.send(values), format, e))
        decoded = path.fetch(tensor.decode(path.send(words), format, e))
    e = path.fetch(e)
    ties = 0
    for row, group in enumerate(values.tolist()):
        shared, codes, tied = mx_block(group, fraction_bits)
        assert e[row, 0] == shared + 1, f"block {row}"
        for value, word, code, tie, got in zip(
            group, words[row].tolist(), codes, tied, decoded[row].tolist(), strict=True
        ):
            magnitude, mx_value = word & format.max_code, code * 2.0 ** (shared - fraction_bits)
            if tie:  # the contract goes away from zero, MX to even: at most one code apart
                ties += 1
                assert 0 <= magnitude - abs(code) <= 1, f"{value} gives {word}, MX {code}"
            else:
                assert magnitude == abs(code), f"{value} gives {word}, MX {code}"
                assert got == mx_value, f"{value} gives {got}, MX {mx_value}"
    assert ties > 0


@pytest.mark.parametrize("path", PATHS)
def test_mxint8_goes_in_and_out_unchanged(path):
    codes = np.arange(-127, 128, dtype=np.int8)
    shared = np.array([0, 1, 100, 254], np.uint8)
    with path.active():
        words, e = tensor.from_mxint8(path.send(codes), path.send(shared))
        values = path.fetch(tensor.decode(words, SFx(8, unity=False), 1))
        assert_same(values, codes.astype(np.float32) / 64)  # X = 0 is e = 1: units of 2**-6
        assert path.fetch(e).tolist() == [-126, -125, -26, 128]
        back, bytes_back = tensor.to_mxint8(words, e)
        assert_same(path.fetch(back), codes)
        assert_same(path.fetch(bytes_back), shared)
        with pytest.raises(ValueError, match="codes must be -127 to 127, not -128 in 1 places"):
            tensor.from_mxint8(path.send(np.array([-128], np.int8)), path.send(shared))
        with pytest.raises(ValueError, match=r"shared must be 0 to 254, not NaN"):
            tensor.from_mxint8(path.send(codes), path.send(np.array([255], np.uint8)))
        with pytest.raises(ValueError, match="exponents must be -126 to 128 for MXINT8"):
            tensor.to_mxint8(words, 129)


@pytest.mark.parametrize("path", PATHS)
def test_the_spread_of_block_exponents_is_limited_and_counted(path):
    exponents = np.array([[0, -15, -16, -40], [3, 3, 3, 3]])
    with path.active():
        raised, count = tensor.limit_spread(path.send(exponents))
        assert path.fetch(raised).tolist() == [[0, -15, -15, -15], [3, 3, 3, 3]]
        assert count == 2
        raised, count = tensor.limit_spread(path.send(exponents), 2)
        assert path.fetch(raised).tolist() == [[0, -2, -2, -2], [3, 3, 3, 3]]
        assert count == 3


@pytest.mark.parametrize("path", PATHS)
def test_block_exponents_expand_to_the_ragged_end(path):
    with path.active():
        got = path.fetch(tensor.expand_blocks(path.send(np.array([[1, 2, 3]])), 70))
    assert got.tolist() == [[1] * 32 + [2] * 32 + [3] * 6]
    with pytest.raises(ValueError, match="exponents must have 2 blocks, not 3"):
        tensor.expand_blocks(torch.zeros(1, 3), 64)


def test_bad_groups_are_refused():
    values = torch.tensor([1.0, float("inf"), float("nan")])
    with pytest.raises(ValueError, match=r"weight must hold finite numbers, not .* in 2 places"):
        tensor.exponents(values, SFx(8), name="weight")
    with pytest.raises(ValueError, match="rule must be one of maximum, squared_error"):
        tensor.exponents(values[:1], SFx(8), rule="best")
    with pytest.raises(ValueError, match="granularity must be one of tensor, channel"):
        tensor.exponents(values[:1], SFx(8), "row")
    with pytest.raises(ValueError, match="binary32 holds exactly"):
        tensor.exponents(np.array([0.1]), SFx(8), rule="squared_error")
