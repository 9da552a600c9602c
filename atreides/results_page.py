"""``atreides report``: logs of results as one page with tables and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from atreides import wasq_plots
from atreides.mistakes import refusal
from atreides.report import Folder, HtmlTable, inline, render, versions
from atreides.results_rows import FLOAT, Row, evaluations, groups, reference
from atreides.results_studies import study_sections
from sw.paths import check_file
from sw.wasq.studies.log import read_log

#: Names of a row's figures as heads of a table.
_HEADS: Final = (
    *("method", "scale", "W", "A", "effective bits", "perplexity", "95 %", "to float", "KL, nats"),
    *("recovery", "seconds", "trained", "seed"),
)
#: Lines that are no results and are told of.
_TOLD: Final = 5


def report(
    logs: Annotated[
        list[Path], typer.Argument(metavar="LOG.jsonl...", help="What commands appended to.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page.")
    ] = Path("build/report.html"),
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="Over the page.")
    ] = "Superfloat quantization, measured",
) -> None:
    """Turn logs of results into one HTML page that needs nothing else.

    It shows perplexity by bits and method with intervals, perplexity against seconds, the front of
    effective bits and perplexity, and every study in the logs. Exit status 2 for a mistake of
    yours.
    """
    console = Console()
    try:
        if output.suffix != ".html":
            raise ValueError(f"output must end in .html, not {str(output)!r}")
        check_file(output)
        rows: list[Row] = []
        origin, mistakes = [], list[str]()
        for log in logs:
            if not log.is_file():
                raise ValueError(f"{log} must be a log that exists")
            found = read_log(log, mistakes)
            origin.append((log.name, f"{len(found)} rows"))
            rows += found
        if not rows:
            raise ValueError(f"{logs[0]} must have at least one row, not 0")
        with console.status("drawing"):
            text = page(rows, title, origin, mistakes)
        Folder(output.parent).write(output.name, text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    except OSError as error:
        told = refusal(error)
        if told is None:
            raise
        raise typer.BadParameter(told) from error
    for mistake in mistakes[:_TOLD]:
        console.print(f"left out: {mistake}", highlight=False, markup=False)
    console.print(f"{output}: {len(rows)} rows, {output.stat().st_size / 1e6:.1f} MB")


def page(
    rows: Sequence[Row],
    title: str,
    origin: Sequence[tuple[str, str]] = (),
    mistakes: list[str] | None = None,
) -> str:
    """The page of rows of results.

    Parameters
    ----------
    rows : sequence of dict
        Of evaluations and of studies, in any order.
    title : str
    origin : sequence of (str, str)
        What the rows come from.
    mistakes : list of str, optional
        What was left out; gets a sentence per row that is neither a study nor a result.
    """
    told = [] if mistakes is None else mistakes
    plain = evaluations(rows, told)
    sections = sections_of(rows)
    parts = groups(plain)
    models = dict.fromkeys(row["model"] for row in plain)
    count = len(sections) - len(parts)
    sizes = (len(plain), "evaluation"), (len(models), "network"), (count, "study")
    evaluated, networks, studies = (f"{n} {_plural(name, n)}" for n, name in sizes)
    counted = [f"{evaluated} of {networks}"] if plain else []
    counted += [studies] if count else []
    return render(
        "results.html",
        {
            "title": title,
            "summary": " and ".join(counted) + "." if counted else "Nothing to compare.",
            "cards": _cards(parts),
            "sections": [_drawn(section) for section in sections],
            "origin": [*origin, *_left_out(told), *versions()],
        },
    )


def _left_out(mistakes: Sequence[str]) -> list[tuple[str, str]]:
    return [("left out", f"{len(mistakes)} lines: {mistakes[0]}")] if mistakes else []


def _plural(name: str, count: int) -> str:
    return name if count == 1 else f"{name.removesuffix('y')}ies" if name[-1] == "y" else f"{name}s"


def _drawn(section: Mapping[str, Any]) -> dict[str, Any]:
    figures = [
        {"picture": inline(paint(), name), "caption": caption}
        for name, paint, caption in section["figures"]
    ]
    return {**section, "figures": figures}


def sections_of(rows: Sequence[Row], mistakes: list[str] | None = None) -> list[dict[str, Any]]:
    """What there is to show: a section per model and text, then the studies.

    Returns
    -------
    list of dict
        As :func:`study_sections`; nothing is drawn yet.
    """
    parts = groups(evaluations(rows, mistakes))
    made = [_section(number, group) for number, group in enumerate(parts.values())]
    return [*made, *study_sections(rows)]


def results_table(rows: Sequence[Row]) -> HtmlTable:
    """Every row of one model and text, by bits, then perplexity."""
    exact = reference(rows)
    order = sorted(rows, key=lambda r: (-r["bits"], r["label"], r["perplexity"]))
    return HtmlTable(_HEADS, [_cells(row, exact) for row in order], text=(1,))


def _section(number: int, rows: list[Row]) -> dict[str, Any]:
    """Table and plots of one model on one text."""
    first = rows[0]
    exact = reference(rows)
    quantized = [row for row in rows if row["bits"] < FLOAT]
    timed = [row for row in quantized if row["seconds"]]
    labelled = [{**row, "method": row["label"]} for row in quantized]
    figures = []
    if quantized:
        figures.append(
            (
                f"bits{number}",
                lambda: wasq_plots.by_bits(labelled, exact),
                "Left: perplexity by bits per weight, with 95 % bootstrap intervals over windows. "
                "Right: what it is above the float network.",
            )
        )
        figures.append(
            (
                f"front{number}",
                lambda: wasq_plots.front(labelled, exact),
                "Effective bits, scales included, against perplexity; the line joins what no other "
                "row beats in both.",
            )
        )
    if timed:
        figures.append(
            (
                f"seconds{number}",
                lambda: wasq_plots.by_seconds(timed, exact),
                "Perplexity above the float network against the seconds that the method took; "
                "numbers are bits per weight.",
            )
        )
    told = (
        f"{first['windows']:,} windows of {first['window']:,} tokens, {first['predicted']:,} "
        f"predicted: {first['policy']}."
    )
    return {
        "title": f"{first['model']} on {first['text']}",
        "text": [told],
        "tables": [("", results_table(rows))],
        "figures": figures,
    }


def _cards(parts: Mapping[tuple[Any, ...], list[Row]]) -> list[tuple[str, str]]:
    """Of each model and text, how close to float the best row at 8 and 4 bits is."""
    found = []
    for key, rows in list(parts.items())[:3]:
        exact = reference(rows)
        for bits in (8, 4):
            mine = [row for row in rows if row["bits"] == bits]
            if exact is None or not mine:
                continue
            best = min(mine, key=lambda row: row["perplexity"])
            gap = best["perplexity"] / exact - 1
            found.append((f"{gap:+.1%}", f"{key[0]}, {bits}-bit weights, {best['label']}"))
    return found


def _cells(row: Row, exact: float | None) -> tuple[str, ...]:
    interval = row["interval"]
    gap = f"{row['perplexity'] / exact - 1:+.2%}" if exact and row["bits"] < FLOAT else ""
    return (
        row["method"],
        row["scale"] if row["bits"] < FLOAT else "",
        f"{row['bits']:g}",
        "" if row["bits"] >= FLOAT else str(row["activation_bits"] or "float"),
        f"{row['effective_bits']:.2f}",
        f"{row['perplexity']:.3f}",
        f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "",
        gap,
        _figure(row["divergence"], ".4f"),
        _figure(row["recovery"], ".1%"),
        _figure(row["seconds"], ",.1f"),
        _figure(row["trained"], ".1%"),
        _figure(row["seed"], "g"),
    )


def _figure(value: Any, form: str) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return format(value, form) if number else ""
