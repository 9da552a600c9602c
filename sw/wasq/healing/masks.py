"""Which weights a lottery ticket heals: scores of groups of weights, and the best of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import torch

from sw.scale import BLOCK
from sw.wasq.healing.activity import clusters, layer_deviations, mean_magnitudes
from sw.wasq.healing.layers import HealingLayer
from sw.wasq.healing.options import HealingError
from sw.wasq.healing.task import Task, calibration
from sw.wasq.healing.teacher import Likeliest, Model, loss_of

Group = Literal["row", "block", "weight"]
GROUPS: Final[tuple[Group, ...]] = ("row", "block", "weight")
#: How weights are chosen; all but the first are what it must be compared with.
RULES: Final = ("deviation", "random", "magnitude", "fisher")


def group_means(values: torch.Tensor, group: Group) -> torch.Tensor:
    """Mean of each group: ``[N, 1]`` of rows, ``[N, B]`` of 32-blocks, ``[N, K]`` of weights."""
    if group == "weight":
        return values
    if group == "row":
        return values.mean(1, keepdim=True)
    length = values.shape[1]
    padded = torch.nn.functional.pad(values, (0, -length % BLOCK))
    sums = padded.reshape(len(values), -1, BLOCK).sum(-1)
    return sums / group_sizes(len(values), length, group, values.device)


def group_sizes(rows: int, terms: int, group: Group, device: torch.device) -> torch.Tensor:
    """Weights of each group, int64, shaped like :func:`group_means`."""
    if group == "weight":
        return torch.ones(rows, terms, dtype=torch.int64, device=device)
    if group == "row":
        return torch.full((rows, 1), terms, dtype=torch.int64, device=device)
    sizes = torch.full((-(-terms // BLOCK),), BLOCK, dtype=torch.int64, device=device)
    sizes[-1] = terms - BLOCK * (len(sizes) - 1)
    return sizes.expand(rows, -1)


def spread(chosen: torch.Tensor, terms: int, group: Group) -> torch.Tensor:
    """Chosen groups as a mask of weights ``[N, K]``."""
    if group == "weight":
        return chosen
    if group == "row":
        return chosen.expand(-1, terms).contiguous()
    return chosen.repeat_interleave(BLOCK, 1)[:, :terms].contiguous()


def best_masks(
    scores: Mapping[str, torch.Tensor],
    terms: Mapping[str, int],
    group: Group,
    rho: float,
    tiers: Mapping[str, int] | None = None,
) -> dict[str, torch.Tensor]:
    """Masks of the best groups that hold at most ``rho`` of all weights, by layer.

    Parameters
    ----------
    scores : mapping of str to torch.Tensor
        Of groups, by layer, as :func:`group_means` shapes them. Of equal ones the first wins.
    terms : mapping of str to int
        K of each layer.
    group : {"row", "block", "weight"}
    rho : float
    tiers : mapping of str to int, optional
        Groups of layers of tier 0 are taken before any of tier 1, and so on.
    """
    names = list(scores)
    device = scores[names[0]].device
    sizes = {n: group_sizes(len(scores[n]), terms[n], group, device) for n in names}
    budget = int(rho * sum(int(s.sum()) for s in sizes.values()))
    chosen = {n: torch.zeros_like(scores[n], dtype=torch.bool) for n in names}
    for tier in sorted({(tiers or {}).get(n, 0) for n in names}):
        inside = [n for n in names if (tiers or {}).get(n, 0) == tier]
        flat = torch.cat([scores[n].reshape(-1) for n in inside])
        costs = torch.cat([sizes[n].reshape(-1) for n in inside])
        order = torch.argsort(flat, descending=True, stable=True)
        kept = torch.cumsum(costs[order], 0) <= budget
        picked = torch.zeros_like(flat, dtype=torch.bool)
        picked[order[kept]] = True
        budget -= int(costs[picked].sum())
        parts = torch.split(picked, [scores[n].numel() for n in inside])
        chosen.update({n: p.reshape(scores[n].shape) for n, p in zip(inside, parts, strict=True)})
        if not bool(kept.all()):
            break
    return {n: spread(chosen[n], terms[n], group) for n in names}


class Chooser:
    """Masks for one model, of any rule, share and group; measurements are made once.

    Parameters
    ----------
    task : Task
        Its model holds the layers.
    layers : tuple of HealingLayer
    teacher : callable, Likeliest or None
    before : mapping of str to torch.Tensor
        The float model's mean magnitudes per output channel, by layer.
    """

    def __init__(
        self,
        task: Task,
        layers: tuple[HealingLayer, ...],
        teacher: Model | Likeliest | None,
        before: Mapping[str, torch.Tensor],
    ) -> None:
        self.task, self.layers, self.teacher, self.before = task, layers, teacher, before
        self._after: dict[str, torch.Tensor] | None = None
        self._fisher: dict[str, torch.Tensor] | None = None

    def masks(self, rule: str, group: Group, rho: float, seed: int) -> dict[str, torch.Tensor]:
        """Masks of a rule, by layer.

        Raises
        ------
        HealingError
            For an unknown rule or group.
        """
        for name, value, choices in (("mask", rule, RULES), ("group", group, GROUPS)):
            if value not in choices:
                raise HealingError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        tiers = None
        if rule == "deviation":
            scores, tiers = self._by_deviation(group), self.tiers()
        elif rule == "magnitude":
            scores = self._means({n: w.abs() for n, w in self._weights().items()}, group)
        elif rule == "fisher":
            scores = self._means(self._fisher_information(), group)
        else:
            scores = self._at_random(group, seed)
        terms = {layer.name: layer.weight.shape[1] for layer in self.layers}
        return best_masks(scores, terms, group, rho, tiers)

    def deviations(self) -> dict[str, float]:
        """How far quantization moves each layer's mean activation magnitude."""
        return layer_deviations(self.before, self._magnitudes())

    def tiers(self) -> dict[str, int]:
        """The cluster of each layer by its deviation, 0 the most disturbed."""
        moved = self.deviations()
        count = int(self.task.option("clusters", 3))
        return dict(zip(moved, clusters(list(moved.values()), count), strict=True))

    def _weights(self) -> dict[str, torch.Tensor]:
        return {layer.name: layer.weight.detach() for layer in self.layers}

    def _magnitudes(self) -> dict[str, torch.Tensor]:
        if self._after is None:
            names = [layer.name for layer in self.layers]
            size = self.task.options.size_of_pass
            self._after = mean_magnitudes(self.task.model, names, calibration(self.task), size)
        return self._after

    def _by_deviation(self, group: Group) -> dict[str, torch.Tensor]:
        """Deviation of a row's own output, times the rounding error of the group inside it."""
        scores, after = {}, self._magnitudes()
        for layer in self.layers:
            old, new = self.before[layer.name], after[layer.name]
            moved = ((new - old).abs() / old.mean().clamp(min=1e-30)).float()
            weight = layer.weight.detach()
            rows = moved.to(weight.device)[:, None]
            error = (layer.rounded_weight().detach() - weight).abs()
            scores[layer.name] = rows if group == "row" else rows * group_means(error, group)
        return scores

    def _means(self, values: Mapping[str, torch.Tensor], group: Group) -> dict[str, torch.Tensor]:
        return {name: group_means(value, group) for name, value in values.items()}

    def _at_random(self, group: Group, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = self._means(self._weights(), group)
        return {n: torch.rand(s.shape, generator=generator).to(s.device) for n, s in shapes.items()}

    def _fisher_information(self) -> dict[str, torch.Tensor]:
        """Mean squared gradient of the loss, pass by pass, straight through the rounding."""
        if self._fisher is None:
            task = self.task
            sums = {layer.name: torch.zeros_like(layer.weight) for layer in self.layers}
            for layer in self.layers:
                layer.weight.requires_grad_(True)
            numbers = torch.arange(len(calibration(task)))
            for chosen in torch.split(numbers, task.options.size_of_pass):
                inputs = task.samples.inputs[chosen].to(task.device)
                loss = loss_of(
                    task.model(inputs), task.samples, chosen, inputs, self.teacher, task.options
                )
                weights = [layer.weight for layer in self.layers]
                found = torch.autograd.grad(loss, weights, allow_unused=True)
                for layer, gradient in zip(self.layers, found, strict=True):
                    if gradient is not None:
                        sums[layer.name] += gradient.square()
            self._fisher = sums
        return self._fisher
