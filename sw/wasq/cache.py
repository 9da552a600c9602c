"""Keys and values of generation as words: what a decoding step reads back is what it multiplies.

Keys have an exponent per token. Values lie with their tokens along K: per channel of a head they
have the calibrated exponents; per 32 tokens of a channel, those of a block are found when its last
token is there, and until then its (at most 31) tokens stay float, so that none is rounded twice.
"""

from __future__ import annotations

import torch

from sw.format import SFx
from sw.models.llama import LlamaStep
from sw.scale import BLOCK
from sw.tensor import decode, encode, exponents, word_dtype
from sw.wasq.config import ValueScale
from sw.wasq.products import attention_products


class QuantizedCache:
    """Keys and values of ``[layers, kv heads, context, head size]`` as words.

    Parameters
    ----------
    shape : tuple of int
        Layers, heads of keys, positions, elements of a head.
    form : SFx
    value_scale : {"channel", "block"}
    values : tuple of torch.Tensor of int64
        Calibrated exponents ``[kv heads, 1, head size]`` per layer, for "channel".
    device : torch.device or str
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        form: SFx,
        value_scale: ValueScale,
        values: tuple[torch.Tensor, ...] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        layers, heads, context, size = shape
        if value_scale == "channel" and len(values) != layers:
            raise ValueError(f"values must have exponents for {layers} layers, not {len(values)}")
        self.shape, self.form, self.value_scale = shape, form, value_scale
        kind = word_dtype(form)
        self.key_words = torch.zeros(shape, dtype=kind, device=device)
        self.key_exponents = torch.zeros(
            (layers, heads, context, 1), dtype=torch.int16, device=device
        )
        self.value_words = torch.zeros(shape, dtype=kind, device=device)
        if value_scale == "channel":
            self.value_exponents = torch.stack(values).to(device, torch.int16)
            self.tail = torch.zeros((layers, heads, 0, size), device=device)
        else:
            blocks = -(-context // BLOCK)
            self.value_exponents = torch.zeros(
                (layers, heads, blocks, size), dtype=torch.int16, device=device
            )
            self.tail = torch.zeros((layers, heads, min(BLOCK, context), size), device=device)

    @classmethod
    def of(cls, step: LlamaStep) -> QuantizedCache:
        """An empty cache for a model with quantized attention products.

        Raises
        ------
        ValueError
            If its attention multiplies in float.
        """
        products = attention_products(step.model)
        if products is None:
            raise ValueError("products must have a width for a cache of words, not None")
        config = step.model.config
        shape = (config.layers, config.kv_heads, step.context, config.head_size)
        device = step.model.embedding.weight.device
        return cls(shape, products.form, products.value_scale, products.values, device)

    def write(self, position: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep one position's float keys and values ``[layers, kv heads, head size]``."""
        if not 0 <= position < self.shape[2]:
            raise ValueError(f"position must be below {self.shape[2]}, not {position}")
        found = exponents(keys.contiguous(), self.form, "token", name="keys")
        self.key_words[:, :, position] = encode(keys.contiguous(), self.form, found, name="keys")
        self.key_exponents[:, :, position] = found.to(torch.int16)
        if self.value_scale == "channel":
            own = self.value_exponents[:, :, 0].long()
            words = encode(values.contiguous(), self.form, own, name="values")
            self.value_words[:, :, position] = words
            return
        block, place = divmod(position, BLOCK)
        self.tail[:, :, place] = values
        if place == BLOCK - 1:
            first = position - place
            own = exponents(self.tail, self.form, dim=2, name="values")
            self.value_words[:, :, first : position + 1] = encode(self.tail, self.form, own)
            self.value_exponents[:, :, block] = own[:, :, 0].to(torch.int16)

    def keys(self) -> torch.Tensor:
        """Values of the words, float32; zero where nothing was written."""
        return decode(self.key_words, self.form, self.key_exponents.long())

    def values(self, position: int) -> torch.Tensor:
        """The same of values before a position, whose unfinished block is float."""
        if self.value_scale == "channel":
            return decode(self.value_words, self.form, self.value_exponents.long())
        spread = self.value_exponents.long().repeat_interleave(BLOCK, 2)[:, :, : self.shape[2]]
        found = decode(self.value_words, self.form, spread)
        first = position - position % BLOCK
        found[:, :, first:position] = self.tail[:, :, : position - first]
        return found

    @property
    def bytes(self) -> int:
        """What it holds."""
        held = (self.key_words, self.key_exponents, self.value_words, self.value_exponents)
        return sum(t.numel() * t.element_size() for t in (*held, self.tail))

    @property
    def float_bytes(self) -> int:
        """What float32 keys and values of its shape take."""
        return 2 * 4 * self.key_words.numel()


def decode_step(
    step: LlamaStep, token: torch.Tensor, position: int, cache: QuantizedCache
) -> torch.Tensor:
    """One token of generation with a cache of words: logits ``[1, 1, vocabulary]``.

    Parameters
    ----------
    step : LlamaStep
        Of a model with quantized attention products.
    token : torch.Tensor of int64 ``[1, 1]``
    position : int
        From 0, each in turn.
    cache : QuantizedCache
        Written.
    """
    products = attention_products(step.model)
    if products is None:
        raise ValueError("products must have a width for a cache of words, not None")
    at = torch.tensor([position], device=token.device)
    with torch.no_grad(), products.active():
        logits, keys, values = step(token, at, cache.keys(), cache.values(position))
    cache.write(position, keys[:, :, position], values[:, :, position])
    result: torch.Tensor = logits
    return result
