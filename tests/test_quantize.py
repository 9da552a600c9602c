"""Weights, biases and shifts in the machine's format, against the integer model; the options."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Function,
    HostOutput,
    View,
    Weights,
    WordsOutput,
)
from sw.compiler.options import CompileOptions
from sw.compiler.quantize import (
    add_shifts,
    clamp_word,
    column_parameters,
    identity_word,
    quantize_weights,
)
from sw.config import MachineConfig
from sw.format import SFx
from sw.scale import EXPONENT_RULES, ExponentRule, exponent, power_of_two
from sw.words import widen


def settings(bits: int = 8, unity: bool = True, **options: object) -> CompileOptions:
    return CompileOptions(MachineConfig(bits=bits, unity=unity), **options)  # type: ignore[arg-type]


def random_weight(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=generator) ** 3


@pytest.mark.parametrize("rule", EXPONENT_RULES)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize(("bits", "weight_bits"), [(8, 8), (8, 4), (16, 6), (16, 16)])
def test_words_are_those_of_the_integer_model_widened(
    bits: int, weight_bits: int, unity: bool, rule: ExponentRule
) -> None:
    options = settings(bits, unity, weight_bits=weight_bits, weight_rule=rule)
    weight, groups = random_weight(6, 2, 3, 2), 3
    found = quantize_weights(weight, torch.arange(6.0), groups, options, "layer")
    narrow, wide = SFx(weight_bits, unity), SFx(bits, unity)
    assert tuple(found.words.shape) == (3, 3, 2, 2, 2)
    words = widen(found.words).numpy()
    for o, i, y, x in np.ndindex(6, 2, 3, 2):
        e = exponent(weight[o].flatten().tolist(), narrow, rule)
        assert int(found.exponents[o]) == e
        word = narrow.encode(Fraction(float(weight[o, i, y, x])) * power_of_two(-e))
        assert words[o // 2, y, x, i, o % 2] == narrow.widen(word, wide)
    assert found.bias is not None
    assert torch.equal(found.bias, torch.arange(6.0))


def test_one_exponent_per_tensor_serves_every_channel() -> None:
    weight = random_weight(4, 3, 1, 1)
    found = quantize_weights(weight, None, 1, settings(weight_granularity="tensor"), "layer")
    e = exponent(weight.flatten().tolist(), SFx(8), "squared_error")
    assert found.exponents.tolist() == [e] * 4
    assert found.bias is None


def test_a_channel_of_zeros_has_exponent_zero_and_zero_words() -> None:
    weight = random_weight(3, 4, 1, 1) * 100
    weight[1] = 0
    found = quantize_weights(weight, None, 1, settings(), "layer")
    assert int(found.exponents[1]) == 0
    assert not found.words[..., 1].any()


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    weight = random_weight(3, 4, 1, 1)
    weight[0, 0], weight[1, 2] = math.nan, math.inf
    message = "weight of head must hold finite numbers, not NaN or infinity in 2 places"
    with pytest.raises(ValueError, match=message):
        quantize_weights(weight, None, 1, settings(), "head")
    bias = torch.tensor([0.0, math.nan, 1.0])
    with pytest.raises(ValueError, match="bias of head must hold finite numbers, not NaN"):
        quantize_weights(random_weight(3, 4, 1, 1), bias, 1, settings(), "head")


def tensors(*exponents: int, channels: int = 4) -> dict[str, ArrayTensor]:
    shape = (1, 1, 1, channels)
    return {n: ArrayTensor(n, shape, e) for n, e in zip("abo", exponents, strict=False)}


@pytest.mark.parametrize("bias_bits", [None, 16])
def test_parameters_of_columns(bias_bits: int | None) -> None:
    config = MachineConfig(bits=8, bias_bits=bias_bits)
    scales = torch.tensor([-3, 0, 200, -200])
    bias = torch.tensor([0.3, -5.0, 0.0, -0.01])
    words = torch.zeros((1, 1, 1, 4, 4), dtype=torch.uint8)
    layer = Convolution("layer", "a", Weights(words, scales, bias), WordsOutput("o"))
    found, shifts = column_parameters(layer, tensors(2, 0, 1), config)
    least, most = -(2 * 7 + 1), config.accumulator_bits  # beyond them words are the same
    assert shifts.tolist() == [1 - 2 + 3, 1 - 2, least, most]
    want = [config.bias_format.encode(Fraction(float(b)) / 2) for b in bias]
    assert widen(found).tolist() == want


def test_parameters_are_those_of_layers_that_make_words() -> None:
    layer = Convolution(
        "layer",
        "a",
        Weights(torch.zeros((1, 1, 1, 4, 4), dtype=torch.uint8), torch.zeros(4)),
        HostOutput("y", View((4,), (0,))),
    )
    with pytest.raises(ValueError, match="layer must make words to have drain parameters"):
        column_parameters(layer, tensors(0, 0, 0), MachineConfig(bits=8))


@pytest.mark.parametrize("unity", [True, False])
def test_additions_divide_by_what_the_identity_holds(unity: bool) -> None:
    config = MachineConfig(bits=8, unity=unity)
    layer = Add("sum", "a", "b", WordsOutput("o"))
    extra = 0 if unity else 1
    assert add_shifts(layer, tensors(3, 1, 5), config) == (extra, 2 + extra, 3 + extra)
    _, shifts = column_parameters(layer, tensors(3, 1, 5), config)
    assert shifts.tolist() == [5 - 3 - extra] * 4
    for shift in range(extra, 8):
        assert config.format.decode(identity_word(shift, config)) == power_of_two(-shift)


def test_clamps_are_words_of_the_output() -> None:
    config = MachineConfig(bits=8)
    assert clamp_word(WordsOutput("o", Function.CLAMP, 6.0), 3, config) == 96
    assert clamp_word(WordsOutput("o", Function.CLAMP, 6.0), 2, config) == 0x7F
    assert clamp_word(WordsOutput("o", Function.RELU), 3, config) == 0x7F


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 9}, "weight_bits must be 3 to 8, not 9"),
        ({"weight_bits": 2}, "weight_bits must be 3 to 8, not 2"),
        ({"weight_granularity": "block"}, "must be one of channel, tensor, not 'block'"),
        ({"weight_rule": "median"}, "must be one of maximum, squared_error, not 'median'"),
        ({"activation_rule": ""}, "must be one of maximum, squared_error, not ''"),
        ({"activations": "on"}, "activations must be one of auto, static, dynamic, not 'on'"),
        ({"exponents": {"x": 300}}, "exponent of x must be -256 to 256, not 300"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": True}, "weight_bits must be an integer, not True"),
        ({"exponents": {"x": 1.0}}, r"exponent of x must be an integer, not 1\.0"),
        ({"host_only": "head"}, "host_only must be names, not the string 'head'"),
        ({"host_only": [3]}, "host_only must be names, not 3"),
        ({"machine": 8}, "machine must be a MachineConfig, not 8"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        CompileOptions(**{"machine": MachineConfig(bits=8), **options})  # type: ignore[arg-type]


def test_options_keep_what_they_were_given() -> None:
    given = {"x": 3}
    options = settings(exponents=given, host_only=["head"], weight_bits=4)
    given["x"] = 4
    assert options.exponents == {"x": 3}
    assert options.host_only == {"head"}
    assert options.weight_format == SFx(4)
    assert settings().weight_format == SFx(8)
