"""Pages of results: self-contained, escaped, whole or not there."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.image
import numpy as np
import pytest
import torch

from atreides import demo_report, digits
from atreides.demo import MACHINE
from atreides.demo_plots import Distribution, bin_edges, distributions
from atreides.demo_results import Agreement, Results, Row, Training
from atreides.plots import Bar, cycle_bars
from atreides.report import Folder, inline, picture, render
from sw.format import SFx


@dataclass(frozen=True)
class Cost:
    """What a page shows of a layer's cost."""

    name: str
    cycles: int
    kind: str = "linear"

    macs = property(lambda self: 32 * self.cycles)
    utilisation = property(lambda self: 0.5)
    bound_cycles = property(lambda self: self.cycles // 2)

    def reason(self) -> str:
        return "at its bound"


def distribution(name: str, count: int = 500) -> Distribution:
    floats = np.random.default_rng(1).normal(0, 0.3, count).clip(-1, 1)
    return Distribution(name, floats, np.rint(floats * 128) / 128)


@pytest.fixture(scope="module")
def make() -> Callable[..., Results]:
    data = digits.load(1)
    logits = torch.nn.functional.one_hot(data.test_labels, 10).float() * 9
    worse = logits.clone()
    worse[7] = worse[7].roll(1)

    def results(**changes: Any) -> Results:
        agreement = Agreement("machine model", 359, 138, 945_760, 2_000, 1.5)
        found = Results(
            config=MACHINE,
            data=data,
            seed=1,
            batch=16,
            training=Training(digits.DigitNetwork(), (1.0, 0.5), (0.9, 0.95)),
            accuracies=(Row("float32", logits), Row("rounded", worse), Row("healed", worse)),
            healing=(0.2, 0.1),
            agreements=(agreement, replace(agreement, label="RTL in Verilator")),
            layers=(Cost("stem", 1_200), Cost("down", 800)),
            cycles=2_000,
            weights=(distribution("stem"),),
            activations=(distribution("<down>"),),
            widths={4: (0.8, 0.9)},
            roofline=cycle_bars("roof", [Bar("a", "linear", 1, 1.0)]),
            verilog=(("atreides.v", 12345),),
            command="make demo",
            seconds=12.3,
        )
        return replace(found, **changes)

    return results


@pytest.fixture(scope="module")
def page(make: Callable[..., Results]) -> str:
    return demo_report.page(make())


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("training", "confusions", "cycles", "roofline", "weights", "activations", "widths")
    monkeypatch.setattr(demo_report, "pictures", lambda results: dict.fromkeys(names, ""))


def test_page_needs_nothing_from_elsewhere(page: str) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert sources
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "@import" not in page
    assert "<script" not in page
    assert "/root" not in page
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(identifiers)) == len(identifiers)
    assert {s[1:] for s in sources if s.startswith("#")} <= set(identifiers)


def test_page_shows_the_figures(page: str, make: Callable[..., Results]) -> None:
    # 16 images in 2,000 cycles of 20 ns, half of the places for products used
    for text in ("Every word agrees.", "400,000/s", "50.0%", "1,891,520 words", "99.72%"):
        assert text in page
    assert page == demo_report.page(make())


def test_page_and_verdict_follow_a_difference(
    make: Callable[..., Results], without_pictures: None
) -> None:
    results = make()
    wrong = replace(results.agreements[1], difference="layer <stem>: 1 elements differ")
    results = make(agreements=(results.agreements[0], wrong))
    assert make().agrees
    assert not results.agrees
    page = demo_report.page(results)
    assert "Words differ." in page
    assert "Every word agrees." not in page
    assert "RTL in Verilator: layer &lt;stem&gt;: 1 elements differ" in page


def test_page_says_whether_cycles_agree(
    make: Callable[..., Results], without_pictures: None
) -> None:
    assert "Model and RTL count the same cycles." in demo_report.page(make())
    model, rtl = make().agreements
    page = demo_report.page(make(agreements=(model, replace(rtl, cycles=rtl.cycles + 1))))
    assert "Model and RTL count other cycles!" in page


def test_wrong_images_are_shown_first(make: Callable[..., Results]) -> None:
    results = make()
    shown = demo_report.samples(results)
    assert [sample["right"] for sample in shown] == [False, *[True] * (demo_report.SAMPLES - 1)]
    assert shown[0]["label"] == int(results.data.test_labels[7])
    assert shown[0]["found"] == (shown[0]["label"] + 1) % 10


def test_divergence_is_that_of_the_classes(make: Callable[..., Results]) -> None:
    results = make()
    assert results.accuracies[0].divergence(results.accuracies[0]) == 0
    logits = torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.25, 0.75]]))
    reference, row = (Row("", value) for value in logits)
    want = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert abs(row.divergence(reference) - want) < 1e-6


def test_template_escapes_and_refuses_what_is_missing(
    make: Callable[..., Results], without_pictures: None
) -> None:
    content = demo_report.content(make())
    assert "&lt;b&gt;" in render("demo.html", {**content, "title": "<b>"})
    del content["verdict"]
    with pytest.raises(jinja2.UndefinedError, match="verdict"):
        render("demo.html", content)


def test_pictures_take_the_colours_of_the_page() -> None:
    svg = inline(distributions([distribution("a")], SFx(8)), "one")
    assert svg.startswith("<svg ")
    assert "currentColor" in svg
    assert not re.search(r"#(000000|222222|ffffff|d9d9d9)\b", svg, re.IGNORECASE)
    assert 'id="one-figure_1"' in svg


def test_grey_pictures_keep_their_pixels() -> None:
    pixels = np.array([[0.0, 0.25], [0.5, 1.0]])
    head, _, text = picture(pixels).partition(",")
    assert head == "data:image/png;base64"
    read = matplotlib.image.imread(io.BytesIO(base64.b64decode(text)))
    assert np.allclose(1 - read[..., 0], pixels, atol=1 / 255)


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_bars_hold_equally_many_words(bits: int) -> None:
    words = np.arange(-(1 << (bits - 1)), (1 << (bits - 1)) + 1) / (1 << (bits - 1))
    entry = Distribution("", words, np.repeat(words, 100))
    edges = bin_edges(entry, bits - 1)
    counts = np.histogram(words, edges)[0]
    assert counts.sum() == len(words)
    assert len(set(counts[:-1].tolist())) == 1


def test_file_is_replaced_whole_or_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new")
    path = folder.write("report.html", "first")
    with pytest.raises(UnicodeEncodeError):
        folder.write("report.html", "second \ud800")
    assert path.read_text() == "first"
    assert folder.write("report.html", "third").read_text() == "third"
    assert [p.name for p in folder.path.iterdir()] == ["report.html"]
