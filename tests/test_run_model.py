"""``atreides run DIR``: arrays in and out, counters, comparisons, and one sentence otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atreides.cli import main
from sim.runner import MissingSimulator
from sw.runtime.artefact import MANIFEST, Artefact, save
from sw.runtime.check import record_example
from sw.runtime.device import Outcome
from sw.runtime.model_device import ModelDevice
from sw.runtime.session import Session
from tests.compiled import HIDDEN, INNER, OUT, ROWS, artefact


def whole() -> Artefact:
    made = artefact()
    inputs = (torch.linspace(-2, 2, ROWS * INNER).reshape(ROWS, INNER),)
    return replace(made, example=record_example(made, inputs))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(tmp_path / "net", whole())
    x = np.random.default_rng(0).normal(size=(2 * ROWS + 1, INNER)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("backend", ["tensor", "model"])
def test_outputs_and_report_are_written(
    backend: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("--input", "x.npy", "--output", "p.npy", "--output", "y.npy", "--report", "r.json")
    assert main(["run", "net", *files, "--backend", backend]) == 0
    with Session(artefact()) as session:
        want = session.run(np.load("x.npy"))
    for name, output in zip(("p.npy", "y.npy"), want, strict=True):
        got = np.load(name, allow_pickle=False)
        assert got.dtype == np.float32
        assert np.array_equal(got, output)
    report = json.loads(Path("r.json").read_text())
    assert report["backend"] == backend
    assert report["outputs"][0]["shape"] == [2 * ROWS + 1, OUT]
    if backend == "model":
        (program,) = report["programs"]
        assert (program["layers"], program["runs"]) == (["first", "second"], 3)
        assert program["macs"] == 3 * ROWS * HIDDEN * (INNER + OUT)
        assert program["counters"]["macs"] > 0
        assert "first + second" in capsys.readouterr().out
    assert {p.name for p in folder.iterdir()} == {"net", "x.npy", "p.npy", "y.npy", "r.json"}


def test_example_is_run_and_compared_without_input(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "net", "--backend", "model"]) == 0
    assert "2 results of layers compared with the checksums" in capsys.readouterr().out


def test_example_that_comes_out_otherwise_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = whole()
    assert made.example is not None
    lie = {**made.example.layers, "second": 1}
    save(folder / "net", replace(made, example=replace(made.example, layers=lie)))
    assert main(["run", "net"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("atreides: layer second must have checksum 00000001, not ")


def test_check_compares_every_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--input", "x.npy", "--backend", "model", "--check", "tensor")
    assert main(["run", "net", *options]) == 0
    assert "6 results of layers equal on model and tensor" in capsys.readouterr().out


class Faulty(ModelDevice):
    """Adds 1 to one lane of one row of every result stream."""

    def run(self, words: tuple[int, ...]) -> Outcome:
        outcome = super().run(words)
        rows = outcome.rows.copy()
        rows[4:5, 2] += 1
        return replace(outcome, rows=rows)


def test_check_shows_the_first_difference_and_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sw.runtime.session.ModelDevice", Faulty)
    options = ("--input", "x.npy", "--output", "y.npy", "--backend", "model", "--check", "tensor")
    assert main(["run", "net", *options]) == 1
    error = capsys.readouterr().err
    for part in (
        "layer second: 1 elements differ",
        "row tile 1, column tile 0",
        "w 4, c 2",
        "exact sum",
        "A row: 00",
        "B column: 00",
    ):
        assert part in error
    assert not (folder / "y.npy").exists()


MISTAKES: dict[str, tuple[str, ...]] = {
    "backend must be one of tensor, model": ("net", "--backend", "spice"),
    "check must be another back end than 'model'": (
        *("net", "--backend", "model", "--check", "model"),
    ),
    "none.npy must be a readable npy file: No such": ("net", "--input", "none.npy"),
    "text.npy must be a readable npy file: not an npy": ("net", "--input", "text.npy"),
    "objects.npy must be a readable npy file: not an npy": ("net", "--input", "objects.npy"),
    "archive.npz must be a single array": ("net", "--input", "archive.npz"),
    "input x must have the shape (N, 5), not (6, 4)": ("net", "--input", "narrow.npy"),
    "input x must be float32, not int64": ("net", "--input", "integers.npy"),
    "inputs must be 1 (x), not 2": ("net", "--input", "x.npy", "--input", "x.npy"),
    "x must hold numbers, not NaN": ("net", "--input", "nan.npy"),
    "output must be given at most 2 times": ("net", *["--output", "y.npy"] * 3),
    "none/y.npy must be in a folder that exists": ("net", "--output", "none/y.npy"),
    "must be a file, not a folder": ("net", "--output", "net"),
    "--bits must be 8, for which net was made, not 16": ("net", "--bits", "16"),
    "--no-unity": ("net", "--no-unity"),
    "must have an RTL backend": ("net", "--stalls", "1"),
    "--dump must be left out: net is a network": ("net", "--dump", "d.npz"),
    "--step must be left out: net is a network": ("net", "--step"),
    "--input must be left out: p.s is no directory": ("p.s", "--input", "x.npy"),
    "empty must be an artefact: a directory with manifest.json": ("empty",),
    "damaged must be an undamaged artefact: program.hex must have the SHA-256": ("damaged",),
    "format 1, not 2 (made by atreides 7.0)": ("newer",),
    "missing must be the directory of a network": ("missing",),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake_ends_with_one_sentence(
    message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(folder)
    before = {path.name for path in folder.iterdir()}
    arguments = MISTAKES[message]
    if "--no-unity" in arguments:
        message = "--unity must be True"
    assert main(["run", *arguments, "--report", "r.json"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    assert {path.name for path in folder.iterdir()} == before


def prepare(folder: Path) -> None:
    (folder / "text.npy").write_text("1, 2, 3")
    (folder / "p.s").write_text("NOP\n")
    np.save(folder / "objects.npy", np.array([object()]), allow_pickle=True)
    np.savez(folder / "archive.npz", x=np.zeros((ROWS, INNER)))
    np.save(folder / "narrow.npy", np.zeros((ROWS, 4), np.float32))
    np.save(folder / "integers.npy", np.zeros((ROWS, INNER), np.int64))
    np.save(folder / "nan.npy", np.full((ROWS, INNER), np.nan, np.float32))
    (folder / "empty").mkdir()
    for name in ("damaged", "newer"):
        shutil.copytree(folder / "net", folder / name)
    (folder / "damaged" / "program.hex").write_text("0000\n")
    manifest = json.loads((folder / "newer" / MANIFEST).read_text())
    manifest.update(format=2, tool="atreides 7.0")
    (folder / "newer" / MANIFEST).write_text(json.dumps(manifest))


def test_full_disk_leaves_no_half_output(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["run", "net", "--input", "x.npy", "--output", "y.npy"]) == 2
    assert "y.npy must be writable: No space left on device" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"net", "x.npy"}


def test_help_teaches_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--input x.npy --output y.npy" in shown
    assert "--backend verilator --check model" in shown


def test_missing_simulator_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingSimulator("Icarus Verilog must be installed")

    monkeypatch.setattr("sim.machine_device.make_device", missing)
    assert main(["run", "net", "--backend", "icarus", "--output", "y.npy"]) == 1
    assert capsys.readouterr().err.endswith("atreides: Icarus Verilog must be installed\n")
    assert not (folder / "y.npy").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["amaranth", "icarus", "verilator"])
def test_rtl_agrees_with_the_model(
    backend: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--input", "x.npy", "--backend", backend, "--check", "model")
    assert main(["run", "net", *options]) == 0
    assert f"6 results of layers equal on {backend} and model" in capsys.readouterr().out
