"""Embedding tables and the weights of norms on words."""

from __future__ import annotations

import torch
from torch import nn

from sw.format import SFx
from sw.tensor import exponents, fake_quantize
from sw.wasq.config import SFConfig


def quantize_tables_(model: nn.Module, config: SFConfig) -> None:
    """Round embedding tables (per row) and the weights of norms (per tensor), in place.

    Exponents by maximum. The values of the words take the place of the float weights; a table that
    something else shares, as a head that stays float does, is given to the model anew first, so
    that only the embedding changes.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite, or the model has no embedding or norm to round.
    """
    if config.embedding is not None:
        found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
        if not found:
            raise ValueError("embedding must be None for a model without an embedding table")
        for name, table in found:
            _round_(name, table, SFx(config.embedding, config.unity), "token")
    if config.norms is not None:
        norms = [(n, m) for n, m in model.named_modules() if is_norm(m)]
        if not norms:
            raise ValueError("norms must be None for a model without norms that have weights")
        for name, norm in norms:
            _round_(name, norm, SFx(config.norms, config.unity), "tensor")


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm with a weight: torch's, or one called so."""
    kind = type(module).__name__.lower()
    weight = getattr(module, "weight", None)
    return "norm" in kind and isinstance(weight, torch.Tensor) and weight.dim() == 1


def _round_(name: str, module: nn.Module, form: SFx, granularity: str) -> None:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    values = weight.detach().float().contiguous()
    found = exponents(
        values, form, "token" if granularity == "token" else "tensor", name=f"weight of {name}"
    )
    rounded = fake_quantize(values, form, found).to(weight.dtype)
    module.weight = nn.Parameter(rounded, requires_grad=weight.requires_grad)
