"""Choose for each group of weights one of several treatments, under caps: ways to search.

The groups' energy is a measured loss, so that what a search costs is how often it measures. All
ways begin at the same state and get the same number of measurements, memoised: to ask again for a
state is free. Greedy search is in :mod:`sw.wasq.healing.climb`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

#: One choice per group, as its number.
State = tuple[int, ...]
#: A group and its new choice.
Move = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is chosen, and what it may cost.

    Parameters
    ----------
    costs : tuple of tuple of tuple of float
        ``costs[kind][group][choice]``.
    caps : tuple of float
        Most that each kind may sum to.
    start : tuple of int
        A state within the caps, which every search begins with.
    """

    costs: tuple[tuple[tuple[float, ...], ...], ...]
    caps: tuple[float, ...]
    start: State

    def __post_init__(self) -> None:
        if not self.is_allowed(self.start):
            raise ValueError(f"start must be within the caps {self.caps}, not {self.start}")

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.start)

    @property
    def choices(self) -> int:
        """How many treatments there are."""
        return len(self.costs[0][0])

    @property
    def measurements(self) -> int:
        """Enough to measure every group's every choice alone, the start and an answer."""
        return self.groups * (self.choices - 1) + 2

    def is_allowed(self, state: State) -> bool:
        """Whether a state is within all caps."""
        return all(
            sum(of_group[choice] for of_group, choice in zip(of_kind, state, strict=True))
            <= cap * (1 + 1e-12)
            for of_kind, cap in zip(self.costs, self.caps, strict=True)
        )


class OutOfMeasurements(Exception):
    """A search has spent all its measurements."""


class Energy:
    """A measured function of states that remembers, counts and refuses to exceed.

    Parameters
    ----------
    measure : callable
        From a state to its loss.
    limit : int
        Most measurements.
    """

    def __init__(self, measure: Callable[[State], float], limit: int) -> None:
        self._measure, self.limit = measure, limit
        self.known: dict[State, float] = {}

    @property
    def spent(self) -> int:
        """Measurements so far."""
        return len(self.known)

    def __call__(self, state: State) -> float:
        found = self.known.get(state)
        if found is None:
            if self.spent >= self.limit:
                raise OutOfMeasurements
            found = self.known[state] = self._measure(state)
        return found


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ends with.

    Parameters
    ----------
    state : tuple of int
        The best state within the caps that it measured.
    energy : float
    spent : int
        Measurements.
    path : tuple of float
        The best energy after each measurement.
    prizes : tuple of tuple of int
        The best state of each chain, the best first.
    """

    state: State
    energy: float
    spent: int
    path: tuple[float, ...]
    prizes: tuple[State, ...] = field(default=())


def anneal(
    problem: Problem,
    energy: Energy,
    seed: int,
    *,
    chains: int = 3,
    heat: float | None = None,
    end: float = 0.01,
) -> Found:
    """Simulated annealing (Kirkpatrick, Gelatt and Vecchi, Science 220, 1983).

    A move changes one group or swaps the choices of two; one that breaks a cap is not measured. A
    worse state is accepted with probability ``exp(-dE / T)`` (Metropolis), T falls geometrically.

    Parameters
    ----------
    problem, energy
    seed : int
    chains : int
        That share the measurements; each starts at the best state known.
    heat : float, optional
        T at the start; the mean change of the first moves if omitted.
    end : float
        T at the end, as a share of the start.
    """
    prizes: list[State] = []
    before = energy.spent
    share = max(1, (energy.limit - before) // chains)
    for chain in range(chains):
        limit = energy.limit if chain == chains - 1 else min(energy.limit, before + share)
        generator = torch.Generator().manual_seed(seed * 7919 + chain)
        prizes.append(_chain(problem, energy, generator, limit, heat, end))
        before = energy.spent
    unique = sorted(set(prizes), key=lambda state: energy.known[state])
    return found_by(problem, energy, tuple(unique))


def random_search(problem: Problem, energy: Energy, seed: int) -> Found:
    """From the start, steps of random length and direction, kept if better (Rastrigin, 1963).

    A step is a walk of 1, 2, 4, ... allowed moves, the number drawn too. L. A. Rastrigin, "The
    convergence of the random search method", Automation and Remote Control 24.
    """
    generator = torch.Generator().manual_seed(seed)
    state, misses = problem.start, 0
    try:
        now = energy(state)
        while misses < _PATIENCE:
            tried = state
            length = 1 << int(torch.randint(problem.groups.bit_length(), (), generator=generator))
            for _ in range(length):
                tried = neighbour(problem, tried, generator) or tried
            misses = misses + 1 if tried in energy.known else 0
            if (found := energy(tried)) < now:
                state, now = tried, found
    except OutOfMeasurements:
        pass
    return found_by(problem, energy)


def integer_program(problem: Problem, energy: Energy) -> Found:
    """The best state if gains of groups simply added up, by mixed-integer linear programming.

    Measures each group's choices alone, as far as measurements go (what is left counts as no gain),
    and keeps one for the answer; solved by HiGHS through scipy.
    """
    from scipy.optimize import (  # type: ignore[import-untyped]
        Bounds,
        LinearConstraint,
        milp,
    )

    start = problem.start
    gains = np.zeros((problem.groups, problem.choices))
    base = energy(start)
    try:
        for choice in range(problem.choices):
            for group in range(problem.groups):
                changed = with_change(start, (group, choice))
                if energy.spent >= energy.limit - 1 and changed not in energy.known:
                    raise OutOfMeasurements
                gains[group, choice] = energy(changed) - base
    except OutOfMeasurements:
        pass  # the rest keep a gain of 0
    one_each = np.kron(np.eye(problem.groups), np.ones(problem.choices))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for of_kind, cap in zip(problem.costs, problem.caps, strict=True):
        constraints.append(LinearConstraint(np.array(of_kind).reshape(1, -1), -np.inf, cap))
    solved = milp(
        gains.reshape(-1),
        constraints=constraints,
        integrality=np.ones(gains.size),
        bounds=Bounds(0, 1),
        options={"time_limit": 60.0},
    )
    if solved.x is not None:
        chosen = np.asarray(solved.x).reshape(gains.shape).argmax(1)
        state = tuple(int(c) for c in chosen)
        if problem.is_allowed(state):
            energy(state)
    return found_by(problem, energy)


#: Draws in a row that give nothing new before a search ends early.
_PATIENCE: Final = 200


def _chain(
    problem: Problem,
    energy: Energy,
    generator: torch.Generator,
    limit: int,
    heat: float | None,
    end: float,
) -> State:
    """One chain, until measurements reach the limit; the best state on its way."""
    allowed = {s: e for s, e in energy.known.items() if problem.is_allowed(s)}
    state = min(allowed, key=lambda s: allowed[s]) if allowed else problem.start
    best, misses, first = state, 0, energy.spent
    changes: list[float] = []
    try:
        now = energy(state)
        while energy.spent < limit and misses < _PATIENCE:
            moved = neighbour(problem, state, generator)
            if moved is None:
                misses += 1
                continue
            misses = misses + 1 if moved in energy.known else 0
            change = energy(moved) - now
            changes.append(abs(change))
            top = heat if heat is not None else sum(changes[:8]) / len(changes[:8])
            passed = (energy.spent - first) / max(1, limit - first)
            temperature = max(top * end**passed, 1e-300)
            draw = float(torch.rand((), generator=generator))
            if change <= 0 or draw < math.exp(-change / temperature):
                state, now = moved, energy.known[moved]
                best = state if now < energy.known[best] else best
    except OutOfMeasurements:
        pass
    return best


def neighbour(problem: Problem, state: State, generator: torch.Generator) -> State | None:
    """A state one move away, None if the move breaks a cap or changes nothing."""

    def draw(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    if draw(2) and problem.groups > 1:
        one, other = draw(problem.groups), draw(problem.groups)
        new = list(state)
        new[one], new[other] = state[other], state[one]
        moved = tuple(new)
    else:
        moved = with_change(state, (draw(problem.groups), draw(problem.choices)))
    return moved if moved != state and problem.is_allowed(moved) else None


def with_change(state: State, move: Move) -> State:
    """The state with one group's choice changed."""
    group, choice = move
    return (*state[:group], choice, *state[group + 1 :])


def found_by(problem: Problem, energy: Energy, prizes: Sequence[State] = ()) -> Found:
    """The best state within the caps of all that were measured."""
    path, best = [], math.inf
    state = problem.start
    for known, value in energy.known.items():
        if value < best and problem.is_allowed(known):
            best, state = value, known
        path.append(best)
    return Found(state, best, energy.spent, tuple(path), tuple(prizes) or (state,))
