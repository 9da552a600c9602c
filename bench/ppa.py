"""The claim against binary32, by anyone: ``python -m bench.ppa`` prints it, with its rivals.

All figures are of osu018 standard cells in one flow, without wires. No operand has unity, nothing
is pipelined, only the accumulator is a register. Power is not measured here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.arguments import Parser
from bench.hardware_units import Measurements, write_whole
from hw.ppa import HARDFLOAT, PUBLISHED, REFERENCE, Rival, rivals, saved
from hw.synthesis import SynthesisError, check_standard_cells

OUTPUT: Final = Path("build/bench")
FAMILY: Final = "superfloat"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser("ppa", __doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR")
    options = parser.parse_args(arguments)
    measurements = Measurements(options.output / "hardware")
    try:
        check_standard_cells()
        rows = compare(measurements, rivals())
    except SynthesisError as error:
        print(f"bench.ppa: {error}", file=sys.stderr)
        return 2
    show(Console(), rows)
    path = options.output / "ppa.json"
    write_whole(path, json.dumps(rows, indent=1) + "\n")
    print(f"written: {path}")
    return 0


def compare(measurements: Measurements, units: list[Rival]) -> list[dict[str, Any]]:
    """A row per unit: area (um2), delay (ns), and per cent of binary32's area saved.

    Savings are against our own binary32, the smaller one, and against HardFloat's.
    """
    rows: list[dict[str, Any]] = []
    for unit in units:
        cost = measurements.gates(unit.source(), unit.options, unit.clocked)
        row = {"unit": unit.name, "kind": unit.kind, "bits": unit.bits}
        rows.append({**row, "um2": cost.area, "ns": cost.delay})
    (reference,) = (row["um2"] for row in rows if row["unit"] == REFERENCE)
    for row in rows:
        if row["kind"] == "multiplier":
            continue
        row["saved"] = saved(row["um2"], reference)
        row["saved_hardfloat"] = saved(row["um2"], HARDFLOAT.area)
        if row["kind"].startswith(FAMILY):
            row["published"] = PUBLISHED[row["bits"]][0]
    return rows


def show(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print the rows."""
    table = Table(title="osu018, no wires; saved: per cent of binary32's area, ours, HardFloat's")
    names = ("unit", "um2", "ns", "saved", "saved_hardfloat", "published")
    for name in names:
        table.add_column(name, justify="left" if name == "unit" else "right")
    for row in rows:
        table.add_row(*(_shown(row.get(name)) for name in names))
    console.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
