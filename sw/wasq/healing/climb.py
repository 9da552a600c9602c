"""Greedy search: from a given state, the change that promises most, as long as changes help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

from sw.wasq.healing.search import (
    Energy,
    Found,
    OutOfMeasurements,
    Problem,
    State,
    found_by,
    neighbour,
    with_change,
)

#: Climbs in a row that measure nothing new before the search ends early.
_PATIENCE: Final = 20


def greedy(problem: Problem, energy: Energy, seed: int = 0) -> Found:
    """Climb from the start: single changes and pairs of them, the most promising first.

    A change promises what it gave alone at the start, which is measured for the choices that cost
    nearest to the start's, at half the measurements that are left; a pair, one group up and another
    down, promises the sum. What is measured on the way corrects it. A change is kept where it
    lessens the energy, and a climb ends where none promises to. Each climb that follows measures
    some of the choices left; the second again begins at the start and ranks by gain per cost, later
    ones begin some random moves away from the best state.
    """
    generator = torch.Generator().manual_seed(seed)
    climber, idle, climbs = _Climber(problem, energy), 0, 0
    try:
        climber.gains[range(problem.groups), problem.start] = 0.0
        energy(problem.start)
        while idle < _PATIENCE:
            before = energy.spent
            climber.measure_alone((energy.limit - energy.spent) // 2)
            state = problem.start
            if climbs > 1:
                state = _beside(problem, found_by(problem, energy).state, generator)
            climber.climb(state, per_cost=climbs % 2 == 1)
            climbs += 1
            idle = idle + 1 if energy.spent == before else 0
    except OutOfMeasurements:
        pass
    return found_by(problem, energy)


@dataclass(slots=True)
class _Climber:
    """Gains ``[groups, choices]`` of each change alone at the start; NaN: not measured."""

    problem: Problem
    energy: Energy
    gains: np.ndarray = field(init=False)
    prices: np.ndarray = field(init=False)
    _waiting: list[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        problem = self.problem
        self.gains = np.full((problem.groups, problem.choices), np.nan)
        # In shares of the caps; a cap of 0 lets nothing through, whatever a share is.
        caps = np.array([cap or 1.0 for cap in problem.caps])
        self.prices = np.array(problem.costs) / caps[:, None, None]
        start = self.prices[:, range(problem.groups), problem.start]
        away = np.abs(self.prices - start[:, :, None]).sum(0)
        ranked = away.argsort(1, kind="stable")
        self._waiting = [
            (group, int(ranked[group, turn]))
            for turn in range(problem.choices)
            for group in range(problem.groups)
            if ranked[group, turn] != problem.start[group]
        ][::-1]

    def measure_alone(self, most: int) -> None:
        """Measure so many more changes alone, at the start, within the caps or not."""
        start = self.problem.start
        base = self.energy(start)
        for _ in range(min(most, len(self._waiting))):
            group, choice = self._waiting.pop()
            self.gains[group, choice] = self.energy(with_change(start, (group, choice))) - base

    def climb(self, state: State, per_cost: bool) -> None:
        """Change a state for the better until nothing promises to be."""
        gains, now = self.gains.copy(), self.energy(state)
        for group, choice in enumerate(state):
            if np.isnan(gains[group, choice]):
                gains[group, choice] = 0.0
        refused: set[State] = set()
        while (changes := self._best(state, gains, per_cost, refused)) is not None:
            changed = state
            for change in changes:
                changed = with_change(changed, change)
            promised = sum(gains[g, c] - gains[g, state[g]] for g, c in changes)
            found = self.energy(changed)
            for group, choice in changes:
                gains[group, choice] += (found - now - promised) / len(changes)
            if found < now:
                state, now = changed, found
            else:
                refused.add(changed)

    def _best(
        self, state: State, gains: np.ndarray, per_cost: bool, refused: set[State]
    ) -> list[tuple[int, int]] | None:
        """The allowed change, or two, with the best promise; None if none promises anything."""
        problem = self.problem
        here = np.array(state)
        known = ~np.isnan(gains)
        known[range(problem.groups), here] = False
        groups, choices = known.nonzero()
        gain = gains[groups, choices] - gains[groups, here[groups]]
        price = self.prices[:, groups, choices] - self.prices[:, groups, here[groups]]
        # One of two changes promises something; the other may make room for it.
        first = (gain < 0).nonzero()[0]
        alone = np.arange(len(first)), first  # where both are the same: one change
        both, cost = gain[first, None] + gain, price[:, first, None] + price[:, None, :]
        both[alone], cost[:, *alone] = gain[first], price[:, first]
        used = self.prices[:, range(problem.groups), here].sum(1)
        most = np.array([1.0 if cap else 0.0 for cap in problem.caps]) + 1e-9
        allowed = both < 0
        for used_so_far, limit, kind in zip(used, most, cost, strict=True):
            allowed &= kind <= limit - used_so_far
        same = groups[first, None] == groups
        same[alone] = False
        allowed &= ~same
        if per_cost:
            both /= cost.clip(min=0).sum(0) + 1 / problem.groups
        score = np.where(allowed, both, 0.0)
        while score.size and score.min() < 0:
            one, other = np.unravel_index(score.argmin(), score.shape)
            changes = [(int(groups[i]), int(choices[i])) for i in sorted({first[one], other})]
            changed = state
            for change in changes:
                changed = with_change(changed, change)
            if changed not in refused and problem.is_allowed(changed):
                return changes
            score[one, other] = 0.0
        return None


def _beside(problem: Problem, state: State, generator: torch.Generator) -> State:
    """A state some random moves away."""
    for _ in range(4):
        state = neighbour(problem, state, generator) or state
    return state
