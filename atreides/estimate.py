"""``atreides estimate``: what a network takes on a machine, without running it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from atreides import sweep as sweeping
from atreides.machine_files import FileMistake, check_writable, write_bytes, write_text
from atreides.machine_options import machine_command
from atreides.network_estimate import SPARSE, Estimate, Network, picture, prepare
from sw.compiler.compile import DEFAULT_MACHINE
from sw.compiler.layer_cost import LayerCost, Link
from sw.config import MachineConfig

#: Layers that are explained at most, and the share of all cycles that one must lose for it.
EXPLAINED: Final = 12
NOTICED: Final = 0.005


@machine_command(DEFAULT_MACHINE)
def estimate(
    config: MachineConfig,
    chosen: frozenset[str],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="As for compile; or DIR, what compile made.")
    ],
    axes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=N,N..]...", help="With --sweep: rows=4,8,16 bits=4,8 ..."),
    ] = None,
    clock_mhz: Annotated[
        float, typer.Option(min=0.001, metavar="MHZ", help="Of the machine.")
    ] = 50.0,
    host_bandwidth: Annotated[
        float | None,
        typer.Option(min=1, metavar="N", help="Bytes per second between host and machine."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="All figures.")
    ] = None,
    roofline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture, .png or .svg; with --sweep of the front."),
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Try all combinations of sizes.")] = False,
) -> None:
    """Show cycles, utilisation, traffic and bound of each layer of a network; nothing is run.

    `atreides estimate resnet8 --roofline build/resnet8.svg` shows one machine;

    `atreides estimate resnet8 --sweep rows=4,8,16 columns=4,8,16 bits=4,8` compares many.

    Cycles are those of the machine's counters. Exit status 2 for a mistake of yours.
    """
    link = Link(clock_mhz * 1e6, host_bandwidth)
    try:
        for path in (json_file, roofline):
            check_writable(path)
        if roofline is not None and roofline.suffix not in (".png", ".svg"):
            raise ValueError(f"roofline must end in .png or .svg, not {str(roofline)!r}")
        if axes and not sweep:
            raise ValueError(f"sizes such as {axes[0]!r} must come with --sweep")
        if sweep:
            _sweep(model, config, axes or [], link, json_file, roofline)
            return
        network = _network(model, config, chosen)
        with Console(stderr=True).status("timing"):
            found = Estimate.of(network, link)
        show(found, Console())
        if json_file is not None:
            write_text(json_file, json.dumps(found.to_dict(), indent=2) + "\n")
        if roofline is not None:
            write_bytes(roofline, picture(found, roofline.suffix[1:]))
    except (FileMistake, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _network(model: str, config: MachineConfig, chosen: frozenset[str]) -> Network:
    """A compiled network from its folder, or a model compiled in memory."""
    if not Path(model).is_dir():
        with Console(stderr=True).status(f"compiling {model}"):
            return prepare(model, config)
    if chosen:
        raise ValueError(
            f"{model} must have no sizes beside it: it is compiled for its own machine"
        )
    from sw.runtime.artefact import load

    artefact = load(Path(model))
    return Network(Path(model).name, artefact.plan, artefact.schedule)


def show(found: Estimate, console: Console) -> None:
    """The table of a network's layers, its totals, and why layers are not at their bounds."""
    config = found.config
    title = f"{found.name} on {config.rows} x {config.columns}, {config.format}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold")
    for name in ("cycles", "ms", "busy", "kMAC", "kB", "bound", "above"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found.layers:
        table.add_row(*_row(layer, found.link))
    table.add_section()
    sparse = any(layer.kind in SPARSE for layer in found.layers)
    sums = [(found.total, "all")] + [(found.dense, "dense")] * sparse
    for layer, name in sums:
        table.add_row(name, *_row(layer, found.link)[1:-2], "", f"{layer.distance:.1%}")
    console.print(table)
    console.print("kB: between host and machine, both ways.")
    if sparse:
        console.print("dense: all but depthwise convolutions and pooling.")
    _show_reasons(found, console)
    link = found.link
    told = f"{1 / found.seconds:,.1f} inferences per second" if found.seconds else "nothing to do"
    told += f" at {link.clock_hz / 1e6:g} MHz"
    if link.bytes_per_s is not None:
        told += f" with transfers at {link.bytes_per_s / 1e6:g} MB/s"
    else:
        told += ", transfers not counted"
    console.print(f"{told}; the host's own operations not counted.")
    console.print(f"Once before: {found.setup.bytes:,} bytes.")
    if found.host_macs:
        console.print(f"On the host: {found.host_macs:,} MACs.")
    guesses = found.total.program.guesses
    if guesses:
        console.print(f"{guesses} products may skip zeros in data: they then take fewer cycles.")


def _show_reasons(found: Estimate, console: Console) -> None:
    """Of the layers with the most cycles above their bounds, why."""
    above = sorted(found.layers, key=lambda layer: layer.bound_cycles - layer.time)
    for layer in above[:EXPLAINED]:
        reason = layer.reason()
        if layer.time - layer.bound_cycles > NOTICED * found.total.time:
            name = layer.name if layer.kind in layer.name else f"{layer.name} ({layer.kind})"
            console.print(f"  {name}: {reason}", soft_wrap=True, highlight=False)


def _row(layer: LayerCost, link: Link) -> list[str]:
    return [
        layer.name,
        f"{layer.cycles:,}",
        f"{1e3 * layer.time / link.clock_hz:.3f}",
        f"{layer.utilisation:.1%}" if layer.macs else "",
        f"{layer.macs / 1e3:,.0f}" if layer.macs else "",
        f"{layer.traffic.bytes / 1e3:,.1f}",
        str(layer.bound),
        f"{layer.distance:.1%}",
    ]


def measure(model: str, link: Link, config: MachineConfig) -> sweeping.Figures:
    """The figures of one machine of a sweep."""
    whole = Estimate.of(prepare(model, config), link).total
    return sweeping.Figures(config, whole.time, whole.utilisation, whole.traffic.bytes)


def _sweep(
    model: str,
    base: MachineConfig,
    axes: Sequence[str],
    link: Link,
    json_file: Path | None,
    plot: Path | None,
) -> None:
    """Try all combinations, show the front, write what is asked for."""
    if Path(model).is_dir():
        raise ValueError(f"{model} must be a model, not a folder: it is compiled for one machine")
    names = sweeping.parse_axes(axes)
    if not names:
        raise ValueError("--sweep must have sizes, as in rows=4,8,16 bits=4,8")
    configs = sweeping.machines(base, names)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("machines", total=len(configs))
        work = functools.partial(measure, model, link)
        found = sweeping.run(work, configs, lambda: progress.advance(task))
    best = sweeping.front(found)
    _show_front(model, found, best, Console())
    if json_file is not None:
        content = {
            "network": model,
            "link": asdict(link),
            "machines": [{**one.to_dict(), "front": one in best} for one in found],
        }
        write_text(json_file, json.dumps(content, indent=2) + "\n")
    if plot is not None:
        from atreides.plots import Choice, pareto

        choices = [
            Choice(one.label, str(one.config.format), one.slots, one.cycles, one in best)
            for one in found
            if not one.failure
        ]
        title = f"{model}: size of the array against time"
        cost_name = "ECP5 LUT slots of the array's cells and drains"
        write_bytes(plot, pareto(title, choices, cost_name, plot.suffix[1:]))


def _show_front(
    model: str,
    found: Sequence[sweeping.Figures],
    best: Sequence[sweeping.Figures],
    console: Console,
) -> None:
    table = Table(title=f"{model}: machines that none beats, of {len(found)}")
    for name in ("bits", "rows", "columns", "slots", "cycles", "busy", "kB", "ECP5 slots"):
        table.add_column(name, justify="right")
    table.add_column("memory kbit", justify="right")
    for one in best:
        config = one.config
        table.add_row(
            *map(str, (config.bits, config.rows, config.columns, config.slots)),
            f"{one.cycles:,}",
            f"{one.utilisation:.1%}",
            f"{one.host_bytes / 1e3:,.1f}",
            f"{one.slots:,}",
            f"{one.memory_bits / 1e3:,.0f}",
        )
    console.print(table)
    for one in found:
        if one.failure:
            console.print(f"{one.label}, SF{one.config.bits}: {one.failure}", style="red")
