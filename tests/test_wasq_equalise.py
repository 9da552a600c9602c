import copy

import pytest
import torch
from torch import nn

from sw.models.llama import Llama, LlamaConfig
from sw.wasq.config import SFConfig
from sw.wasq.equalise import EqualiseOptions, apply, equalise_, sites
from sw.wasq.quantize import quantize_
from sw.wasq.rotate import RotateOptions, rotate_

SMALL = EqualiseOptions(rows=64, groups=6, strengths=(0.25, 0.5, 0.75))


def tiny(seed: int = 0) -> Llama:
    """A model whose norms stretch a few channels, so that activations have outliers."""
    torch.manual_seed(seed)
    model = Llama(LlamaConfig(32, 48, 2, 4, 2, 40, 32)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention_norm.weight[3] = 60.0
            block.feed_forward_norm.weight[5] = 60.0
            block.attention.q.weight[:, 3] /= 60
            block.attention.k.weight[:, 3] /= 60
            block.attention.v.weight[:, 3] /= 60
            block.feed_forward.up.weight[9] *= 60
            block.feed_forward.down.weight[:, 9] /= 60
    return model


TOKENS = torch.randint(0, 40, (4, 24), generator=torch.Generator().manual_seed(1))
FRESH = torch.randint(0, 40, (4, 24), generator=torch.Generator().manual_seed(2))


def test_equalisation_changes_no_bit_of_the_logits_and_halves_the_error_of_words() -> None:
    model, config = tiny(), SFConfig()
    with torch.no_grad():
        want = model(FRESH)
        plain = quantize_(copy.deepcopy(model), config)(FRESH)
        factors = equalise_(model, config, TOKENS, SMALL)
        assert torch.equal(model(FRESH), want)
        ours = quantize_(copy.deepcopy(model), config)(FRESH)
    assert factors["blocks.0.attention_norm"][3] >= 3
    assert float((ours - want).square().sum()) < 0.5 * float((plain - want).square().sum())


@pytest.mark.parametrize("number", range(4))
def test_every_site_keeps_the_function_bit_for_bit(number: int) -> None:
    model = tiny()
    block = model.blocks[0]
    site = list(sites(block))[number]
    channels = site.source.weight.shape[0]
    steps = torch.randint(-5, 6, (channels,), generator=torch.Generator().manual_seed(number))
    with torch.no_grad():
        want = model(FRESH)
        before = {n: p.clone() for n, p in block.named_parameters()}
        apply(block, site, steps.int())
        assert torch.equal(model(FRESH), want)
    changed = {n for n, p in block.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {f"{site.name}.weight", *(f"{name}.weight" for name in site.readers)}


def test_values_of_grouped_queries_share_their_factor() -> None:
    block = tiny().blocks[0]
    site = {s.name: s for s in sites(block)}["attention.v"]
    spread = site.spread(torch.arange(16)).tolist()
    assert spread == [*range(8), *range(8), *range(8, 16), *range(8, 16)]
    assert site.gather(torch.tensor(spread, dtype=torch.float32)).tolist() == list(range(16))


def test_a_layer_that_stays_float_is_not_touched() -> None:
    model = tiny()
    float_layer = {"weights": None, "activations": None}
    config = SFConfig(overrides={"*.attention.*": float_layer})
    factors = equalise_(model, config, TOKENS, SMALL)
    assert factors
    assert not any("attention" in name for name in factors)


def test_a_turned_input_is_left_alone() -> None:
    model = tiny()
    rotate_(model, RotateOptions())
    want = model(FRESH).detach()
    factors = equalise_(model, SFConfig(), TOKENS, SMALL)
    assert torch.equal(model(FRESH), want)
    assert not any(name.endswith("up") for name in factors)


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="must be a Llama"):
        equalise_(nn.Linear(4, 4), SFConfig(), TOKENS)
    with pytest.raises(ValueError, match="strengths must be 0 to 1, not"):
        EqualiseOptions(strengths=(2.0,))
    with pytest.raises(ValueError, match="groups must be at least 1, not 0"):
        EqualiseOptions(groups=0)
