"""What a session drives: it does the array's steps of a plan, by meaning or by words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from sw.compiler.layers import Layer, LayerStep, Plan, WordsOutput
from sw.registers import Counter
from sw.runtime.checksums import Boundary
from sw.runtime.layer import compute

#: Told of every layer's result as soon as it is there.
Observer = Callable[[Boundary], None]


@dataclass(slots=True)
class Tally:
    """What programs took, summed over the runs of one (piece of a) program.

    Parameters
    ----------
    runs : int
    counters : dict of Counter to int
    """

    runs: int = 0
    counters: dict[Counter, int] = field(default_factory=dict)

    def add(self, counters: Mapping[Counter, int]) -> None:
        """Count one more run."""
        self.runs += 1
        for counter, value in counters.items():
            self.counters[counter] = self.counters.get(counter, 0) + value


#: Layers whose sections ran as one program, and what that took.
Tallies = dict[tuple[str, ...], Tally]


class Engine(Protocol):
    """The array's part of a session."""

    @property
    def tallies(self) -> Tallies:
        """Counters of programs, summed over runs; none where there are no programs."""

    def put(self, tensor: str, words: torch.Tensor) -> None:
        """Take the words of an upload, ``[n, h, w, c]``, before its step."""

    def step(self, index: int) -> None:
        """Do what the array has to do in a step of the plan."""

    def words(self, tensor: str) -> torch.Tensor:
        """The words of a tensor that the host may read: in the step of its download."""

    def sums(self, layer: str) -> torch.Tensor:
        """The exact sums of a layer with a HostOutput, int64 ``[n, h, w, c]``; given once."""

    def clear(self) -> None:
        """Forget what only one inference needed."""

    def close(self) -> None:
        """Give back what it holds."""


class TensorEngine:
    """Computes layers by their meaning, without addresses.

    Parameters
    ----------
    plan : Plan
    observer : callable, optional
        Told of every layer's result.
    """

    def __init__(self, plan: Plan, observer: Observer | None = None) -> None:
        self.plan, self._observer = plan, observer
        self.tallies: Tallies = {}
        self._words: dict[str, torch.Tensor] = {}
        self._sums: dict[str, torch.Tensor] = {}
        self._spent = _last_uses(plan)

    def put(self, tensor: str, words: torch.Tensor) -> None:
        self._words[tensor] = words

    def step(self, index: int) -> None:
        step = self.plan.steps[index]
        if isinstance(step, LayerStep):
            layer = self.plan.layers[step.layer]
            values = compute(layer, self.plan, self._words)
            if isinstance(layer.output, WordsOutput):
                self._words[layer.output.tensor] = values
            else:
                self._sums[layer.name] = values
            if self._observer is not None:
                self._observer(Boundary(layer.name, values))
        for tensor in self._spent.get(index, ()):
            self._words.pop(tensor, None)

    def words(self, tensor: str) -> torch.Tensor:
        return self._words[tensor]

    def sums(self, layer: str) -> torch.Tensor:
        return self._sums.pop(layer)

    def clear(self) -> None:
        self._words.clear()
        self._sums.clear()

    def close(self) -> None:
        self.clear()


def operands(layer: Layer) -> tuple[str, ...]:
    """Names of the tensors that a layer reads."""
    b = getattr(layer, "b", None)
    return (layer.a,) if b is None else (layer.a, b)


def _last_uses(plan: Plan) -> dict[int, list[str]]:
    """Which tensors no layer reads after a step; downloads read theirs within the step after."""
    last: dict[str, int] = {}
    for index, step in enumerate(plan.steps):
        if isinstance(step, LayerStep):
            for name in operands(plan.layers[step.layer]):
                last[name] = index
        elif hasattr(step, "tensor"):
            last[step.tensor] = index + 1
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        found.setdefault(index, []).append(name)
    return found
