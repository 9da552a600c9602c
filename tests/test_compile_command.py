"""``atreides compile``: an artefact that runs and is always the same, or one sentence."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import sw
from atreides.cli import main
from sw.config import MachineConfig
from sw.datasets import DatasetError

SMALL = ("--rows", "4", "--columns", "4", "--slots", "64")
MODELS = """
import torch
from torch import nn

def made(*layers, shape=(1, 6)):
    network, source = nn.Sequential(*layers), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data.uniform_(-0.5, 0.5, generator=source)
    values = torch.linspace(-1, 1, torch.Size(shape).numel())
    return network, (values.reshape(shape),)

def small():
    return made(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(-1))

def cnn():
    return made(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3),
        shape=(1, 2, 8, 8),
    )

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (
            p.unflatten(-1, (2, 4)).transpose(1, 2) for p in self.qkv(self.norm(x)).chunk(3, -1)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).flatten(2))

def attention():
    return made(Attention(), shape=(1, 5, 8))

def nan_weight():
    found, inputs = small()
    found[0].weight.data[1, 2] = float("nan")
    return found, inputs

class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def branching():
    return Branching(), (torch.ones(2),)

def tiny_weight():
    found, inputs = small()
    found[0].register_buffer("twist", torch.zeros(2, dtype=torch.float8_e5m2))
    return found, inputs

def wrong_shape():
    return small()[0], (torch.ones(1, 7),)

def not_a_model():
    return 42
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with models, and an artefact of each of the good ones."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODELS)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("small", "cnn", "attention"):
            assert main(["compile", f"models.py:{name}", "-o", name, *SMALL]) == 0
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def folder(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the models."""
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def float_model(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    scope: dict[str, object] = {}
    exec(compile(MODELS, "models.py", "exec"), scope)  # our own text, above
    model, inputs = scope[name]()  # type: ignore[operator]
    return model.eval(), inputs


@pytest.mark.parametrize("name", ["small", "cnn", "attention"])
def test_what_was_compiled_is_near_the_float_network(name: str, workshop: Path) -> None:
    model, inputs = float_model(name)
    with sw.Session(sw.load(workshop / name)) as session, torch.no_grad():
        (got,) = session.run(*inputs)
        want = model(*inputs)
    assert got.shape == want.shape
    assert (got - want).abs().max() < 0.05 * want.abs().max() + 0.02


@pytest.mark.parametrize("name", ["small", "cnn", "attention"])
def test_model_agrees_with_the_tensor_back_end_word_by_word(
    name: str, workshop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(workshop / name), "--backend", "model", "--check", "tensor"]) == 0
    assert "results of layers equal on model and tensor" in capsys.readouterr().out


@pytest.mark.parametrize("slots", ["2", "8"])
def test_layers_cut_for_a_small_memory_agree_too(slots: str, folder: Path) -> None:
    options = ("--rows", "8", "--columns", "8", "--slots", slots)
    assert main(["compile", "models.py:cnn", "-o", "net", *options]) == 0
    assert main(["run", "net", "--backend", "model", "--check", "tensor"]) == 0


def test_same_model_gives_the_same_bytes(workshop: Path, folder: Path) -> None:
    assert main(["compile", "models.py:small", "-o", "again", *SMALL]) == 0
    for path in (workshop / "small").iterdir():
        assert (folder / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_report_says_where_each_node_runs_and_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "models.py:small", "-o", "net", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "softmax has no unit in the array" in shown
    assert "from the example inputs alone" in shown
    report = json.loads((folder / "net" / "report.json").read_text())
    assert [layer["macs"] for layer in report["layers"]] == [30, 15]
    nodes = {node["operation"]: node for node in report["nodes"]}
    assert nodes["softmax.int"]["where"] == "host"
    on_array = [node for node in report["nodes"] if node["where"] == "array"]
    assert all(node["reason"] and node["layer"] for node in on_array)
    assert sum(node["cycles"] for node in on_array) == report["total"]["cycles"] > 0


def test_options_reach_the_artefact(folder: Path) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32) * 30)
    options = ("--batch", "3", "--calibrate", "x.npy", "--bits", "12", "--weights-bits", "4")
    assert main(["compile", "models.py:small", "-o", "net", *SMALL, *options]) == 0
    made = sw.load("net")
    assert made.plan.graph.inputs[0].shape == (3, 6)
    assert made.config == MachineConfig(
        bits=12, rows=4, columns=4, slots=64, bias_bits=16, parameters=1024
    )
    words = next(iter(made.plan.layers.values())).weights.words
    assert not (words.to(torch.int32) & 0xFF)[words.to(torch.int32) & 0x7FF != 0x7FF].any()
    assert made.report["source"]["calibration"] == "files given"


@pytest.mark.parametrize(("activations", "status"), [("dynamic", 0), ("static", 2)])
def test_only_a_data_set_that_is_needed_must_be_there(
    activations: str,
    status: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(*_: object) -> None:
        raise DatasetError("ATREIDES_DATA must name a folder")

    monkeypatch.setattr("atreides.compile.calibration_samples", missing)
    options = ["--activations", activations]
    assert main(["compile", "models.py:small", "-o", "net", *SMALL, *options]) == status
    assert ("ATREIDES_DATA must" in capsys.readouterr().err) == bool(status)


def test_given_exponents_are_taken(folder: Path, workshop: Path) -> None:
    assert main(["compile", "models.py:cnn", "-o", "net", *SMALL, "--activations", "static"]) == 0
    names = {t.name for t in sw.load("net").plan.tensors.values() if t.exponent is not None}
    (folder / "e.json").write_text(json.dumps(dict.fromkeys(names, 5)))
    options = ("--exponents", "e.json", "--activations", "static")
    assert main(["compile", "models.py:cnn", "-o", "net", *SMALL, *options]) == 0
    found = {t.name: t.exponent for t in sw.load("net").plan.tensors.values()}
    assert set(found.values()) == {5}


MISTAKES: dict[str, tuple[str, ...]] = {
    "model must be a file (": ("notes.txt",),
    "none.onnx must exist": ("none.onnx",),
    "broken.onnx": ("broken.onnx",),
    "broken.tflite": ("broken.tflite",),
    "must not be a .pt file": ("weights.pt",),
    "models.py:nothing": ("models.py:nothing",),
    "models.py:not_a_model": ("models.py:not_a_model",),
    "model must have no control flow or shape that depends on data": ("models.py:branching",),
    "must be of a supported dtype, not torch.float8_e5m2": ("models.py:tiny_weight",),
    "must fit the model": ("models.py:wrong_shape",),
    "0.weight must be finite, not NaN": ("models.py:nan_weight",),
    "bits must be 3 to 16, not 17": ("models.py:small", "--bits", "17"),
    "multiplier must be one of array, dadda, chain, operator, dsp, auto, not 'x'": (
        *("models.py:small", "--multiplier", "x"),
    ),
    "weight_bits must be 3 to 8, not 9": ("models.py:small", "--weights-bits", "9"),
    "activations must be one of auto, static": ("models.py:small", "--activations", "magic"),
    "none.npy must be a readable npy file: No such": (
        *("models.py:small", "--calibrate", "none.npy"),
    ),
    "notes.txt must be a readable npy file: not an npy": (
        *("models.py:small", "--calibrate", "notes.txt"),
    ),
    "objects.npy must be a readable npy file: not an npy": (
        *("models.py:small", "--calibrate", "objects.npy"),
    ),
    "must have the shape (N, 6), not (2, 7)": ("models.py:small", "--calibrate", "wide.npy"),
    "not NaN or infinity in 1 places": ("models.py:small", "--calibrate", "nan.npy"),
    "inputs must be 1 (": (
        *("models.py:small", "--calibrate", "nan.npy", "--calibrate", "nan.npy"),
    ),
    "notes.txt must be a readable JSON file: not JSON": (
        *("models.py:small", "--exponents", "notes.txt"),
    ),
    "exponent of x must be an integer, not 'a'": ("models.py:small", "--exponents", "e.json"),
    "precious must be an artefact or not there yet": ("models.py:small", "-o", "precious"),
    "must be in a folder that exists": ("models.py:small", "-o", "none/net"),
    "Missing option": (),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistake_ends_with_one_sentence_and_nothing_written(
    message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "notes.txt").write_text("no network {")
    for name in ("broken.onnx", "broken.tflite", "weights.pt"):
        (folder / name).write_bytes(b"\x80\x02not a model")
    np.save("objects.npy", np.array([object()]), allow_pickle=True)
    np.save("wide.npy", np.zeros((2, 7), np.float32))
    np.save("nan.npy", np.array([[0, 1, 2, np.nan, 4, 5]], np.float32))
    (folder / "e.json").write_text('{"x": "a"}')
    (folder / "precious").mkdir()
    (folder / "precious" / "thesis.txt").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    given = MISTAKES[message]
    arguments = [*given] if "-o" in given else ["-o", "net", *given]
    if not given:
        arguments = ["models.py:small"]
    assert main(["compile", *arguments, *SMALL]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1, error
    left = {p: t for p, t in before.items() if "__pycache__" not in p.parts}
    now = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in p.parts}
    assert now == left


def test_full_disk_is_one_sentence_and_leaves_the_old_artefact(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system's own limit on a file's size stands for the disk's."""
    assert main(["compile", "models.py:small", "-o", "net", *SMALL]) == 0
    before = {path.name: path.read_bytes() for path in (folder / "net").iterdir()}
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for target in ("net", "other"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
        try:
            status = main(["compile", "models.py:small", "-o", target, *SMALL])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        error = capsys.readouterr().err
        assert status == 2
        assert "must be a place that can be written: File too large" in error
        assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (folder / "net").iterdir()} == before
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"models.py", "net"}
