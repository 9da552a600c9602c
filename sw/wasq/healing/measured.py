"""The energy of a state: the loss of the model itself with each group treated as the state says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from sw.wasq.config import SFConfig, effective_bits
from sw.wasq.healing.layers import HealingLayer
from sw.wasq.healing.search import Problem, State
from sw.wasq.healing.task import Task
from sw.wasq.healing.teacher import Model, loss_of
from sw.wasq.weights import weight_exponents


@dataclass(frozen=True, slots=True)
class Choice:
    """How a group is treated.

    Parameters
    ----------
    bits : int
        Width of its weights.
    healed : bool
        Whether it may be trained.
    """

    bits: int
    healed: bool = False


#: What is searched as one.
GROUPINGS: Final = ("layer", "part")


def groups_of(layers: Sequence[HealingLayer], kind: str) -> list[list[HealingLayer]]:
    """Layers that are treated alike: each "layer" alone, or those of one "part" of a block.

    A part is what the next to last name names: the attention, or the feed-forward part.
    """
    if kind == "layer":
        return [[layer] for layer in layers]
    found: dict[str, list[HealingLayer]] = {}
    for layer in layers:
        found.setdefault(layer.name.rpartition(".")[0] or layer.name, []).append(layer)
    return list(found.values())


class Bench:
    """A prepared model on which states are measured.

    Parameters
    ----------
    task : Task
        Its model holds the layers.
    groups : list of list of HealingLayer
    choices : sequence of Choice
    teacher : callable or None
    samples : int
        The first samples of the task: the batch that is measured on.
    """

    def __init__(
        self,
        task: Task,
        groups: list[list[HealingLayer]],
        choices: Sequence[Choice],
        teacher: Model | None,
        samples: int = 8,
    ) -> None:
        self.task, self.groups, self.choices = task, groups, tuple(choices)
        size = task.options.size_of_pass
        self.passes = torch.split(torch.arange(min(samples, len(task.samples))), size)
        self.teacher = None if teacher is None else _Remembered(teacher)
        self.plain = {layer.name: layer.weight.detach().clone() for layer in self.layers}
        self.healed: dict[str, torch.Tensor] = {}
        self._exponents: dict[tuple[str, int, bool], torch.Tensor] = {}
        self._now: list[int | None] = [None] * len(groups)

    @property
    def layers(self) -> list[HealingLayer]:
        """All layers, group by group."""
        return [layer for group in self.groups for layer in group]

    def problem(self, bits: float, rho: float | None, start: Sequence[int]) -> Problem:
        """The caps of mean effective bits per weight and of the share of healed weights."""
        sizes = [sum(layer.shape.numel() for layer in group) for group in self.groups]
        total = sum(sizes)
        stored = tuple(
            tuple(sum(_stored(layer, c.bits) for layer in group) / total for c in self.choices)
            for group in self.groups
        )
        if rho is None:
            return Problem((stored,), (bits,), tuple(start))
        healed = tuple(
            tuple(size / total if c.healed else 0.0 for c in self.choices) for size in sizes
        )
        return Problem((stored, healed), (bits, rho), tuple(start))

    def measure(self, state: State) -> float:
        """The loss on the batch, float64 mean over passes."""
        self.apply(state)
        task, total = self.task, 0.0
        with torch.no_grad():
            for chosen in self.passes:
                inputs = task.samples.inputs[chosen].to(task.device)
                loss = loss_of(
                    task.model(inputs), task.samples, chosen, inputs, self.teacher, task.options
                )
                total += float(loss) * len(chosen)
        return total / sum(len(chosen) for chosen in self.passes)

    def apply(self, state: State) -> None:
        """Treat the groups as the state says."""
        for number, (group, wanted) in enumerate(zip(self.groups, state, strict=True)):
            if self._now[number] == wanted:
                continue
            choice = self.choices[wanted]
            for layer in group:
                self._treat(layer, choice)
            self._now[number] = wanted

    def effective_bits(self, state: State) -> float:
        """Mean bits per weight, exponents included."""
        stored = sum(
            _stored(layer, self.choices[c].bits)
            for group, c in zip(self.groups, state, strict=True)
            for layer in group
        )
        return stored / sum(layer.shape.numel() for layer in self.layers)

    def config(self, state: State) -> SFConfig:
        """The task's configuration with the width of each layer."""
        given = self.task.config
        own = {
            layer.name: {**given.overrides.get(layer.name, {}), "weights": self.choices[c].bits}
            for group, c in zip(self.groups, state, strict=True)
            for layer in group
        }
        return replace(given, overrides={**given.overrides, **own})

    def notes(self, state: State) -> dict[str, Any]:
        """The state as plain data."""
        return {
            layer.name: [self.choices[c].bits, self.choices[c].healed]
            for group, c in zip(self.groups, state, strict=True)
            for layer in group
        }

    def _treat(self, layer: HealingLayer, choice: Choice) -> None:
        source = self.healed if choice.healed and layer.name in self.healed else self.plain
        key = (layer.name, choice.bits, source is self.healed)
        with torch.no_grad():
            layer.weight.copy_(source[layer.name])
        layer.config = replace(layer.config, weights=choice.bits)
        if key not in self._exponents:
            self._exponents[key] = weight_exponents(layer.weight.detach(), layer.config, layer.name)
        layer.exponents = self._exponents[key]


class _Remembered:
    """A teacher that answers each batch once."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        key = (*inputs.shape, int(inputs.double().sum()))
        known = self._known.get(key)
        if known is not None and torch.equal(known[0], inputs):
            return known[1]
        answer = self._model(inputs)
        self._known[key] = inputs, answer
        return answer


def masks_of(
    bench: Bench, state: State, layers: Sequence[HealingLayer]
) -> Mapping[str, torch.Tensor]:
    """Masks of the groups that a state heals, by layer."""
    healed = {
        layer.name
        for group, c in zip(bench.groups, state, strict=True)
        for layer in group
        if bench.choices[c].healed
    }
    return {
        layer.name: torch.full_like(layer.weight, layer.name in healed, dtype=torch.bool)
        for layer in layers
    }


def _stored(layer: HealingLayer, bits: int) -> float:
    """Bits that a layer's weights take, exponents included."""
    rows, terms = layer.weight.shape
    return rows * terms * effective_bits(bits, layer.config.weight_scale, terms)
