"""The comparisons without which lottery tickets, annealing and opt are only names, as log rows.

Each function does what its log does not have yet, for as long as it is given, and can be called
again until it says that nothing is left; so long studies fit into short slices of a machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import torch
from torch import nn

from sw.wasq.healing.annealed import SEARCHES, scouted_bench, search
from sw.wasq.healing.heal import heal_
from sw.wasq.healing.masks import RULES
from sw.wasq.healing.options import HealOptions
from sw.wasq.healing.samples import Samples
from sw.wasq.healing.setting import Setting, row_of, run_missing, spent_by
from sw.wasq.healing.task import Task
from sw.wasq.quantize import quantize_
from sw.wasq.records import Record
from sw.wasq.weights import QuantizedWeight

SHARES: Final = (0.05, 0.1, 0.2)
SEEDS: Final = (1, 2, 3)
#: Share of the final gain that speed is measured by.
_MOST: Final = 0.95


def compare_masks(
    setting: Setting,
    *,
    shares: Sequence[float] = SHARES,
    seeds: Sequence[int] = SEEDS,
    rules: Sequence[str] = RULES,
    group: str = "block",
) -> bool:
    """lth by each rule at each share, full fpm and plain rounding; True once all rows are there."""

    def runs() -> Iterator[tuple[dict[str, Any], Callable[[], Record]]]:
        yield {"study": "masks", "rule": "none"}, lambda: _plain(setting, {"rule": "none"})
        for seed in seeds:
            options = replace(setting.options, seed=seed, trained="layers")
            yield from _healing(setting, "masks", "fpm", options, {"rule": "all", "seed": seed})
            for rho in shares:
                for rule in rules:
                    extra = {**setting.options.extra, "mask": rule, "group": group}
                    own = replace(options, rho=rho, extra=extra)
                    key = {"rule": rule, "rho": rho, "seed": seed, "group": group}
                    yield from _healing(setting, "masks", "lth", own, key)

    return run_missing(setting, runs())


def compare_searches(
    setting: Setting,
    *,
    seeds: Sequence[int] = SEEDS,
    searches: Sequence[str] = SEARCHES,
) -> bool:
    """sa-mplth's search against the others at equal measurements; True once all rows are there.

    A seed also decides which samples are measured on. What is evaluated is the state found, with
    the groups that it heals as the scout's short healing left them.
    """
    benches: dict[int, tuple[Any, Any, Task]] = {}

    def bench(seed: int) -> tuple[Any, Any, Task]:
        if seed not in benches:
            benches.clear()  # one scouted model at a time
            generator = torch.Generator().manual_seed(seed)
            data = setting.samples()
            data = data[torch.randperm(len(data), generator=generator)]
            options = replace(setting.options, seed=seed)
            task = Task(setting.copy(), "sa-mplth", Samples.of(data), setting.config, options)
            benches[seed] = (*scouted_bench(task), task)
        return benches[seed]

    def one(how: str, seed: int) -> Record:
        own, problem, task = bench(seed)
        started = time.monotonic()
        found = search(own, problem, how, task, seed)
        seconds = time.monotonic() - started
        own.apply(found.state)
        words = {layer.name: layer.quantized() for layer in own.layers}
        extra = {
            "search": how,
            "energy": found.energy,
            "start": found.path[0],
            "measurements": found.spent,
            "path": list(found.path),
            "bits": own.effective_bits(found.state),
        }
        key = {"study": "searches", **extra, "seed": seed}
        config = own.config(found.state)
        model = quantize_(setting.copy(), config, weights=words)
        spent = {"method": "sa-mplth", "seconds": seconds, "seed": seed}
        return row_of(setting, model, config, spent, key)

    def runs() -> Iterator[tuple[dict[str, Any], Callable[[], Record]]]:
        for seed in seeds:
            for how in searches:
                key = {"study": "searches", "search": how, "seed": seed}
                yield key, lambda how=how, seed=seed: one(how, seed)  # type: ignore[misc]

    return run_missing(setting, runs())


def compare_speed(
    setting: Setting, *, opt_options: Any = None, evaluations: int = 12, windows_each: int = 16
) -> bool:
    """opt against fpm: perplexity against seconds, and seconds to 95 % of the final gain.

    The curve of fpm has a point every so many steps, that of opt one every so many blocks (later
    blocks then still as plain rounding has them); evaluation is not counted.
    """

    def runs() -> Iterator[tuple[dict[str, Any], Callable[[], Record]]]:
        for method, one in (("fpm", _speed_of_fpm), ("opt", _speed_of_opt)):
            key = {"study": "speed", "run": method}
            yield key, lambda one=one: one(setting, opt_options, evaluations, windows_each)  # type: ignore[misc]

    return run_missing(setting, runs())


def seconds_to_most(curve: Sequence[tuple[float, float]], share: float = _MOST) -> float:
    """Seconds at which a curve has reached a share of its whole fall, by its points' lines.

    Parameters
    ----------
    curve : sequence of (seconds, perplexity)
        The first before any work, the last the final one.
    share : float
    """
    first, last = curve[0][1], curve[-1][1]
    wanted = first - share * (first - last)
    for (t0, p0), (t1, p1) in pairwise(curve):
        if p1 <= wanted < p0:
            return t0 + (t1 - t0) * (p0 - wanted) / (p0 - p1)
    return curve[-1][0]


def _speed_of_fpm(setting: Setting, _: Any, evaluations: int, each: int) -> Record:
    every = max(1, setting.options.steps // evaluations)
    options = replace(setting.options, evaluate_steps=every)
    model = setting.copy()
    curve = [(0.0, setting.perplexity(quantize_(setting.copy(), setting.config), each))]

    def log(row: dict[str, Any]) -> None:
        if "perplexity" in row:
            curve.append((row["seconds"], row["perplexity"]))

    healed = heal_(
        model,
        "fpm",
        setting.samples(),
        setting.config,
        options,
        log=log,
        evaluate=lambda network: {"perplexity": setting.perplexity(network, each)},
    )
    return _curverow_of(setting, model, spent_by(healed, "fpm", options), "fpm", curve)


def _speed_of_opt(setting: Setting, options: Any, evaluations: int, each: int) -> Record:
    from sw.wasq.opt import BlockReport, opt

    data = setting.samples().to(setting.device)
    curve = [(0.0, setting.perplexity(quantize_(setting.copy(), setting.config), each))]
    spent = [0.0]

    def on_block(report: BlockReport, words: dict[str, QuantizedWeight]) -> None:
        spent[0] += report.seconds
        every = max(1, report.blocks // evaluations)
        if (report.index + 1) % every and report.index + 1 < report.blocks:
            return
        partial = quantize_(setting.copy(), setting.config, weights=words)
        curve.append((spent[0], setting.perplexity(partial, each)))

    network = setting.copy()
    words = opt(network, setting.config, data, options, on_block=on_block)
    model = quantize_(network, setting.config, weights=words)
    told = {"method": "opt", "seconds": spent[0], "tokens": data.numel(), "trained": 1.0}
    return _curverow_of(setting, model, told, "opt", curve)


def _curverow_of(
    setting: Setting,
    model: nn.Module,
    spent: dict[str, Any],
    name: str,
    curve: list[tuple[float, float]],
) -> Record:
    extra: dict[str, Any] = {"study": "speed", "run": name}
    extra |= {"curve": [list(point) for point in curve]}
    extra |= {"seconds_to_95_percent": seconds_to_most(curve)}
    return row_of(setting, model, setting.config, spent, extra)


def _healing(
    setting: Setting, study: str, method: str, options: HealOptions, key: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], Callable[[], Record]]]:
    """One run of a method; its key is what its row is known by."""
    key = {"study": study, **key}

    def one() -> Record:
        model = setting.copy()
        data = setting.samples()
        healed = heal_(
            model,
            method,
            data,
            setting.config,
            options,
            teacher=setting.language.module,
        )
        extra = {**key, "loss": healed.losses[-1] if healed.losses else None}
        return row_of(setting, model, setting.config, spent_by(healed, method, options), extra)

    yield key, one


def _plain(setting: Setting, key: dict[str, Any]) -> Record:
    model = quantize_(setting.copy(), setting.config)
    return row_of(setting, model, setting.config, {"method": "vanilla"}, {"study": "masks", **key})
