"""Methods after training, composed by name: equalise, rotate, compensate, opt, distil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from sw.models.llama import Llama
from sw.wasq.compensate import CompensateOptions
from sw.wasq.config import SFConfig
from sw.wasq.distil import DistilOptions, distil
from sw.wasq.equalise import EqualiseOptions, equalise_
from sw.wasq.opt import OnBlock, OptOptions, opt
from sw.wasq.quantize import targets
from sw.wasq.rotate import RotateOptions, rotate_
from sw.wasq.sequential import Progress, compensate_at_once, compensate_model
from sw.wasq.weights import QuantizedWeight, quantize_weight

#: In the order in which they make sense; any subset may be asked for.
STEPS: Final = ("rotate", "equalise", "compensate", "opt", "distil")
#: Called behind a step with its name and all words so far (none before they are chosen).
OnStep = Callable[[str, dict[str, QuantizedWeight]], None]


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Options of the steps; ``batch``: sequences that run at once."""

    rotate: RotateOptions = field(default_factory=RotateOptions)
    equalise: EqualiseOptions = field(default_factory=EqualiseOptions)
    compensate: CompensateOptions = field(default_factory=CompensateOptions)
    opt: OptOptions = field(default_factory=OptOptions)
    distil: DistilOptions = field(default_factory=DistilOptions)
    batch: int = 8


def run_stack(
    model: nn.Module,
    config: SFConfig,
    steps: Sequence[str],
    tokens: torch.Tensor,
    options: StackOptions | None = None,
    *,
    distil_tokens: torch.Tensor | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
    on_block: OnBlock | None = None,
    on_step: OnStep | None = None,
) -> dict[str, QuantizedWeight]:
    """Run steps in their order; the words of every layer that the configuration quantizes.

    The model is changed in place by "rotate" and "equalise" (its function stays the same) and, only
    if their options train norms, by "opt" and "distil". Give the words to
    ``quantize_(model, config, weights=...)``.

    Parameters
    ----------
    model : nn.Module
        A Llama; any other model can be compensated only, on ``tokens`` as its input.
    config : SFConfig
    steps : sequence of str
        Of :data:`STEPS`; none: rounding.
    tokens : torch.Tensor of int64 ``[n, T]``
        Calibration.
    options : StackOptions, optional
    distil_tokens : torch.Tensor of int64 ``[m, T]``, optional
        What to distil on, which wants more text than the others; ``tokens`` if omitted.
    resume : Path, optional
        Folder for what "opt" and "distil" have finished.
    progress, on_block, on_step : callable, optional

    Raises
    ------
    ValueError
        If a step is unknown or named twice, or does not fit the model.
    """
    options = options or StackOptions()
    ordered = check_steps(steps)
    chosen = targets(model, config)
    if not isinstance(model, Llama) and set(ordered) - {"compensate"}:
        raise ValueError(f"model must be a Llama for {ordered[0]}, not {type(model).__name__}")
    if "rotate" in ordered:
        rotate_(model, options.rotate)
        chosen = targets(model, config)
    found: dict[str, QuantizedWeight] = {}

    def done(step: str) -> None:
        if step in ordered and on_step is not None:
            on_step(step, found)

    done("rotate")
    if "equalise" in ordered:
        equalise_(model, config, tokens, options.equalise, progress, options.batch)
    done("equalise")
    if "opt" in ordered:
        place = None if resume is None else resume / "opt"
        kind = "compensate" if "compensate" in ordered else options.opt.start
        own = _with_start(options.opt, kind, options.compensate)
        found = opt(
            model, config, tokens, own, resume=place, on_block=on_block, batch=options.batch
        )
    elif "compensate" in ordered and isinstance(model, Llama):
        found = compensate_model(model, config, tokens, options.compensate, progress, options.batch)
    elif "compensate" in ordered:
        batches = tokens.split(options.batch)  # type: ignore[no-untyped-call]
        found = compensate_at_once(model, config, batches, options.compensate, progress)
    done("opt" if "opt" in ordered else "compensate")
    for target in chosen:
        if target.name not in found:
            weight = target.module.weight.detach().flatten(1)  # type: ignore[operator]
            found[target.name] = quantize_weight(weight, target.config, name=target.name)
    if "distil" in ordered:
        place = None if resume is None else resume / "distil"
        text = tokens if distil_tokens is None else distil_tokens
        found = distil(model, config, text, found, options.distil, resume=place, progress=progress)
    done("distil")
    return found


def check_steps(steps: Sequence[str]) -> tuple[str, ...]:
    """Steps in the order in which they run.

    Raises
    ------
    ValueError
        If one is unknown or named twice.
    """
    for step in steps:
        if step not in STEPS:
            raise ValueError(f"step must be one of {', '.join(STEPS)}, not {step!r}")
    if len(set(steps)) < len(steps):
        raise ValueError(f"steps must be named once each, not {', '.join(steps)}")
    return tuple(step for step in STEPS if step in steps)


def _with_start(options: OptOptions, kind: str, compensate: CompensateOptions) -> OptOptions:
    return replace(
        options,
        start="compensate" if kind == "compensate" else "round",
        compensate=compensate,
    )
