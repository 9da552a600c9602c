"""Activation magnitudes and the spread of neurons, float against quantized, on real text.

The lottery-ticket methods rank layers by how far quantization moves their mean magnitude. Here is
that ranking with its clusters (:mod:`sw.wasq.healing.activity`), and within every layer how far
its neurons lie apart: the reason for which one scale per tensor does not suffice.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import torch
from torch import nn

from sw.wasq.config import SFConfig
from sw.wasq.healing.activity import clusters, layer_deviations, mean_magnitudes
from sw.wasq.quantize import quantize_, targets

#: Quantiles of neurons that are told.
QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def study(
    model: nn.Module, config: SFConfig, windows: torch.Tensor, size: int = 1, groups: int = 4
) -> dict[str, Any]:
    """Every layer that a configuration quantizes, before and after.

    Parameters
    ----------
    model : nn.Module
        In float32; left as it is.
    config : SFConfig
    windows : torch.Tensor ``[samples, ...]``
        Real inputs.
    size : int
        Samples of one forward pass.
    groups : int
        Clusters of deviations, the largest in cluster 0.

    Returns
    -------
    dict
        ``study``, ``config``, ``samples``, and ``layers``: by rank of deviation, per layer
        ``layer``, ``number`` in the network, ``float`` and ``quantized`` (mean magnitude of the
        output), ``deviation`` (relative, of those), ``cluster``, ``neurons`` and
        ``quantized_neurons`` (quantiles of the neurons' mean magnitudes), ``spread`` (largest
        neuron over the median), ``neuron_deviation`` (mean relative change of a neuron).

    Raises
    ------
    ValueError
        As ``quantize_``; or if there are no samples.
    """
    if not len(windows):
        raise ValueError("windows must be at least one, not none")
    names = [target.name for target in targets(model, config)]
    before = mean_magnitudes(model, names, windows, size)
    quantized = quantize_(copy.deepcopy(model), config, calibration=[(w[None],) for w in windows])
    after = mean_magnitudes(quantized, names, windows, size)
    deviations = layer_deviations(before, after)
    grouped = clusters([deviations[name] for name in names], groups)
    rows = [
        {
            **{"layer": name, "number": number, "deviation": deviations[name]},
            **{"cluster": grouped[number], **_neurons(before[name], after[name])},
        }
        for number, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (-row["deviation"], row["number"]))
    shown = {"study": "activation", "config": config.to_json(), "samples": len(windows)}
    return {**shown, "layers": rows}


def _neurons(before: torch.Tensor, after: torch.Tensor) -> dict[str, Any]:
    """Figures of one layer from the mean magnitudes ``[N]`` of its neurons."""
    places = torch.tensor(QUANTILES, dtype=torch.float64)
    old, new = (torch.quantile(x.double(), places).tolist() for x in (before, after))
    median = old[QUANTILES.index(0.5)]
    alive = before > 0
    moved = ((after - before).abs()[alive] / before[alive]).mean() if alive.any() else 0.0
    return {
        **{"float": float(before.mean()), "quantized": float(after.mean())},
        **{"neurons": old, "quantized_neurons": new},
        "spread": old[-1] / median if median else 0.0,
        "neuron_deviation": float(moved),
    }
