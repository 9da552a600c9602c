"""Real networks on the whole path: how accurate they stay, and what they take on the machine.

    python -m bench.networks [--model resnet8] [--images N] [--rtl-images N] [--bits 8] [-o FILE]

Each network is compiled twice with the same exponents and weights: for many images at once on a
machine with a large memory, which the machine model runs all images on; and for the default machine
of ``atreides compile``, which the RTL runs in Verilator. Both go in lockstep with the tensor model,
and every word, or exact sum, that a layer leaves must be equal. Cycles are those of whole programs,
counted by the RTL; the model and the compiler's account of them must give the same. Needs the data
sets, ``ATREIDES_DATA``; LeNet is trained first, and kept in the cache. Prints a table and writes
build/bench/networks.json. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.arguments import Parser, count, writable
from bench.network_runs import CLOCK, NAMES, NETWORKS, Differs, Stage, Told, Wanted, measure
from bench.timing import machine, write_json
from sim.machine_job import MachineFailed
from sim.runner import MissingSimulator, SimulationFailed
from sw.compiler.compile import DEFAULT_MACHINE
from sw.runtime.check import Mismatch
from sw.runtime.device_engine import DeviceFailed

#: How a run says that something differs, or cannot be run.
FAILURES: Final = (
    *(Mismatch, Differs, DeviceFailed),
    *(MissingSimulator, SimulationFailed, MachineFailed),
)


@contextmanager
def bars() -> Iterator[Stage]:
    """A bar per stage, on the terminal's standard error."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:

        @contextmanager
        def stage(name: str) -> Iterator[Told]:
            task = progress.add_task(name, total=None)
            yield lambda done, whole: progress.update(task, completed=done, total=whole)
            progress.remove_task(task)

        yield stage


def show(rows: list[dict[str, Any]], bits: int) -> None:
    """What agrees and how accurate it is, then what it takes on the default machine."""
    agreement = Table(title=f"SF{bits} against float32; every word equal to the tensor model's")
    for name in ("network", "float", f"SF{bits}", "on model", "s", "on RTL", "s", "words"):
        agreement.add_column(name, justify="left" if name == "network" else "right")
    cycles = Table(title=f"On the default machine, 8 x 8 at {CLOCK / 1e6:.0f} MHz, by the RTL")
    for name in ("network", "batch", "cycles/image", "busy", "dense", "images/s"):
        cycles.add_column(name, justify="left" if name == "network" else "right")
    for row in rows:
        model, rtl = row["model"], row["rtl"]
        shares = (row["float_accuracy"], model["accuracy"])
        agreement.add_row(
            row["name"],
            *("-" if share is None else f"{share:.2%}" for share in shares),
            *(f"{model['images']:,}", f"{model['seconds']:.0f}"),
            *(f"{rtl['images']:,}", f"{rtl['seconds']:.0f}"),
            f"{(model['words'] + rtl['words']) / 1e6:,.1f} M",
        )
        cycles.add_row(
            row["name"],
            *(str(rtl["batch"]), f"{rtl['cycles_per_image']:,.0f}"),
            *(f"{rtl[name]:.1%}" for name in ("utilisation", "utilisation_without_sparse")),
            f"{rtl['images_per_second']:,.1f}",
        )
    for table in (agreement, cycles):
        Console().print(table)
    Console().print("dense: busy but for depthwise layers and pooling", highlight=False)


def main() -> int:
    parser = Parser("networks", __doc__ or "")
    parser.add_argument("--model", action="append", choices=NAMES, help="all, unless named")
    parser.add_argument("--images", type=count, help="on the machine model; all there are")
    parser.add_argument("--rtl-images", type=count, help="on RTL; 200 of LeNet, 20 of ResNet8")
    parser.add_argument("--bits", type=count, default=DEFAULT_MACHINE.bits)
    parser.add_argument("-o", "--output", type=writable, default="build/bench/networks.json")
    options = parser.parse_args()
    try:
        replace(DEFAULT_MACHINE, bits=options.bits)
    except ValueError as error:
        parser.error(str(error))
    rows, wrong = _rows(parser, options)
    if rows:
        show(rows, options.bits)
    result = {"machine": machine(), "clock": CLOCK, "rows": rows, "differences": wrong}
    write_json(Path(options.output), result)
    for sentence in wrong:
        print(f"bench.networks: {sentence}", file=sys.stderr)
    return 1 if wrong else 0


def _rows(parser: Parser, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """The networks that agree, and what is wrong with the others."""
    wanted = Wanted(options.bits, options.images, options.rtl_images)
    rows: list[dict[str, Any]] = []
    wrong: list[str] = []
    with bars() as stage:
        for network in NETWORKS:
            if network.name not in (options.model or NAMES):
                continue
            try:
                rows.append(measure(network, wanted, stage))
            except ValueError as error:
                parser.error(str(error))
            except FAILURES as error:
                wrong.append(f"{network.name}: {error}")
    return rows, wrong


if __name__ == "__main__":
    sys.exit(main())
