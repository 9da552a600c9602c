"""Methods of others on symmetric integers, which Superfloat's own are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import nn

from sw.wasq.baselines import IntegerConfig, integers, put_integers_
from sw.wasq.opt import BlockReport
from sw.wasq.rivals.autoround import AutoRoundOptions, autoround_model
from sw.wasq.rivals.awq import AWQOptions, awq_

#: How integers can be chosen, besides rounding to nearest; one at a time.
INTEGER_STEPS: Final = ("compensate", "awq", "autoround")

__all__ = [
    "INTEGER_STEPS",
    "AWQOptions",
    "AutoRoundOptions",
    "autoround_model",
    "awq_",
    "check_integer_steps",
    "integer_model",
]


def check_integer_steps(steps: Sequence[str]) -> str | None:
    """The step that chooses integers; None for rounding to nearest.

    Raises
    ------
    ValueError
        If it is unknown or there are several.
    """
    if len(steps) > 1 or not set(steps) <= set(INTEGER_STEPS):
        raise ValueError(
            f"steps of integers must be one of {', '.join(INTEGER_STEPS)} or none, "
            f"not {'+'.join(steps)}"
        )
    return steps[0] if steps else None


@torch.no_grad()
def integer_model(
    model: nn.Module,
    config: IntegerConfig,
    steps: Sequence[str] = (),
    tokens: torch.Tensor | None = None,
    on_block: Callable[[BlockReport], None] | None = None,
) -> nn.Module:
    """A copy of a model with its linear layers (not the head) on integers, chosen by a method.

    Parameters
    ----------
    model : nn.Module
        A Llama if there is a step.
    config : IntegerConfig
    steps : sequence of str
        None or one of :data:`INTEGER_STEPS`.
    tokens : torch.Tensor of int64 ``[n, T]``, optional
        Of calibration; needed if there is a step.
    on_block : callable, optional
        Called behind each block that is tuned.

    Raises
    ------
    ValueError
        As :func:`check_integer_steps`; or if tokens are needed and missing or do not fit.
    """
    step = check_integer_steps(steps)
    if step is None:
        return integers(model, config)
    if tokens is None:
        raise ValueError(f"{step} must have calibration tokens, not None")
    if step == "compensate":
        return integers(model, config, tokens)
    made = copy.deepcopy(model)
    if step == "awq":
        return put_integers_(made, config, awq_(made, config, tokens))
    return put_integers_(made, config, autoround_model(made, config, tokens, on_block=on_block))
