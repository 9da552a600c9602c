"""Attention products, calibrated exponents and tables of a quantized model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sw import native
from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.tensor import exponents, fake_quantize
from sw.wasq import SFConfig, quantize_
from sw.wasq.calibrate import calibrate_
from sw.wasq.exact import product as layer_product
from sw.wasq.exact import quantize_activation
from sw.wasq.products import AttentionProducts, definition, product
from sw.wasq.quantize import targets

FLOAT = {"weights": None, "activations": None}


def tiny(seed: int = 0) -> Llama:
    torch.manual_seed(seed)
    return Llama(LlamaConfig(32, 48, 2, 4, 2, 40, 96)).eval()


def tokens(batch: int = 2, length: int = 70) -> torch.Tensor:
    return torch.randint(0, 40, (batch, length), generator=torch.Generator().manual_seed(1))


def same_bits(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.equal(got.view(torch.int32), want.view(torch.int32))


@pytest.mark.parametrize("bits", [3, 8, 12, 16])
@pytest.mark.parametrize("plain", [False, True])
def test_product_equals_the_integer_product_of_words(bits, plain):
    generator = torch.Generator().manual_seed(bits)
    left = torch.softmax(4 * torch.randn(3, 5, 75, generator=generator), -1).tril(40)
    right = torch.randn(3, 75, 6, generator=generator)
    right *= torch.exp2(4 * torch.randn(3, 75, 6, generator=generator))
    given = exponents(right, SFx(bits), dim=-2) - 1
    for unity in (True, False):
        form = SFx(bits, unity)
        for scale in ("column", "block", given):
            with native.plain() if plain else torch.no_grad():
                got = product(left, right, form, scale)
            assert same_bits(got, definition(left, right, form, scale)), (unity, scale)


def test_model_with_products_equals_a_model_that_rounds_its_attention_by_hand(monkeypatch):
    config = SFConfig(products=8, value_scale="block")
    model = tiny()
    by_hand = quantize_(copy.deepcopy(model), SFConfig())
    plain, met = by_hand(tokens()), []

    def attend(self, q, k, v, mask, batch):
        c = self.config
        groups, keys = c.heads // c.kv_heads, batch * c.kv_heads
        stacked = q.reshape(keys, groups * q.shape[1], c.head_size)
        scores = definition(stacked, k.transpose(1, 2), SFx(8), "column") * c.head_size**-0.5
        scores = scores.reshape(keys, groups, q.shape[1], k.shape[1]) + mask
        weights = torch.softmax(scores, -1).reshape(keys, groups * q.shape[1], -1)
        met.append(weights)
        mixed = definition(weights, v, SFx(8), "block")
        mixed = mixed.reshape(batch, c.heads, q.shape[1], c.head_size).transpose(1, 2)
        return self.o(mixed.reshape(batch, q.shape[1], c.width))

    got = quantize_(model, config)(tokens())
    monkeypatch.setattr("sw.models.llama.Attention._attend", attend)
    assert same_bits(got, by_hand(tokens()))
    assert len(met) == 2
    assert not torch.equal(got, plain)


def test_products_of_a_copied_model_and_after_an_error_still_work():
    model = quantize_(tiny(), SFConfig(products=8))
    want = model(tokens())
    with pytest.raises(IndexError):
        model(tokens() + 1000)
    assert same_bits(copy.deepcopy(model)(tokens()), want)
    left, right = torch.randn(2, 3, 5), torch.randn(2, 5, 4)
    assert torch.equal(left @ right, torch.bmm(left, right))


def test_calibrated_values_keep_every_position_causal():
    config = SFConfig(products=8, value_scale="channel")
    model = quantize_(tiny(), config, calibration=[(tokens(),)])
    whole, changed = tokens(), tokens().clone()
    changed[:, 50:] = 7
    assert same_bits(model(whole)[:, :50], model(changed)[:, :50])


def test_value_exponents_cover_every_sequence_of_the_calibration():
    found = []
    model = tiny()
    model.blocks[0].attention.v.register_forward_hook(lambda m, i, o: found.append(o.detach()))
    config = SFConfig(products=8, value_scale="channel")
    scales = calibrate_(model, config, targets(model, config), [(tokens(3),)])
    largest = torch.cat(found, 1).abs().amax((0, 1)).reshape(2, 1, 8)
    assert torch.equal(scales.values[0], exponents(largest[..., None], SFx(8), "token")[..., 0])


class Fused(nn.Module):
    """Attention by torch's fused function."""

    def __init__(self, **how: object) -> None:
        super().__init__()
        self.q, self.o, self.how = nn.Linear(16, 16), nn.Linear(16, 16), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (2, 8)).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, q, q, **self.how)
        return self.o(y.transpose(1, 2).flatten(-2))


@pytest.mark.parametrize("how", [{}, {"is_causal": True}, {"scale": 0.3}])
def test_fused_attention_runs_on_words(how):
    torch.manual_seed(0)
    model, x = Fused(**how), torch.randn(2, 33, 16)
    config = {"overrides": {"q": FLOAT}}
    want = quantize_(copy.deepcopy(model), SFConfig(activations=16, **config))(x)
    fine = quantize_(copy.deepcopy(model), SFConfig(activations=16, products=16, **config))(x)
    coarse = quantize_(copy.deepcopy(model), SFConfig(activations=16, products=4, **config))(x)
    error, coarse_error = (fine - want).abs().max(), (coarse - want).abs().max()
    assert 0 < error < 1e-3 < coarse_error < 1


def test_products_of_a_model_without_attention_are_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="products must be None for a model without"):
        quantize_(model, SFConfig(products=8))(torch.randn(2, 4))


def test_gradient_passes_through_rounded_products():
    left = torch.randn(2, 5, 8, requires_grad=True)
    right = torch.randn(2, 8, 3, requires_grad=True)
    y = product(left, right, SFx(8), "column")
    y.sum().backward()
    exact = definition(left.detach(), right.detach(), SFx(8), "column")
    torch.testing.assert_close(y.detach(), exact)
    rounded = fake_quantize(right.detach(), SFx(8), exponents(right.detach(), SFx(8), dim=-2))
    torch.testing.assert_close(left.grad, rounded.sum(-1)[:, None].expand_as(left))


@pytest.mark.parametrize("rule", ["maximum", "squared_error"])
@pytest.mark.parametrize("scale", ["tensor", "block"])
def test_static_exponents_are_those_of_all_inputs_at_once(scale, rule):
    torch.manual_seed(0)
    layer = nn.Linear(70, 9)
    config = SFConfig(
        activations=6,
        activation_scale=scale,
        activation_mode="static",
        activation_rule=rule,
        output=8,
    )
    x = torch.randn(8, 5, 70) * torch.exp2(torch.randn(70))
    inputs = [(x[:3],), (x[3:],)]
    scales = calibrate_(layer, config, targets(nn.Sequential(layer), config), inputs)
    rows = x.reshape(-1, 70)
    groups = [rows] if scale == "tensor" else list(rows.split(32, 1))
    want = [int(exponents(g.contiguous(), SFx(6), "tensor", rule)) for g in groups]
    assert scales.inputs["0"].reshape(-1).tolist() == want
    outputs = layer(rows).detach().T.contiguous()
    assert torch.equal(scales.outputs["0"], exponents(outputs, SFx(8), "channel", rule)[:, 0])


def test_static_layer_drains_words_at_calibrated_exponents():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    x = torch.randn(2, 3, 6, 6)
    config = SFConfig(activation_scale="block", activation_mode="static", output=8)
    quantized = quantize_(copy.deepcopy(model), config, calibration=[(x,)])
    layer = quantized[0]
    patches = functional.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, 27)
    words = quantize_activation(patches, layer.config, layer.input_exponents)
    want = layer_product(words, layer.weight, layer.bias)
    want = fake_quantize(want, SFx(8), layer.output_exponents)
    want = want.reshape(2, 6, 6, 8).permute(0, 3, 1, 2).contiguous()
    assert same_bits(quantized(x).contiguous(), torch.relu(want))


@pytest.mark.parametrize("side", ["input", "output"])
def test_calibration_names_the_layer_and_counts_what_is_not_finite(side):
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.ones(3, 4)
    if side == "input":
        x[1, 2] = float("nan")
        config = SFConfig(activation_scale="tensor", activation_mode="static")
        places = 1
    else:
        x *= 3e38
        nn.init.ones_(model[0].weight)
        config, places = SFConfig(output=8), 12
    with pytest.raises(ValueError, match=f"{side} of 0 must hold .* in {places} places"):
        quantize_(model, config, calibration=[(x,)])


@pytest.mark.parametrize(
    "config",
    [
        SFConfig(output=8),
        SFConfig(activation_scale="block", activation_mode="static"),
        SFConfig(products=8, value_scale="channel"),
    ],
)
def test_static_exponents_without_calibration_are_refused(config):
    with pytest.raises(ValueError, match="calibration must be given"):
        quantize_(tiny(), config)


def test_tables_are_rounded_and_a_tied_head_keeps_its_own_weights():
    model = tiny()
    table, norm = model.embedding.weight.detach().clone(), model.norm.weight
    norm.data.mul_(torch.linspace(0.3, 1.7, 32))
    before = norm.detach().clone()
    assert model.head.weight is model.embedding.weight
    quantize_(model, SFConfig(embedding=5, norms=6))
    want = fake_quantize(table, SFx(5), exponents(table, SFx(5), "token"))
    assert torch.equal(model.embedding.weight, want)
    assert torch.equal(model.head.weight, table)
    want = fake_quantize(before, SFx(6), exponents(before, SFx(6)))
    assert torch.equal(model.norm.weight, want)


def test_tied_head_on_words_leaves_the_embedding_float():
    model = tiny()
    table = model.embedding.weight.detach().clone()
    quantize_(model, SFConfig(head=8))
    assert torch.equal(model.embedding.weight, table)
    assert model.head.config.weights == 8
    torch.testing.assert_close(model.head.weight.dequantize(), table, atol=0.05, rtol=0)


def test_tables_that_a_model_lacks_are_refused():
    for field in ("embedding", "norms"):
        with pytest.raises(ValueError, match=f"{field} must be None"):
            quantize_(nn.Sequential(nn.Linear(4, 4)), SFConfig(**{field: 8}))


def test_observing_changes_nothing():
    model = tiny()
    want = model(tokens(1))
    watching = AttentionProducts(SFx(8), "channel", ())
    with watching.observe(), watching.active():
        assert torch.equal(model(tokens(1)), want)
    assert [tuple(t.shape) for t in watching.observed] == [(2, 1, 8)] * 2
