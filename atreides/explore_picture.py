"""The picture of an exploration: per board, time and accuracy against look-up tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from atreides.explore_accuracy import Accuracy
from atreides.explore_results import accuracy_of
from atreides.explore_run import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Shapes of multipliers; others as the last.
MARKERS: Final = {"auto": "o", "dsp": "s", "dadda": "^", "chain": "v", "array": "D", "": "P"}
#: Arrays of a panel that are named; more would be unreadable.
NAMED: Final = 16
GRID: Final = "#bbbbbb"
#: How much larger an axis' end is than its beginning, at least, and up to where it has even ticks.
LEAST, _FEW_TICKS = 1.5, 4.0
#: Inches: a panel's height, and what the legend takes.
_HEIGHT, _LEGEND = 3.6, 0.5


def picture(
    outcomes: Sequence[Outcome], best: Sequence[Outcome], accuracy: Accuracy | None, format: str
) -> bytes:
    """A row of panels per board: time, and the log's figure if there is one.

    What none beats is drawn full, the others are faint; a line joins machines of one array. Time
    is milliseconds where all points have a frequency, else cycles.

    Parameters
    ----------
    outcomes, best : sequence of Outcome
    accuracy : Accuracy or None
    format : {"png", "svg"}
    """
    from atreides.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, draw

    colours = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY)
    able = [one for one in outcomes if one.figures is not None]
    boards = list(dict.fromkeys(one.point.board for one in able)) or [""]
    widths = sorted({one.point.config.bits for one in able})
    colour = {width: colours[n % len(colours)] for n, width in enumerate(widths)}
    kinds = list(dict.fromkeys(one.point.config.multiplier for one in able))
    timed = all(one.figures and one.figures.megahertz for one in able)
    panels: list[tuple[str, Callable[[Outcome], float | None]]] = [
        ("milliseconds" if timed else "cycles", lambda one: _time(one, timed))
    ]
    if accuracy is not None:
        panels.append((accuracy.metric, lambda one: accuracy_of(one, accuracy)))

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(boards), len(panels), squeeze=False)
        for board, row in zip(boards, grid, strict=True):
            mine = [one for one in able if one.point.board == board]
            for (name, value), axes in zip(panels, row, strict=True):
                _panel(axes, mine, best, value, colour)
                axes.set(xlabel="look-up tables", ylabel=name, title=board)
                if name != (accuracy.metric if accuracy else ""):
                    axes.set_yscale("log")
                    _plain(axes.yaxis)
                    _name_arrays(axes, mine, value)
                    axes.set_ylim(_wide_enough(axes.yaxis, *axes.get_ylim()))
                axes.set_xlim(_wide_enough(axes.xaxis, *axes.get_xlim()))
        for width in widths:
            grid[0][0].plot([], [], "o", color=colour[width], label=f"SF{width}")
        for kind in kinds if len(kinds) > 1 else ():
            grid[0][0].plot([], [], _marker(kind), color=GREY, label=f"multiplier {kind}")
        figure.legend(loc="outside upper left", ncols=8, fontsize=8)

    return draw(4.6 * len(panels), _LEGEND + _HEIGHT * len(boards), paint, format)


def _time(one: Outcome, timed: bool) -> float | None:
    assert one.figures is not None
    return one.figures.milliseconds if timed else one.figures.cycles


def _marker(multiplier: str) -> str:
    return MARKERS.get(multiplier, MARKERS[""])


def _panel(
    axes: Axes,
    mine: Sequence[Outcome],
    best: Sequence[Outcome],
    value: Callable[[Outcome], float | None],
    colour: dict[int, str],
) -> None:
    """Points of one board."""
    chosen = {id(one) for one in best}
    for one in mine:
        config, height = one.point.config, value(one)
        if one.figures is not None and height is not None:
            look: dict[str, Any] = {"alpha": 1.0 if id(one) in chosen else 0.25, "markersize": 5}
            look["color"] = colour[config.bits]
            axes.plot(one.figures.luts, height, _marker(config.multiplier), **look)
    axes.set_xscale("log")
    axes.margins(0.08, 0.12)
    _plain(axes.xaxis)


def _name_arrays(
    axes: Axes, mine: Sequence[Outcome], value: Callable[[Outcome], float | None]
) -> None:
    """A line through the points of each array, its name at the smallest."""
    arrays: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for one in mine:
        height = value(one)
        if one.figures is not None and height is not None:
            sides = one.point.config.rows, one.point.config.columns
            arrays.setdefault(sides, []).append((one.figures.luts, height))
    for (rows, columns), places in arrays.items() if len(arrays) <= NAMED else ():
        places.sort()
        axes.plot(*zip(*places, strict=True), color=GRID, linewidth=0.8, zorder=0)
        axes.annotate(
            f"{rows} x {columns}",
            places[0],
            xytext=(-4, 5),
            textcoords="offset points",
            fontsize=7,
        )


def _wide_enough(axis: Any, low: float, high: float) -> tuple[float, float]:
    """Ends of a logarithmic axis, LEAST apart at least: no trifle is drawn as a difference."""
    from matplotlib.ticker import MaxNLocator

    if high / low < _FEW_TICKS:  # no two of 1, 2 and 5 times powers of ten in it, for sure
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    spare = math.sqrt(max(1.0, LEAST * low / high))
    return low / spare, high * spare


def _plain(axis: Any) -> None:
    """Numbers as people write them, at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.10g}"))
    axis.set_minor_formatter(NullFormatter())
