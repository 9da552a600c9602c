"""The points that none beats, and what the reader must know of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from atreides.explore_accuracy import Accuracy
from atreides.explore_run import Outcome

#: Sizes that have a column of their own where they are swept.
SWEPT: Final = ("slots", "parameters")
#: Failures that are told one by one.
FAILURES: Final = 12


def accuracy_of(outcome: Outcome, accuracy: Accuracy | None) -> float | None:
    """The log's figure for the width of a point; None if it has none."""
    if accuracy is None:
        return None
    found = accuracy.best.get(outcome.point.config.bits)
    return None if found is None else found[0]


def front(outcomes: Sequence[Outcome], accuracy: Accuracy | None) -> list[Outcome]:
    """Those that no other beats in time, area, memory and accuracy.

    Time is cycles until every point has a frequency. Without an accuracy, more bits are better;
    with a log, a point without a figure there counts as the least accurate. Boards are compared
    each by itself.
    """
    able = [one for one in outcomes if one.figures is not None]
    timed = all(one.figures and one.figures.megahertz for one in able)
    values = {id(one): tuple(_objectives(one, accuracy, timed)) for one in able}
    return [
        one
        for one in able
        if not any(
            other.point.board == one.point.board and _beats(values[id(other)], values[id(one)])
            for other in able
        )
    ]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _objectives(one: Outcome, accuracy: Accuracy | None, timed: bool) -> Iterator[float]:
    figures = one.figures
    assert figures is not None
    yield (figures.milliseconds or math.inf) if timed else figures.cycles
    yield from (figures.luts, figures.block_rams, figures.dsps)
    if accuracy is None:
        yield -one.point.config.bits
    else:
        found = accuracy_of(one, accuracy)
        yield math.inf if found is None else found


def show(
    outcomes: Sequence[Outcome],
    best: Sequence[Outcome],
    accuracy: Accuracy | None,
    console: Console,
) -> None:
    """Print the front, and what failed."""
    metric = accuracy.metric if accuracy else ""
    swept = [name for name in SWEPT if len({getattr(o.point.config, name) for o in outcomes}) > 1]
    table = Table(
        title=f"machines that none beats, of {len(outcomes)}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    names = ("board", "words", "array", *swept, "multiplier", metric, "LUTs", "RAM", "DSP")
    for name in (*names, "cycles", "MHz", "ms"):
        if name:
            left = name in ("board", "multiplier")
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
    order = sorted(best, key=lambda o: (o.point.board, o.figures.luts if o.figures else 0))
    for one in order:
        config, figures = one.point.config, one.figures
        assert figures is not None
        found = accuracy_of(one, accuracy)
        told = [] if accuracy is None else ["-" if found is None else f"{found:,.4g}"]
        milliseconds = figures.milliseconds
        table.add_row(
            *(one.point.board, f"SF{config.bits}", f"{config.rows} x {config.columns}"),
            *(f"{getattr(config, name):,}" for name in swept),
            *(config.multiplier, *told, f"{figures.luts:,}", f"{figures.block_rams}"),
            *(f"{figures.dsps}", f"{figures.cycles:,}"),
            "-" if figures.megahertz is None else f"{figures.megahertz:.1f}",
            "-" if milliseconds is None else f"{milliseconds:.3g}",
        )
    console.print(table)
    for sentence in notes(outcomes, accuracy):
        console.print(sentence, highlight=False, soft_wrap=True)


def notes(outcomes: Sequence[Outcome], accuracy: Accuracy | None) -> Iterator[str]:
    """What the reader must know: what the log lacks, what has no frequency, what failed."""
    able = [one for one in outcomes if one.figures is not None]
    if accuracy is not None:
        yield from accuracy.told
        bits = sorted({o.point.config.bits for o in able} - set(accuracy.best))
        if bits:
            widths = ", ".join(f"SF{width}" for width in bits)
            yield f"{widths}: the log has no {accuracy.metric}, so these count as least accurate."
    slow = sum(one.figures is not None and one.figures.megahertz is None for one in able)
    if slow:
        yield f"{slow} of {len(able)} have no frequency: --place measures it, or atreides build."
    failed = [one for one in outcomes if one.failure]
    if failed:
        yield f"{len(failed)} of {len(outcomes)} failed:"
    for one in failed[:FAILURES]:
        yield f"- {one.point.label}: {one.failure}"
    if len(failed) > FAILURES:
        yield f"- and {len(failed) - FAILURES} more: all are in the points' file, and in --json."
