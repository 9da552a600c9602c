"""The fit model's coefficients, from what was synthesised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.optimize import nnls

from bench.fit_synthesis import Measurement
from hw.boards import target_of
from hw.fit import NO_UNITY, Need, bus_cost, operations
from hw.fit_census import census
from hw.fit_memory import block_rams, blocks, memory_luts, memory_registers, tile_banks
from hw.fit_search import features
from sw.config import MachineConfig

#: Look-up tables that an operation takes before anything is known of a family: sums a table per
#: bit, comparisons and reductions a third (four inputs), choices between two bits a half.
PRIOR: Final = {
    **{"add": 1.0, "compare": 0.35, "reduce": 0.35, "logic": 0.3, "select": 0.5},
    **{"assign": 0.5, "set": 0.3, "registers": 0.1, "ports": 1.0, "kept": 1.5, "sums": 2.0},
}
#: The same of registers.
KEPT: Final = {"registers": 0.87, "ports": 0.5}
#: Weight of that knowledge beside a measured machine's 1.
TRUST: Final = 0.2
#: What the estimate of a search grows with.
ESTIMATE: Final = ("machine", "lanes", "rotators", "tails", "edges", "columns")


def learn(family: str, found: Sequence[Measurement]) -> dict[str, Any]:
    """The coefficients of a family.

    Cells are what is left of an array without its buses. The rest is a sum over kinds of operation
    of which no coefficient is negative, with the least relative squared error; where the machines
    do not tell kinds apart, what is known before decides.

    Parameters
    ----------
    family : {"ecp5", "ice40", "gowin"}
    found : sequence of Measurement
        Arrays with the usual multiplier at least at one width, and machines without arrays.
    """
    rest = [one for one in found if one.kind == "rest"]
    return {
        "cells": _cells(family, [one for one in found if one.kind == "array"]),
        "rest": _rest(family, rest),
        "registers": _registers(family, rest),
    }


def _cells(family: str, found: Sequence[Measurement]) -> dict[str, dict[str, list[float]]]:
    """Look-up tables, registers and multiplier blocks of a cell, by kind and width."""
    cells: dict[str, dict[str, list[float]]] = {}
    for one in found:
        config = one.config
        name = config.multiplier if config.unity else NO_UNITY
        taken, bus, number = Need.of(family, one.cells), bus_cost(config), config.slot_words
        cost = [taken.luts - bus.luts, taken.registers - bus.registers, taken.dsps]
        cells.setdefault(name, {})[str(config.bits)] = [round(c / number, 2) for c in cost]
    return cells


def _rest(family: str, found: Sequence[Measurement]) -> dict[str, float]:
    """Look-up tables per operation, without those of memories."""
    counts = [census(one.config, target_of(family)) for one in found]
    luts = [Need.of(family, one.cells).luts for one in found]
    wanted = [n - memory_luts(family, c) for n, c in zip(luts, counts, strict=True)]
    return _solve([operations(c, family) for c in counts], wanted, tuple(PRIOR), PRIOR)


def _registers(family: str, found: Sequence[Measurement]) -> dict[str, float]:
    """The share of the registers that are written down that synthesis keeps, and ports' own."""
    counts = [census(one.config, target_of(family)) for one in found]
    kept = [Need.of(family, one.cells).registers for one in found]
    wanted = [n - memory_registers(family, c) for n, c in zip(kept, counts, strict=True)]
    known = ("registers", "ports")
    return _solve([operations(c, family) for c in counts], wanted, known, KEPT)


def _solve(
    rows: Sequence[Mapping[str, float]],
    wanted: Sequence[float],
    names: Sequence[str],
    prior: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Coefficients, none negative, with the least relative squared error."""
    scale = np.maximum(np.array(wanted, float), 1)
    matrix = np.array([[row.get(name, 0.0) for name in names] for row in rows]) / scale[:, None]
    goal = np.array(wanted, float) / scale
    if prior is not None:
        weight = TRUST * matrix.mean(axis=0)
        matrix = np.vstack([matrix, np.diag(weight)])
        goal = np.concatenate([goal, weight * np.array([prior[name] for name in names])])
    coefficients, _ = nnls(matrix, goal)
    return {name: round(float(c), 5) for name, c in zip(names, coefficients, strict=True) if c}


def estimate(family: str, rest: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What the rest of a machine takes by its sizes alone, roughly, to leave some out quickly.

    Parameters
    ----------
    family : str
    rest : mapping of str to float
        Look-up tables per operation.
    """
    configs = [
        MachineConfig(bits=bits, rows=rows, columns=columns)
        for bits in (4, 8, 16)
        for rows, columns in ((1, 1), (2, 4), (4, 4), (8, 4), (8, 8), (16, 16))
    ]
    luts, rams = [], []
    for config in configs:
        count = census(config, target_of(family))
        logic = sum(rest.get(name, 0.0) * bits for name, bits in operations(count, family).items())
        luts.append(logic + memory_luts(family, count))
        bank, banks = tile_banks(config)
        rams.append(blocks(family, count) - banks * block_rams(family, bank))
    rows = [features(config) for config in configs]
    return {
        "luts": _solve(rows, luts, ESTIMATE),
        "block_rams": _solve(rows, rams, ESTIMATE),
    }
