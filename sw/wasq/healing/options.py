"""How a model is healed, what comes out, and what is told on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import torch

from sw.wasq.weights import QuantizedWeight

Form = Literal["corrected", "published"]
Precision = Literal["float32", "bfloat16"]
Sharding = Literal["replicated", "sharded"]
FORMS: Final[tuple[Form, ...]] = ("corrected", "published")
PRECISIONS: Final[tuple[Precision, ...]] = ("float32", "bfloat16")
SHARDINGS: Final[tuple[Sharding, ...]] = ("replicated", "sharded")
TRAINED: Final = ("layers", "norms", "all")
#: Largest seed either way: multiplied by a million and with a step added it fits 64 bits.
MAX_SEED: Final = 1 << 42
#: Called after a step with its number from 1, the number of steps and the loss.
Progress = Callable[[int, int, float], None]
#: Given one row of plain data per step or evaluation.
Log = Callable[[dict[str, Any]], None]
#: Fields that may differ between a run and the one that goes on with it.
_FREE: Final = ("checkpoint_steps", "checkpoint_seconds", "sharding", "stop_after")


class HealingError(ValueError):
    """A run that cannot start or go on, in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealOptions:
    """How a model is healed.

    Parameters
    ----------
    steps : int
        Updates, at least 0.
    batch : int
        Samples (windows of text) of one update, over all processes together.
    micro : int, optional
        Samples of one forward pass; ``batch`` must be a multiple. All of the batch if omitted.
    learning_rate : float
        Of AdamW (arXiv:1711.05101) at its peak: a linear rise, then half a cosine down to 0.
    warmup : int
        Steps of the rise.
    weight_decay : float
    betas : tuple of float
    distillation : float
        Share of the divergence from the float model in the loss, 0 to 1; the rest is cross entropy.
    temperature : float
        That logits are divided by for the divergence.
    top_k : int, optional
        Keep the float model's logits of each token's k most likely successors, computed once,
        instead of running it at each step; the rest of its probability is one more class.
    form : {"corrected", "published"}
        "published": gradients capped at plus and minus ``gradient_limit``, activations at 1, which
        is what ``activation_scale="none"`` does. "corrected": gradients scaled down to the norm
        ``gradient_limit``.
    gradient_limit : float
    refresh : int
        Steps after which the exponents of weights are found anew; 0: never.
    refresh_share : float
        Only during this share of all steps, so that the last ones settle.
    precision : {"float32", "bfloat16"}
        Of matrix products: bfloat16 holds every SF8 word exactly, sums and all else stay float32.
        Not for formats beyond SF8.
    trained : {"layers", "norms", "all"}
        Only quantized layers, or also the weights of norms, or all parameters.
    rho : float
        Share of the layers' weights that lottery tickets heal, 0 to 1.
    seed : int
        Of the order of the samples and of every choice by chance.
    checkpoint_steps, checkpoint_seconds : int, float
        A checkpoint is due after so many steps, or so many seconds; 0: at the end alone.
    evaluate_steps : int
        Steps between evaluations; 0: none.
    deterministic : bool
        Over several processes, sum the gradients of forward passes in the order of their samples,
        so that any number of processes gives the same bits. It moves all of them every pass.
    sharding : {"replicated", "sharded"}
        Over several processes: a copy each (DDP), or a part each (FSDP2).
    stop_after : int, optional
        Leave after this many steps in all, with a checkpoint; for runs in slices.
    extra : mapping of str to value
        What single methods take besides: see their modules.
    """

    steps: int = 200
    batch: int = 8
    micro: int | None = None
    learning_rate: float = 1e-4
    warmup: int = 10
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    distillation: float = 0.9
    temperature: float = 1.0
    top_k: int | None = None
    form: Form = "corrected"
    gradient_limit: float = 1.0
    refresh: int = 50
    refresh_share: float = 0.5
    precision: Precision = "float32"
    trained: str = "norms"
    rho: float = 0.1
    seed: int = 1
    checkpoint_steps: int = 0
    checkpoint_seconds: float = 120.0
    evaluate_steps: int = 0
    deterministic: bool = True
    sharding: Sharding = "replicated"
    stop_after: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("warmup", 0), ("refresh", 0)):
            _check_integer(name, getattr(self, name), least)
        for name in ("checkpoint_steps", "evaluate_steps"):
            _check_integer(name, getattr(self, name), 0)
        _check_integer("seed", self.seed, -MAX_SEED)
        if self.seed > MAX_SEED:
            raise ValueError(f"seed must be at most {MAX_SEED}, not {self.seed!r}")
        for name in ("micro", "top_k", "stop_after"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 1)
        if self.batch % self.size_of_pass:
            raise ValueError(f"batch must be a multiple of micro {self.micro}, not {self.batch}")
        for name in ("distillation", "refresh_share", "rho"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)!r}")
        for name in ("learning_rate", "temperature", "gradient_limit"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")
        for name, choices in (
            ("form", FORMS),
            ("precision", PRECISIONS),
            ("sharding", SHARDINGS),
            ("trained", TRAINED),
        ):
            if getattr(self, name) not in choices:
                chosen = getattr(self, name)
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {chosen!r}")

    @property
    def size_of_pass(self) -> int:
        """Samples of one forward pass."""
        return self.batch if self.micro is None else self.micro

    @property
    def passes(self) -> int:
        """Forward passes of one update, over all processes."""
        return self.batch // self.size_of_pass

    def rate(self, step: int) -> float:
        """The learning rate of the update after ``step`` others."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = max(1, self.steps - self.warmup)
        share = min(1.0, max(0, step - self.warmup) / left)
        return self.learning_rate * rise * (0.5 + 0.5 * math.cos(share * math.pi))

    def to_json(self) -> dict[str, Any]:
        """What a run that goes on with this one must have alike."""
        data = {name: value for name, value in asdict(self).items() if name not in _FREE}
        return {**data, "betas": list(self.betas), "extra": dict(self.extra)}


@dataclass(frozen=True, slots=True, eq=False)
class Healed:
    """A healed model.

    Parameters
    ----------
    weights : mapping of str to QuantizedWeight
        By module; the model holds them already.
    others : mapping of str to torch.Tensor
        Float parameters that were trained too (biases, norms), by name.
    losses : tuple of float
        One per step.
    seconds : float
        Spent on training, evaluation left out.
    fraction : float
        Share of the layers' weights that could change.
    tokens : int
        Samples, or tokens of text, that were trained on.
    finished : bool
        False if the run was left early, with a checkpoint.
    notes : mapping of str to value
        What the method found on its way, as plain data.
    """

    weights: Mapping[str, QuantizedWeight]
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    losses: tuple[float, ...] = ()
    seconds: float = 0.0
    fraction: float = 1.0
    tokens: int = 0
    finished: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
