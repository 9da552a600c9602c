"""Attention products and the cache of keys and values on words."""

from __future__ import annotations

from torch import nn

from sw.wasq.calibrate import Scales
from sw.wasq.config import SFConfig


def quantize_products_(model: nn.Module, config: SFConfig, scales: Scales) -> None:
    """Let every product of two activations inside the model run on words."""
