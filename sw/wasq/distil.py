"""Distillation over all blocks at once: the last step of a stack.

Every word may still move within one code of where it was, every exponent within one, by the
divergence of the quantized model's predictions from the float model's. No label is used.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sw.models.llama import Llama, RMSNorm
from sw.wasq.config import SFConfig
from sw.wasq.learned import LearnedLinear, parameter_groups, tensor_float32
from sw.wasq.quantize import replace_module, targets
from sw.wasq.resume import Folder, fingerprint
from sw.wasq.sequential import Progress
from sw.wasq.walk import check_llama, check_tokens
from sw.wasq.weights import QuantizedWeight

#: Called now and then with steps done, seconds, the mean loss since the last call, and a function
#: that gives the words as they are.
OnSteps = Callable[[int, float, float, Callable[[], dict[str, QuantizedWeight]]], None]


@dataclass(frozen=True, slots=True)
class DistilOptions:
    """How predictions are brought together.

    Parameters
    ----------
    steps, batch : int
        ``batch`` sequences of calibration tokens per step.
    rate : float
        Of Adam, in codes; it falls linearly to 0 after a warm-up of a twentieth.
    exponents, norms : bool
        As for :class:`sw.wasq.opt.OptOptions`.
    every : int
        Steps between reports and kept states.
    tf32 : bool
    seed : int
    """

    steps: int = 500
    batch: int = 8
    rate: float = 0.002
    exponents: bool = False
    norms: bool = False
    every: int = 50
    tf32: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, not {self.rate!r}")


def distil(
    model: nn.Module,
    config: SFConfig,
    tokens: torch.Tensor,
    weights: Mapping[str, QuantizedWeight],
    options: DistilOptions | None = None,
    *,
    resume: Path | None = None,
    progress: Progress | None = None,
    on_steps: OnSteps | None = None,
) -> dict[str, QuantizedWeight]:
    """Learn words end to end; the float model changes only with ``options.norms``.

    Parameters
    ----------
    model : nn.Module
        The float model, which is its own teacher.
    config : SFConfig
    tokens : torch.Tensor of int64 ``[n, T]``
    weights : mapping of str to QuantizedWeight
        Where the words begin.
    options : DistilOptions, optional
    resume : Path, optional
        Folder for the latest state; a run that was cut off goes on from it.
    progress, on_steps : callable, optional

    Raises
    ------
    ValueError
        If the model is no Llama, tokens do not fit, or the folder is of another run.
    """
    options = options or DistilOptions()
    teacher = check_llama(model)
    check_tokens(teacher, tokens)
    student, layers = _student(teacher, config, weights, options)
    norms = _norms(student) if options.norms else {}
    optimiser = torch.optim.Adam(
        parameter_groups(layers, list(norms.values()), options.rate), betas=(0.9, 0.95)
    )
    rates = [float(group["lr"]) for group in optimiser.param_groups]
    folder, done, spent = None, 0, 0.0
    if resume is not None:
        settings = {"config": config.to_json(), "options": asdict(options), "method": "distil"}
        folder = Folder(resume, fingerprint(model, tokens, settings))
        done, spent = _load(folder, student, optimiser)
    device = teacher.embedding.weight.device
    began, mean = time.perf_counter() - spent, 0.0

    def words() -> dict[str, QuantizedWeight]:
        return {layer.name: layer.quantized() for layer in layers}

    for step in range(done, options.steps):
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        part = torch.randint(len(tokens), (options.batch,), generator=generator)
        batch = tokens[part.to(tokens.device)].to(device)
        with tensor_float32(options.tf32):
            loss = divergence(student(batch), _logits(teacher, batch))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        for group, first in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = first * _rate(step, options.steps)
        optimiser.step()
        for layer in layers:
            layer.limit()
        mean += float(loss.detach())
        last = step + 1 == options.steps
        if (step + 1) % options.every == 0 or last:
            if folder is not None:
                _save(folder, student, optimiser, step + 1, time.perf_counter() - began)
            if on_steps is not None:
                count = (step + 1) % options.every or options.every
                on_steps(step + 1, time.perf_counter() - began, mean / count, words)
            mean = 0.0
        if progress is not None:
            progress("distil", step + 1, options.steps)
    with torch.no_grad():
        for name, value in norms.items():
            model.get_parameter(name).copy_(value)
    return dict(weights) | words()


def divergence(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence per token, nats, of predictions from the wanted ones."""
    flat, aim = logits.flatten(0, -2), wanted.flatten(0, -2)
    return functional.kl_div(
        functional.log_softmax(flat, -1),
        functional.log_softmax(aim, -1),
        reduction="batchmean",
        log_target=True,
    )


@torch.no_grad()
def _logits(teacher: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = teacher(batch)
    return logits


def _student(
    teacher: Llama,
    config: SFConfig,
    weights: Mapping[str, QuantizedWeight],
    options: DistilOptions,
) -> tuple[Llama, list[LearnedLinear]]:
    """A copy whose quantized layers learn; all else stays as it is."""
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    layers = []
    for target in targets(teacher, config):
        module = target.module
        if not isinstance(module, nn.Linear) or target.name not in weights:
            continue
        bias = None if module.bias is None else module.bias.detach()
        layer = LearnedLinear(
            target.name,
            module.weight,
            weights[target.name],
            target.config,
            bias,
            options.exponents,
        )
        replace_module(student, target.name, layer)
        layers.append(layer)
    if options.norms:
        for parameter in _norms(student).values():
            parameter.requires_grad_(True)
    return student, layers


def _norms(model: nn.Module) -> dict[str, nn.Parameter]:
    return {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, RMSNorm)}


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min((step + 1) / warm, 1.0) * (1 - step / steps)


def _save(
    folder: Folder, student: nn.Module, optimiser: torch.optim.Adam, step: int, seconds: float
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors[name] = parameter
        state = optimiser.state[parameter]
        tensors[f"{name}.first"] = state["exp_avg"]
        tensors[f"{name}.second"] = state["exp_avg_sq"]
    folder.save("state", tensors, {"step": step, "seconds": seconds})


def _load(folder: Folder, student: nn.Module, optimiser: torch.optim.Adam) -> tuple[int, float]:
    """Steps and seconds done before; 0 if none."""
    known = folder.load("state")
    if known is None:
        return 0, 0.0
    tensors, facts = known
    step = int(facts["step"])
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.copy_(tensors[name])
            state: dict[str, Any] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"{name}.first"].to(parameter.device),
                "exp_avg_sq": tensors[f"{name}.second"].to(parameter.device),
            }
            optimiser.state[parameter] = state
    return step, float(facts["seconds"])
