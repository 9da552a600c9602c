"""Embedding tables and the weights of norms on words."""

from __future__ import annotations

from torch import nn

from sw.wasq.config import SFConfig


def quantize_tables_(model: nn.Module, config: SFConfig) -> None:
    """Round embedding tables (per row) and the weights of norms (per tensor), in place."""
