"""Generation with keys and values as words: what a window of the same model gives."""

from __future__ import annotations

import pytest
import torch

from sw.models.llama import Llama, LlamaConfig, LlamaStep
from sw.wasq import SFConfig, quantize_
from sw.wasq.cache import QuantizedCache, decode_step


def quantized(scale: str, bits: int = 8) -> tuple[Llama, torch.Tensor]:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(32, 48, 1, 4, 2, 40, 96)).eval()
    tokens = torch.randint(0, 40, (1, 40), generator=torch.Generator().manual_seed(1))
    config = SFConfig(products=bits, value_scale=scale)
    return quantize_(model, config, calibration=[(tokens,)]), tokens


@pytest.mark.parametrize(("scale", "bits"), [("channel", 12), ("block", 12), ("block", 16)])
def test_step_by_step_gives_the_last_position_of_every_window(scale, bits):
    """The array's sums agree exactly, but the host adds in another order: a word may flip."""
    model, tokens = quantized(scale, bits)
    step = LlamaStep(model, 42)
    cache = QuantizedCache.of(step)
    for position in range(tokens.shape[1]):
        got = decode_step(step, tokens[:, position : position + 1], position, cache)
        if position in (0, 1, 31, 32, 33, 39):
            want = model(tokens[:, : position + 1])[:, -1]
            torch.testing.assert_close(got[:, 0], want, atol=5e-3, rtol=1e-3)


@pytest.mark.parametrize("scale", ["channel", "block"])
def test_words_that_are_read_back_round_to_themselves(scale):
    model, _ = quantized(scale)
    step = LlamaStep(model, 64)
    first, second = QuantizedCache.of(step), QuantizedCache.of(step)
    generator = torch.Generator().manual_seed(2)
    for position in range(64):
        keys, values = torch.randn(2, 1, 2, 8, generator=generator) * 2.0
        first.write(position, keys, values)
    read_keys, read_values = first.keys(), first.values(64)
    for position in range(64):
        second.write(position, read_keys[:, :, position], read_values[:, :, position])
    assert torch.equal(second.keys(), read_keys)
    assert torch.equal(second.values(64), read_values)


def test_cache_of_8_bits_takes_about_a_third_of_float():
    model, _ = quantized("channel")
    cache = QuantizedCache.of(LlamaStep(model, 96))
    assert cache.bytes < 0.4 * cache.float_bytes


def test_cache_needs_quantized_products():
    step = LlamaStep(quantize_(Llama(LlamaConfig(32, 48, 1, 4, 2, 40, 96)), SFConfig()))
    with pytest.raises(ValueError, match="products must have a width"):
        QuantizedCache.of(step)


def test_positions_beyond_the_cache_are_refused():
    model, _ = quantized("block")
    cache = QuantizedCache.of(LlamaStep(model, 8))
    with pytest.raises(ValueError, match="position must be below 8"):
        cache.write(8, torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))
