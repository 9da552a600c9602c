"""``atreides explore``: many machines on boards, and which none beats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from atreides import explore_figures, explore_picture, explore_points, explore_results, explore_run
from atreides.cli import INTERRUPTED
from atreides.explore_accuracy import METRICS, Accuracy
from atreides.explore_figures import Work
from atreides.explore_points import NAMES
from atreides.machine_files import FileMistake, check_writable, write_bytes, write_text
from atreides.machine_options import machine_command
from sw.config import MachineConfig


@machine_command(MachineConfig(bits=8))
def explore(
    config: MachineConfig,
    axes: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE,..", help=f"What to sweep: {', '.join(NAMES)}."),
    ],
    network: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Whose cycles; as for compile.")
    ] = None,
    product: Annotated[
        str, typer.Option(metavar="M,K,N", help="Without --network: this product's cycles.")
    ] = "64,64,64",
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="WASQ log with the accuracy by width.")
    ] = None,
    log_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose results, if the log has several.")
    ] = None,
    metric: Annotated[
        str, typer.Option(help=f"Of the log: {', '.join(METRICS)}; less is better.")
    ] = METRICS[0],
    synthesize: Annotated[
        bool, typer.Option("--synthesize", help="Synthesise each: minutes instead of a model.")
    ] = False,
    place: Annotated[
        bool, typer.Option("--place", help="Place and route each: area and MHz, many minutes.")
    ] = False,
    reports: Annotated[
        Path, typer.Option(metavar="DIR", help="Where atreides build left reports with MHz.")
    ] = Path("build/boards"),
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where results are kept.")
    ] = Path("build/explore"),
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes; with 2 or more, dask's.")
    ] = 1,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A dask scheduler: tcp://host:8786.")
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture, .png or .svg.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="All points.")
    ] = None,
) -> None:
    """Compare machines on boards by accuracy, area, frequency and cycles.

    `atreides explore board=ulx3s-85f bits=4,8,16 rows=4,8 columns=4,8 --network resnet8 --log
    build/results.jsonl --plot build/explore.svg`

    Every result is kept in DIR/points.jsonl as it comes: a run that was interrupted, or is asked
    again with more values, goes on with what is missing. What does not fit or fails is noted with
    its reason and stops nothing. Look-up tables come from the model of `atreides fit` unless
    --synthesize or --place is given, frequencies from reports of `atreides build` unless --place.
    """
    try:
        for path in (plot, json_file):
            check_writable(path)
        if plot is not None and plot.suffix not in (".png", ".svg"):
            raise ValueError(f"plot must end in .png or .svg, not {str(plot)!r}")
        found = explore_points.points(config, explore_points.parse_axes(axes))
        accuracy = None if log is None else Accuracy.read(log, metric, log_model)
        work = Work(network, _sizes(product), synthesize, place, str(reports))
        notes = explore_run.Notes(output / "points.jsonl")
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("machines", total=len(found))
            outcomes = explore_run.explore(
                *(found, work, notes, explore_figures.evaluate),
                jobs=jobs,
                scheduler=scheduler,
                retry=retry,
                progress=lambda: progress.advance(task),
            )
    except KeyboardInterrupt:
        typer.echo(f"atreides: what was done is in {output}; run again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (FileMistake, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    best = explore_results.front(outcomes, accuracy)
    explore_results.show(outcomes, best, accuracy, Console())
    if json_file is not None:
        rows = [
            {
                **one.to_dict(),
                "front": one in best,
                metric: explore_results.accuracy_of(one, accuracy),
            }
            for one in outcomes
        ]
        write_text(json_file, json.dumps({"points": rows}, indent=2) + "\n")
    if plot is not None:
        content = explore_picture.picture(outcomes, best, accuracy, plot.suffix[1:])
        write_bytes(plot, content)


def _sizes(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"product must be as in 64,64,64, not {text!r}")
    rows, terms, columns = map(int, parts)
    return rows, terms, columns
