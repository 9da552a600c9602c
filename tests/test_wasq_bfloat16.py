"""Quantized layers inside a bfloat16 model, and what layers that read the same input share."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch

from sw import native
from sw.drain import to_bfloat16
from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.tensor import decode
from sw.wasq import SFConfig, exact, quantize_
from sw.wasq.config import LayerConfig
from sw.wasq.exact import linear, product, quantize_activation
from sw.wasq.gemm import Operand, Way, way
from sw.wasq.modules import QuantizedLayer
from sw.wasq.products import definition
from sw.wasq.products import product as attention_product
from sw.wasq.rounding import Faults
from sw.wasq.weights import QuantizedWeight, quantize_weight

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
SCALES = [("channel", "token"), ("block", "block"), ("block", "token"), ("tensor", "tensor")]
BLOCK = {"weight_scale": "block", "activation_scale": "block"}


def nearest_bfloat16(value: Fraction) -> float:
    """By the definition: of the two neighbours the nearer, of two as near the even one."""
    below = torch.tensor(float(value)).bfloat16()
    around = [below.view(torch.int16) + step for step in (-1, 0, 1)]
    neighbours = [bits.view(torch.bfloat16) for bits in around]
    finite = [
        (abs(Fraction(float(x)) - value), int(b) & 1, float(x))
        for x, b in zip(neighbours, around, strict=True)
        if bool(torch.isfinite(x))
    ]
    return min(finite)[2]


def operands(rows: int, columns: int, terms: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, terms, generator=generator)
    x *= torch.exp2(3 * torch.randn(rows, terms, generator=generator)).clamp(2**-9, 2**9)
    w = torch.randn(columns, terms, generator=generator)
    return x.bfloat16(), w, torch.randn(columns, generator=generator)


def values_of(weight: QuantizedWeight) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in row] for row in weight.dequantize(torch.float64)]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("bits", [(8, 8), (4, 16)])
@pytest.mark.parametrize("scales", SCALES, ids="-".join)
def test_a_bfloat16_input_gives_exact_sums_rounded_once_to_bfloat16(scales, bits, plain):
    config = LayerConfig(*bits, weight_scale=scales[0], activation_scale=scales[1])
    x, w, bias = operands(4, 6, 70)
    bias = bias * torch.tensor([1.0, 1e-9, 1e6, 1e-20, 0.0, 1e-3])
    weight = quantize_weight(w, config)
    words = quantize_activation(x.float(), config)
    e = words.exponents
    e = e.repeat_interleave(32, 1)[:, :70] if scales[1] == "block" else e
    left = [[Fraction(float(v)) for v in row] for row in decode(words.words, words.format, e)]
    right = values_of(weight)
    for added in (bias, None):
        extra = [Fraction(0)] * 6 if added is None else [Fraction(float(c)) for c in added]
        want = [
            [
                nearest_bfloat16(sum((a * b for a, b in zip(row, column, strict=True)), c))
                for column, c in zip(right, extra, strict=True)
            ]
            for row in left
        ]
        if plain:
            with native.plain():
                got = linear(x, weight, added, config)
        else:
            got = linear(x, weight, added, config)
        assert got.dtype == torch.bfloat16
        assert got.float().tolist() == want
        assert torch.equal(got, product(words, weight, added, torch.bfloat16))


def test_rounding_to_bfloat16_is_not_by_way_of_binary32():
    close = 1 + 2.0**-8  # midway between 1 and its neighbour
    values = torch.tensor(
        [close + 2.0**-40, close - 2.0**-40, close, -close - 2.0**-40, 0.0], dtype=torch.float64
    )
    assert to_bfloat16(values).tolist() == [1 + 2.0**-7, 1.0, 1.0, -1 - 2.0**-7, 0.0]
    assert values.float().bfloat16().tolist() != to_bfloat16(values).tolist()


def test_attention_products_of_bfloat16_are_rounded_once():
    generator = torch.Generator().manual_seed(0)
    left = torch.softmax(4 * torch.randn(2, 5, 75, generator=generator), -1).bfloat16()
    right = torch.randn(2, 75, 6, generator=generator).bfloat16()
    for bits in (8, 16):
        for scale in ("column", "block"):
            got = attention_product(left, right, SFx(bits), scale)
            want = definition(left.float(), right.float(), SFx(bits), scale, dtype=torch.bfloat16)
            assert got.dtype == torch.bfloat16
            assert torch.equal(got, want), (bits, scale)


def tiny() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(32, 48, 2, 4, 2, 40, 96)).eval()


def tokens() -> torch.Tensor:
    return torch.randint(0, 40, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "config",
    [
        SFConfig(),
        SFConfig(head=8, embedding=8, norms=8, **BLOCK),
        SFConfig(products=8, value_scale="block"),
        SFConfig(weights=4, activations=None),
        SFConfig(output=8),
        SFConfig(activation_mode="static", **BLOCK),
    ],
    ids=["words", "everything", "products", "float activations", "drains", "static"],
)
def test_a_bfloat16_model_stays_bfloat16(config):
    model, floating = tiny().bfloat16(), tiny()
    calibration = None
    if config.output or config.activation_mode == "static":
        calibration = [(tokens(),)]
    quantize_(model, config, calibration=calibration)
    met = []
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            layer.register_forward_hook(lambda _, i, o: met.append((i[0].dtype, o.dtype)))
    with torch.no_grad():
        got, plain = model(tokens()), floating.bfloat16()(tokens())
        wanted = quantize_(tiny(), config, calibration=calibration)(tokens())
    assert got.dtype == torch.bfloat16
    assert set(met) == {(torch.bfloat16, torch.bfloat16)}
    rounding = (plain.float() - tiny()(tokens())).abs().max()  # what bfloat16 alone changes
    assert (got.float() - wanted).abs().max() < 4 * rounding + 0.15 * wanted.abs().max()


def counted(monkeypatch) -> list[torch.Tensor]:
    seen, real = [], exact.round_rows

    def counting(x, *rest):
        seen.append(x)
        return real(x, *rest)

    monkeypatch.setattr(exact, "round_rows", counting)
    return seen


@pytest.mark.parametrize("scale", ["channel", "block"])
def test_layers_that_read_one_tensor_round_it_once(monkeypatch, scale):
    config = SFConfig(weight_scale=scale, activation_scale="token")
    model = quantize_(tiny(), config)
    alone = copy.deepcopy(model)
    for layer in alone.modules():
        if isinstance(layer, QuantizedLayer):
            layer.faults = None
    seen = counted(monkeypatch)
    with torch.no_grad():
        got = model(tokens())
        assert len(seen) == 2 * 4  # q, k, v; o; gate, up; down
        assert torch.equal(got, alone(tokens()))
        assert len(seen) == 2 * 4 + 2 * 7
    with torch.inference_mode():  # where a tensor does not tell that it changed
        assert torch.equal(model(tokens()), got)
    assert len(seen) == 2 * 4 + 2 * 7 * 2


def test_a_tensor_that_changed_is_rounded_again():
    config, faults = LayerConfig(), Faults()
    x, w, _ = operands(4, 6, 70)
    weight = quantize_weight(w, config)

    def given(x):
        return linear(x, weight, None, config, faults=faults)

    first = given(x)
    x[2] *= 3
    second = given(x)
    assert torch.equal(second, linear(x, weight, None, config))
    assert not torch.equal(first, second)
    view = x[:, :]
    view.mul_(0.3)
    assert torch.equal(given(x), linear(x, weight, None, config))
    other = LayerConfig(activations=4)
    assert torch.equal(
        linear(x, weight, None, other, faults=faults), linear(x, weight, None, other)
    )
    faults.check()
    assert faults.last.find(x, None) is None


def test_known_weights_are_multiplied_in_one_piece_where_their_sum_allows():
    ordinary = Operand(quantize_weight(torch.randn(5, 1536), LayerConfig()))
    ones = Operand(quantize_weight(torch.ones(5, 1536), LayerConfig()))
    assert ones.largest_sum() == 1536 * 128
    codes = decode(ordinary.weight.words, ordinary.weight.format, 0) * 128
    assert ordinary.largest_sum() == float(codes.abs().sum(1).max())
    for kind, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        ways = [
            way(14, 8, 1536, 0, kind, largest_sum=lambda one=one: one.largest_sum() * 128)
            for one in (ordinary, ones)
        ]
        assert ways == [Way(dtype, 1536), Way(dtype, 1024)]


@NEEDS_CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scales", SCALES, ids="-".join)
def test_cuda_gives_the_definition_bit_for_bit(scales, dtype):
    pytest.importorskip("triton")
    for (rows, columns, terms), bits in (
        ((130, 70, 600), 8),
        ((5, 200, 45), 8),
        ((1100, 96, 1536), 8),
        ((70, 66, 1536), 6),
        ((33, 40, 300), 16),
    ):
        config = LayerConfig(8, bits, weight_scale=scales[0], activation_scale=scales[1])
        x, w, bias = (t.cuda() for t in operands(rows, columns, terms))
        x = x.to(dtype)
        x[0] = 0
        x[1] = 127 / 128
        w[0] = 1.0  # the largest sums there are
        weight = quantize_weight(w, config)
        for added in (None, bias * 1e-3):
            got = linear(x, weight, added, config, faults=Faults())
            words = quantize_activation(x.float().cpu(), config)
            here = None if added is None else added.cpu()
            want = product(words, weight.to("cpu"), here, dtype)
            assert torch.equal(got.cpu(), want), (rows, columns, terms, bits, added is not None)


@NEEDS_CUDA
@pytest.mark.parametrize("rows", [3, 64, 200, 1500])
@pytest.mark.parametrize("group", [32, 1024])
def test_groups_of_terms_are_summed_exactly_whatever_their_exponents(rows, group):
    pytest.importorskip("triton")
    from sw.drain import add_to_odd_binary64
    from sw.wasq.gemm_triton import product as grouped

    terms, columns = 1536 + 13, 77
    generator = torch.Generator().manual_seed(rows)
    blocks = -(-terms // group)

    def values(count: int, spread: int) -> torch.Tensor:
        codes = torch.randint(-128, 129, (count, terms), generator=generator).float()
        e = torch.randint(-spread, 1, (count, blocks), generator=generator)
        return codes * torch.exp2(e.float()).repeat_interleave(group, 1)[:, :terms]

    left, right = values(rows, 15 if group == 32 else 0), values(columns, 10 if group == 32 else 0)
    bias = torch.randn(columns, generator=generator) * 1e-2
    sums = left.double() @ right.double().T
    for added in (None, bias):
        odd = sums if added is None else add_to_odd_binary64(sums, added)
        here = None if added is None else added.cuda()
        for dtype, want in ((torch.float32, odd.float()), (torch.bfloat16, to_bfloat16(odd))):
            got = grouped(left.bfloat16().cuda(), right.bfloat16().cuda(), group, here, dtype)
            assert torch.equal(got.cpu(), want), (added is not None, dtype)


@NEEDS_CUDA
def test_a_captured_pass_gives_what_an_ordinary_one_does():
    config = SFConfig(head=8)
    model = quantize_(tiny().cuda(), config)
    given = tokens().cuda()
    with torch.no_grad():
        wanted = model(given)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            model(given)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = model(given)
        got.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(got, wanted)
        assert torch.equal(model(given), wanted)
