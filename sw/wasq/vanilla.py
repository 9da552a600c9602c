"""vanilla: no training. The published rule, its clamp of all parameters, the rule that works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal

import torch
from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.quantize import targets
from sw.wasq.weights import QuantizedWeight, quantize_weight

Form = Literal["published", "clamped", "scaled"]
FORMS: Final[tuple[Form, ...]] = ("published", "clamped", "scaled")


def vanilla(
    model: nn.Module, config: SFConfig, form: Form = "scaled"
) -> tuple[SFConfig, dict[str, QuantizedWeight]]:
    """Round a model's weights; the model is not changed.

    Parameters
    ----------
    model : nn.Module
    config : SFConfig
        Widths; its scales are used by "scaled" alone.
    form : {"published", "clamped", "scaled"}
        "published": layers wholly inside [-1, 1] become SFx without a scale, the others keep
        their native type. "clamped": every parameter (embeddings, norms and the head too) is
        clamped to [-1, 1] and becomes SFx without a scale. "scaled": every linear layer and
        convolution, with the configuration's powers of two.

    Returns
    -------
    SFConfig, dict of str to QuantizedWeight
        What to give to ``quantize_``.

    Raises
    ------
    ValueError
        If the form is unknown, or no layer lies inside [-1, 1] where it must.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if form == "published":
        config = _published(model, config)
    elif form == "clamped":
        config = _clamped(config)
    words = {}
    for target in targets(model, config):
        weight: torch.Tensor = target.module.weight.detach()  # type: ignore[operator]
        words[target.name] = quantize_weight(weight.flatten(1), target.config, name=target.name)
    return config, words


def mxint(bits: int = 8, activations: int | None = 8, **more: Any) -> SFConfig:
    """The OCP MXINT format as a configuration: blocks of 32, no unity, exponents by maximum.

    With 8 bits equal to MXINT8 element for element, but for ties and its code -128.
    """
    return SFConfig(
        weights=bits,
        activations=activations,
        weight_scale="block",
        activation_scale="block",
        weight_rule="maximum",
        unity=False,
        **more,
    )


def _published(model: nn.Module, config: SFConfig) -> SFConfig:
    config = replace(config, weight_scale="none", activation_scale="none")
    kept: dict[str, dict[str, Any]] = {}
    chosen = targets(model, config)
    for target in chosen:
        weight: torch.Tensor = target.module.weight.detach()  # type: ignore[operator]
        if float(weight.abs().max()) > 1:
            kept[target.name] = {"weights": None, "activations": None, "output": None}
    if len(kept) == len(chosen):
        raise ValueError("model must have a layer inside [-1, 1] for the published rule, not none")
    return replace(config, overrides={**config.overrides, **kept})


def _clamped(config: SFConfig) -> SFConfig:
    bits = config.weights
    return replace(
        config,
        weight_scale="none",
        activation_scale="none",
        head=bits,
        embedding=bits,
        norms=bits,
    )
