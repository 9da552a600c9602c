"""Formats that Superfloat is compared with: their rounding, and the comparison."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.wasq.studies import formats
from sw.wasq.studies.number_formats import FLOATS, FloatFormat, NumberFormat, formats_of


def stimulus(spread: float = 12.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    powers = torch.randint(-30, 12, (20000,), generator=generator)
    plain = torch.randn(20000, generator=generator) * 2.0**powers
    few = torch.randint(-64, 65, (20000,), generator=generator) / 32 * 2.0**powers  # many ties
    return torch.cat((plain, few, torch.zeros(2)))


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (FLOATS["bfloat16"], ml_dtypes.bfloat16),
        (FLOATS["binary16"], np.float16),
        (FLOATS["fp8_e5m2"], ml_dtypes.float8_e5m2),
        (FLOATS["fp8_e4m3"], ml_dtypes.float8_e4m3fn),
        (FLOATS["fp4_e2m1"], ml_dtypes.float4_e2m1fn),
        (FloatFormat(4, 3), ml_dtypes.float8_e4m3),
        (FloatFormat(3, 4), ml_dtypes.float8_e3m4),
    ],
)
def test_rounding_is_that_of_known_types_inside_their_range(form: FloatFormat, dtype: Any) -> None:
    values = stimulus()
    assert form.largest == float(ml_dtypes.finfo(dtype).max)
    values = values[values.abs() <= form.largest]
    want = values.numpy().astype(dtype).astype(np.float64)
    assert np.array_equal(form.round(values).numpy(), want)


def all_numbers(exponent_bits: int, fraction_bits: int) -> list[Fraction]:
    """Every finite number from 0 up, by code: the definition of IEEE 754."""
    bias, found = 2 ** (exponent_bits - 1) - 1, []
    for code in range((2**exponent_bits - 1) << fraction_bits):
        exponent, fraction = code >> fraction_bits, code & (2**fraction_bits - 1)
        whole = fraction + (2**fraction_bits if exponent else 0)
        power = max(exponent, 1) - bias - fraction_bits
        found.append(whole * Fraction(2) ** power)
    return found


@pytest.mark.parametrize("name", ["1_4_11", "1_9_6", "binary16"])
def test_rounding_is_to_the_nearest_of_all_numbers_ties_to_even_codes(name: str) -> None:
    form = FLOATS[name]
    numbers = all_numbers(form.exponent_bits, form.fraction_bits)
    assert form.largest == numbers[-1]
    for value in stimulus()[::97].tolist():
        exact = abs(Fraction(value))
        place = bisect.bisect_left(numbers, exact)
        near = [i for i in (place - 1, place) if 0 <= i < len(numbers)]
        best = min(near, key=lambda i: (abs(numbers[i] - exact), i % 2))
        got = float(form.round(torch.tensor([value])))
        assert got == math.copysign(float(numbers[best]), value), value


def test_tf32_keeps_ten_fraction_bits_of_binary32() -> None:
    values = stimulus()
    words = values.numpy().view(np.uint32).astype(np.uint64)
    kept = (words + 0xFFF + ((words >> 13) & 1)) >> 13 << 13  # nearest even on the word
    want = kept.astype(np.uint32).view(np.float32)
    assert np.array_equal(FLOATS["tf32"].round(values).numpy(), want.astype(np.float64))


def test_what_is_too_large_becomes_the_largest_number() -> None:
    for form in FLOATS.values():
        if form.exponent_bits < 8:
            got = form.round(torch.tensor([1e30, -1e30]))
            assert got.tolist() == [form.largest, -form.largest]


def test_integers_have_symmetric_steps_of_their_group() -> None:
    values = torch.tensor([[7.0, 1.4, -2.5, 0.0], [0.07, -0.07, 0.034, 0.0], [0.0, 0.0, 0.0, 0.0]])
    got = NumberFormat("int4", 4, "channel").round(values)
    want = torch.tensor([[7.0, 1.0, -2.0, 0.0], [0.07, -0.07, 0.03, 0.0], [0.0] * 4])
    assert torch.allclose(got, want, atol=1e-7)
    whole = NumberFormat("int4", 4, "tensor").round(values)
    assert whole[1].tolist() == [0.0] * 4


@pytest.mark.parametrize("scale", ["tensor", "channel", "block"])
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_scaled_floats_do_not_change_with_a_power_of_two(name: str, scale: Any) -> None:
    form = NumberFormat(name, FLOATS[name], scale)
    values = torch.randn(5, 70, generator=torch.Generator().manual_seed(2))
    assert torch.equal(form.round(values * 2.0**40) / 2.0**40, form.round(values))
    assert torch.equal(form.round(torch.zeros(2, 40)), torch.zeros(2, 40))
    error = (form.round(values) - values).abs().max()
    assert 0 < float(error) < 0.4


def test_block_groups_are_32_along_a_row_with_a_ragged_last_one() -> None:
    values = torch.full((2, 40), 0.5)
    values[:, 32:] = 2.0**-12
    values[1, 0] = 100.0
    got = NumberFormat("sf4", SFx(4), "block").round(values)
    assert got[0].tolist() == values[0].tolist()
    assert got[1, 32:].tolist() == values[1, 32:].tolist()
    assert got[1, 1:32].tolist() == [0.0] * 31


def test_errors_are_those_of_plain_sums() -> None:
    row = formats.error_row(
        NumberFormat("sf4", SFx(4)), {"a": torch.tensor([[0.3, -2.0, 0.01, 0]])}
    )
    # SF4 has steps of 1/8: 0.3 becomes 0.25, -2 becomes -1, 0.01 becomes 0.
    noise = 0.05**2 + 1 + 0.01**2
    assert row["values"] == 3
    assert row["mse"] == pytest.approx(noise / 3, rel=1e-5)
    assert row["sqnr_db"] == pytest.approx(10 * math.log10((0.09 + 4 + 0.0001) / noise), rel=1e-5)
    assert row["max_relative"] == 1
    assert row["lost_percent"] == row["clipped_percent"] == pytest.approx(100 / 3)


def test_superfloat_is_closer_near_one_and_farther_near_zero() -> None:
    sf, half = NumberFormat("sf16", SFx(16)), NumberFormat("binary16", FLOATS["binary16"])
    large = {"a": torch.rand(50, 20, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5}
    small = {"a": large["a"] * 2.0**-9}
    assert formats.closer_percent(sf, half, large) > 90
    assert formats.closer_percent(sf, half, small) < 10
    assert formats.closer_percent(sf, sf, large) == 50


@pytest.fixture(scope="module")
def tiny() -> Llama:
    torch.manual_seed(5)
    model = Llama(LlamaConfig(32, 48, 1, 2, 2, 64, 64)).eval()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.3)
    return model


def test_study_gives_every_row_once_and_finer_formats_less_error(tiny: Llama) -> None:
    tokens = torch.randint(64, (150,), generator=torch.Generator().manual_seed(1))
    rows = list(formats.study(tiny, tokens, 16, 32))
    keys = [(r["part"], r["format"], r["scale"]) for r in rows]
    assert len(set(keys)) == len(keys) == 3 * len(formats_of(16)) + 1
    found = dict(zip(keys, rows, strict=True))
    exact = found["perplexity", "float32", "none"]["perplexity"]
    assert found["perplexity", "sf16", "block"]["perplexity"] == pytest.approx(exact, rel=1e-3)
    assert found["perplexity", "bfloat16", "none"]["perplexity"] != exact
    weights = {key[1:]: row["sqnr_db"] for key, row in found.items() if key[0] == "weights"}
    assert weights["tf32", "none"] > weights["bfloat16", "none"] + 12
    assert weights["sf16", "block"] > weights["sf16", "channel"]
    told = formats.verdict(rows)
    assert len(told) == 6
    assert all("SF16" in line for line in told)
    known = set(keys[:-2])
    rest = formats.study(tiny, tokens, 16, 32, done=lambda *key: key in known)
    assert [(r["part"], r["format"], r["scale"]) for r in rest] == keys[-2:]


def test_formats_leave_the_network_and_its_head_alone(tiny: Llama) -> None:
    before = {name: p.clone() for name, p in tiny.named_parameters()}
    made = formats.rounded_model(tiny, NumberFormat("fp8_e4m3", FLOATS["fp8_e4m3"], "channel"))
    assert all(torch.equal(before[name], p) for name, p in tiny.named_parameters())
    assert torch.equal(made.get_parameter("embedding.weight"), before["embedding.weight"])
    name = "blocks.0.attention.q.weight"
    assert not torch.equal(made.get_parameter(name), before[name])


def test_unusable_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="exponent_bits must be 2 to 9, not 1"):
        FloatFormat(1, 6)
    with pytest.raises(ValueError, match="scale must be tensor, channel or block for integers"):
        NumberFormat("int8", 8)
    with pytest.raises(ValueError, match="bits must be 3 to 16, not 2"):
        formats_of(2)
