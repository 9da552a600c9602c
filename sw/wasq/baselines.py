"""What Superfloat is compared with: symmetric integers, float scales, rounded or compensated."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import nn
from torch.nn import functional

from sw.format import SFx
from sw.scale import BLOCK
from sw.wasq.config import SFConfig
from sw.wasq.grid import snap
from sw.wasq.quantize import replace_module, targets
from sw.wasq.solver import factored
from sw.wasq.statistics import Moments
from sw.wasq.walk import STAGES, BlockWalk

Group = Literal["row", "block"]
#: For walks: all linear layers but the head are looked at, on float inputs.
FLOAT_INPUTS: Final = SFConfig(weights=8, activations=None)


@dataclass(frozen=True, slots=True)
class IntegerConfig:
    """Symmetric integers.

    Parameters
    ----------
    weights : int
        Bits; codes are ``-(2**(bits - 1) - 1)`` to the same, positive.
    activations : int or None
        Bits, found anew for each token (and block); None: float.
    group : {"row", "block"}
        What shares a float32 scale: an output channel and a token, or 32 terms of either.
    """

    weights: int = 8
    activations: int | None = 8
    group: Group = "row"

    def __post_init__(self) -> None:
        for bits in (self.weights, self.activations):
            if bits is not None and not 2 <= bits <= 16:
                raise ValueError(f"bits must be 2 to 16, not {bits!r}")
        if self.group not in ("row", "block"):
            raise ValueError(f"group must be row or block, not {self.group!r}")


class IntegerLinear(nn.Module):
    """A linear layer with a dequantized weight and its input rounded to integers."""

    def __init__(self, layer: nn.Linear, weight: torch.Tensor, config: IntegerConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("weight", weight)
        self.register_buffer("bias", layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 sums."""
        bits = self.config.activations
        seen = x if bits is None else round_integers(x, bits, self.config.group)
        return functional.linear(seen, self.weight, self.bias)  # type: ignore[arg-type]


def round_integers(x: torch.Tensor, bits: int, group: Group) -> torch.Tensor:
    """Rows ``[..., K]`` to the nearest integers times ``max|x| / (2**(bits - 1) - 1)``."""
    return snap_integers(x, scales(x, bits, group), bits)


def scales(x: torch.Tensor, bits: int, group: Group) -> torch.Tensor:
    """Scales that broadcast to rows ``[..., K]``; 1 for zeros."""
    terms = x.shape[-1]
    if group == "row":
        largest = x.abs().amax(-1, keepdim=True)
    else:
        padded = functional.pad(x.abs(), (0, -terms % BLOCK))
        blocks = padded.reshape(*x.shape[:-1], -1, BLOCK).amax(-1)
        largest = blocks.repeat_interleave(BLOCK, -1)[..., :terms]
    return torch.where(largest > 0, largest / ((1 << (bits - 1)) - 1), 1.0)


def snap_integers(x: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest codes times their scales."""
    top = (1 << (bits - 1)) - 1
    return torch.round(x / scale).clamp_(-top, top) * scale


def compensate_integers(
    weight: torch.Tensor, config: IntegerConfig, moments: Moments, damping: float = 0.01
) -> torch.Tensor:
    """GPTQ onto integers with the static scales of plain rounding: dequantized ``[N, K]``."""
    solver = factored(moments.hessian, damping)
    factor = solver.factor.float()
    form = SFx(max(config.weights, 3), unity=False)
    if config.weights < 3:
        raise ValueError(f"bits must be at least 3 to be compensated, not {config.weights}")
    step = scales(weight, config.weights, config.group).expand_as(weight)[:, solver.order]
    work = weight[:, solver.order].clone()
    values = torch.empty_like(work)
    for i in range(work.shape[1]):
        units = step[:, i]
        values[:, i] = snap(work[:, i] / units, form) * units
        error = (work[:, i] - values[:, i]) / factor[i, i]
        work[:, i + 1 :].addr_(error, factor[i, i + 1 :], alpha=-1)
    result = torch.empty_like(values)
    result[:, solver.order] = values
    return result


@torch.no_grad()
def integers(
    model: nn.Module, config: IntegerConfig, tokens: torch.Tensor | None = None
) -> nn.Module:
    """A copy of a model with its linear layers (not the head) on integers.

    Parameters
    ----------
    model : nn.Module
        A Llama if ``tokens`` are given.
    config : IntegerConfig
    tokens : torch.Tensor of int64 ``[n, T]``, optional
        For GPTQ, block by block; rounding to nearest without them.
    """
    found = {}
    if tokens is None:
        for target in targets(model, FLOAT_INPUTS):
            layer = target.module
            if isinstance(layer, nn.Linear):
                weight = layer.weight.detach()
                found[target.name] = round_integers(weight, config.weights, config.group)
    else:
        walk = BlockWalk(model, FLOAT_INPUTS, tokens)
        for pair in walk:
            for stage in range(len(STAGES)):
                for name, moments in walk.moments(pair, stage, weighted=False).items():
                    own = pair.layers[name]
                    own.weight = compensate_integers(own.weight, config, moments)
                    found[own.name] = own.weight
    return put_integers_(copy.deepcopy(model), config, found)


def put_integers_(
    model: nn.Module, config: IntegerConfig, weights: Mapping[str, torch.Tensor]
) -> nn.Module:
    """Put dequantized weights and rounded inputs in place of linear layers, by name."""
    for name, weight in weights.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        replace_module(model, name, IntegerLinear(layer, weight, config))
    return model.eval()
