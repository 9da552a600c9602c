"""``sw.importers.load``: what a specification can be, and one sentence for what it cannot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sw import importers
from sw.importers import ModelError

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
SOURCE = """
import torch
def pair(): return torch.nn.Linear(2, 3), (torch.zeros(1, 2),)
def single(): return torch.nn.Linear(2, 3), torch.zeros(1, 2)
def bare(): return torch.nn.Linear(2, 3)
def number(): return 3
def failing(): raise RuntimeError("no\\nluck")
class Net(torch.nn.Linear):
    def __init__(self): super().__init__(2, 3)
    def example_inputs(self): return (torch.zeros(4, 2),)
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(SOURCE)
    return str(tmp_path / "net.py")


@pytest.mark.parametrize(("factory", "rows"), [("pair", 1), ("single", 1), ("Net", 4)])
def test_functions_of_a_file_are_called(source: str, factory: str, rows: int) -> None:
    loaded = importers.load(f"{source}:{factory}")
    assert loaded.name == factory
    assert not loaded.module.training
    assert [tuple(x.shape) for x in loaded.example_inputs] == [(rows, 2)]
    assert len(loaded.source_hash) == 64
    assert tuple(loaded.module(*loaded.example_inputs).shape) == (rows, 3)


def test_functions_of_a_module_are_called() -> None:
    with pytest.raises(ModelError, match=r"must give \(module, \(tensor, \.\.\.\)\)"):
        importers.load("sw.models.lenet:LeNet")


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("bare", r"must give \(module, "),
        ("number", "must give an nn.Module, not int"),
        ("failing", r"must give a module, not raise RuntimeError \(no\)$"),
        ("absent", "must name a function"),
    ],
)
def test_other_functions_are_refused(source: str, factory: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        importers.load(f"{source}:{factory}")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "model must be a file"),
        ("resnet9", "one of lenet, resnet8"),
        ("nowhere.onnx", "nowhere.onnx must exist"),
        ("nowhere.tflite", "nowhere.tflite must exist"),
        ("nowhere.gguf", "nowhere.gguf must exist"),
        ("nowhere.py:make", "nowhere.py must exist"),
        ("no_such_module:make", "must be a Python module that can be imported"),
        ("model.pt2", "must not be a .pt2 file: reading it unpickles"),
        ("model.pth", "give the function that builds the module"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence) as caught:
        importers.load(spec)
    assert "\n" not in str(caught.value)


def test_a_syntax_error_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def f(:\n")
    with pytest.raises(ModelError, match="SyntaxError") as caught:
        importers.load(f"{tmp_path / 'net.py'}:f")
    assert "\n" not in str(caught.value)


def test_directories_and_empty_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").mkdir()
    (tmp_path / "b.tflite").write_bytes(b"")
    with pytest.raises(ModelError, match="must be a file"):
        importers.load(str(tmp_path / "a.onnx"))
    with pytest.raises(ModelError, match="must hold 1 to"):
        importers.load(str(tmp_path / "b.tflite"))


@data
@pytest.mark.parametrize(
    "name", ["resnet8", "autoencoder", "mobilenet-vww", "ds-cnn", "stories260k"]
)
def test_known_names_load_and_calibrate(name: str) -> None:
    loaded = importers.load(name)
    assert loaded.name == name
    with torch.no_grad():
        loaded.module(*loaded.example_inputs)
    if loaded.calibration is not None:
        samples = loaded.calibration(3)
        assert len(samples) == 3
        for sample in samples:
            assert [(x.shape, x.dtype) for x in sample] == [
                (x.shape, x.dtype) for x in loaded.example_inputs
            ]
