"""The demo: a whole run with few images, its outputs, and a wrong word that must be seen."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from atreides import demo, demo_pipeline, digits
from atreides.cli import main
from atreides.demo_hardware import HardwareBuild
from sw.runtime.artefact import load
from sw.runtime.model_device import ModelDevice
from sw.runtime.session import Session

#: A machine whose Verilog takes seconds.
SMALL = replace(demo.MACHINE, rows=2, columns=2, slots=4096)
FEW = ("--epochs", "1", "--healing", "1", "--no-widths", "--images", "16", "--rtl-images", "0")


class WrongWord(ModelDevice):
    """Reads one word wrong, once."""

    reads = 0

    def read(self, address: int, count: int) -> NDArray[np.uint16]:
        words = super().read(address, count)
        self.reads += 1
        if self.reads == 3:
            words = words.copy()
            words[count // 2] ^= 1
        return words


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MACHINE", SMALL)
    monkeypatch.setattr(demo, "WIDTHS", (4,))


def test_every_word_agrees_and_everything_is_written(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *FEW, "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "Every word agrees." in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("atreides.json", "atreides.v", "network", "report.html")
    ]
    assert "module atreides(" in (tmp_path / "atreides.v").read_text()
    report = (tmp_path / "report.html").read_text()
    assert "Every word agrees." in report
    assert "--epochs 1 --healing 1 --no-widths" in report
    images = digits.load(demo.SEED).test_images[:16]
    with Session(load(tmp_path / "network")) as session:
        assert session.run(images)[0].shape == (16, digits.CLASSES)


def test_one_wrong_word_is_named_and_gives_exit_status_1(
    small: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "make_device", lambda config, name: WrongWord(config))
    without_verilog = contextlib.nullcontext(SimpleNamespace(wait=tuple))  # the test above has it
    monkeypatch.setattr(demo, "HardwareBuild", lambda *_: without_verilog)
    assert main(["demo", *FEW, "--output", str(tmp_path)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "Words differ." in shown
    assert "1 elements differ" in shown
    report = (tmp_path / "report.html").read_text()
    assert "Words differ." in report
    assert "Every word agrees." not in report
    assert "1 elements differ" in report


@pytest.mark.slow
def test_rtl_agrees_in_both_simulators_and_at_other_widths(small: None, tmp_path: Path) -> None:
    few = [*FEW[:4], "--images", "16", "--rtl-images", "3", "--icarus-images", "1"]
    assert main(["demo", *few, "--output", str(tmp_path)]) == 0
    report = (tmp_path / "report.html").read_text()
    assert "RTL in Verilator" in report
    assert "RTL in Icarus" in report
    assert "several widths" in report


def test_output_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert main(["demo", "--output", str(file)]) == 2
    error = capsys.readouterr().err
    assert "output must be a folder that can be written to" in error
    assert len(error.splitlines()) == 1


def test_network_for_one_image_has_the_words_of_the_one_for_many() -> None:
    torch.manual_seed(2)
    data = digits.load(1)
    data = replace(data, train_images=data.train_images[:32], train_labels=data.train_labels[:32])
    network = digits.DigitNetwork().eval()
    graph = demo_pipeline.traced(network, data, 16)
    made = demo_pipeline.compiled(network, graph, data, demo.MACHINE, 1, 1, lambda: None)
    single = made.single(network, data.test_images)
    many = Session(made.healed).run(data.test_images[:4])[0]
    assert torch.equal(Session(single).run(data.test_images[:4])[0], many)
    names = list(demo_pipeline.layer_names(made.healed.plan).values())
    assert names == ["stem", "down", "first", "second", "addition", "classifier"]
    for found in (
        demo_pipeline.weight_distributions(made),
        demo_pipeline.activation_distributions(made, data),
    ):
        assert len(found) == 5
        for entry in found:
            assert np.abs(entry.floats).max() <= 2
            assert np.array_equal(np.rint(entry.rounded * 128), entry.rounded * 128)


def test_same_seed_gives_the_same_split_and_the_same_network() -> None:
    first, second = digits.load(1), digits.load(1)
    assert first.test_images.equal(second.test_images)
    assert first.test_images.shape == (demo.TEST_IMAGES, 1, 8, 8)
    assert not digits.load(2).test_images.equal(first.test_images)
    few = replace(first, train_images=first.train_images[:64], train_labels=first.train_labels[:64])

    def weights() -> list[torch.Tensor]:
        with demo_pipeline.one_thread():
            return list(digits.train(few, 1, 1, lambda loss, accuracy: None).parameters())

    trained = weights()
    assert 10_000 < sum(weight.numel() for weight in trained) < 20_000
    assert all(a.equal(b) for a, b in zip(trained, weights(), strict=True))


def test_hardware_that_nobody_waits_for_is_given_up_at_once(tmp_path: Path) -> None:
    started = time.perf_counter()
    with HardwareBuild(demo.MACHINE, tmp_path, True) as build:
        process: Any = build._process
    assert process.poll() is not None
    assert time.perf_counter() - started < 15
    assert not (tmp_path / "atreides.v").exists()
