"""Which layers are quantized, into which words, and what is refused before any work."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.scale import exponent
from sw.wasq import LayerConfig, SFConfig, quantize_
from sw.wasq import weights as weights_module
from sw.wasq.config import effective_bits
from sw.wasq.modules import FakeQuantizedLayer, QuantizedLayer
from sw.wasq.quantize import find_head, finish_, prepare_, targets, trained_weights
from sw.wasq.weights import QuantizedWeight, quantize_weight

FLOAT = {"weights": None, "activations": None}


def tiny(tied: bool = True) -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(32, 48, 1, 4, 2, 40, 64), tied).eval()


@pytest.mark.parametrize("rule", ["maximum", "squared_error"])
@pytest.mark.parametrize("unity", [True, False])
def test_words_and_exponents_are_those_of_the_number_format(rule, unity):
    torch.manual_seed(0)
    weight = torch.randn(3, 37) * torch.exp2(2 * torch.randn(3, 1))
    form = SFx(5, unity)
    for scale in ("none", "tensor", "channel", "block"):
        config = LayerConfig(5, weight_scale=scale, weight_rule=rule, unity=unity)
        got = quantize_weight(weight, config)
        for i in range(3):
            for j in range(37):
                if scale == "none":
                    e = 0
                elif scale == "tensor":
                    e = exponent(weight.flatten().tolist(), form, rule)
                elif scale == "channel":
                    e = exponent(weight[i].tolist(), form, rule)
                else:
                    block = weight[i, j // 32 * 32 :][:32]
                    e = exponent(block.tolist(), form, rule)
                want = form.encode(float(weight[i, j]) / 2.0**e)
                assert int(got.words[i, j]) == want, (scale, i, j)


def test_rows_in_parts_give_the_same_words(monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(50, 70)
    for scale in ("none", "tensor", "channel", "block"):
        config = LayerConfig(6, weight_scale=scale)
        whole = quantize_weight(weight, config)
        with monkeypatch.context() as patched:
            patched.setattr(weights_module, "_VALUES_AT_A_TIME", 300)
            parts = quantize_weight(weight, config)
            given = quantize_weight(weight, config, whole.exponents)
        for other in (parts, given):
            assert torch.equal(other.words, whole.words)
            assert torch.equal(other.exponents, whole.exponents)


def test_blocks_that_lie_far_below_their_row_are_raised():
    weight = torch.ones(1, 64)
    weight[:, 32:] = 2.0**-20
    got = quantize_weight(weight, LayerConfig(16, weight_scale="block"))
    assert got.exponents.tolist() == [[0, -15]]


def test_head_embedding_and_overrides_are_chosen_by_name():
    model = tiny()
    names = {t.name for t in targets(model, SFConfig())}
    assert "head" not in names
    assert "blocks.0.attention.q" in names
    assert len(names) == 7
    found = {t.name: t for t in targets(model, SFConfig(head=6))}
    assert found["head"].config.weights == 6
    assert found["head"].is_head
    config = SFConfig(overrides={"*.down": {"weights": 4}, "*.q": FLOAT})
    found = {t.name: t for t in targets(model, config)}
    assert found["blocks.0.feed_forward.down"].config.weights == 4
    assert "blocks.0.attention.q" not in found


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_found_tied_and_by_name(tied):
    assert find_head(tiny(tied)) == "head"
    assert find_head(nn.Sequential(nn.Linear(4, 4))) is None


def test_given_words_are_taken_as_they_are():
    model = tiny()
    name = "blocks.0.attention.q"
    made = quantize_weight(torch.randn(32, 32), LayerConfig(8))
    quantize_(model, SFConfig(), weights={name: made})
    layer = model.get_submodule(name)
    assert isinstance(layer, QuantizedLayer)
    assert torch.equal(layer.words, made.words)


def test_trained_layers_become_the_words_that_they_acted_as():
    model = tiny()
    x = torch.randint(0, 40, (2, 9))
    layers = prepare_(model, SFConfig(weights=5))
    assert len(layers) == 7
    with torch.no_grad():
        before = model(x)
        words = trained_weights(model)
        finish_(model)
        after = model(x)
    assert not any(isinstance(m, FakeQuantizedLayer) for m in model.modules())
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    again = quantize_(tiny(), SFConfig(weights=5), weights=words)
    assert torch.equal(again(x), after)


def test_layers_notice_words_that_are_replaced():
    model = quantize_(nn.Sequential(nn.Linear(6, 3)), SFConfig())
    x = torch.randn(2, 6)
    first = model(x)
    model[0].words.zero_()
    assert model(x).abs().max() < first.abs().max()
    assert torch.equal(model(x), model[0].bias.expand(2, 3))


@pytest.mark.parametrize(
    ("kernel", "how"),
    [
        (3, {"padding": 1, "groups": 2}),
        (3, {"padding": "same", "dilation": 2}),
        ((1, 2), {"stride": (2, 1), "padding": "valid"}),
    ],
)
def test_convolution_is_the_linear_layer_on_its_patches(kernel, how):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, kernel, **how)
    x = torch.randn(2, 4, 7, 8)
    quantized = quantize_(nn.Sequential(copy.deepcopy(plain)), SFConfig(weights=16, activations=16))
    torch.testing.assert_close(quantized(x), plain(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": 2}, "weights must be 3 to 16 bits or None, not 2"),
        ({"activations": 17}, "activations must be 3 to 16"),
        ({"weight_scale": "row"}, "weight_scale must be one of"),
        ({"activation_mode": "static"}, "activation_scale must be none, tensor or block"),
        ({"weights": None}, "weights must have a width where activations have one"),
        ({"value_scale": "token"}, "value_scale must be one of"),
        ({"overrides": {"a": {"bits": 3}}}, "override 'a' must set"),
        ({"overrides": {"a": {"weights": 1}}}, "override 'a': weights must be 3 to 16"),
    ],
)
def test_configurations_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        SFConfig(**fields)


def test_configuration_survives_json():
    config = SFConfig(weights=4, products=8, overrides={"*.q": {"weights": 6}})
    assert SFConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="configuration must have the fields"):
        SFConfig.from_json({"bits": 3})


def test_effective_bits_count_exponents():
    assert effective_bits(4, "block", 64) == 4.25
    assert effective_bits(8, "channel", 64) == 8.125
    assert effective_bits(8, "tensor", 64) == 8


def test_models_that_cannot_be_quantized_are_refused_and_left_as_they_are():
    model = tiny()
    with pytest.raises(ValueError, match="override 'nothing' must match"):
        quantize_(model, SFConfig(overrides={"nothing": {"weights": 4}}))
    model.blocks[0].feed_forward.up.weight.data[3, :2] = float("nan")
    with pytest.raises(ValueError, match=r"weight of blocks.0.feed_forward.up .* in 2 places"):
        quantize_(model, SFConfig())
    assert not any(isinstance(m, QuantizedLayer) for m in model.modules())
    broken = tiny()
    broken.blocks[0].attention_norm.weight.data[1] = float("inf")  # which stays float
    with pytest.raises(ValueError, match=r"weight of blocks.0.attention_norm .* in 1 places"):
        quantize_(broken, SFConfig())
    with pytest.raises(ValueError, match="model must have a linear layer"):
        quantize_(nn.Sequential(nn.ReLU()), SFConfig())
    with pytest.raises(ValueError, match="0: padding_mode must be 'zeros'"):
        quantize_(nn.Sequential(nn.Conv2d(1, 1, 3, padding_mode="circular")), SFConfig())


def test_words_that_do_not_fit_are_refused():
    made = quantize_weight(torch.randn(4, 6), LayerConfig(8))
    with pytest.raises(ValueError, match="must belong to a layer"):
        quantize_(nn.Sequential(nn.Linear(6, 4)), SFConfig(), weights={"1": made})
    with pytest.raises(ValueError, match=r"must have shape \(5, 6\)"):
        quantize_(nn.Sequential(nn.Linear(6, 5)), SFConfig(), weights={"0": made})
    with pytest.raises(ValueError, match="words for 0 must be SF4"):
        quantize_(nn.Sequential(nn.Linear(6, 4)), SFConfig(weights=4), weights={"0": made})
    with pytest.raises(ValueError, match="exponents must have shape"):
        QuantizedWeight(made.words, made.exponents, made.format, "tensor")


def test_the_package_has_the_whole_way() -> None:
    import sw.wasq

    for name in sw.wasq.__all__:
        assert getattr(sw.wasq, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sw.wasq.nothing
