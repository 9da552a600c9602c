"""WASQ: weight and activation Superfloat quantization, and how a model is healed of it.

``quantize_``, ``heal_`` and ``evaluate`` are the whole way; ``SFConfig`` says how. What a quantized
model computes in its layers is what the array computes, word for word (``exact.py``).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.quantize import quantize_
from sw.wasq.weights import QuantizedWeight

if TYPE_CHECKING:
    from sw.wasq.evaluation import evaluate
    from sw.wasq.healing import heal_
    from sw.wasq.language import load_language
    from sw.wasq.stacks import run_stack

__all__ = [
    "LayerConfig",
    "QuantizedWeight",
    "SFConfig",
    "evaluate",
    "heal_",
    "load_language",
    "quantize_",
    "run_stack",
]
_LAZY = {
    "evaluate": "sw.wasq.evaluation",
    "heal_": "sw.wasq.healing",
    "load_language": "sw.wasq.language",
    "run_stack": "sw.wasq.stacks",
}


def __getattr__(name: str) -> Any:
    """What needs more than a model: imported when it is first used."""
    if name not in _LAZY:
        raise AttributeError(f"module 'sw.wasq' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
