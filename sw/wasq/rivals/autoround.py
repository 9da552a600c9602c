"""AutoRound: where each weight is rounded and where its group is clipped, by signed gradients.

After W. Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization of
LLMs", arXiv:2309.05516, as its published code has it by default: block by block, on the inputs that
the quantized blocks before it give, towards the float block's output on float inputs; an offset of
at most half a code per weight and a factor of at most 1 per group; steps of the gradient's sign
that fall linearly from 1 / steps to 0. It keeps the step whose batch erred least; here the last
step (2 to 3 % better on stories260K) and rounding to nearest stand beside it, and what errs least
on all of the calibration is kept. Codes are symmetric (-7 to 7 of 4 bits; its code has -8 as well).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sw.scale import BLOCK
from sw.wasq.baselines import (
    FLOAT_INPUTS,
    IntegerConfig,
    IntegerLinear,
    round_integers,
    scales,
)
from sw.wasq.learned import tensor_float32
from sw.wasq.opt import BlockReport
from sw.wasq.quantize import replace_module
from sw.wasq.walk import BlockWalk, Pair

#: The least share of its largest magnitude that a group is clipped to: a scale is never 0.
_LEAST_CLIP = 1e-5


@dataclass(frozen=True, slots=True)
class AutoRoundOptions:
    """How a block is tuned.

    Parameters
    ----------
    steps : int
        Per block; 0 leaves rounding to nearest. The rate is ``1 / steps`` at first.
    batch : int
        Sequences per step.
    tf32 : bool
        Whether tuning (never what it is judged by) may use TF32 on CUDA.
    seed : int
    """

    steps: int = 200
    batch: int = 8
    tf32: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 0), ("batch", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)!r}")


class TunedLinear(nn.Module):
    """A layer on integers whose rounding and clipping have gradients.

    Parameters
    ----------
    layer : nn.Linear
    config : IntegerConfig

    Attributes
    ----------
    offset : nn.Parameter of float32 ``[N, K]``
        Added to each weight in codes before it is rounded, -0.5 to 0.5.
    clip : nn.Parameter of float32 ``[N, groups]``
        The share of a group's largest magnitude that the largest code stands for, at most 1.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    step: torch.Tensor

    def __init__(self, layer: nn.Linear, config: IntegerConfig) -> None:
        super().__init__()
        self.config = config
        weight = layer.weight.detach()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())
        step = scales(weight, config.weights, config.group)
        self.register_buffer("step", step)
        self.size = BLOCK if config.group == "block" else weight.shape[1]
        groups = -(-weight.shape[1] // self.size)
        self.offset = nn.Parameter(torch.zeros_like(weight))
        self.clip = nn.Parameter(weight.new_ones(len(weight), groups))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 sums of inputs and weights as they act, gradients straight through."""
        bits = self.config.activations
        if bits is not None:
            x = x + (round_integers(x.detach(), bits, self.config.group) - x).detach()
        return functional.linear(x, self.rounded_weight(), self.bias)

    def rounded_weight(self) -> torch.Tensor:
        """The dequantized weight ``[N, K]``; gradient 0 for offsets beyond the largest code."""
        top = (1 << (self.config.weights - 1)) - 1
        # Not repeat_interleave: its gradient adds in no fixed order on CUDA.
        clip = self.clip[:, :, None].expand(-1, -1, self.size).flatten(1)
        step = self.step * clip[:, : self.weight.shape[1]]
        place = self.weight / step + self.offset
        codes = place + (torch.round(place) - place).detach()
        return codes.clamp(-top, top) * step

    @torch.no_grad()
    def limit(self) -> None:
        """Bring offsets and factors back into their ranges."""
        self.offset.clamp_(-0.5, 0.5)
        self.clip.clamp_(_LEAST_CLIP, 1)


def autoround_model(
    model: nn.Module,
    config: IntegerConfig,
    tokens: torch.Tensor,
    options: AutoRoundOptions | None = None,
    *,
    on_block: Callable[[BlockReport], None] | None = None,
    batch: int = 8,
) -> dict[str, torch.Tensor]:
    """Tune the rounding of a Llama's blocks; the model is not changed.

    Parameters
    ----------
    model : nn.Module
    config : IntegerConfig
    tokens : torch.Tensor of int64 ``[n, T]``
    options : AutoRoundOptions, optional
    on_block : callable, optional
        Its report counts as changed what is not as nearest rounding has it; errors are squared and
        relative to the power of all tokens together.
    batch : int
        Sequences that run at once where nothing is tuned.

    Returns
    -------
    dict of str to torch.Tensor
        Dequantized weights by module.

    Raises
    ------
    ValueError
        If the model is no Llama, or the tokens do not fit.
    """
    options = options or AutoRoundOptions()
    walk = BlockWalk(model, FLOAT_INPUTS, tokens, batch)
    found: dict[str, torch.Tensor] = {}
    total = 0.0
    for pair in walk:
        own, report = _block(walk, pair, config, options, total)
        total = report.total
        found |= own
        if on_block is not None:
            on_block(report)
    return found


def _block(
    walk: BlockWalk, pair: Pair, config: IntegerConfig, options: AutoRoundOptions, total: float
) -> tuple[dict[str, torch.Tensor], BlockReport]:
    """Weights of a block, which are in its copy afterwards."""
    began = time.perf_counter()
    layers = {}
    for name in pair.layers:
        plain = pair.float_block.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        layers[name] = TunedLinear(plain, config)
        replace_module(pair.block, name, layers[name])
    goal = _goal(walk, pair)
    nearest = {name: layer.rounded_weight().detach() for name, layer in layers.items()}
    before = after = _error(walk, pair, goal)
    chosen = nearest
    for weights in _tuned(walk, pair, layers, goal, options):
        error = _error(walk, pair, goal)
        if error < after:
            chosen, after = weights, error
    for name, weight in chosen.items():
        plain = pair.float_block.get_submodule(name)
        assert isinstance(plain, nn.Linear)
        replace_module(pair.block, name, IntegerLinear(plain, weight, config))
    changed = sum(int((chosen[n] != nearest[n]).sum()) for n in chosen)
    size = sum(weight.numel() for weight in chosen.values())
    seconds = time.perf_counter() - began
    blocks = len(walk.model.blocks)
    report = BlockReport(pair.index, blocks, seconds, total + seconds, before, after, changed, size)
    return {pair.prefix + name: weight for name, weight in chosen.items()}, report


def _tuned(
    walk: BlockWalk,
    pair: Pair,
    layers: dict[str, TunedLinear],
    goal: torch.Tensor,
    options: AutoRoundOptions,
) -> Iterator[dict[str, torch.Tensor]]:
    """Weights of the last step, then of that whose batch erred least; the layers have them."""
    for parameter in pair.block.parameters():
        parameter.requires_grad_(False)
    parameters = [p for layer in layers.values() for p in (layer.offset, layer.clip)]
    for parameter in parameters:
        parameter.requires_grad_(True)
    kept = [p.detach().clone() for p in parameters]
    least = torch.full((), float("inf"), device=walk.device)
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + pair.index)
    for step in range(options.steps):
        rate = (1 - step / options.steps) / options.steps
        part = torch.randperm(len(walk.tokens), generator=generator)[: options.batch]
        part = part.to(walk.stream.device)
        with torch.enable_grad(), tensor_float32(options.tf32):
            output = walk.run(pair.block, walk.stream[part])
            loss = functional.mse_loss(output, goal[part].to(walk.device))
            gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            better = loss < least  # stays on the device: no step waits for another
            least = torch.where(better, loss, least)
            for parameter, best, gradient in zip(parameters, kept, gradients, strict=True):
                best.copy_(torch.where(better, parameter, best))
                parameter.sub_(gradient.sign(), alpha=rate)
        for layer in layers.values():
            layer.limit()
    yield {name: layer.rounded_weight().detach() for name, layer in layers.items()}
    with torch.no_grad():
        for parameter, best in zip(parameters, kept, strict=True):
            parameter.copy_(best)
    yield {name: layer.rounded_weight().detach() for name, layer in layers.items()}


@torch.no_grad()
def _goal(walk: BlockWalk, pair: Pair) -> torch.Tensor:
    """The float block's output on float inputs."""
    goal = torch.empty_like(walk.float_stream)
    for part in walk.batches():
        goal[part] = walk.run(pair.float_block, walk.float_stream[part]).to(goal.device)
    return goal


@torch.no_grad()
def _error(walk: BlockWalk, pair: Pair, goal: torch.Tensor) -> float:
    """Squared error of the block's output over all calibration tokens, relative to its power."""
    lost, power = [], []
    for part in walk.batches():
        aim = goal[part].to(walk.device)
        lost.append((walk.run(pair.block, walk.stream[part]) - aim).square().sum())
        power.append(aim.square().sum())
    return float(torch.stack(lost).sum() / torch.stack(power).sum().clamp(min=1e-12))
