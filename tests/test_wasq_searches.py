"""Searches for the best treatment of groups of weights, on landscapes whose best state is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from sw.wasq.healing.climb import greedy
from sw.wasq.healing.search import (
    Energy,
    Found,
    OutOfMeasurements,
    Problem,
    State,
    anneal,
    integer_program,
    random_search,
)

Landscape = Callable[[State], float]
GROUPS, CHOICES = 6, 3
SIZES = (1, 2, 3, 1, 2, 3)


def make_problem() -> Problem:
    """Widths 2, 3 and 4 of groups of some sizes; on average 3."""
    costs = tuple(tuple(float(size * bits) for bits in (2, 3, 4)) for size in SIZES)
    return Problem((costs,), (3.0 * sum(SIZES),), (1,) * GROUPS)


def additive(state: State) -> float:
    weights = (5.0, 1.0, 0.2, 3.0, 9.0, 0.5)
    return sum(w * 4.0**-choice for w, choice in zip(weights, state, strict=True))


def rough(state: State) -> float:
    """Groups that need each other, so that single gains mislead."""
    return additive(state) + 4.0 * abs(state[0] - state[1]) - 3.0 * (state[2] == state[5] == 2)


def best_of_all(function: Landscape) -> float:
    problem = make_problem()
    states = itertools.product(range(CHOICES), repeat=GROUPS)
    return min(function(s) for s in states if problem.is_allowed(s))


def search(how: str, problem: Problem, energy: Energy, seed: int) -> Found:
    if how == "annealing":
        return anneal(problem, energy, seed)
    if how == "random":
        return random_search(problem, energy, seed)
    if how == "greedy":
        return greedy(problem, energy, seed)
    return integer_program(problem, energy)


def run(how: str, function: Landscape, limit: int, seed: int = 1) -> tuple[Found, Energy]:
    energy = Energy(function, limit)
    return search(how, make_problem(), energy, seed), energy


def remembering(seen: list[State], function: Landscape) -> Landscape:
    """The same function, which notes what it is asked."""

    def measure(state: State) -> float:
        seen.append(state)
        return function(state)

    return measure


HOWS = ["annealing", "random", "greedy", "integer program"]


@pytest.mark.parametrize("limit", [3, 14, 60])
@pytest.mark.parametrize("how", HOWS)
def test_a_search_keeps_the_caps_and_its_number_of_measurements(how: str, limit: int) -> None:
    found, energy = run(how, rough, limit)
    assert make_problem().is_allowed(found.state)
    assert energy.spent == found.spent <= limit
    assert found.energy == rough(found.state) <= rough((1,) * GROUPS)
    assert len(found.path) == found.spent
    assert list(found.path) == sorted(found.path, reverse=True)


def test_the_integer_program_is_exact_where_gains_add_up() -> None:
    limit = make_problem().measurements
    assert run("integer program", additive, limit)[0].energy == pytest.approx(best_of_all(additive))


def test_annealing_finds_what_single_gains_miss() -> None:
    best = best_of_all(rough)
    annealed = min(run("annealing", rough, 150, seed)[0].energy for seed in range(3))
    assert annealed == pytest.approx(best)
    assert run("integer program", rough, 150)[0].energy > best


def tight() -> Problem:
    """12 groups of 3, 4 or 6 bits, healed or not; the start fills the budget of bits, as in use."""
    sizes = [1 + group % 3 for group in range(12)]
    stored = tuple(tuple(float(size * bits) for bits in (3, 4, 6) * 2) for size in sizes)
    healed = tuple((0.0,) * 3 + (float(size),) * 3 for size in sizes)
    caps = (4.0 * sum(sizes), 0.25 * sum(sizes))
    return Problem((stored, healed), caps, (1,) * 12)


def sensitive(state: State) -> float:
    """Squared errors of groups that matter by powers of 1.7, half of it gone where healed."""
    errors = (
        1.7**group * 4.0 ** -((3, 4, 6) * 2)[c] / (1 + (c > 2)) for group, c in enumerate(state)
    )
    return 100 * sum(errors)


def entangled(state: State) -> float:
    """The same, and groups that are healed side by side help each other no more."""
    both = sum(a > 2 and b > 2 for a, b in itertools.pairwise(state))
    return sensitive(state) + 10.0 * both


@pytest.mark.parametrize("landscape", [sensitive, entangled])
@pytest.mark.parametrize("how", HOWS)
def test_every_rival_gains_much_from_the_given_start(how: str, landscape: Landscape) -> None:
    problem = tight()
    floor = integer_program(problem, Energy(sensitive, 100)).energy  # where gains add up: the least
    seen: list[State] = []
    found = [search(how, problem, Energy(remembering(seen, landscape), 62), s) for s in (1, 2, 3)]
    assert seen[0] == problem.start
    start = landscape(problem.start)
    gained = [(start - one.energy) / (start - floor) for one in found]
    assert min(gained) > 0, gained
    assert sum(gained) / 3 > 0.3, gained


@pytest.mark.parametrize(("limit", "share"), [(62, 0.25), (120, 0.01)])
def test_greedy_is_near_the_best_where_gains_add_up(limit: int, share: float) -> None:
    problem = tight()
    start, best = sensitive(problem.start), integer_program(problem, Energy(sensitive, 62)).energy
    found = greedy(problem, Energy(sensitive, limit))
    assert found.energy - best < share * (start - best)


def test_greedy_measures_single_changes_before_it_ranks_them() -> None:
    problem, seen = tight(), list[State]()
    greedy(problem, Energy(remembering(seen, sensitive), 31))
    alone = [sum(a != b for a, b in zip(s, problem.start, strict=True)) for s in seen]
    assert alone[:16] == [0] + [1] * 15
    promised = [
        sensitive(problem.start) - sensitive(s) for s in seen[1:16] if problem.is_allowed(s)
    ]
    assert max(promised) <= sensitive(problem.start) - sensitive(seen[16])


def test_greedy_restarts_while_measurements_are_left() -> None:
    once = greedy(make_problem(), Energy(rough, 14)).energy
    more = greedy(make_problem(), Energy(rough, 300))
    assert more.energy <= once
    assert more.energy == best_of_all(rough)


@pytest.mark.parametrize("how", ["annealing", "random"])
def test_a_seed_decides_a_search(how: str) -> None:
    first, again, other = (run(how, rough, 20, seed) for seed in (1, 1, 2))
    assert list(first[1].known) == list(again[1].known) != list(other[1].known)


def test_annealing_at_no_heat_only_goes_down() -> None:
    problem, seen = make_problem(), list[State]()
    found = anneal(problem, Energy(remembering(seen, rough), 40), 3, chains=1, heat=1e-9)
    now = seen[0]
    for state in seen[1:]:  # each state that is measured is a move away from the best so far
        differing = sum(a != b for a, b in zip(now, state, strict=True))
        assert differing <= 2
        now = state if rough(state) <= rough(now) else now
    assert found.state == now


def test_chains_give_prizes_the_best_first() -> None:
    found, _ = run("annealing", rough, 60)
    assert found.prizes[0] == found.state
    values = [rough(state) for state in found.prizes]
    assert values == sorted(values)


def test_energies_are_remembered_and_counted() -> None:
    calls: list[State] = []
    energy = Energy(lambda state: float(len(calls) or calls.append(state) or 1), 1)
    assert energy((0,)) == energy((0,)) == 1
    with pytest.raises(OutOfMeasurements):
        energy((1,))


def test_a_start_beyond_the_caps_is_refused() -> None:
    with pytest.raises(ValueError, match="start must be within the caps"):
        replace(make_problem(), start=(2,) * GROUPS)
