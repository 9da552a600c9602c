"""opt: only the critical parameters are recalibrated, block by block.

Each block's words (within one code) and exponents (within one) are learned so that its output, on
the inputs that the quantized blocks before it give, comes close to the float model's; it starts
from error-compensated rounding of the same block. Nothing but one block is ever trained at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sw.models.llama import RMSNorm
from sw.wasq.compensate import CompensateOptions
from sw.wasq.config import SFConfig
from sw.wasq.learned import LearnedLinear, parameter_groups, tensor_float32
from sw.wasq.quantize import replace_module
from sw.wasq.resume import Folder, fingerprint, pack_weights, unpack_weights
from sw.wasq.sequential import compensate_block
from sw.wasq.walk import BlockWalk, Pair
from sw.wasq.weights import QuantizedWeight, quantize_weight


@dataclass(frozen=True, slots=True)
class OptOptions:
    """How a block is recalibrated.

    Parameters
    ----------
    steps : int
        Per block; 0 leaves compensated rounding as it is.
    batch : int
        Sequences per step.
    rate : float
        Of Adam, in codes; it falls linearly to 0.
    exponents, norms : bool
        Whether exponents are learned too (off: compensation has chosen them, and moving one moves
        32 words at once); whether the weights of norms are, which stay float and then belong to
        the quantized model only.
    start : {"compensate", "round"}
    compensate : CompensateOptions
    tf32 : bool
        Whether training (never what it is judged by) may use TF32 on CUDA.
    seed : int
    """

    steps: int = 200
    batch: int = 8
    rate: float = 0.002
    exponents: bool = False
    norms: bool = False
    start: Literal["compensate", "round"] = "compensate"
    compensate: CompensateOptions = field(default_factory=CompensateOptions)
    tf32: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("steps", 0), ("batch", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)!r}")
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, not {self.rate!r}")
        if self.start not in ("compensate", "round"):
            raise ValueError(f"start must be compensate or round, not {self.start!r}")


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What became of a block.

    Parameters
    ----------
    index, blocks : int
        From 0, and how many there are.
    seconds : float
        Spent on it; ``total`` since the start, earlier runs included.
    before, after : float
        Squared error of its output, relative to its power, tokens weighed alike.
    changed, words : int
        Words whose value moved from the start, and how many there are.
    """

    index: int
    blocks: int
    seconds: float
    total: float
    before: float
    after: float
    changed: int
    words: int


#: Called behind each block with its report and all words so far.
OnBlock = Callable[[BlockReport, dict[str, QuantizedWeight]], None]


def opt(
    model: nn.Module,
    config: SFConfig,
    tokens: torch.Tensor,
    options: OptOptions | None = None,
    *,
    resume: Path | None = None,
    on_block: OnBlock | None = None,
    batch: int = 8,
) -> dict[str, QuantizedWeight]:
    """Recalibrate a Llama's blocks; the float model changes only with ``options.norms``.

    Parameters
    ----------
    model : nn.Module
    config : SFConfig
    tokens : torch.Tensor of int64 ``[n, T]``
    options : OptOptions, optional
    resume : Path, optional
        Folder for finished blocks; a run that was cut off goes on with the next, to the same words.
    on_block : callable, optional
    batch : int
        Sequences that run at once where nothing is learned.

    Raises
    ------
    ValueError
        If the model cannot be walked, the tokens do not fit, or the folder is of another run.
    """
    options = options or OptOptions()
    walk = BlockWalk(model, config, tokens, batch)
    folder = None
    if resume is not None:
        settings = {"config": config.to_json(), "options": asdict(options), "method": "opt"}
        folder = Folder(resume, fingerprint(model, tokens, settings))
    found: dict[str, QuantizedWeight] = {}
    norms: dict[str, torch.Tensor] = {}
    total = 0.0
    for pair in walk:
        known = None if folder is None else folder.load(f"block-{pair.index:04}")
        if known is None:
            own, tuned, report = _block(walk, pair, options, total)
            if folder is not None:
                tensors, facts = pack_weights(own)
                state = {"weights": facts, "norms": sorted(tuned), "report": asdict(report)}
                folder.save(f"block-{pair.index:04}", tensors | tuned, state)
        else:
            own = unpack_weights(known[0], known[1]["weights"], walk.device)
            tuned = {n: known[0][n].to(walk.device) for n in known[1]["norms"]}
            report = BlockReport(**known[1]["report"])
            _restore(pair, own, tuned)
        total = report.total
        found |= own
        norms |= {pair.prefix + name: value for name, value in tuned.items()}
        if on_block is not None:
            on_block(report, found)
    with torch.no_grad():
        for name, value in norms.items():
            model.get_parameter(name).copy_(value)
    return found


def _block(
    walk: BlockWalk, pair: Pair, options: OptOptions, total: float
) -> tuple[dict[str, QuantizedWeight], dict[str, torch.Tensor], BlockReport]:
    """Words and tuned norms of a block, which are in its copy afterwards."""
    began = time.perf_counter()
    floats = {name: layer.weight for name, layer in pair.layers.items()}
    if options.start == "compensate":
        words = compensate_block(walk, pair, options.compensate)
    else:
        words = {
            layer.name: quantize_weight(layer.weight, layer.config, name=layer.name)
            for layer in pair.layers.values()
        }
        for layer in pair.layers.values():
            layer.weight = words[layer.name].dequantize()
    goal = _goal(walk, pair)
    before = after = _error(walk, pair, goal)
    changed, tuned = 0, dict[str, torch.Tensor]()
    if options.steps:
        learned = {
            name: LearnedLinear(
                layer.name,
                floats[name],
                words[layer.name],
                layer.config,
                layer.bias,
                options.exponents,
            )
            for name, layer in pair.layers.items()
        }
        tuned = _learn(walk, pair, learned, goal, options)
        after = _error(walk, pair, goal)
        if after < before:
            words = {layer.name: layer.quantized() for layer in learned.values()}
            changed = sum(layer.changed() for layer in learned.values())
        else:  # compensated rounding was better
            after, tuned = before, {}
    _restore(pair, words, tuned)
    seconds = time.perf_counter() - began
    size = sum(w.words.numel() for w in words.values())
    blocks = len(walk.model.blocks)
    report = BlockReport(pair.index, blocks, seconds, total + seconds, before, after, changed, size)
    return words, tuned, report


def _learn(
    walk: BlockWalk,
    pair: Pair,
    learned: dict[str, LearnedLinear],
    goal: torch.Tensor,
    options: OptOptions,
) -> dict[str, torch.Tensor]:
    """Train the layers in the pair's copy; the weights of its norms if they are trained."""
    for name, layer in learned.items():
        replace_module(pair.block, name, layer)
    norms = _norms(pair) if options.norms else {}
    for parameter in pair.block.parameters():
        parameter.requires_grad_(False)
    for layer in learned.values():
        for parameter in layer.parameters():
            parameter.requires_grad_(True)
    for parameter in norms.values():
        parameter.requires_grad_(True)
    layers = list(learned.values())
    optimiser = torch.optim.Adam(
        parameter_groups(layers, list(norms.values()), options.rate), betas=(0.9, 0.95)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: 1 - n / options.steps)
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + pair.index)
    with torch.enable_grad(), tensor_float32(options.tf32):
        for _ in range(options.steps):
            part = torch.randint(len(walk.tokens), (options.batch,), generator=generator)
            part = part.to(walk.stream.device)
            aim = goal[part].to(walk.device)
            loss = _loss(walk.run(pair.block, walk.stream[part]), aim)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            for layer in layers:
                layer.limit()
    return {name: parameter.detach() for name, parameter in norms.items()}


def _loss(output: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """Squared error per token, relative to the token's power, averaged."""
    error = (output - aim).square().mean(-1)
    return (error / aim.square().mean(-1).clamp(min=1e-12)).mean()


@torch.no_grad()
def _goal(walk: BlockWalk, pair: Pair) -> torch.Tensor:
    """The float model's stream behind the block."""
    goal = torch.empty_like(walk.float_stream)
    for part in walk.batches():
        goal[part] = walk.run(pair.float_block, walk.float_stream[part]).to(goal.device)
    return goal


@torch.no_grad()
def _error(walk: BlockWalk, pair: Pair, goal: torch.Tensor) -> float:
    """The loss over all calibration tokens."""
    total = 0.0
    for part in walk.batches():
        aim = goal[part].to(walk.device)
        total += float(_loss(walk.run(pair.block, walk.stream[part]), aim)) * len(aim)
    return total / len(goal)


def _norms(pair: Pair) -> dict[str, nn.Parameter]:
    return {
        f"{name}.weight": module.weight
        for name, module in pair.block.named_modules()
        if isinstance(module, RMSNorm)
    }


def _restore(pair: Pair, words: dict[str, QuantizedWeight], tuned: dict[str, torch.Tensor]) -> None:
    """Put chosen words into the copy, as fixed layers, and its norms."""
    plain: dict[str, Any] = dict(pair.float_block.named_parameters())
    for name, layer in pair.layers.items():
        layer.weight = words[layer.name].dequantize()
        replace_module(pair.block, name, layer)
    for name, parameter in _norms(pair).items():
        parameter.requires_grad_(False)
        parameter.copy_(tuned.get(name, plain[name]))
