"""Layers by their meaning against sums of fractions, one output at a time."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from sw.compiler.graph import Graph
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Function,
    Granularity,
    HostOutput,
    Layer,
    Matmul,
    Plan,
    View,
    Weights,
    WordsOutput,
)
from sw.config import MachineConfig
from sw.format import SFx
from sw.runtime.layer import (
    compute,
    download,
    drain_sums,
    layer_sums,
    layer_words,
    to_host,
    upload,
)
from sw.runtime.shapes import output_shape
from sw.scale import exponent, power_of_two, to_binary32
from sw.words import narrow, widen

FORMATS = (SFx(8), SFx(8, unity=False), SFx(4), SFx(16), SFx(16, unity=False), SFx(3))
HOST = HostOutput("out", View((1,), (0,)))


def plan_of(config: MachineConfig, *tensors: ArrayTensor) -> Plan:
    graph = Graph((), (), (), {})
    return Plan(graph, config, {t.name: t for t in tensors}, {}, ())


def machine(format: SFx, **sizes: int) -> MachineConfig:
    return MachineConfig(bits=format.bits, unity=format.unity, **sizes)


def random_words(shape: tuple[int, ...], format: SFx, seed: int) -> torch.Tensor:
    """Any words: minus zero and all ones come up often."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << format.bits, shape)
    special = rng.choice([0, format.sign_bit, format.max_code, (1 << format.bits) - 1], shape)
    return narrow(torch.from_numpy(np.where(rng.random(shape) < 0.3, special, words)), format)


def finish(
    value: Fraction, output: WordsOutput, out: int, bias: float, config: MachineConfig
) -> int:
    """The word of a value that has no bias yet."""
    f = config.format
    bias_word = config.bias_format.encode(Fraction(bias) * power_of_two(-out))
    total = value * power_of_two(-out) + config.bias_format.decode(bias_word)
    if output.function == Function.CLAMP:
        limit = f.encode(Fraction(output.clamp) * power_of_two(-out))
        total = min(total, f.decode(limit))
    if output.function != Function.LINEAR:
        total = max(total, Fraction(0))
    return f.encode(total)


def values(words: torch.Tensor, format: SFx) -> dict[tuple[int, ...], int]:
    """In units of ``2**-F``."""
    array = widen(words).numpy()
    return {index: format.operand(int(array[index])) for index in np.ndindex(array.shape)}


def convolved(
    layer: Convolution, plan: Plan, words: torch.Tensor
) -> dict[tuple[int, ...], Fraction]:
    """The definition in the docstring of Convolution, without exponents."""
    f = plan.config.format
    a, w = values(words, f), values(layer.weights.words, f)
    _, height, width, channels, out = layer.weights.words.shape
    found = {}
    for n, y, x, o in np.ndindex(output_shape(layer, plan.tensors)):
        g, j = divmod(o, out)
        total = 0
        for i, k, c in itertools.product(range(height), range(width), range(channels)):
            row = y * layer.stride[0] - layer.padding[0] + i * layer.dilation[0]
            column = x * layer.stride[1] - layer.padding[2] + k * layer.dilation[1]
            inside = a.get((n, row, column, g * channels + c), 0)
            total += inside * w[g, i, k, c, j]
        found[n, y, x, o] = total * power_of_two(-2 * f.fraction_bits)
    return found


def as_array(results: dict[tuple[int, ...], object], kind: type) -> np.ndarray:
    shape = tuple(max(index[d] for index in results) + 1 for d in range(4))
    array = np.empty(shape, dtype=kind)
    for index, value in results.items():
        array[index] = value
    return array


CASES = {
    "plain": {"shape": (2, 5, 4, 3), "kernel": (1, 3, 3, 3, 4)},
    "padded": {"shape": (1, 4, 5, 2), "kernel": (1, 3, 3, 2, 3), "padding": (1, 1, 1, 1)},
    "uneven padding": {"shape": (1, 4, 4, 2), "kernel": (1, 3, 3, 2, 3), "padding": (0, 1, 2, 0)},
    "stride": {
        "shape": (2, 6, 5, 2),
        "kernel": (1, 3, 3, 2, 3),
        "padding": (0, 1, 0, 1),
        "stride": (2, 3),
    },
    "strided 1 x 1": {"shape": (2, 5, 4, 3), "kernel": (1, 1, 1, 3, 4), "stride": (2, 2)},
    "dilation": {
        "shape": (1, 7, 6, 2),
        "kernel": (1, 3, 2, 2, 3),
        "padding": (2, 2, 1, 1),
        "dilation": (2, 3),
    },
    "groups": {"shape": (2, 4, 4, 6), "kernel": (3, 3, 2, 2, 2), "padding": (1, 0, 1, 0)},
    "depthwise": {
        "shape": (2, 5, 5, 4),
        "kernel": (4, 3, 3, 1, 1),
        "padding": (1, 1, 1, 1),
        "stride": (2, 1),
    },
    "depthwise, two channels each": {
        "shape": (1, 4, 5, 3),
        "kernel": (3, 2, 3, 1, 2),
        "dilation": (2, 1),
    },
    "one row": {"shape": (2, 1, 9, 2), "kernel": (1, 1, 3, 2, 5), "padding": (0, 0, 2, 1)},
    "linear": {"shape": (1, 1, 7, 9), "kernel": (1, 1, 1, 9, 5)},
    "whole image": {"shape": (3, 3, 2, 4), "kernel": (1, 3, 2, 4, 5)},
}
FUNCTIONS = ((Function.LINEAR, 0.0), (Function.RELU, 0.0), (Function.CLAMP, 0.7))


def convolution(
    case: dict[str, tuple[int, ...]], format: SFx, output: WordsOutput | HostOutput, seed: int
) -> tuple[Convolution, torch.Tensor]:
    rng = np.random.default_rng(seed)
    kernel = case["kernel"]
    out = kernel[0] * kernel[-1]
    weights = Weights(
        random_words(kernel, format, seed),
        torch.from_numpy(rng.integers(-6, 4, out)),
        torch.from_numpy(rng.normal(size=out).astype(np.float32)),
    )
    options = {name: case[name] for name in ("stride", "padding", "dilation") if name in case}
    layer = Convolution("layer", "a", weights, output, **options)  # type: ignore[arg-type]
    return layer, random_words(case["shape"], format, seed + 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_convolution_equals_the_rounded_sum_of_fractions(name: str, format: SFx) -> None:
    case, index = CASES[name], FORMATS.index(format)
    function, clamp = FUNCTIONS[(index + list(CASES).index(name)) % 3]
    a_exponent, out = (index * 3) % 7 - 3, index % 5 - 2
    config = machine(format, bias_bits=16 if index % 2 else format.bits)
    layer, words = convolution(case, format, WordsOutput("o", function, clamp), seed=index)
    a = ArrayTensor("a", case["shape"], a_exponent)  # type: ignore[arg-type]
    shape = output_shape(layer, {"a": a})
    plan = plan_of(config, a, ArrayTensor("o", shape, out))
    scales, bias = layer.weights.exponents.tolist(), layer.weights.bias
    assert bias is not None
    want = as_array(
        {
            at: finish(
                total * power_of_two(a_exponent + scales[at[3]]),
                layer.output,  # type: ignore[arg-type]
                out,
                float(bias[at[3]]),
                config,
            )
            for at, total in convolved(layer, plan, words).items()
        },
        np.int64,
    )
    got = compute(layer, plan, {"a": words})
    assert tuple(got.shape) == shape
    assert got.dtype == words.dtype
    np.testing.assert_array_equal(widen(got).numpy(), want)
    sums = layer_sums(layer, plan, {"a": words})
    assert torch.equal(widen(drain_sums(layer, plan, sums)), widen(got))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("format", FORMATS[:4], ids=str)
def test_exact_sums_reach_the_host_rounded_once(name: str, format: SFx) -> None:
    case, config = CASES[name], machine(format)
    layer, words = convolution(case, format, HOST, seed=7)
    rows = case["kernel"][1:3] == (1, 1) and "stride" not in case
    a = ArrayTensor(
        "a",
        case["shape"],  # type: ignore[arg-type]
        None if rows else 2,
        Granularity.ROW if rows else Granularity.TENSOR,
    )
    plan = plan_of(config, a)
    rng = np.random.default_rng(3)
    a_exponents = torch.from_numpy(rng.integers(-9, 9, (*case["shape"][:3], 1) if rows else ()))
    sums = compute(layer, plan, {"a": words})
    want_sums, want = {}, {}
    for at, total in convolved(layer, plan, words).items():
        e = int(a_exponents[at[:3]]) if rows else int(a_exponents)
        scaled = total * power_of_two(e + int(layer.weights.exponents[at[3]]))
        want_sums[at] = int(total * power_of_two(2 * format.fraction_bits))
        want[at] = to_binary32(scaled + Fraction(float(layer.weights.bias[at[3]])))  # type: ignore[index]
    np.testing.assert_array_equal(sums.numpy(), as_array(want_sums, np.int64))
    got = to_host(layer, sums, a_exponents, None, config)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(got.numpy(), as_array(want, np.float32))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("format", FORMATS[:4], ids=str)
def test_matmul_equals_the_rounded_sum_of_fractions(
    format: SFx, repeat: int, transposed: bool
) -> None:
    config, f = machine(format), format
    shapes = (6, 1, 3, 5), ((6 // repeat, 1, 4, 5) if transposed else (6 // repeat, 1, 5, 4))
    a_words, b_words = random_words(shapes[0], f, 1), random_words(shapes[1], f, 2)
    tensors = [ArrayTensor("a", shapes[0], 1), ArrayTensor("b", shapes[1], -2)]
    output = WordsOutput("o", Function.RELU)
    layer = Matmul("layer", "a", "b", output, transposed, repeat)
    plan = plan_of(config, *tensors, ArrayTensor("o", (6, 1, 3, 4), 1))
    a, b = values(a_words, f), values(b_words, f)
    words, sums, host = {}, {}, {}
    rng = np.random.default_rng(5)
    a_exponents = torch.from_numpy(rng.integers(-9, 9, (6, 1, 3, 1)))
    b_exponents = torch.from_numpy(rng.integers(-9, 9, (6 // repeat, 1, 4)))
    for n, _, m, j in np.ndindex(6, 1, 3, 4):
        r = n // repeat
        products = (
            a[n, 0, m, k] * b[(r, 0, j, k) if transposed else (r, 0, k, j)] for k in range(5)
        )
        total = sum(products) * power_of_two(-2 * f.fraction_bits)
        words[n, 0, m, j] = finish(total * power_of_two(-1), output, 1, 0.0, config)
        sums[n, 0, m, j] = int(total * power_of_two(2 * f.fraction_bits))
        e = int(a_exponents[n, 0, m, 0]) + int(b_exponents[r, 0, j])
        host[n, 0, m, j] = to_binary32(total * power_of_two(e))
    given = {"a": a_words, "b": b_words}
    np.testing.assert_array_equal(
        widen(compute(layer, plan, given)).numpy(), as_array(words, np.int64)
    )
    exact = Matmul("layer", "a", "b", HOST, transposed, repeat)
    got = compute(exact, plan, given)
    np.testing.assert_array_equal(got.numpy(), as_array(sums, np.int64))
    shared = b_exponents[..., None] if transposed else b_exponents[:, :, None, :]
    decoded = to_host(exact, got, a_exponents, shared, config)
    np.testing.assert_array_equal(decoded.numpy(), as_array(host, np.float32))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("distance", [0, 1, 2, -1])
def test_addition_rounds_the_exact_sum_once(format: SFx, distance: int) -> None:
    config, f = machine(format), format
    if abs(distance) + (not f.unity) > f.fraction_bits:
        pytest.skip("the identity has no entry as small")
    shape = (2, 3, 2, 5)
    a_words, b_words = random_words(shape, f, 1), random_words(shape, f, 2)
    for (function, clamp), out in itertools.product(FUNCTIONS, (-1, 0, 3)):
        output = WordsOutput("o", function, clamp)
        layer = Add("layer", "a", "b", output)
        tensors = ArrayTensor("a", shape, 1), ArrayTensor("b", shape, 1 - distance)
        plan = plan_of(config, *tensors, ArrayTensor("o", shape, out))
        a, b = values(a_words, f), values(b_words, f)
        want = {
            at: finish(
                (a[at] * 2 + b[at] * power_of_two(1 - distance)) * power_of_two(-f.fraction_bits),
                output,
                out,
                0.0,
                config,
            )
            for at in a
        }
        got = compute(layer, plan, {"a": a_words, "b": b_words})
        np.testing.assert_array_equal(widen(got).numpy(), as_array(want, np.int64))


def test_addition_refuses_exponents_too_far_apart() -> None:
    shape = (1, 1, 1, 2)
    words = torch.zeros(shape, dtype=torch.uint8)
    layer = Add("sum", "a", "b", WordsOutput("o"))
    for unity, far in ((True, 8), (False, 7)):
        tensors = [ArrayTensor(n, shape, e) for n, e in (("a", 0), ("b", -far), ("o", 0))]
        with pytest.raises(ValueError, match="operands of sum must have exponents at most 7 below"):
            compute(layer, plan_of(machine(SFx(8, unity)), *tensors), {"a": words, "b": words})


@pytest.mark.parametrize("format", FORMATS[:4], ids=str)
@pytest.mark.parametrize("out", [-160, -40, 40, 140, 160])
def test_shifts_beyond_their_eight_bits_give_the_words_of_the_exact_quotient(
    format: SFx, out: int
) -> None:
    config = machine(format, bias_bits=16)
    layer, words = convolution(CASES["linear"], format, WordsOutput("o"), seed=11)
    bias = torch.tensor([0.0, 0.25, -0.25, 0.5, -1.5]) * 2.0 ** min(max(out, -100), 100)
    layer = Convolution(
        "layer", "a", Weights(layer.weights.words, layer.weights.exponents, bias), layer.output
    )
    plan = plan_of(config, ArrayTensor("a", (1, 1, 7, 9), 0), ArrayTensor("o", (1, 1, 7, 5), out))
    want = {
        at: finish(
            total * power_of_two(int(layer.weights.exponents[at[3]])),
            layer.output,  # type: ignore[arg-type]
            out,
            float(bias[at[3]]),
            config,
        )
        for at, total in convolved(layer, plan, words).items()
    }
    got = compute(layer, plan, {"a": words})
    np.testing.assert_array_equal(widen(got).numpy(), as_array(want, np.int64))


def test_images_are_gathered_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    case, config = CASES["padded"] | {"shape": (5, 4, 5, 2)}, machine(SFx(8))
    layer, words = convolution(case, SFx(8), WordsOutput("o"), seed=1)
    a = ArrayTensor("a", case["shape"], 0)  # type: ignore[arg-type]
    plan = plan_of(config, a, ArrayTensor("o", output_shape(layer, {"a": a}), 2))
    whole = layer_words(layer, plan, {"a": words})
    monkeypatch.setattr("sw.runtime.layer._PATCH_WORDS", 2 * 20 * 18)
    assert torch.equal(layer_words(layer, plan, {"a": words}), whole)


@pytest.mark.parametrize("format", FORMATS[:4], ids=str)
@pytest.mark.parametrize("granularity", Granularity)
def test_uploads_encode_by_the_exponent_of_their_group(
    format: SFx, granularity: Granularity
) -> None:
    rng = np.random.default_rng(4)
    value = torch.from_numpy((rng.normal(size=(2, 1, 3, 4)) * 5).astype(np.float32))
    words, found = upload(value, ArrayTensor("t", value.shape, None, granularity), machine(format))  # type: ignore[arg-type]
    spread = found.expand(value.shape)
    for n, _, w, c in np.ndindex(2, 1, 3, 4):
        group = {
            Granularity.TENSOR: value,
            Granularity.ROW: value[n, 0, w],
            Granularity.COLUMN: value[n, 0, :, c],
        }[granularity]
        e = exponent(group.reshape(-1).tolist(), format)
        assert int(spread[n, 0, w, c]) == e
        want = format.encode(Fraction(float(value[n, 0, w, c])) * power_of_two(-e))
        assert int(widen(words)[n, 0, w, c]) == want


def test_a_static_upload_saturates_and_its_download_gives_the_words_values() -> None:
    value = torch.tensor([3.0, -0.26, float("inf"), 0.0]).reshape(1, 1, 2, 2)
    tensor, config = ArrayTensor("t", (1, 1, 2, 2), 1), machine(SFx(8))
    words, found = upload(value, tensor, config)
    assert int(found) == 1
    assert words.flatten().tolist() == [0x7F, 0x80 | 17, 0x7F, 0]
    assert download(words, tensor, config).flatten().tolist() == [2.0, -17 / 64, 2.0, 0.0]


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    tensor, config = ArrayTensor("t", (1, 1, 2, 2), None, Granularity.ROW), machine(SFx(8))
    with pytest.raises(ValueError, match=r"t must have shape \(1, 1, 2, 2\), not \(2, 2\)"):
        upload(torch.zeros(2, 2), tensor, config)
    with pytest.raises(ValueError, match="t must hold numbers, not NaN in 4 places"):
        upload(torch.full((1, 1, 2, 2), float("nan")), ArrayTensor("t", (1, 1, 2, 2), 0), config)
    with pytest.raises(ValueError, match="t must have a static exponent"):
        download(torch.zeros((1, 1, 2, 2), dtype=torch.uint8), tensor, config)
    layer: Layer = Add("sum", "t", "t", WordsOutput("t"))
    with pytest.raises(ValueError, match=r"t must have shape .* not \(1, 2, 2\)"):
        compute(layer, plan_of(config, tensor), {"t": torch.zeros((1, 2, 2), dtype=torch.uint8)})
