"""``atreides estimate``: a table, JSON, pictures and fronts; mistakes are one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atreides import sweep
from atreides.cli import main
from atreides.sweep import Figures, array_slots, front, machines, parse_axes
from sw.config import MachineConfig

#: A network from a file of one's own: no data needed.
MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(),
        nn.Linear(8 * 6 * 6, 10)
    )
    return model.eval(), (torch.zeros(1, 3, 8, 8),)
"""
Measure = Callable[[MachineConfig], Figures]
SMALL = MachineConfig(bits=8, rows=8, columns=8, slots=512)


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(MODEL)
    return f"{tmp_path / 'net.py'}:build"


def run(*words: str) -> int:
    return main(["estimate", *words])


def test_a_model_is_estimated_to_a_table_json_and_picture(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, picture = tmp_path / "found.json", tmp_path / "roofline.svg"
    words = ["--slots", "512", "--json", str(found), "--roofline", str(picture)]
    assert run(model, *words, "--clock-mhz", "100", "--host-bandwidth", "1000000") == 0
    told = capsys.readouterr().out
    assert "inferences per second at 100 MHz with transfers at 1 MB/s" in told
    assert "dense: all but depthwise" in told
    assert "products of a channel with the others' zeros" in told
    figures = json.loads(found.read_text())
    kinds = [layer["kind"] for layer in figures["layers"]]
    assert kinds[:2] == ["convolution", "depthwise convolution"]
    assert len(kinds) == 3
    assert figures["layers"][0]["macs"] == 8 * 8 * 8 * 27
    whole = figures["total"]
    assert whole["cycles"] == sum(layer["cycles"] for layer in figures["layers"])
    assert figures["seconds"] == whole["time"] / 100e6
    traffic = whole["traffic"]
    assert whole["host_cycles"] >= 100 * (traffic["bits_in"] + traffic["bits_out"]) // 8
    assert figures["without_depthwise"]["utilisation"] > whole["utilisation"]
    assert picture.read_bytes().lstrip().startswith(b"<?xml")


def test_an_artefact_is_estimated_as_it_was_compiled(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(tmp_path / "compiled")
    found = tmp_path / "one.json", tmp_path / "other.json"
    sizes = ["--rows", "4", "--columns", "4", "--slots", "2048"]
    samples = tmp_path / "x.npy"
    np.save(samples, np.random.default_rng(0).random((4, 3, 8, 8), np.float32))
    words = ["--calibrate", str(samples), "-o", place]
    assert main(["compile", model, *words, *sizes]) == 0
    assert run(place, "--json", str(found[0])) == 0
    assert run(model, *sizes, "--json", str(found[1])) == 0
    compiled, estimated = (json.loads(path.read_text()) for path in found)
    assert compiled["layers"] == estimated["layers"]
    assert compiled["machine"]["rows"] == 4
    capsys.readouterr()
    assert run(place, "--rows", "4") == 2
    assert "is compiled for its own machine" in capsys.readouterr().err


def test_a_sweep_prints_the_front_and_draws_it(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here(measure: Measure, configs: list[MachineConfig], progress: object) -> list[Figures]:
        return [measure(config) for config in configs]  # processes take long to start

    monkeypatch.setattr(sweep, "run", here)
    found, picture = tmp_path / "found.json", tmp_path / "front.png"
    words = ["--sweep", "rows=4,8", "--slots", "512", "--json", str(found)]
    assert run(model, *words, "--roofline", str(picture)) == 0
    told = capsys.readouterr().out
    assert "machines that none beats, of 2" in told
    figures = json.loads(found.read_text())["machines"]
    assert [(m["config"]["rows"], m["config"]["slots"]) for m in figures] == [(4, 512), (8, 512)]
    assert figures[0]["cycles"] > figures[1]["cycles"] > 0
    assert all(m["front"] and not m["failure"] for m in figures)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "model must be"),
        (["resnet8", "rows=4"], "sizes such as 'rows=4' must come with --sweep"),
        (["resnet8", "--sweep"], "--sweep must have sizes"),
        (["resnet8", "--sweep", "depth=4"], "sweep must be over bits, rows"),
        (["resnet8", "--sweep", "rows=a"], "sweep must be as in rows=4,8,16, not 'rows=a'"),
        (["resnet8", "--sweep", "rows=4", "rows=8"], "sweep must name rows once"),
        (["resnet8", "--sweep", "rows=40"], "rows must be 1 to 32, not 40"),
        (["resnet8", "--sweep", "bits=7"], "bits must be one of 4, 8, 16, whose cost is known"),
        (["resnet8", "--roofline", "x.pdf"], "roofline must end in .png or .svg"),
        (["resnet8", "--json", "/nowhere/x.json"], "must be in a folder that exists"),
        (["resnet8", "--rows", "33"], "rows must be 1 to 32, not 33"),
        (["resnet8", "--clock-mhz", "0"], "clock-mhz"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    told = capsys.readouterr()
    assert sentence in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_axes_are_combined_in_order() -> None:
    axes = parse_axes(["rows=4,8,4", "bits=8,16"])
    assert axes == {"rows": (4, 8), "bits": (8, 16)}
    made = machines(SMALL, axes)
    assert [(m.rows, m.bits) for m in made] == [(4, 8), (4, 16), (8, 8), (8, 16)]
    with pytest.raises(ValueError, match="at most 1000 combinations, not 1056"):
        machines(SMALL, {"rows": tuple(range(1, 33)), "slots": tuple(range(1, 34))})


def test_the_front_has_what_no_other_beats_at_its_width() -> None:
    def figures(cycles: int, **sizes: int) -> Figures:
        return Figures(replace(SMALL, **sizes), cycles)

    small, large = figures(400, rows=4), figures(200)
    beaten = figures(500, rows=4, slots=1024)
    narrow = figures(390, rows=4, bits=4)
    failed = Figures(SMALL, failure="too large")
    assert front([large, beaten, failed, small, narrow]) == [narrow, small, large]
    same = figures(400, rows=4)
    assert front([small, same]) == [small, same]


def test_slots_of_an_array_follow_the_measured_table() -> None:
    least = MachineConfig(bits=8, rows=1, columns=1, slots=16, max_terms=256)
    assert array_slots(least) == 89 + 24
    assert array_slots(replace(least, max_terms=65536)) == 89 + 8 + 24
    assert array_slots(replace(least, unity=False, rows=4, columns=2)) == 2 * (4 * 81 + 24)


def broken(config: MachineConfig) -> Figures:
    if config.rows == 4:
        raise ValueError("layer fc must fit")
    return Figures(config, cycles=config.rows)


def test_what_fails_in_a_sweep_is_told_in_its_place() -> None:
    ticks: list[None] = []
    configs = [replace(SMALL, rows=rows) for rows in (2, 4, 8)]
    found = sweep.run(broken, configs, lambda: ticks.append(None))
    assert [one.failure for one in found] == ["", "layer fc must fit", ""]
    assert [one.cycles for one in found] == [2, 0, 8]
    assert len(ticks) == 3
