"""What a run of a network left: what differs from its example, counters, a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from atreides.run_options import NetworkOptions
from sw.compiler.cost import layer_macs
from sw.registers import Counter
from sw.runtime.artefact import Artefact
from sw.runtime.check import compare_example
from sw.runtime.checksums import checksum
from sw.runtime.session import Session


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What a run left.

    Parameters
    ----------
    outputs : tuple of array
    layers : dict of str to list of int
        Checksums of each layer, one per inference; empty unless they were watched.
    session : Session
        For its counters.
    """

    outputs: tuple[Any, ...]
    layers: dict[str, list[int]]
    session: Session


def differences(artefact: Artefact, finished: Finished) -> list[str]:
    """What is not as it was when the example was compiled."""
    assert artefact.example is not None
    found = {name: checksums[0] for name, checksums in finished.layers.items()}
    wrong = compare_example(artefact.example, found)
    pairs = zip(artefact.example.outputs, finished.outputs, strict=True)
    return wrong + [
        f"output {index} must have checksum {want:08x}, not {checksum(output):08x}"
        for index, (want, output) in enumerate(pairs)
        if checksum(output) != want
    ]


def _programs(artefact: Artefact, finished: Finished) -> list[dict[str, Any]]:
    plan = artefact.plan
    macs = {name: layer_macs(layer, plan) for name, layer in plan.layers.items()}
    cells = artefact.config.rows * artefact.config.columns
    found = []
    for layers, tally in finished.session.tallies.items():
        needed = tally.runs * sum(macs.get(name, 0) for name in layers)
        cycles = tally.counters[Counter.CYCLES]
        found.append(
            {
                "layers": list(layers),
                "runs": tally.runs,
                "macs": needed,
                "utilisation": needed / (cells * cycles) if cycles else None,
                "counters": {c.name.lower(): n for c, n in tally.counters.items()},
            }
        )
    return found


def report(
    directory: Path,
    artefact: Artefact,
    options: NetworkOptions,
    finished: Finished,
    wrong: list[str],
) -> dict[str, Any]:
    """All of it as plain data: options, outputs, counters of programs, checksums, differences."""
    return {
        "network": directory.name,
        "backend": options.backend,
        "check": options.check,
        "config": asdict(artefact.config),
        "inputs": [path.name for path in options.inputs] or "example",
        "outputs": [
            {"shape": list(output.shape), "checksum": checksum(torch.as_tensor(output))}
            for output in finished.outputs
        ],
        "programs": _programs(artefact, finished),
        "checksums": finished.layers,
        "differences": wrong,
    }


def show(directory: Path, artefact: Artefact, options: NetworkOptions, finished: Finished) -> None:
    """Counters of programs, shapes of outputs, and what was compared."""
    console = Console()
    programs = _programs(artefact, finished)
    if programs:
        table = Table(title=f"{directory.name} on {options.backend}")
        table.add_column("layers", overflow="fold")
        for column in ("runs", "cycles", "MACs", "busy"):
            table.add_column(column, justify="right")
        for row in programs:
            counters = row["counters"]
            table.add_row(
                _named(row["layers"]),
                f"{row['runs']:,}",
                f"{counters['cycles']:,}" if counters["cycles"] else "-",
                f"{row['macs']:,}",
                "-" if row["utilisation"] is None else f"{row['utilisation']:.1%}",
            )
        console.print(table)
    for name, output in zip(artefact.plan.graph.outputs, finished.outputs, strict=True):
        shape = " x ".join(map(str, output.shape))
        console.print(f"{name}: {shape}", highlight=False)
    if programs and finished.layers:
        console.print("Layers ran one by one, to be compared: together they take fewer cycles.")
    count = sum(len(found) for found in finished.layers.values())
    if options.check is not None:
        console.print(f"{count} results of layers equal on {options.backend} and {options.check}")
    elif not options.inputs and finished.layers:
        console.print(f"{count} results of layers compared with the checksums of the example")


def _named(layers: list[str]) -> str:
    if len(layers) < 4:
        return " + ".join(layers)
    return f"{layers[0]} ... {layers[-1]} ({len(layers)} layers)"
