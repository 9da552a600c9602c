"""A result's row: what was evaluated, how, and what came of it."""

from __future__ import annotations

import datetime
import math
from typing import Any, Final

import torch
from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.corpus import Corpus
from sw.wasq.evaluation import Evaluation
from sw.wasq.intervals import Interval, recovery
from sw.wasq.modules import QuantizedLayer
from sw.wasq.records import Record

#: Bits of a stored exponent.
EXPONENT_BITS: Final = 8


def make_record(
    model: str,
    model_sha256: str,
    corpus: Corpus,
    evaluation: Evaluation,
    *,
    quantized: nn.Module | None = None,
    config: SFConfig | None = None,
    calibration: Corpus | None = None,
    vanilla_perplexity: float | None = None,
    device: torch.device | str = "cpu",
    **more: Any,
) -> Record:
    """A result of an evaluation.

    Parameters
    ----------
    model, model_sha256 : str
    corpus : Corpus
        That was evaluated on.
    evaluation : Evaluation
        With the float model as its reference, for divergence and ratio.
    quantized : nn.Module, optional
        For its effective bits.
    config : SFConfig, optional
    calibration : Corpus, optional
    vanilla_perplexity : float, optional
        Of plain rounding, for the recovery.
    device : torch.device or str
    **more
        Other fields of :class:`Record`: method, seed, tokens, seconds, trained, version, extra.
    """
    reference = evaluation.reference_perplexity
    ratio = evaluation.ratio()
    regained = None
    if vanilla_perplexity is not None and reference is not None:
        regained = recovery(vanilla_perplexity, evaluation.perplexity, reference)
    found: dict[str, Any] = {
        **{"model": model, "model_sha256": model_sha256},
        **{"data": corpus.name, "split": corpus.split, "data_sha256": corpus.sha256},
        **{"window": evaluation.window, "windows": len(evaluation.counts)},
        **{"predicted": evaluation.predicted, "loss": evaluation.loss},
        "perplexity": _finite(evaluation.perplexity),
        "interval": _finite_pair(evaluation.interval()),
        "reference_perplexity": reference,
        "ratio": None if ratio is None else _finite(ratio[0]),
        "ratio_interval": None if ratio is None else _finite_pair(ratio[1]),
        "divergence": evaluation.divergence,
        "divergence_interval": evaluation.divergence_interval(),
        "recovery": None if regained is None else _finite(regained),
        "device": device_name(device),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "evaluation_seconds": evaluation.seconds,
    }
    if config is not None:
        found |= {"config": config.to_json(), "method": "vanilla"}
        found |= {"weight_bits": config.weights, "activation_bits": config.activations}
    if quantized is not None:
        found["effective_bits"] = effective_bits(quantized)
    if calibration is not None:
        found["calibration"] = f"{calibration.name}:{calibration.split}"
        found["calibration_sha256"] = calibration.sha256
    return Record(**{**found, **more})


def effective_bits(model: nn.Module) -> float | None:
    """Bits per quantized weight with its share of the exponents; None if there is none."""
    bits = weights = 0
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer) and layer.config.weights is not None:
            stored = 0 if layer.config.weight_scale == "none" else layer.exponents.numel()
            bits += layer.words.numel() * layer.config.weights + stored * EXPONENT_BITS
            weights += layer.words.numel()
    return bits / weights if weights else None


def device_name(device: torch.device | str) -> str:
    """What a device is called: the GPU's own name, or ``cpu``."""
    place = torch.device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_pair(values: Interval | None) -> Interval | None:
    return values if values is not None and all(map(math.isfinite, values)) else None
