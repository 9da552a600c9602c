"""Pictures of quantized models and of studies, from rows of plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from atreides.plots import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, draw

COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, GREY, "#e69f00", "#882255")
MARKS: Final = "osD^vP*X"
LINES: Final = {"packed": "-", "masked": "--", "padded": ":"}
#: Layers that a ranking names.
NAMED: Final = 30
#: Percent above the float network below which rows are drawn alike.
LEAST: Final = 0.01

Row = Mapping[str, Any]


def distributions(rows: Sequence[Row], format: str = "svg") -> bytes:
    """Shares of parameters by power of two, one curve per network, with the limits of formats."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, row in enumerate(rows):
            lowest, counts = row["histogram"]["lowest"], row["histogram"]["counts"]
            shares = [100 * count / row["values"] for count in counts]
            powers = [lowest + place for place in range(len(counts))]
            name = row["model"] + (", fused" if row["form"] == "fused" else "")
            axes.plot(powers, shares, drawstyle="steps-post", label=name, **_look(number))
        for bits in (4, 8, 16):
            _limit(axes, 1 - bits, f"ulp of SF{bits}")
        _limit(axes, 0, "1")
        axes.set(xlim=(-22, 6), ylim=(0, None), xlabel="power of two of the magnitude")
        axes.set_ylabel("percent of parameters")
        axes.legend(fontsize=7.5, loc="upper left")

    return draw(8.0, 3.8, paint, format)


def deviations(row: Row, format: str = "svg") -> bytes:
    """Layers by the deviation of their mean magnitude, coloured by cluster."""
    shown = row["layers"][:NAMED]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(shown))
        colours = [COLOURS[layer["cluster"] % len(COLOURS)] for layer in shown]
        axes.barh(places, [100 * layer["deviation"] for layer in shown], color=colours, height=0.7)
        axes.set_yticks(places, [_clip(layer["layer"]) for layer in shown], fontsize=7.5)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("deviation of the mean magnitude, percent")
        for cluster in sorted({layer["cluster"] for layer in shown}):
            axes.barh(0, 0, color=COLOURS[cluster % len(COLOURS)], label=f"cluster {cluster + 1}")
        axes.legend(fontsize=7.5, loc="lower right")
        axes.margins(y=0.01)

    return draw(8.0, 1.0 + 0.19 * max(4, len(shown)), paint, format)


def spreads(row: Row, format: str = "svg") -> bytes:
    """Mean magnitudes of neurons by layer: median, 5 to 95 %, largest; float and quantized."""
    layers = sorted(row["layers"], key=lambda layer: int(layer["number"]))

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        numbers = [layer["number"] for layer in layers]

        def part(name: str, place: int) -> list[float]:
            return [max(layer[name][place], 1e-6) for layer in layers]

        low, high = part("neurons", 1), part("neurons", 5)
        axes.fill_between(numbers, low, high, color=SKY, alpha=0.35, label="float, 5 to 95 %")
        axes.plot(numbers, part("neurons", 3), color=BLUE, label="float, median")
        axes.plot(numbers, part("neurons", 6), color=BLUE, linestyle=":", label="float, largest")
        axes.plot(
            *(numbers, part("quantized_neurons", 3)),
            **{"color": ORANGE, "linestyle": "--", "label": "quantized, median"},
        )
        axes.plot(
            *(numbers, part("quantized_neurons", 6), "."),
            **{"color": ORANGE, "markersize": 3, "label": "quantized, largest"},
        )
        axes.set(yscale="log", xlabel="layer, in the order of the network")
        axes.set_ylabel("mean magnitude of a neuron")
        axes.legend(fontsize=7.5, ncols=5, loc="lower left", bbox_to_anchor=(0, 1))

    return draw(8.0, 3.4, paint, format)


def formats(rows: Sequence[Row], format: str = "svg") -> bytes:
    """Signal to noise of weights and activations, and perplexity, by format and scale."""
    panels = (
        ("weights", "sqnr_db", "weights, dB"),
        ("activations", "sqnr_db", "activations, dB"),
        ("perplexity", "perplexity", "perplexity"),
    )
    named = [row for row in rows if row["format"] != "float32"]
    names = list(dict.fromkeys((row["format"], row["scale"]) for row in named))
    floats = [row["perplexity"] for row in rows if row["format"] == "float32"]

    def paint(figure: Figure) -> None:
        several = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1))
        for axes, (part, figure_name, title) in zip(several, panels, strict=True):
            for row in named:
                if row["part"] != part:
                    continue
                colour = BLUE if row["format"].startswith("sf") else ORANGE
                colour = GREEN if row["format"].startswith("int") else colour
                place = names.index((row["format"], row["scale"]))
                axes.plot(row[figure_name], place, "o", color=colour, markersize=5)
            axes.set_title(title)
            if part == "perplexity":
                _perplexities(axes, "x", [r["perplexity"] for r in named if r["part"] == part])
                if floats:
                    axes.axvline(floats[0], color=INK, linewidth=0.8, linestyle=":")
        scales = {"none": "no scale", "block": "per 32-block"}
        labels = [f"{name}, {scales.get(scale, 'per ' + scale)}" for name, scale in names]
        several[0].set_yticks(range(len(names)), labels, fontsize=7.5)
        several[0].invert_yaxis()

    return draw(8.0, 1.0 + 0.2 * max(4, len(names)), paint, format)


def scaling(rows: Sequence[Row], law: Any = None, format: str = "svg") -> bytes:
    """Perplexity by context: a panel per width, a colour per size, a line style per padding.

    Parameters
    ----------
    rows : sequence of mapping
    law : callable, optional
        From size, context and bits to perplexity; drawn thinly.
    format : {"png", "svg"}
    """
    widths = sorted({row["bits"] for row in rows})
    sizes = sorted({row["size"] for row in rows})
    modes = [mode for mode in LINES if any(row["mode"] == mode for row in rows)]

    def paint(figure: Figure) -> None:
        grid = figure.subplots(1, len(widths), sharey=True, squeeze=False)[0]
        for axes, bits in zip(grid, widths, strict=True):
            for number, size in enumerate(sizes):
                colour = COLOURS[number % len(COLOURS)]
                for mode in modes:
                    mine = [
                        r for r in rows if (r["bits"], r["size"], r["mode"]) == (bits, size, mode)
                    ]
                    mine.sort(key=lambda row: int(row["context"]))
                    points = [r["context"] for r in mine], [r["perplexity"] for r in mine]
                    axes.plot(*points, LINES[mode], color=colour, marker=".", linewidth=1.2)
                if law is not None:
                    contexts = sorted({row["context"] for row in rows})
                    told = [law(size, context, bits) for context in contexts]
                    axes.plot(contexts, told, color=colour, linewidth=3, alpha=0.25)
            axes.set_xscale("log", base=2)
            axes.set(title=f"SF{bits}", xlabel="context, tokens")
        _perplexities(grid[0], "y", [row["perplexity"] for row in rows])
        grid[0].set_ylabel("perplexity")
        for number, size in enumerate(sizes):
            grid[-1].plot([], [], color=COLOURS[number % len(COLOURS)], label=f"{size / 1e6:.2g} M")
        for mode in modes:
            grid[-1].plot([], [], LINES[mode], color=INK, label=mode)
        if law is not None:
            grid[-1].plot([], [], color=INK, linewidth=3, alpha=0.25, label="law")
        figure.legend(loc="outside upper center", ncols=8, fontsize=8)

    return draw(8.0, 4.0, paint, format)


def by_bits(rows: Sequence[Row], reference: float | None = None, format: str = "svg") -> bytes:
    """Perplexity by bits of weights, a line per method, with 95 % intervals.

    Parameters
    ----------
    rows : sequence of mapping
        With ``method``, ``bits``, ``perplexity`` and ``interval`` (or None).
    reference : float, optional
        The float network's perplexity; then a second panel has what is above it.
    format : {"png", "svg"}
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))

    def paint(figure: Figure) -> None:
        panels = figure.subplots(1, 1 if reference is None else 2, squeeze=False)[0]
        for number, method in enumerate(methods):
            mine = _chosen(rows, "bits", method=method)
            places = [row["bits"] + 0.04 * number for row in mine]
            errors = [list(side) for side in zip(*map(_reach, mine), strict=True)]
            look = {"marker": MARKS[number % len(MARKS)], "markersize": 4, **_look(number)}
            values = [row["perplexity"] for row in mine]
            panels[0].errorbar(places, values, errors, capsize=2, label=method, **look)
            if reference is not None:
                panels[1].plot(places, [_above(row, reference) for row in mine], **look)
        _reference(panels[0], reference)
        _perplexities(panels[0], "y", [row["perplexity"] for row in rows])
        panels[0].set(xlabel="bits per weight", ylabel="perplexity")
        if reference is not None:
            _above_axis(panels[1])
            panels[1].set_xlabel("bits per weight")
        figure.legend(loc="outside upper left", ncols=4, fontsize=8, columnspacing=1.2)

    return draw(8.0, 4.0 + 0.17 * (len(methods) // 4), paint, format)


def by_seconds(rows: Sequence[Row], reference: float | None = None, format: str = "svg") -> bytes:
    """Perplexity against the seconds that methods took, log-log."""
    return _scatter(rows, "seconds", "seconds", reference, format, named=True)


def front(rows: Sequence[Row], reference: float | None = None, format: str = "svg") -> bytes:
    """Perplexity against effective bits, and the line through what nothing beats."""
    return _scatter(
        *(rows, "effective_bits", "bits per weight, scales included", reference, format),
        best=pareto(rows),
    )


def _scatter(
    rows: Sequence[Row],
    name: str,
    told: str,
    reference: float | None,
    format: str,
    best: Sequence[Row] = (),
    named: bool = False,
) -> bytes:
    """Perplexity, or what is above the float network's, against another figure."""
    methods = list(dict.fromkeys(row["method"] for row in rows))

    def height(row: Row) -> float:
        return float(row["perplexity"]) if reference is None else _above(row, reference)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        line = [row[name] for row in best], [height(row) for row in best]
        axes.plot(*line, color=GREY, linewidth=1.4, drawstyle="steps-post", zorder=1)
        for number, method in enumerate(methods):
            mine = _chosen(rows, name, method=method)
            axes.plot(
                *([row[name] for row in mine], [height(row) for row in mine]),
                MARKS[number % len(MARKS)],
                **{"markersize": 5, "label": method, "color": COLOURS[number % len(COLOURS)]},
            )
            for row in mine if named else ():
                place = {"xytext": (5, 3), "textcoords": "offset points", "fontsize": 7.5}
                axes.annotate(f"{row['bits']:g}", (row[name], height(row)), **place)
        if named:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel(told)
        if reference is None:
            _perplexities(axes, "y", [row["perplexity"] for row in rows])
            axes.set_ylabel("perplexity")
        else:
            _above_axis(axes)
        figure.legend(loc="outside upper left", ncols=4, fontsize=8, columnspacing=1.2)

    return draw(8.0, 4.0 + 0.17 * (len(methods) // 4), paint, format)


def pareto(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in both effective bits and perplexity, by bits."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda r: (r["effective_bits"], r["perplexity"])):
        if not found or row["perplexity"] < found[-1]["perplexity"]:
            found.append(row)
    return found


def _chosen(rows: Sequence[Row], order: str, **fields: Any) -> list[Row]:
    """Rows with these fields, sorted by another."""
    found = [row for row in rows if all(row[name] == value for name, value in fields.items())]
    return sorted(found, key=lambda row: float(row[order]))


def _perplexities(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers, few or many of them as the range asks for."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    known = [value for value in values if value > 0]
    wide = bool(known) and max(known) / min(known) > 3
    subs = (1.0, 2.0, 5.0) if wide else (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    if known and max(known) / min(known) < 1.6:
        (axes.set_xscale if which == "x" else axes.set_yscale)("linear")
        return
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _reference(axes: Axes, value: float | None) -> None:
    if value is not None:
        axes.axhline(value, color=INK, linewidth=0.9, linestyle=":", label="float32")


def _above(row: Row, reference: float) -> float:
    """Percent above the float network, at least the least that is drawn."""
    return max(LEAST, 100 * (row["perplexity"] / reference - 1))


def _above_axis(axes: Axes) -> None:
    axes.set(yscale="log", ylabel=f"percent above float32, at least {LEAST:g}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _limit(axes: Axes, power: float, name: str) -> None:
    axes.axvline(power, color=INK, linewidth=0.8, linestyle=":")
    where = {"xytext": (2, -2), "textcoords": "offset points", "fontsize": 7, "va": "top"}
    axes.annotate(name, (power, 1), xycoords=("data", "axes fraction"), **where)


def _reach(row: Row) -> tuple[float, float]:
    """How far an interval reaches below and above."""
    interval = row.get("interval")
    if not interval:
        return 0.0, 0.0
    value = row["perplexity"]
    return max(0.0, value - interval[0]), max(0.0, interval[1] - value)


def _look(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linewidth": 1.4,
        "linestyle": "-" if number < len(COLOURS) else "--",
    }


def _clip(name: str, length: int = 34) -> str:
    return name if len(name) <= length else "…" + name[1 - length :]
