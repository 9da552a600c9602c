"""Pictures of ``atreides ppa``: area against delay, and what is saved beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from atreides.plots import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, draw

Row = dict[str, Any]
#: Colour and mark of each kind of unit.
KINDS: Final = {
    "float": (PURPLE, "D"),
    "integer": (ORANGE, "s"),
    "superfloat": (BLUE, "o"),
    "superfloat split": (GREEN, "o"),
    "superfloat packed": (SKY, "^"),
    "multiplier": (INK, "v"),
    "unit": (BLUE, "o"),
}
#: Savings in bars: their key, the key of the published one, what they are.
SAVINGS: Final = (
    ("saved", "published", "area"),
    ("power_saved", "power_published", "power"),
)


def picture(title: str, rows: Sequence[Row], format: str) -> bytes:
    """Units by area and delay, and where binary32 is among them the savings as stacked bars.

    Parameters
    ----------
    title : str
    rows : sequence of dict
        Of ``atreides.ppa_measure``.
    format : {"png", "svg"}
    """
    shown = [entry for entry in SAVINGS if any(entry[1] in row for row in rows)]

    def paint(figure: Figure) -> None:
        widths = [3.2, *(2.4 for _ in shown)]
        panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        _scatter(panels[0], rows)
        panels[0].set_title(title)
        for axes, (key, published, name) in zip(panels[1:], shown, strict=True):
            _bars(axes, [row for row in rows if published in row], key, published, name)

    return draw(5.2 + 3.8 * len(shown), 4.2, paint, format)


def _scatter(axes: Axes, rows: Sequence[Row]) -> None:
    area = "um2" if any("um2" in row for row in rows) else "lut"
    points = [(row, row[area], _delay(row)) for row in rows]
    known = [(row, x, y) for row, x, y in points if y is not None]
    for kind, (colour, marker) in KINDS.items():
        mine = [(x, y) for row, x, y in known if row["kind"] == kind]
        if mine:
            axes.plot(*zip(*mine, strict=True), marker, color=colour, label=kind, markersize=6)
    for row, x, y in known:
        place = {"xytext": (5, 3), "textcoords": "offset points", "fontsize": 7}
        axes.annotate(row["unit"], (x, y), **place)
    if not known:  # an FPGA without placement
        axes.text(0.5, 0.5, "no delay without --place", ha="center", transform=axes.transAxes)
        return
    axes.set(xscale="log", yscale="log", ylabel="longest path, ns")
    axes.set_xlabel("area, µm²" if area == "um2" else "look-up tables")
    axes.margins(0.16, 0.12)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_plain))
        axis.set_minor_formatter(FuncFormatter(_sparse))
        axis.set_tick_params(which="minor", labelsize=7.5)
    axes.legend(fontsize=7.5, loc="lower right")


def _delay(row: Row) -> float | None:
    if "ns" in row:
        return float(row["ns"])
    return 1000 / row["mhz"] if "mhz" in row else None


def _bars(axes: Axes, rows: Sequence[Row], key: str, published: str, name: str) -> None:
    """A bar of 100 % per unit: what it needs and what it saves; the published one beside it."""
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        for offset, share, colour in (
            (-0.2, row[key], KINDS[row["kind"]][0]),
            (0.2, row[published], GREY),
        ):
            axes.bar(place + offset, 100 - share, width=0.36, color=colour)
            axes.bar(place + offset, share, bottom=100 - share, width=0.36, color=colour, alpha=0.2)
            axes.text(
                place + offset,
                100 - share / 2,
                f"{share:.1f}",
                ha="center",
                va="center",
                fontsize=7,
            )
    axes.set_xticks(list(places), [row["unit"] for row in rows], rotation=30, ha="right")
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set(ylim=(0, 100), ylabel="per cent of binary32; filled: needed")
    axes.grid(visible=False, axis="x")
    axes.set_title(f"{name} saved; grey: published")


def _plain(value: float, _: object = None) -> str:
    return f"{value:,g}"


def _sparse(value: float, _: object = None) -> str:
    """As it is, but only 2 and 5 of each decade."""
    return _plain(value) if f"{value:.0e}"[0] in "25" else ""
