"""Pictures: the same bytes every time, all that is said in them, and nothing over another."""

from __future__ import annotations

import re

import pytest
from matplotlib.text import Text

from atreides import plots
from atreides.plots import Bar, Choice, Dot

DOTS = [
    Dot("conv", "convolution", 3.0, 2.9e9, 5),
    Dot("depth", "depthwise convolution", 0.3, 2e8, 4),
    Dot("fc", "linear", 0.8, 3e8, 1),
    Dot("nothing", "addition", 0.0, 0.0),
]
BARS = [Bar("conv", "convolution", 4000, 0.9), Bar("add", "addition", 100, 0.0)]
CHOICES = [
    Choice("4 x 4", "SF8", 1400, 8e5, best=True),
    Choice("8 x 8", "SF8", 5700, 2e5, best=True),
    Choice("2 x 8", "SF8", 1500, 9e5, best=False),
    Choice("8 x 8", "SF16", 20000, 2e5, best=True),
]
PICTURES = {
    "roofline": lambda kind: plots.roofline("Net", DOTS, 3.2e9, {"tile memory": 1.6e9}, kind),
    "bars": lambda kind: plots.cycle_bars("Net", BARS, kind),
    "pareto": lambda kind: plots.pareto("Net", CHOICES, "slots", kind),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_the_same_bytes_every_time_and_carry_no_date(name: str) -> None:
    first = PICTURES[name]("svg")
    assert first == PICTURES[name]("svg")
    assert first.lstrip().startswith(b"<?xml")
    assert not re.search(rb"<dc:date|\d{4}-\d\d-\d\d", first)
    image = PICTURES[name]("png")
    assert image == PICTURES[name]("png")
    assert image.startswith(b"\x89PNG")


def test_other_formats_are_refused() -> None:
    with pytest.raises(ValueError, match="format must be one of png, svg, not 'pdf'"):
        plots.cycle_bars("x", BARS, "pdf")


def texts(monkeypatch: pytest.MonkeyPatch, make: object) -> list[Text]:
    """The texts of a picture, laid out."""
    found: list[Text] = []
    draw = plots.draw

    def spy(width: float, height: float, paint: object, format: str) -> bytes:
        def painted(figure: object) -> None:
            paint(figure)  # type: ignore[operator]
            figure.canvas.draw()  # type: ignore[attr-defined]
            found.extend(t for t in figure.findobj(Text) if t.get_text() and t.get_visible())  # type: ignore[attr-defined]

        return draw(width, height, painted, format)

    monkeypatch.setattr(plots, "draw", spy)
    make("png")  # type: ignore[operator]
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_axes_are_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    told = {text.get_text() for text in texts(monkeypatch, PICTURES[name])}
    wanted = {
        "roofline": {
            "multiply-accumulates per byte of operands and result",
            "multiply-accumulates per second",
        },
        "bars": {"cycles; filled: at the array's peak rate", " 90%"},
        "pareto": {"slots", "cycles per inference", "4 x 4", "8 x 8"},
    }
    assert wanted[name] <= told
    assert "Net" in told


def test_layers_that_lie_together_share_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    dots = [Dot(f"layer{i}", "convolution", 3.0, 2.9e9, 1) for i in range(4)]
    dots.append(Dot("far", "linear", 0.1, 1e8, 1))

    def make(kind: str) -> bytes:
        return plots.roofline("Net", dots, 3.2e9, {"tile memory": 1.6e9}, kind)

    told = [text.get_text() for text in texts(monkeypatch, make)]
    assert "1-4" in told
    assert told.count("5") == 2  # at the dot and in the list
    assert {"layer0", "layer3", "far"} <= set(told)


def test_only_the_heaviest_layers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    dots = [Dot(f"layer{i}", "convolution", 1.0 + i, 1e9 + i, i) for i in range(40)]

    def make(kind: str) -> bytes:
        return plots.roofline("Net", dots, 3.2e9, {"tile memory": 1.6e9}, kind)

    told = {text.get_text() for text in texts(monkeypatch, make)}
    assert "layer39" in told
    assert "layer3" not in told


def test_pictures_of_nothing_are_drawn() -> None:
    assert plots.roofline("Net", [], 1e9, {"tile memory": 1e9}, "svg")
    assert plots.cycle_bars("Net", [], "svg")
    assert plots.pareto("Net", [], "slots", "svg")


def test_numbers_are_written_short() -> None:
    written = [plots._short(v) for v in (0, 12, 1500, 2_500_000, 3.2e9)]
    assert [text.strip() for text in written] == ["0", "12", "1.5 k", "2.5 M", "3.2 G"]
    assert plots._ranges([3, 1, 2, 7]) == "1-3, 7"
