"""Zeros in numbers: what holding operands does to power, and what skipping slices does to cycles.

    python -m bench.sparsity [--network digits] [--rows 2] [--columns 2] [--bits 8] [--cycles 300]

Two tables that have nothing to do with each other. Hold: an array of osu018 gates with its edge,
once with operand hold and once without, multiplies tiles of real layers, words and zeros as they
are; Icarus counts the toggles of every net, hazards included, and OpenSTA's energies make them
power at 100 MHz. The sums that leave are checked. Hold saves no cycle. Skip: cycles of the layers
on the default machine of ``atreides compile`` (8 x 8) with and without leaving out slices of
weights that are all zero. Skipping is exact, and what it saves depends on nothing but the weights.
Prints both and writes build/bench/sparsity.json.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.sparsity_array import Held, HeldArray, WrongSums, tiles_of
from bench.sparsity_layers import (
    DIGITS,
    NAMES,
    LayerWords,
    layer_words,
    network,
    skipping,
    summary,
)
from bench.timing import machine, write_json
from hw.gate_netlist import GateNetlist
from hw.synthesis import SynthesisError
from sim.runner import MissingSimulator, SimulationFailed
from sw.compiler.compile import DEFAULT_MACHINE

_NETWORKS: Final = (DIGITS, "resnet8")
_STANDARD_CELLS: Final = "osu018"
#: Characters that the tables need.
_WIDTH: Final = 120


def held(array: HeldArray, layer: LayerWords, cycles: int) -> dict[str, Any]:
    """Figures of one layer with and without hold, over the same tiles."""
    tiles = tiles_of(layer.a, layer.b, array.rows, array.columns, cycles)
    found = {hold: array.measure(tiles, hold) for hold in (False, True)}
    a, b = layer.zeros(replace(DEFAULT_MACHINE, bits=array.format.bits))
    return {
        **{"network": layer.network, "layer": layer.name, "zeros_a": a, "zeros_b": b},
        "tiles": len(tiles),
        "plain": _figures(found[False]),
        "held": _figures(found[True]),
    }


def _figures(found: Held) -> dict[str, Any]:
    return {
        **{"cycles": found.cycles, "toggles": found.toggles},
        **asdict(found.power),
        "total": found.power.total,
    }


def show(rows: list[dict[str, Any]], skipped: list[dict[str, Any]], title: str) -> None:
    """Both tables."""
    hold = Table(title=f"Operand hold: {title}, {_STANDARD_CELLS}, 100 MHz; no cycles")
    for name in ("network", "layer"):
        hold.add_column(name)
    for name in ("zeros a", "zeros b", "toggles/cycle", "held", "saved", "mW", "held", "saved"):
        hold.add_column(name, justify="right")
    for row in rows:
        plain, held = row["plain"], row["held"]
        hold.add_row(
            *(row["network"], row["layer"], f"{row['zeros_a']:.0%}", f"{row['zeros_b']:.0%}"),
            *(f"{plain['toggles']:,.0f}", f"{held['toggles']:,.0f}"),
            f"{1 - held['toggles'] / plain['toggles']:.1%}",
            *(f"{plain['total']:.2f}", f"{held['total']:.2f}"),
            f"{1 - held['total'] / plain['total']:.1%}",
        )
    skip = Table(title="Skipping slices of zero weights, 8 x 8: cycles; no toggles")
    for name in ("network", "layer", "kind"):
        skip.add_column(name)
    for name in ("slices", "skipped", "cycles", "skipping", "saved"):
        skip.add_column(name, justify="right")
    for row in skipped:
        skip.add_row(
            *(row["network"], row["name"], row["kind"]),
            *(f"{row[name]:,}" for name in ("slices", "skipped_slices", "dense_cycles", "cycles")),
            f"{row['saved']:.1%}",
        )
    console = Console()
    console.width = max(console.width, _WIDTH)
    for table in (hold, skip):
        console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    totals: dict[str, Any] = {}
    sizes = {name: getattr(options, name) for name in ("rows", "columns", "bits")}
    result = {**{"machine": machine(), **sizes}, "hold": rows, "skip": skipped, "totals": totals}
    console = Console(stderr=True)
    try:
        format = replace(DEFAULT_MACHINE, bits=options.bits).format
        with console.status(f"{options.rows} x {options.columns} cells to gates"):
            array = HeldArray(format, options.rows, options.columns, DEFAULT_MACHINE.max_terms)
        result["cells"] = {hold: len(netlist.gates) for hold, netlist in _named(array)}
        for name in options.network or _NETWORKS:
            with console.status(f"compiling {name}"):
                artefact, image = network(name, options.bits)
            found = skipping(name, artefact)
            skipped += [asdict(row) | {"saved": row.saved} for row in found]
            totals[name] = summary(found)
            for layer in layer_words(name, artefact, image)[: options.layers]:
                with console.status(f"{name}: {layer.name}"):
                    rows.append(held(array, layer, options.cycles))
                write_json(Path(options.output), result)  # a long run that is ended leaves these
    except ValueError as error:
        parser.error(str(error))
    except (SynthesisError, MissingSimulator, SimulationFailed, WrongSums) as error:
        print(f"bench.sparsity: {error}", file=sys.stderr)
        return 1
    show(rows, skipped, f"{options.rows} x {options.columns} SF{options.bits}")
    for name, total in totals.items():
        print(f"{name}: {total['cycles']:,} of {total['dense_cycles']:,} cycles by skipping")
    return 0


def _parser() -> Parser:
    parser = Parser("sparsity", __doc__ or "")
    parser.add_argument("--network", action="append", choices=NAMES, help="digits and resnet8")
    parser.add_argument("--rows", type=count, default=2, help="of the array of gates")
    parser.add_argument("--columns", type=count, default=2)
    parser.add_argument("--bits", type=count, default=DEFAULT_MACHINE.bits)
    parser.add_argument("--cycles", type=count, default=300, help="of each layer")
    parser.add_argument(
        "--layers", type=count, default=4, help="of each network that go through gates"
    )
    parser.add_argument("-o", "--output", type=writable, default="build/bench/sparsity.json")
    return parser


def _named(array: HeldArray) -> list[tuple[str, GateNetlist]]:
    return [("held" if hold else "plain", netlist) for hold, netlist in array.netlists.items()]


if __name__ == "__main__":
    sys.exit(main())
