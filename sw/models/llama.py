"""The Llama architecture: RMSNorm, rotary positions, grouped-query attention, gated feed-forward.

As in H. Touvron et al., "LLaMA", arXiv:2302.13971, and J. Ainslie et al., "GQA", arXiv:2305.13245.
Every size is static, so that the modules can be traced: :class:`Llama` computes all positions of a
window at once, :class:`LlamaStep` one token with the keys and values of those before it.

Rotary positions turn the two halves of a head against each other (element i with i + size/2).
Files that keep pairs side by side (llama2.c, GGUF) are reordered as they are read, by
:func:`deinterleave`; scores are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes of a network.

    Parameters
    ----------
    width, hidden, layers, heads, kv_heads, vocabulary, context : int
        Width of the residual stream and of the feed-forward part, blocks, heads of queries and of
        keys, tokens, most positions.
    rope_theta : float
        Base of the rotary frequencies.
    epsilon : float
        Added to the mean square in RMSNorm.
    """

    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    rope_theta: float = 10000.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("width", "hidden", "layers", "heads", "kv_heads", "vocabulary", "context"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width % (2 * self.heads):
            raise ValueError(f"width must be a multiple of twice {self.heads} heads")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads {self.kv_heads}")

    @property
    def head_size(self) -> int:
        """Elements of one head."""
        return self.width // self.heads


class Turn(NamedTuple):
    """Rotary angles ``[T, head size]`` of the positions at hand, both halves alike."""

    cos: torch.Tensor
    sin: torch.Tensor


class Cache(NamedTuple):
    """Keys and values ``[kv heads, context, head size]``; ``here [context, 1]``: where to write."""

    keys: torch.Tensor
    values: torch.Tensor
    here: torch.Tensor


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x**2) + epsilon) * weight`` over the last dimension."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalized value."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon) * self.weight


class Attention(nn.Module):
    """Causal attention; heads of queries share the keys of their group.

    The queries of a group are stacked along positions, so that both products are batched over
    ``kv_heads`` and no key is copied.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        inner = config.kv_heads * config.head_size
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.k = nn.Linear(config.width, inner, bias=False)
        self.v = nn.Linear(config.width, inner, bias=False)
        self.o = nn.Linear(config.width, config.width, bias=False)
        self.config = config

    def forward(
        self, x: torch.Tensor, turn: Turn, mask: torch.Tensor, cache: Cache | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The value to add to the stream ``[B, T, width]``, and all keys and values.

        ``mask [T, S]`` is 0, or -inf where not to look; with a cache S is its context and T is 1.
        """
        batch = x.shape[0]
        q, k, v = (self._heads(linear(x)) for linear in (self.q, self.k, self.v))
        q, k = _rotate(q, turn), _rotate(k, turn)
        if cache is not None:
            k = torch.where(cache.here, k, cache.keys)
            v = torch.where(cache.here, v, cache.values)
        return self._attend(q, k, v, mask, batch), k, v

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, batch: int
    ) -> torch.Tensor:
        config = self.config
        length, groups = q.shape[1], config.heads // config.kv_heads
        keys = batch * config.kv_heads
        stacked = q.reshape(keys, groups * length, config.head_size)
        scores = torch.matmul(stacked, k.transpose(1, 2)) * config.head_size**-0.5
        scores = scores.reshape(keys, groups, length, k.shape[1]) + mask
        weights = torch.softmax(scores, -1).reshape(keys, groups * length, k.shape[1])
        mixed = torch.matmul(weights, v)
        if batch == 1:  # as it is traced: no dimension for what is one
            mixed = mixed.reshape(config.heads, length, config.head_size).transpose(0, 1)
        else:
            mixed = mixed.reshape(batch, config.heads, length, config.head_size).transpose(1, 2)
        output: torch.Tensor = self.o(mixed.reshape(batch, length, config.width))
        return output

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """``[B, T, n]`` as ``[B * heads, T, head size]``."""
        if x.shape[0] == 1:
            return x.reshape(x.shape[1], -1, self.config.head_size).transpose(0, 1)
        split = x.reshape(*x.shape[:2], -1, self.config.head_size).transpose(1, 2)
        return split.flatten(0, 1)


class FeedForward(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The value to add to the residual stream."""
        output: torch.Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return output


class Block(nn.Module):
    """Attention and feed-forward, each on a normalized copy, added to the stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.width, config.epsilon)
        self.feed_forward = FeedForward(config)

    def forward(
        self, x: torch.Tensor, turn: Turn, mask: torch.Tensor, cache: Cache | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The stream behind the block, and all keys and values."""
        mixed, keys, values = self.attention(self.attention_norm(x), turn, mask, cache)
        x = x + mixed
        return x + self.feed_forward(self.feed_forward_norm(x)), keys, values


class Llama(nn.Module):
    """All positions of a window at once.

    The head shares the embedding's weights unless ``tied`` is False.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: LlamaConfig, tied: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.epsilon)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        cos, sin = _tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @classmethod
    def from_state(
        cls, config: LlamaConfig, state: Mapping[str, torch.Tensor], tied: bool = True
    ) -> Llama:
        """A network of these weights, in evaluation mode; they are not copied.

        Parameters
        ----------
        config : LlamaConfig
        state : mapping of str to torch.Tensor
            By the names of ``state_dict``, without ``head.weight`` if ``tied``.
        tied : bool
        """
        with torch.device("meta"):
            model = cls(config, tied)
        state = {**state, "head.weight": state["embedding.weight"]} if tied else dict(state)
        model.load_state_dict(state, assign=True)
        if tied:
            model.head.weight = model.embedding.weight
        model.cos, model.sin = _tables(config)
        return model.eval()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, T, vocabulary]`` of tokens ``[B, T]`` int64, T at most the context."""
        length = tokens.shape[1]
        turn = Turn(self.cos[:length], self.sin[:length])
        mask = torch.full_like(turn.cos[:1, :1], float("-inf")).expand(length, length).triu(1)
        x = self.embedding(tokens)
        for block in self.blocks:
            x, _, _ = block(x, turn, mask)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


class LlamaStep(nn.Module):
    """One token with the keys and values of those before it.

    Parameters
    ----------
    model : Llama
        Whose weights it uses.
    context : int, optional
        Positions of the caches, at most the model's, which is the default.
    """

    slots: torch.Tensor

    def __init__(self, model: Llama, context: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.context = model.config.context if context is None else context
        if not 1 <= self.context <= model.config.context:
            raise ValueError(
                f"context must be 1 to {model.config.context} positions, not {self.context}"
            )
        self.register_buffer("slots", torch.arange(self.context), persistent=False)

    def forward(
        self, token: torch.Tensor, position: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits ``[1, 1, vocabulary]`` and the caches with this position written.

        Parameters
        ----------
        token : torch.Tensor of int64
            ``[1, 1]``.
        position : torch.Tensor of int64
            ``[1]``, from 0.
        keys, values : torch.Tensor of float32
            ``[layers, kv heads, context, head size]``; what lies behind the position is not read.
        """
        model = self.model
        turn = Turn(model.cos.index_select(0, position), model.sin.index_select(0, position))
        mask = torch.where(self.slots <= position, 0.0, float("-inf")).reshape(1, self.context)
        here = (self.slots == position).reshape(self.context, 1)
        x = model.embedding(token)
        new_keys, new_values = [], []
        for layer, block in enumerate(model.blocks):
            x, k, v = block(x, turn, mask, Cache(keys[layer], values[layer], here))
            new_keys.append(k)
            new_values.append(v)
        return model.head(model.norm(x)), torch.stack(new_keys), torch.stack(new_values)

    def empty_cache(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values before the first token."""
        config = self.model.config
        shape = (config.layers, config.kv_heads, self.context, config.head_size)
        return torch.zeros(shape), torch.zeros(shape)


def deinterleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of each head with pairs side by side, reordered into two halves.

    Parameters
    ----------
    weight : torch.Tensor
        ``[heads * head size, n]``.
    heads : int
    """
    inner = weight.shape[1]
    return weight.reshape(heads, -1, 2, inner).transpose(1, 2).reshape(-1, inner)


def _rotate(x: torch.Tensor, turn: Turn) -> torch.Tensor:
    """Turn each pair (i, i + size/2) of ``[heads, T, size]`` by its position's angle."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * turn.cos + turned * turn.sin


def _tables(config: LlamaConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines ``[context, head size]``, both halves alike."""
    size = config.head_size
    frequencies = config.rope_theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(config.context, dtype=torch.float64), frequencies)
    angles = torch.cat((angles, angles), -1)
    return angles.cos().float(), angles.sin().float()
