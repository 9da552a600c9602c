"""WASQ: weight and activation Superfloat quantization, and how a model is healed of it.

``quantize_``, ``heal_`` and ``evaluate`` are the whole way; ``SFConfig`` says how. What a quantized
model computes in its layers is what the array computes, word for word (``exact.py``).
"""

from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.quantize import quantize_
from sw.wasq.weights import QuantizedWeight

__all__ = ["LayerConfig", "QuantizedWeight", "SFConfig", "quantize_"]
