"""sa-mplth: simulated annealing over which groups are healed and at how many bits, then healing.

Options of its own (``HealOptions.extra``): ``bits`` (widths to choose from), ``budget`` (mean bits
per weight; that of the configuration if left), ``grouping`` (layer or part), ``measurements``,
``chains``, ``measured`` (samples of the batch that is measured on), ``scout_steps``. ``rho`` caps
the share of weights that are healed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import nn

from sw.wasq.healing.climb import greedy
from sw.wasq.healing.findings import Findings, refuse_sharded, resumed
from sw.wasq.healing.layers import HealingLayer, prepare_healing_
from sw.wasq.healing.lottery import Draw
from sw.wasq.healing.measured import Bench, Choice, groups_of, masks_of
from sw.wasq.healing.options import Healed, HealingError
from sw.wasq.healing.search import (
    Energy,
    Found,
    Problem,
    State,
    anneal,
    integer_program,
    random_search,
)
from sw.wasq.healing.task import Hooks, Task
from sw.wasq.healing.teacher import frozen_copy
from sw.wasq.healing.training import origin_of, start, teacher_of

BITS: Final = (3, 4, 5, 6)
SEARCHES: Final = ("annealing", "greedy", "random", "integer program")


def heal_sa_mplth(task: Task) -> Healed:
    """Search, then heal the best state's groups at its widths; all others keep their words.

    Raises
    ------
    HealingError
        If the model is sharded, or widths and budget do not fit the configuration.
    """
    refuse_sharded(task)
    original = frozen_copy(task.model)
    kept = Findings(task, "search.json", origin_of(task))
    bench, problem = scouted_bench(task, heals=True, scouts=not kept.found)
    if not kept.found:
        found = search(bench, problem, "annealing", task)
        kept.keep(
            state=list(found.state),
            energy=found.energy,
            start=found.path[0],
            measurements=found.spent,
            prizes=[list(state) for state in found.prizes],
        )
    state = tuple(kept.found["state"])
    config = bench.config(state)
    draw = Draw(replace(task, model=restored(task.model, original), config=config))
    draw.freeze(masks_of(bench, state, draw.layers))
    del bench
    training, finished = draw.train(resumed(task.hooks), task.options.steps)
    return training.finish(finished, {**kept.found, "config": config.to_json()})


def scouted_bench(task: Task, heals: bool = True, scouts: bool = True) -> tuple[Bench, Problem]:
    """A bench whose healed groups are those of one short healing of everything, and its problem.

    The task's model is prepared for training by it.
    """
    options = task.options
    origin, teacher = origin_of(task), frozen_copy(task.model)
    learned = teacher_of(task) if options.top_k is not None else teacher
    layers = prepare_healing_(task.model, task.config)
    widths = [int(bits) for bits in task.option("bits", BITS)]
    base = _base(layers)
    if base not in widths:
        raise HealingError(f"bits must have the {base} of the configuration among them")
    kinds = (False, True) if heals else (False,)
    choices = [Choice(bits, healed) for healed in kinds for bits in widths]
    bench = Bench(
        task,
        groups_of(layers, str(task.option("grouping", "layer"))),
        choices,
        teacher,
        int(task.option("measured", 8)),
    )
    if heals and scouts:
        steps = int(task.option("scout_steps", max(1, options.steps // 10)))
        scout = replace(
            task,
            hooks=Hooks(stop=task.hooks.stop),
            options=replace(options, steps=steps, trained="layers", stop_after=None),
        )
        if not start(scout, layers, learned, origin).run():
            raise KeyboardInterrupt
        bench.healed = {layer.name: layer.weight.detach().clone() for layer in layers}
    state = [choices.index(Choice(base))] * len(bench.groups)
    here = bench.effective_bits(tuple(state))
    budget = float(task.option("budget", here))
    if budget < here:
        narrowest = choices.index(Choice(min(widths)))
        state = [narrowest] * len(bench.groups)
    if bench.effective_bits(tuple(state)) > budget * (1 + 1e-12):
        raise HealingError(f"budget must be at least {bench.effective_bits(tuple(state)):.3f} bits")
    return bench, bench.problem(budget, options.rho if heals else None, state)


def search(bench: Bench, problem: Problem, how: str, task: Task, seed: int | None = None) -> Found:
    """One of :data:`SEARCHES`, with the task's number of measurements.

    Raises
    ------
    HealingError
        If there is no such search.
    KeyboardInterrupt
        Between two measurements, if the task is asked to stop: nothing of a search is kept.
    """
    limit = int(task.option("measurements", problem.measurements))

    def measure(state: State) -> float:
        # Of several processes each would stop at another measurement, and the rest wait for it.
        if task.world.size == 1 and task.hooks.stop is not None and task.hooks.stop():
            raise KeyboardInterrupt
        return bench.measure(state)

    energy = Energy(measure, limit)
    seed = task.options.seed if seed is None else seed
    if how == "annealing":
        return anneal(problem, energy, seed, chains=int(task.option("chains", 3)))
    if how == "random":
        return random_search(problem, energy, seed)
    if how == "greedy":
        return greedy(problem, energy, seed)
    if how == "integer program":
        return integer_program(problem, energy)
    raise HealingError(f"search must be one of {', '.join(SEARCHES)}, not {how!r}")


def restored(model: nn.Module, original: nn.Module) -> nn.Module:
    """The model with the float modules that it had, for another start; ties of weights kept."""
    for parameter in original.parameters():
        parameter.requires_grad_(True)
    for name, child in list(original.named_children()):
        setattr(model, name, child)
    return model


def _base(layers: tuple[HealingLayer, ...]) -> int:
    widths = {layer.config.weights for layer in layers}
    if len(widths) != 1:
        raise HealingError(f"weights must have one width to begin with, not {len(widths)}")
    (width,) = widths
    assert width is not None
    return width
