"""Methods that ``atreides quantize`` knows by name: plain rounding, and steps joined by ``+``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch

from sw.wasq.config import SFConfig
from sw.wasq.language import LanguageModel
from sw.wasq.stacks import STEPS, StackOptions, check_steps, run_stack
from sw.wasq.vanilla import Form, vanilla
from sw.wasq.weights import QuantizedWeight

VANILLA: Final = "vanilla"
#: Plain rounding, by the form of :func:`sw.wasq.vanilla.vanilla`.
FORMS: Final[Mapping[str, Form]] = {
    VANILLA: "scaled",
    f"{VANILLA}-published": "published",
    f"{VANILLA}-clamped": "clamped",
}


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a method works on.

    Parameters
    ----------
    language : LanguageModel
        The float model, which a method may rearrange in place, its function kept.
    config : SFConfig
    tokens : torch.Tensor of int64 ``[n, T]`` or None
        Windows to calibrate with.
    seed : int
    resume : Path
        A folder for what is finished, by which an interrupted method goes on.
    progress : callable
        Told of a layer's name, its number from 1 and the number of layers.
    """

    language: LanguageModel
    config: SFConfig
    tokens: torch.Tensor | None
    seed: int
    resume: Path
    progress: Callable[[str, int, int], None]


def describe_methods() -> str:
    """The names of all methods, as part of a sentence."""
    return f"{', '.join(FORMS)}, or of {', '.join(STEPS)} some joined by +"


def check_method(name: str) -> tuple[str, ...]:
    """The steps of a method, none for plain rounding.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if name in FORMS:
        return ()
    try:
        return check_steps(name.split("+"))
    except ValueError:
        raise ValueError(f"method must be {describe_methods()}, not {name!r}") from None


def run_method(name: str, job: Job) -> tuple[SFConfig, Mapping[str, QuantizedWeight]]:
    """Let a method choose words; also the configuration that they follow."""
    steps = check_method(name)
    if not steps:
        return vanilla(job.language.module, job.config, FORMS[name])
    if job.tokens is None:
        raise ValueError(f"calibration must be given for the method {name}")
    options = _seeded(StackOptions(), job.seed)
    words = run_stack(
        job.language.module,
        job.config,
        steps,
        job.tokens,
        options,
        resume=job.resume,
        progress=job.progress,
    )
    return job.config, words


def _seeded(options: StackOptions, seed: int) -> StackOptions:
    """The options with one seed for every step that draws."""
    changed: dict[str, Any] = {}
    for part in fields(options):
        own = getattr(options, part.name)
        if hasattr(own, "seed"):
            changed[part.name] = replace(own, seed=seed)
    return replace(options, **changed)
