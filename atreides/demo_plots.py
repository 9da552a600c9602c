"""Pictures of the demo's report: curves of training, confusions, distributions of values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from atreides.plots import BLUE, GREEN, GREY, ORANGE, draw
from sw.format import SFx

#: Bars of a histogram.
BINS: Final = 48


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """Values before and after rounding, in units of their scale: the format covers -1 to 1.

    Parameters
    ----------
    name : str
    floats, rounded : array of float
    """

    name: str
    floats: NDArray[np.float64]
    rounded: NDArray[np.float64]


def training_curves(
    losses: Sequence[float], accuracies: Sequence[float], healing: Sequence[float], healed: str
) -> bytes:
    """Loss and test accuracy of each epoch in float32, then the loss of healing.

    Parameters
    ----------
    losses, accuracies : sequence of float
        Accuracies 0 to 1.
    healing : sequence of float
    healed : str
        The format that is healed.
    """

    def paint(figure: Figure) -> None:
        loss, accuracy, heal = figure.subplots(1, 3)
        _curve(loss, losses, BLUE, "float32: loss", "cross entropy")
        loss.set_yscale("log")
        errors = [100 * (1 - value) for value in accuracies]
        _curve(accuracy, errors, GREEN, "float32: errors in the test", "% wrong")
        accuracy.set_ylim(0, max(10.0, min(30.0, max(errors, default=0.0))))
        _curve(heal, healing, ORANGE, f"healing at {healed}: loss", "distillation loss")

    return draw(9.6, 2.9, paint, "svg")


def confusions(labels: NDArray[np.int64], found: NDArray[np.int64], classes: int) -> bytes:
    """How often each digit was taken for each other."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, found), 1)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for row, column in np.ndindex(counts.shape):
            count = int(counts[row, column])
            colour = GREEN if row == column else ORANGE
            strength = 0.0 if not count else 0.25 if row == column else 0.45
            patch = (column - 0.5, row - 0.5)
            axes.add_patch(_square(patch, colour, strength))
            told = str(count) if count else "·"
            weight = "bold" if count and row != column else "normal"
            axes.text(column, row, told, ha="center", va="center", fontsize=8, fontweight=weight)
        axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
        axes.set(xlabel="found by the array", ylabel="digit")
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
        axes.grid(visible=False)

    return draw(4.6, 4.4, paint, "svg")


def bin_edges(entry: Distribution, fraction_bits: int) -> NDArray[np.float64]:
    """Edges between bars that each hold equally many words: else rounding would look like teeth."""
    both = np.concatenate([entry.floats, entry.rounded]).clip(-1.0, 1.0)
    low, high = (np.rint(end * (1 << fraction_bits)) for end in (both.min(), both.max()))
    bars = min(BINS, max(8, int(np.sqrt(entry.rounded.size))))
    width = max(1, -(-int(high - low + 1) // bars))
    count = -(-int(high - low + 1) // width)
    edges: NDArray[np.float64] = low - 0.5 + width * np.arange(count + 1)
    return edges / (1 << fraction_bits)


def distributions(entries: Sequence[Distribution], format: SFx) -> bytes:
    """A histogram per layer: floats as an area, words as a line.

    Parameters
    ----------
    entries : sequence of Distribution
    format : SFx
    """
    columns = 3
    rows = max(1, -(-len(entries) // columns))

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(entries) :]:
            axes.axis("off")
        for number, (axes, entry) in enumerate(zip(grid.flat, entries, strict=False)):
            edges = bin_edges(entry, format.fraction_bits)
            floats, rounded = (
                np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / max(1, values.size)
                for values in (entry.floats, entry.rounded)
            )
            axes.stairs(floats, edges, fill=True, color=BLUE, alpha=0.35, label="float32")
            axes.stairs(rounded, edges, color=ORANGE, linewidth=1.1, label=str(format))
            axes.set_yscale("log")
            axes.set_title(entry.name)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.tick_params(labelsize=7.5)
            if not number:
                axes.legend(fontsize=7.5)
        for axes in grid[-1]:
            axes.set_xlabel("value / scale", fontsize=8)

    return draw(9.6, 0.5 + 2.1 * rows, paint, "svg")


def widths(
    bits: Sequence[int], vanilla: Sequence[float], healed: Sequence[float], float32: float
) -> bytes:
    """Accuracy by width of the words, rounded and healed.

    Parameters
    ----------
    bits : sequence of int
    vanilla, healed : sequence of float
        0 to 1, one per width.
    float32 : float
    """

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axhline(100 * float32, color=GREY, linewidth=1.0, linestyle="--")
        axes.plot(bits, [100 * v for v in vanilla], "o-", color=BLUE, label="rounded")
        axes.plot(bits, [100 * v for v in healed], "s-", color=ORANGE, label="healed")
        axes.text(max(bits), 100 * float32, "float32 ", ha="right", va="bottom", color=GREY)
        axes.set_xticks(list(bits), [f"SF{b}" for b in bits])
        least = 100 * min(*vanilla, *healed, float32)
        axes.set(ylabel="% correct", ylim=(10 * (least // 10) - 2, 102))
        axes.legend(loc="lower right")

    return draw(4.6, 3.4, paint, "svg")


def _curve(axes: Axes, values: Sequence[float], colour: str, title: str, unit: str) -> None:
    marker = "o" if len(values) < 3 else ""
    axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=1.6, marker=marker)
    axes.set(xlabel="epoch", ylabel=unit)
    axes.set_title(title)


def _square(corner: tuple[float, float], colour: str, strength: float) -> Rectangle:
    return Rectangle(corner, 1, 1, facecolor=colour, alpha=strength, edgecolor="none")
