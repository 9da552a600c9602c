"""Pictures of reports: small functions from figures to SVG or PNG bytes, the same every time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

FORMATS: Final = ("png", "svg")
INK, FAINT = "#222222", "#d9d9d9"
#: Colours that stay apart for all eyes: Okabe and Ito, https://jfly.uni-koeln.de/color/.
BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = (
    *("#0072b2", "#d55e00", "#009e73"),
    *("#cc79a7", "#56b4e9", "#777777"),
)
#: How layers of each kind are drawn; other kinds as the last.
KINDS: Final[dict[str, tuple[str, str]]] = {
    "convolution": (BLUE, "o"),
    "linear": (GREEN, "s"),
    "matmul": (PURPLE, "^"),
    "depthwise convolution": (ORANGE, "D"),
    "grouped convolution": (SKY, "D"),
    "addition": (GREY, "P"),
    "average pooling": (INK, "v"),
}
#: Layers that are named in a picture; more would be unreadable.
NAMED: Final = 24
STYLE: Final[dict[str, Any]] = {
    "svg.hashsalt": "atreides",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


@dataclass(frozen=True, slots=True)
class Dot:
    """A layer in a roofline.

    Parameters
    ----------
    name, kind : str
    intensity : float
        Multiply-accumulates per byte; layers of which it is 0 are left out.
    rate : float
        Multiply-accumulates per second.
    weight : float
        The most important are named: cycles.
    """

    name: str
    kind: str
    intensity: float
    rate: float
    weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A layer in a bar chart.

    Parameters
    ----------
    name, kind : str
    cycles : int
    utilisation : float
        0 to 1.
    """

    name: str
    kind: str
    cycles: int
    utilisation: float


@dataclass(frozen=True, slots=True)
class Choice:
    """A machine in a comparison.

    Parameters
    ----------
    label, group : str
        Lines join the best of a group.
    cost, cycles : float
    best : bool
        Whether it is on the front.
    """

    label: str
    group: str
    cost: float
    cycles: float
    best: bool


def draw(width: float, height: float, paint: Callable[[Figure], None], format: str) -> bytes:
    """The bytes of a picture in this code's style.

    Parameters
    ----------
    width, height : float
        Inches.
    paint : callable
        Puts axes on the figure.
    format : {"png", "svg"}

    Raises
    ------
    ValueError
        For another format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        paint(figure)
        made = io.BytesIO()
        nothing = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
        figure.savefig(made, format=format, metadata=nothing)
    return made.getvalue()


def roofline(
    title: str,
    dots: Sequence[Dot],
    peak: float,
    bandwidths: Mapping[str, float],
    format: str = "svg",
) -> bytes:
    """Layers under the roofs of arithmetic and of bandwidths, log-log.

    Parameters
    ----------
    title : str
    dots : sequence of Dot
    peak : float
        Multiply-accumulates per second of the whole array.
    bandwidths : mapping of str to float
        Bytes per second by name.
    format : {"png", "svg"}
    """
    shown = [dot for dot in dots if dot.intensity > 0 and dot.rate > 0]
    important = sorted(range(len(shown)), key=lambda i: -shown[i].weight)[:NAMED]
    numbers = {i: number for number, i in enumerate(sorted(important), 1)}

    def paint(figure: Figure) -> None:
        axes, names = figure.subplots(1, 2, width_ratios=(3, 1))
        knees = [peak / bandwidth for bandwidth in bandwidths.values()]
        low = min([dot.intensity for dot in shown] + knees, default=1.0) / 4
        high = max([dot.intensity for dot in shown] + knees, default=1.0) * 4
        lowest = min([dot.rate for dot in shown], default=peak / 100)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(lowest / 3, peak * 2))
        axes.set(
            xlabel="multiply-accumulates per byte of operands and result",
            ylabel="multiply-accumulates per second",
        )
        axes.set_title(title)
        _roofs(axes, peak, bandwidths, low, high)
        for dot in shown:
            colour, marker = KINDS.get(dot.kind, (GREY, "o"))
            axes.plot(dot.intensity, dot.rate, marker, color=colour, markersize=6, alpha=0.85)
        _numbers(axes, shown, numbers)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(10, numticks=12))
            axis.set_major_formatter(FuncFormatter(_short))
            axis.set_minor_formatter(NullFormatter())
        _list(names, shown, numbers)

    return draw(9.6, 5.0, paint, format)


def cycle_bars(title: str, bars: Sequence[Bar], format: str = "svg") -> bytes:
    """Cycles per layer, the part that did needed products filled, its share in words.

    Parameters
    ----------
    title : str
    bars : sequence of Bar
        The first at the top.
    format : {"png", "svg"}
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(bars))
        for place, bar in zip(places, bars, strict=True):
            colour = KINDS.get(bar.kind, (GREY, ""))[0]
            axes.barh(place, bar.cycles, color=colour, alpha=0.25, height=0.72)
            axes.barh(place, bar.cycles * bar.utilisation, color=colour, height=0.72)
            told = f" {bar.utilisation:.0%}" if bar.utilisation else ""
            axes.text(bar.cycles, place, told, va="center", fontsize=8)
        axes.set_yticks(list(places), [_clip(bar.name) for bar in bars])
        axes.set(ylim=(len(bars) - 0.4, -0.6), xlabel="cycles; filled: at the array's peak rate")
        axes.set_xlim(0, 1.08 * max((bar.cycles for bar in bars), default=1))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
        columns = len({bar.kind for bar in bars})
        where = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": columns}
        _kinds(axes, [bar.kind for bar in bars], "s", columnspacing=1.0, **where)

    return draw(8.0, 1.3 + 0.23 * max(4, len(bars)), paint, format)


def pareto(title: str, choices: Sequence[Choice], cost: str, format: str = "svg") -> bytes:
    """Machines by cost and cycles, log-log, with a line per group through those that none beats.

    Parameters
    ----------
    title : str
    choices : sequence of Choice
    cost : str
        What the cost is, with its unit.
    format : {"png", "svg"}
    """
    groups = dict.fromkeys(choice.group for choice in choices)
    colours = dict(
        zip(groups, (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY) * len(groups), strict=False)
    )

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for group, colour in colours.items():
            mine = [choice for choice in choices if choice.group == group]
            rest = [choice for choice in mine if not choice.best]
            best = sorted((c for c in mine if c.best), key=lambda c: (c.cost, -c.cycles))
            axes.plot(
                [c.cost for c in rest], [c.cycles for c in rest], "o", color=colour, alpha=0.3
            )
            line = [c.cost for c in best], [c.cycles for c in best]
            axes.plot(*line, "o-", color=colour, linewidth=1.0, label=group)
            for choice in _apart(best):
                place = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 7.5}
                axes.annotate(choice.label, (choice.cost, choice.cycles), **place)
        axes.set(xscale="log", yscale="log", xlabel=cost, ylabel="cycles per inference")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_short))
            axis.set_minor_formatter(FuncFormatter(_sparse))
            axis.set_tick_params(which="both", labelsize=8)
        axes.margins(0.14, 0.1)
        axes.set_title(title)
        if len(groups) > 1:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(groups))

    return draw(8.0, 5.0, paint, format)


def _apart(choices: Sequence[Choice]) -> list[Choice]:
    """Those whose names have room: none close to one that is named."""
    found: list[Choice] = []
    for choice in choices:
        near = (
            0.87 < choice.cycles / other.cycles < 1.15 and 0.6 < choice.cost / other.cost < 1.6
            for other in found
        )
        if not any(near):
            found.append(choice)
    return found


def _roofs(
    axes: Axes, peak: float, bandwidths: Mapping[str, float], low: float, high: float
) -> None:
    start = min((peak / bandwidth for bandwidth in bandwidths.values()), default=low)
    axes.plot([start, high], [peak, peak], color=INK, linewidth=1.4)
    axes.text(high, peak * 1.12, f"array: {_short(peak)} per second ", ha="right", va="bottom")
    for name, bandwidth in bandwidths.items():
        knee = peak / bandwidth
        axes.plot([low, knee], [low * bandwidth, peak], color=INK, linewidth=1.4)
        axes.annotate(
            f"{name}: {_short(bandwidth)}B/s",
            (knee, peak),
            xytext=(-6, -4),
            textcoords="offset points",
            rotation=0,
            ha="right",
            va="bottom",
        )


def _numbers(axes: Axes, dots: Sequence[Dot], numbers: Mapping[int, int]) -> None:
    """Numbers beside the dots, those that lie together on one label."""
    axes.figure.canvas.draw()
    groups: list[tuple[float, float, list[int]]] = []
    for index, number in numbers.items():
        x, y = axes.transData.transform((dots[index].intensity, dots[index].rate))
        for place, (gx, gy, members) in enumerate(groups):
            if abs(x - gx) < 34 and abs(y - gy) < 9:
                groups[place] = max(x, gx), min(y, gy), [*members, number]
                break
        else:
            groups.append((x, y, [number]))
    for x, y, members in groups:
        point = axes.transData.inverted().transform((x, y))
        axes.annotate(
            _ranges(members),
            point,
            xytext=(5, -10),
            textcoords="offset points",
            fontsize=7.5,
        )


def _list(axes: Axes, dots: Sequence[Dot], numbers: Mapping[int, int]) -> None:
    """The names of the numbered layers, and what the marks mean."""
    axes.axis("off")
    for line, (index, number) in enumerate(numbers.items()):
        colour = KINDS.get(dots[index].kind, (GREY, "o"))[0]
        place = 1.0 - 0.034 * line
        axes.text(0.0, place, str(number), color=colour, fontsize=7.5, ha="right", va="top")
        axes.text(0.05, place, _clip(dots[index].name, 24), fontsize=7.5, va="top")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    _kinds(axes, [dot.kind for dot in dots], None, loc="lower left")


def _kinds(axes: Axes, kinds: Sequence[str], marker: str | None, **where: Any) -> None:
    """A legend of the kinds that there are, if there are several."""
    shown = dict.fromkeys(kinds)
    if len(shown) < 2:
        return
    for kind in shown:
        colour, own = KINDS.get(kind, (GREY, "o"))
        axes.plot([], [], marker or own, color=colour, label=kind)
    axes.legend(fontsize=7.5, handletextpad=0.2, **where)


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 as 1-3, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def _short(value: float, _: object = None) -> str:
    """1500000 as 1.5 M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g} " if value else "0"


def _sparse(value: float, _: object = None) -> str:
    """As ``_short``, but only 2 and 5 of each decade."""
    digit = f"{value:.0e}"[0]
    return _short(value) if digit in "25" else ""


def _clip(name: str, length: int = 32) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]
