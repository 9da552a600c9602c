"""Block by block through a Llama: the float model's stream and, beside it, the quantized model's.

Only one block's work is held at a time, so memory stays under twice the float model and two
streams of hidden values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from sw.models.llama import Llama, Turn
from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.finite import check_finite
from sw.wasq.grid import round_activations
from sw.wasq.quantize import Target, replace_module, targets
from sw.wasq.statistics import Moments, inputs_of

#: Layers of a block that read the same input, in the order they run, and the module whose input is
#: the stream that the last of them adds to ("" is the block itself).
STAGES: Final[tuple[tuple[tuple[str, ...], str | None], ...]] = (
    (("attention.q", "attention.k", "attention.v"), None),
    (("attention.o",), "attention_norm"),
    (("feed_forward.gate", "feed_forward.up"), None),
    (("feed_forward.down", "feed_forward.down.layer"), "feed_forward_norm"),
)


class RoundedLinear(nn.Module):
    """A linear layer with its input rounded and a weight that others set: for calibration."""

    def __init__(self, name: str, layer: nn.Linear, config: LayerConfig) -> None:
        super().__init__()
        self.name, self.config = name, config
        self.weight = layer.weight.detach()
        self.bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 sums of rounded inputs."""
        return functional.linear(round_activations(x, self.config), self.weight, self.bias)


@dataclass(slots=True)
class Pair:
    """One block, twice.

    Parameters
    ----------
    index : int
    prefix : str
        Of its modules' names: ``blocks.3.``.
    float_block, block : nn.Module
        As it is, and a copy whose layers to quantize are :class:`RoundedLinear`.
    layers : dict of str to RoundedLinear
        By name within the block, in order.
    """

    index: int
    prefix: str
    float_block: nn.Module
    block: nn.Module
    layers: dict[str, RoundedLinear]


class BlockWalk:
    """The streams of a float and of a quantized Llama over the same tokens.

    Parameters
    ----------
    model : Llama
        Float; not changed.
    config : SFConfig
    tokens : torch.Tensor of int64 ``[n, T]``
    batch : int
        Sequences that run at once.
    device : torch.device, optional
        Where streams are kept; the model's by default.

    Raises
    ------
    ValueError
        If the model is no Llama, or tokens are none, too long or not in its vocabulary.
    """

    def __init__(
        self,
        model: nn.Module,
        config: SFConfig,
        tokens: torch.Tensor,
        batch: int = 8,
        device: torch.device | None = None,
    ) -> None:
        self.model = check_llama(model)
        self.tokens = check_tokens(self.model, tokens)
        self.config, self.batch = config, batch
        self.targets: dict[str, Target] = {t.name: t for t in targets(model, config)}
        weight = self.model.embedding.weight
        self.device = weight.device
        length = self.tokens.shape[1]
        self.turn = Turn(self.model.cos[:length], self.model.sin[:length])
        mask = torch.full((length, length), float("-inf"), device=self.device)
        self.mask = mask.triu(1)
        with torch.no_grad():
            start = functional.embedding(self.tokens.to(self.device), weight.detach())
        self.float_stream = start.to(device or self.device)
        self.stream = self.float_stream.clone()

    def __iter__(self) -> Iterator[Pair]:
        """Every block in turn; the streams move on behind it with the weights it then has."""
        for index in range(len(self.model.blocks)):
            pair = self.pair(index)
            yield pair
            self.advance(pair)

    def pair(self, index: int) -> Pair:
        """One block and its copy."""
        block = self.model.blocks[index]
        prefix = f"blocks.{index}."
        twin = copy.deepcopy(block)
        layers = {}
        for name in [n for n, _ in block.named_modules()]:
            target = self.targets.get(prefix + name)
            if target is not None and isinstance(target.module, nn.Linear):
                layers[name] = RoundedLinear(target.name, target.module, target.config)
                replace_module(twin, name, layers[name])
        return Pair(index, prefix, block, twin, layers)

    def run(self, block: nn.Module, stream: torch.Tensor) -> torch.Tensor:
        """A block's output on sequences of a stream ``[b, T, width]``."""
        output: torch.Tensor = block(stream.to(self.device), self.turn, self.mask)[0]
        return output

    def batches(self) -> Iterator[slice]:
        """Sequences that run at once."""
        for first in range(0, len(self.tokens), self.batch):
            yield slice(first, first + self.batch)

    @torch.no_grad()
    def advance(self, pair: Pair) -> None:
        """Move both streams behind a block."""
        for part in self.batches():
            for stream, block in ((self.float_stream, pair.float_block), (self.stream, pair.block)):
                stream[part] = self.run(block, stream[part]).to(stream.device)

    @torch.no_grad()
    def moments(self, pair: Pair, stage: int, weighted: bool = True) -> dict[str, Moments]:
        """Moments of the inputs of a stage's layers, the stages before it as they are now.

        Parameters
        ----------
        pair : Pair
        stage : int
            Of :data:`STAGES`.
        weighted : bool
            Count a token by the mean square of the stream it is added to, inversely, for layers
            that add to it: the norm behind divides by it.

        Raises
        ------
        ValueError
            If an activation is NaN or infinite; the layer is named.
        """
        names, beside = STAGES[stage]
        chosen = [n for n in names if n in pair.layers]
        if not chosen:
            return {}
        first = chosen[0]
        layer = pair.layers[first]
        watched = {first: pair.layers[first], **self._stream_of(pair.block, beside)}
        beside_float = self._stream_of(pair.float_block, beside)
        watched_float = {first: pair.float_block.get_submodule(first), **beside_float}
        found = Moments(layer.weight.shape[1], self.device)
        for part in self.batches():
            with inputs_of(watched) as seen, inputs_of(watched_float) as wanted:
                self.run(pair.block, self.stream[part])
                self.run(pair.float_block, self.float_stream[part])
            rows, goal = seen[first].flatten(0, -2), wanted[first].flatten(0, -2)
            check_finite(rows, f"input of {layer.name}")
            residual = weights = None
            if beside is not None:
                aim = wanted["stream"].flatten(0, -2)
                residual = aim - seen["stream"].flatten(0, -2)
                weights = token_weights(aim) if weighted else None
            found.add(rows, layer.config, goal, residual, weights)
        return dict.fromkeys(chosen, found)

    @staticmethod
    def _stream_of(block: nn.Module, name: str | None) -> dict[str, nn.Module]:
        return {} if name is None else {"stream": block.get_submodule(name)}


def token_weights(stream: torch.Tensor) -> torch.Tensor:
    """``[...]`` from ``[..., width]``: by mean square, inversely, 1 for the median token."""
    power = stream.square().mean(-1)
    return power.median().clamp(min=1e-12) / power.clamp(min=1e-12)


def check_llama(model: nn.Module) -> Llama:
    """The model, if it can be walked block by block.

    Raises
    ------
    ValueError
        If it is no Llama.
    """
    if not isinstance(model, Llama):
        raise ValueError(
            f"model must be a Llama to be walked block by block, not {type(model).__name__}"
        )
    return model


def check_tokens(model: Llama, tokens: torch.Tensor) -> torch.Tensor:
    """Calibration tokens ``[n, T]``, if the model can read them.

    Raises
    ------
    ValueError
        If there are none, they are too long, or not in the vocabulary.
    """
    if tokens.dim() != 2 or not tokens.numel():
        raise ValueError(
            f"calibration tokens must have the shape [sequences, positions], both at least 1, "
            f"not {tuple(tokens.shape)}"
        )
    if tokens.shape[1] > model.config.context:
        raise ValueError(
            f"calibration tokens must be at most {model.config.context} positions long, "
            f"not {tokens.shape[1]}"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.config.vocabulary:
        raise ValueError(
            f"calibration tokens must be 0 to {model.config.vocabulary - 1}, "
            f"not {low if low < 0 else high}"
        )
    return tokens


def apply_weights(pair: Pair, weights: Mapping[str, Any], names: Sequence[str]) -> None:
    """Put dequantized words into a pair's layers, by their full names."""
    for name in names:
        layer = pair.layers[name]
        if layer.name in weights:
            layer.weight = weights[layer.name].dequantize()
