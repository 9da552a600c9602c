"""selective: quantize what lies below a percentile of magnitude, keep the rest in float32.

The paper's first idea. Options of its own (``HealOptions.extra``): ``percentile`` (of magnitudes,
90 to 100), ``scope`` (layer or model), ``kept`` ("values": single weights in coordinates, or
"rows": whole rows with the most of them), ``epsilon`` (smaller weights become 0). No training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from sw.wasq.healing.options import Healed, HealingError
from sw.wasq.healing.task import Task, calibration
from sw.wasq.kept import SelectiveLayer
from sw.wasq.modules import QuantizedLayer
from sw.wasq.quantize import quantize_, replace_module, targets
from sw.wasq.weights import quantize_weight

SCOPES: Final = ("layer", "model")
KINDS: Final = ("values", "rows")


def heal_selective(task: Task) -> Healed:
    """Split every layer's weights, round the small ones, keep the large ones.

    The notes have effective bits per weight: those of all words and exponents, and 32 bits of
    value plus the bits of its place for each kept weight.
    """
    percentile, scope, kind, epsilon = _options(task)
    chosen = targets(task.model, task.config)
    limits = _limits({t.name: _matrix(t.module) for t in chosen}, percentile, scope)
    dense, kept = {}, {}
    for target in chosen:
        weight = _matrix(target.module)
        mask = _mask(weight, limits[target.name], kind, percentile)
        small = torch.where(mask | (weight.abs() < epsilon), 0.0, weight)
        dense[target.name] = quantize_weight(small, target.config, name=target.name)
        kept[target.name] = (mask, weight)
    inputs = [
        [part.to(task.device)] for part in torch.split(calibration(task), task.options.size_of_pass)
    ]
    quantize_(task.model, task.config, weights=dense, calibration=inputs)
    stored = float(
        sum(_bits(words.words, words.format.bits, words.exponents) for words in dense.values())
    )
    total = sum(words.words.numel() for words in dense.values())
    count = 0
    for name, (mask, weight) in kept.items():
        layer = task.model.get_submodule(name)
        assert isinstance(layer, QuantizedLayer)
        made = _split(layer, mask, weight, kind)
        stored += _kept_bits(made)
        count += int(mask.sum())
        replace_module(task.model, name, made)
    notes = {"effective_bits": stored / total, "kept": count / total, "percentile": percentile}
    return Healed(dense, fraction=0.0, notes={**notes, "scope": scope, "kind": kind})


def _options(task: Task) -> tuple[float, str, str, float]:
    percentile = float(task.option("percentile", 99.0))
    scope, kind = str(task.option("scope", "layer")), str(task.option("kept", "values"))
    epsilon = float(task.option("epsilon", 0.0))
    if not 0 < percentile <= 100:
        raise HealingError(f"percentile must be above 0 and at most 100, not {percentile!r}")
    for name, value, choices in (("scope", scope, SCOPES), ("kept", kind, KINDS)):
        if value not in choices:
            raise HealingError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    if not epsilon >= 0:
        raise HealingError(f"epsilon must be at least 0, not {epsilon!r}")
    return percentile, scope, kind, epsilon


def _matrix(module: nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().float().flatten(1).clone()


def _limits(weights: Mapping[str, torch.Tensor], percentile: float, scope: str) -> dict[str, float]:
    """The magnitude that a weight must exceed to be kept, by layer."""
    if scope == "layer":
        return {name: _percentile([weight], percentile) for name, weight in weights.items()}
    limit = _percentile(list(weights.values()), percentile)
    return dict.fromkeys(weights, limit)


def _percentile(weights: list[torch.Tensor], percentile: float) -> float:
    """The smallest magnitude that ``percentile`` percent of all do not exceed."""
    flat = torch.cat([weight.abs().flatten() for weight in weights])
    place = min(flat.numel(), max(1, math.ceil(flat.numel() * percentile / 100)))
    return float(flat.sort().values[place - 1])


def _mask(weight: torch.Tensor, limit: float, kind: str, percentile: float) -> torch.Tensor:
    large = weight.abs() > limit
    if kind == "values":
        return large
    counts = large.sum(1)
    rows = round(len(weight) * (1 - percentile / 100))
    best = torch.argsort(counts, descending=True, stable=True)[:rows]
    mask = torch.zeros_like(large)
    mask[best] = True
    return mask


def _split(
    layer: QuantizedLayer, mask: torch.Tensor, weight: torch.Tensor, kind: str
) -> SelectiveLayer:
    if kind == "rows":
        rows = mask.all(1).nonzero().flatten()
        return SelectiveLayer(layer, rows, weight[rows])
    rows, columns = mask.nonzero(as_tuple=True)
    return SelectiveLayer(layer, rows, weight[mask], columns)


def _bits(words: torch.Tensor, bits: int, exponents: torch.Tensor) -> int:
    shared = exponents.numel() if exponents.dim() else 0
    return words.numel() * bits + 8 * shared


def _kept_bits(layer: SelectiveLayer) -> float:
    assert isinstance(layer.quantized, QuantizedLayer)
    outputs, terms = layer.quantized.words.shape
    places = outputs if layer.columns is None else outputs * terms
    return 32 * layer.values.numel() + len(layer.rows) * math.ceil(math.log2(max(2, places)))
