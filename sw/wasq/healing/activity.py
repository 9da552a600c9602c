"""Which layers quantization disturbs: mean activation magnitudes, their deviation, its clusters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn


def mean_magnitudes(
    model: nn.Module, names: Iterable[str], inputs: torch.Tensor, size: int
) -> dict[str, torch.Tensor]:
    """Mean absolute output of each output channel, per layer, float64 ``[N]`` on the CPU.

    Parameters
    ----------
    model : nn.Module
        Float, quantized or in training.
    names : iterable of str
        Of linear layers and convolutions.
    inputs : torch.Tensor ``[samples, ...]``
    size : int
        Samples of one forward pass.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
            channel = 1 if output.dim() == 4 else -1
            flat = output.detach().abs().double().movedim(channel, -1).flatten(0, -2)
            sums[name] = sums.get(name, 0) + flat.sum(0).cpu()
            counts[name] = counts.get(name, 0) + len(flat)

        return model.get_submodule(name).register_forward_hook(hook)

    handles = [watch(name) for name in names]
    device = next(iter(model.parameters())).device
    try:
        with torch.no_grad():
            for part in torch.split(inputs, size):
                model(part.to(device))
    finally:
        for handle in handles:
            handle.remove()  # type: ignore[attr-defined]
    return {name: total / counts[name] for name, total in sums.items()}


def layer_deviations(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """How far each layer's mean magnitude moved, relative to what it was."""
    found = {}
    for name, old in before.items():
        was, now = float(old.mean()), float(after[name].mean())
        found[name] = abs(now - was) / was if was else abs(now)
    return found


def clusters(values: Sequence[float], count: int) -> list[int]:
    """Natural groups of numbers, the largest numbers in group 0.

    The partition of the sorted values into ``count`` runs with the least squared deviation from
    their means, found exactly by dynamic programming (W. D. Fisher, "On grouping for maximum
    homogeneity", 1958; known as Jenks natural breaks).

    Parameters
    ----------
    values : sequence of float
    count : int
        At least 1; never more groups than values.

    Returns
    -------
    list of int
        The group of each value.
    """
    order = sorted(range(len(values)), key=lambda i: -values[i])
    data = [values[i] for i in order]
    n, k = len(data), min(count, len(data))
    totals, squares = [0.0], [0.0]
    for value in data:
        totals.append(totals[-1] + value)
        squares.append(squares[-1] + value * value)

    def spread(first: int, last: int) -> float:
        total = totals[last] - totals[first]
        return squares[last] - squares[first] - total * total / (last - first)

    best = [0.0] + [float("inf")] * n
    starts: list[list[int]] = []
    for _ in range(k):
        new, start = [float("inf")] * (n + 1), [0] * (n + 1)
        for last in range(1, n + 1):
            for first in range(last):
                if best[first] + spread(first, last) < new[last]:
                    new[last], start[last] = best[first] + spread(first, last), first
        best = new
        starts.append(start)
    groups, last = [0] * n, n
    for group in reversed(range(k)):
        first = starts[group][last]
        for place in range(first, last):
            groups[order[place]] = group
        last = first
    return groups
