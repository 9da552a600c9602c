"""The fit model's coefficients, from what was synthesised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from scipy.optimize import nnls

from bench.fit_synthesis import Measurement
from hw.fit import NO_UNITY, Need, bus_luts, features
from hw.fit_memory import block_rams, memories, memory_luts, tile_banks
from sw.config import MachineConfig

#: What logic, and what memories grow with.
LOGIC: Final = ("machine", "lanes", "rotators", "tails", "edges", "blocks", "table")
MEMORIES: Final = ("machine", "lanes", "columns", "tails", "edges")


def learn(target: str, found: Sequence[Measurement]) -> dict[str, Any]:
    """The coefficients of a target.

    Cells are what is left of an array without its buses. The rest is a sum of features of which no
    coefficient is negative, with the least relative squared error.

    Parameters
    ----------
    target : {"ecp5", "ice40"}
    found : sequence of Measurement
        Arrays with the usual multiplier at least at one width, and machines without arrays.
    """
    cells: dict[str, dict[str, float]] = {}
    for one in found:
        if one.kind.startswith("array"):
            config = one.config
            name = config.multiplier if config.unity else NO_UNITY
            buses = config.columns * config.accumulator_bits * bus_luts(config.rows)
            cost = (Need.of(target, one.cells).luts - buses) / (config.rows * config.columns)
            cells.setdefault(name, {})[str(config.bits)] = round(cost, 2)
    rest = _rest(target, [one for one in found if one.kind == "rest"])
    return {"cells": cells, "rest": rest, "memories": _memories(target)}


def _rest(target: str, found: Sequence[Measurement]) -> dict[str, float]:
    """Look-up tables per feature, without those of memories."""
    luts = np.array(
        [
            Need.of(target, one.cells).luts - memory_luts(target, memories(one.config))
            for one in found
        ],
        float,
    )
    return _solve([features(one.config) for one in found], luts, LOGIC)


def _solve(rows: list[dict[str, float]], wanted: Any, names: Sequence[str]) -> dict[str, float]:
    """Coefficients, none negative, with the least relative squared error."""
    used = [name for name in names if any(row[name] for row in rows)]
    scale = np.maximum(wanted, 1)[:, None]
    matrix = np.array([[row[name] for name in used] for row in rows]) / scale
    coefficients, _ = nnls(matrix, wanted / scale[:, 0])
    return {name: round(float(c), 5) for name, c in zip(used, coefficients, strict=True) if c}


def _memories(target: str) -> dict[str, dict[str, float]]:
    """An estimate of all memories but the tile memory's words, to leave machines out quickly."""
    configs = [
        MachineConfig(bits=bits, rows=rows, columns=columns)
        for bits in (4, 8, 16)
        for rows, columns in ((1, 1), (2, 4), (4, 4), (8, 4), (8, 8), (16, 16))
    ]
    luts, blocks = [], []
    for config in configs:
        found = memories(config).copy()
        size, banks = tile_banks(config)
        found[size] -= banks
        luts.append(memory_luts(target, found))
        blocks.append(sum(n * block_rams(target, *s) for s, n in found.items()))
    rows = [features(config) for config in configs]
    return {
        "luts": _solve(rows, np.array(luts, float), MEMORIES),
        "blocks": _solve(rows, np.array(blocks, float), MEMORIES),
    }
