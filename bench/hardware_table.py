"""The search behind hw/multiplier_table.json: the best multiplier per target and width."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.hardware_units import STAR, Cost, Measurements, candidates, write_whole
from hw.multiplier import AUTO

ABOUT = (
    "Written by python -m bench.hardware --write-table. measured: area (um2, slots or gates) "
    "and delay (ns or gates; null where not measured) of the choice and of yosys' own *."
)
#: Every choice with the figures of yosys' ``*`` and its own, in the units of :class:`Cost`.
Row = dict[str, Any]


def best_of(measurements: Measurements, target: str, width: int) -> Row:
    """Try every candidate of a target and width and keep the best of each multiplier.

    Returns
    -------
    dict
        ``auto``, the parameters of ``dadda`` and ``chain``, and under ``measured`` the area and
        delay of the choice and of yosys' ``*``.

    Notes
    -----
    The best is the one of least area times delay among those that are in neither worse than ``*``
    (on ECP5, of least slots: placing is slow and noisy); if there is none, the one whose worse
    ratio to ``*`` is least.
    """
    rival = measurements.cost(STAR, width, target, {})
    tried: list[tuple[tuple[bool, float], str, dict[str, Any], Cost]] = []
    offered = candidates(target, width)
    if target == "ecp5":  # smallest first, and none after the first that holds
        unplaced = [measurements.cost(n, width, target, p, place=False).area for n, p in offered]
        offered = [offered[i] for i in sorted(range(len(offered)), key=lambda i: unplaced[i])]
    for name, parameters in offered:
        cost = measurements.cost(name, width, target, parameters)
        tried.append((_rank(cost, rival), name, parameters, cost))
        if target == "ecp5" and cost.no_worse_than(rival):
            break
    tried.sort(key=lambda entry: entry[0])
    _, name, _, cost = tried[0]
    return {
        AUTO: name,
        **{kind: next((p for _, n, p, _ in tried if n == kind), {}) for kind in ("dadda", "chain")},
        "measured": {name: _figures(cost), STAR: _figures(rival)},
    }


def _rank(cost: Cost, rival: Cost) -> tuple[bool, float]:
    if cost.no_worse_than(rival):
        return False, cost.area * (cost.delay or 1)
    delays = cost.delay / rival.delay if cost.delay and rival.delay else 0
    return True, max(cost.area / rival.area, delays)


def _figures(cost: Cost) -> list[float | None]:
    return [cost.area, None if cost.delay is None else round(cost.delay, 3)]


def write_table(
    path: Path,
    measurements: Measurements,
    targets: list[str],
    widths: list[int],
    report: Callable[[str, int, Row], None],
) -> None:
    """Measure the targets and widths given and replace these rows of the table."""
    for target in targets:
        for width in widths:
            row = best_of(measurements, target, width)
            # Read anew and written whole at every row: a run that breaks off loses nothing.
            table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            rows = table.setdefault("targets", {}).setdefault(target, {})
            rows[str(width)] = row
            table["targets"][target] = {key: rows[key] for key in sorted(rows, key=int)}
            table["about"] = ABOUT
            write_whole(path, json.dumps(dict(sorted(table.items())), indent=1) + "\n")
            report(target, width, row)
