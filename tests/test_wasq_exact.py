"""Layers on words: fast ways against the definition, the integer model and exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

from sw import native
from sw.format import SFx
from sw.scale import to_binary32
from sw.tensor import decode
from sw.wasq.config import LayerConfig
from sw.wasq.exact import linear, product, quantize_activation
from sw.wasq.gemm import Operand, Way, cached, way
from sw.wasq.rounding import Faults, round_rows
from sw.wasq.weights import QuantizedWeight, quantize_weight

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
#: Bits of weights and of activations, and K.
CASES = [(8, 8, 600), (8, 8, 45), (4, 16, 600), (16, 16, 45), (6, 8, 300), (3, 3, 45), (16, 8, 70)]
SCALES = [
    ("none", "none"),
    ("tensor", "tensor"),
    ("channel", "token"),
    ("block", "block"),
    ("channel", "block"),
    ("block", "token"),
]


def same_bits(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.equal(got.cpu().view(torch.int32), want.cpu().view(torch.int32))


def operands(rows: int, columns: int, terms: int, seed: int = 0, spread: float = 3.0):
    """Values over several powers of two, with zeros, a zero row and saturating ones."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, terms, generator=generator)
    x *= torch.exp2(spread * torch.randn(rows, terms, generator=generator)).clamp(2**-9, 2**9)
    x[torch.rand(x.shape, generator=generator) < 0.1] = 0
    x[0] = 0
    x[1, 0] = -1.0
    w = torch.randn(columns, terms, generator=generator)
    w *= torch.exp2(torch.randn(columns, 1, generator=generator))
    w[0] = 0
    bias = torch.randn(columns, generator=generator) * 1e-3
    return x, w, bias


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("scales", SCALES, ids="-".join)
def test_fast_product_equals_the_definition(scales, unity, plain, device):
    for weights, activations, terms in CASES:
        config = LayerConfig(
            weights=weights,
            activations=activations,
            weight_scale=scales[0],
            activation_scale=scales[1],
            weight_rule="maximum",
            unity=unity,
        )
        x, w, bias = (t.to(device) for t in operands(9, 7, terms))
        weight = quantize_weight(w, config)
        with native.plain() if plain else cached():
            got = linear(x, weight, bias, config)
            got_bare = linear(x, weight, None, config)
        words = quantize_activation(x, config)
        case = (weights, activations, terms)
        assert same_bits(got, product(words, weight, bias)), case
        assert same_bits(got_bare, product(words, weight)), case


@pytest.mark.parametrize("device", DEVICES)
def test_long_products_of_the_largest_words_stay_exact(device):
    """All ones everywhere: the largest sums that the proofs allow, in one and in several chunks."""
    for bits, terms in ((8, 576), (8, 1024), (8, 1025), (8, 1536), (8, 4100), (16, 700), (5, 9000)):
        config = LayerConfig(bits, bits, weight_scale="tensor", activation_scale="tensor")
        x = torch.ones(3, terms, device=device)
        x[1, 1:] = 1 - 2.0 ** (2 - bits)
        x[2, ::2] = -1
        weight = quantize_weight(torch.cat((x, x.flip(1))), config)
        got = linear(x, weight, None, config)
        assert same_bits(got, product(quantize_activation(x, config), weight)), (bits, terms)


def test_layer_equals_exact_fractions_with_bias():
    config = LayerConfig(6, 9, weight_scale="channel", activation_scale="block")
    x, w, bias = operands(4, 5, 70)
    bias = bias * torch.tensor([1.0, 1e-9, 1e6, 1e-20, 0.0])
    weight = quantize_weight(w, config)
    words = quantize_activation(x, config)
    left = [
        [Fraction(float(v)) for v in row]
        for row in decode(
            words.words, words.format, words.exponents.repeat_interleave(32, 1)[:, :70]
        ).double()
    ]
    right = [[Fraction(float(v)) for v in row] for row in weight.dequantize(torch.float64)]
    want = [
        [
            to_binary32(sum(a * b for a, b in zip(row, column, strict=True)) + Fraction(float(c)))
            for column, c in zip(right, bias, strict=True)
        ]
        for row in left
    ]
    assert linear(x, weight, bias, config).tolist() == want


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("plain", [False, True])
def test_rounded_rows_are_the_values_of_the_words(plain, device):
    for bits, unity in itertools.product((3, 4, 8, 9, 16), (True, False)):
        for scale in ("none", "tensor", "token", "block"):
            config = LayerConfig(8, bits, activation_scale=scale, unity=unity)
            x, _, _ = operands(40, 2, 75, seed=bits)
            x[2] = torch.linspace(-1, 1, 75)
            x[3] = torch.linspace(-(1 + 2.0**-bits), 1 - 2.0**-bits, 75)
            x = x.to(device)
            words = quantize_activation(x, config)
            e = words.exponents
            e = e.repeat_interleave(32, 1)[:, :75] if scale == "block" else e
            want = decode(words.words, words.format, e)
            with native.plain() if plain else cached():
                got = round_rows(x, words.format, scale, None, torch.float32, None)
            assert same_bits(got, want), (bits, unity, scale)


def test_static_exponents_are_used_and_saturate():
    config = LayerConfig(8, 8, activation_scale="block", activation_mode="static")
    x, w, bias = operands(5, 4, 40)
    x[2, 3] = float("inf")
    static = torch.tensor([1, -2])
    weight = quantize_weight(w, config)
    got = linear(x, weight, bias, config, static)
    assert same_bits(got, product(quantize_activation(x, config, static), weight, bias))


@pytest.mark.parametrize("scale", ["tensor", "token", "block"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused_by_name_and_count(scale, value):
    config = LayerConfig(8, 8, activation_scale=scale)
    x, w, _ = operands(5, 4, 40)
    x[1, 2] = x[4, 1] = value
    weight = quantize_weight(w, config)
    for plain in (False, True):
        with (
            native.plain() if plain else cached(),
            pytest.raises(ValueError, match=r"q must.* in 2"),
        ):
            linear(x, weight, None, config, name="q")


def test_extreme_exponents_take_the_definition():
    config = LayerConfig(8, 8)
    x, w, bias = operands(5, 4, 40)
    for factor_x, factor_w in ((2.0**-100, 1.0), (2.0**90, 2.0**30), (2.0**-70, 2.0**-70)):
        weight = quantize_weight(w * factor_w, config)
        got = linear(x * factor_x, weight, bias, config)
        assert same_bits(got, product(quantize_activation(x * factor_x, config), weight, bias))


@pytest.mark.parametrize("scales", SCALES, ids="-".join)
def test_no_rows_give_no_rows(scales):
    config = LayerConfig(weight_scale=scales[0], activation_scale=scales[1])
    weight = quantize_weight(torch.randn(5, 40), config)
    assert linear(torch.zeros(2, 0, 40), weight, torch.ones(5), config).shape == (2, 0, 5)


def test_faults_are_counted_per_layer_and_named_once():
    faults, form = Faults(), SFx(8)
    x, _, _ = operands(5, 4, 40)
    x[2, 3], x[3] = float("nan"), 2.0**70
    counter = faults.counter("up", x.device)
    with native.plain():
        got = round_rows(x, form, "token", None, torch.float32, counter)
    assert got.isnan().any(1).tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match=r"input of up must .* in 2 rows"):
        faults.check()
    faults.check()


def test_way_is_taken_only_where_it_is_proven():
    assert way(14, 8, 1024, 0, "cuda") == Way(torch.bfloat16, 1024)
    assert way(14, 8, 576, 0, "cpu") == Way(torch.float32, 1024)
    assert way(14, 8, 576, 15, "cuda") == Way(torch.float64, 576)
    assert way(18, 16, 576, 0, "cuda") == Way(torch.float64, 576)
    assert way(30, 16, 2048, 12, "cuda") == Way(torch.float64, 2048)
    assert way(30, 16, 2048, 13, "cuda") is None


def test_operand_knows_its_spread_and_range():
    config = LayerConfig(4, 8, weight_scale="block")
    w = torch.ones(2, 64)
    w[1, 32:] = 2.0**-5
    operand = Operand(quantize_weight(w, config))
    assert (operand.spread, operand.in_range) == (5, True)
    big = QuantizedWeight(
        operand.weight.words, operand.weight.exponents + 61, operand.weight.format, "block"
    )
    assert not Operand(big).in_range
