"""Area, delay and slots of the multipliers and cells beside yosys' own, in one run.

``python -m bench.hardware`` prints a table per target and writes build/bench/hardware.json.
Every synthesis is kept in build/bench/hardware, so a run that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.arguments import Parser
from bench.hardware_array import array_cells
from bench.hardware_table import write_table
from bench.hardware_units import (
    BOOTH,
    STAR,
    Cost,
    Measurements,
    integer_mac_source,
    mac_source,
    write_whole,
)
from hw.compressor_tree import LIBRARY_CELL
from hw.multiplier import AUTO, MULTIPLIERS, TABLE_PATH, TARGETS, table_entry
from hw.synthesis import SynthesisError, check_standard_cells
from sw.format import MAX_BITS, MIN_BITS

OUTPUT: Final = Path("build/bench")
UNITS: Final = {
    "osu018": ("um2", "ns"),
    "ecp5": ("slots", "MHz"),
    "ice40": ("LUTs", ""),
    "generic": ("gates", "gates deep"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = Parser("hardware", __doc__)
    parser.add_argument("--widths", type=_widths, default=_widths("3-16"), metavar="3-16|4,8,16")
    parser.add_argument("--target", type=_target, action="append", help="default: all")
    parser.add_argument("--place", action="store_true", help="place and route on ECP5 for MHz")
    parser.add_argument("--write-table", action="store_true", help="search for auto's choices")
    options = parser.parse_args(arguments)
    targets = options.target or list(TARGETS)
    measurements = Measurements(OUTPUT / "hardware")
    console = Console()
    try:
        if "osu018" in targets:
            check_standard_cells()  # not after a quarter of an hour
        if options.write_table:
            fractions = [bits - 1 for bits in options.widths]
            write_table(TABLE_PATH, measurements, targets, fractions, _reporter(console))
            return 0
        rows = _measure(measurements, targets, options.widths, options.place, console)
    except SynthesisError as error:
        print(f"bench.hardware: {error}", file=sys.stderr)
        return 2
    for target in targets:
        _print(console, target, [row for row in rows if row["target"] == target])
    write_whole(OUTPUT / "hardware.json", json.dumps(rows, indent=1) + "\n")
    console.print(f"written: {OUTPUT / 'hardware.json'}")
    return 0


def _target(text: str) -> str:
    if text not in TARGETS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(TARGETS)}, not {text!r}")
    return text


def _widths(text: str) -> list[int]:
    """Word widths from ``3-16`` or ``4,8,16``."""
    try:
        widths = []
        for part in text.split(","):
            low, _, high = part.partition("-")
            widths += range(int(low), int(high or low) + 1)
    except ValueError:
        widths = []
    if not widths or not all(MIN_BITS <= bits <= MAX_BITS for bits in widths):
        raise argparse.ArgumentTypeError(
            f"must be numbers from {MIN_BITS} to {MAX_BITS}, not {text!r}"
        )
    return sorted(set(widths))


def _reporter(console: Console) -> Any:
    def report(target: str, width: int, row: dict[str, Any]) -> None:
        parameters = row.get(row[AUTO], "")
        console.print(f"{target} F={width}: {row[AUTO]} {parameters} {row['measured']}")

    return report


def _measure(
    measurements: Measurements, targets: list[str], widths: list[int], place: bool, console: Console
) -> list[dict[str, Any]]:
    """One row per unit, target and width."""
    rows = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(targets) * len(widths))
        for target in targets:
            for bits in widths:
                progress.update(task, description=f"{target} SF{bits}")
                rows += _multiplier_rows(measurements, target, bits, place)
                rows += _cell_rows(measurements, target, bits, place)
                rows += [
                    _row("array cell", target, bits, label, cost)
                    for label, cost in array_cells(measurements, target, bits, place)
                ]
                progress.advance(task)
    return rows


def _multiplier_rows(
    measurements: Measurements, target: str, bits: int, place: bool
) -> list[dict[str, Any]]:
    width = bits - 1
    entry = table_entry(target, width)
    units = [(STAR, STAR, {})]
    if target == "osu018":
        units.append((BOOTH, BOOTH, {}))
        gates = {**entry["dadda"]}
        if gates.get("cell") == LIBRARY_CELL:
            gates["cell"] = "shared"
            units.append((f"dadda without {LIBRARY_CELL}", "dadda", gates))
    units += [(name, name, entry.get(name, {})) for name in MULTIPLIERS]
    rows = []
    for label, name, parameters in units:
        cost = measurements.cost(name, width, target, parameters, place)
        row = _row("multiplier", target, bits, label, cost)
        rows.append({**row, "auto": entry[AUTO] == label, "parameters": dict(parameters)})
    return rows


def _cell_rows(
    measurements: Measurements, target: str, bits: int, place: bool
) -> list[dict[str, Any]]:
    """Multiply-accumulate cells on the two targets that the figures are known for."""
    if target not in ("osu018", "ecp5"):
        return []
    rows = []
    for valid in (True, False):
        controls = "first, valid" if valid else "clear only"
        for label, source in (
            (f"int{bits} acc += a*b ({controls})", integer_mac_source(bits, target, valid)),
            (f"SF{bits} cell ({controls})", mac_source(bits, False, target, valid)),
            (f"SF{bits} cell, unity ({controls})", mac_source(bits, True, target, valid)),
        ):
            if target == "osu018":
                cost = measurements.gates(source, clocked=True)
            else:
                period = measurements.period(source) if place else None
                cost = Cost(measurements.slots(source, target), period)
            rows.append(_row("cell", target, bits, label, cost))
    return rows


def _row(kind: str, target: str, bits: int, label: str, cost: Cost) -> dict[str, Any]:
    delay = cost.delay
    if target == "ecp5" and delay is not None:
        delay = round(1000 / delay, 1)  # shown as MHz
    return {
        "kind": kind,
        "target": target,
        "bits": bits,
        "unit": label,
        UNITS[target][0]: cost.area,
        **({UNITS[target][1]: delay} if UNITS[target][1] else {}),
    }


def _print(console: Console, target: str, rows: list[dict[str, Any]]) -> None:
    area, delay = UNITS[target]
    table = Table(title=f"{target}: magnitudes of F = x - 1 bits, cells of x bits")
    for column in ("x", "unit", area, delay, ""):
        table.add_column(column, justify="left" if column == "unit" else "right")
    for row in rows:
        slow = row.get(delay)
        shown = "" if slow is None else f"{slow:g}"
        chosen = "auto" if row.get("auto") else ""
        table.add_row(str(row["bits"]), row["unit"], f"{row[area]:g}", shown, chosen)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
