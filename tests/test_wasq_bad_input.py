"""NaN, infinities and pickles in the commands on language models: one sentence, nothing written."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from wasq_models import small_llama, small_tokens, working_folder

from atreides.cli import main
from sw.models.llama import Llama
from sw.wasq.language import save_language

CPU = ["--device", "cpu"]
HEAL = ["heal", "broken", "-o", "q", "--text", "text.txt", "--window", "16", "--steps", "1", *CPU]
EVALUATE = ["evaluate", "broken", "--text", "text.txt", "--window", "16", *CPU]
QUANTIZE = ["quantize", "broken", "-o", "q", *CPU]


def weight(model: Llama) -> None:
    model.blocks[1].attention.q.weight[0, :3] = float("nan")


def norm(model: Llama) -> None:
    model.blocks[0].feed_forward_norm.weight[2] = float("inf")


def activation(model: Llama) -> None:
    model.blocks[0].feed_forward.up.weight.mul_(1e30)
    model.blocks[0].feed_forward.gate.weight.mul_(1e12)


class Malicious:
    """Unpickled, it makes the file ``ran``."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return working_folder(tmp_path, monkeypatch)


@pytest.mark.parametrize("command", [QUANTIZE, HEAL, EVALUATE], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("breaks", "place"),
    [
        (weight, "weight of blocks.1.attention.q must hold finite numbers, {} in 3 places"),
        (norm, "weight of blocks.0.feed_forward_norm must hold finite numbers, {} in 1 places"),
        (activation, "of blocks.0.feed_forward.down must hold finite numbers, {} in "),
    ],
    ids=["weight", "norm", "activation"],
)
def test_what_is_not_finite_is_named_with_its_layer_and_counted(
    command: list[str], breaks: Callable[[Llama], None], place: str, folder: Path, capsys
) -> None:
    model = small_llama()
    with torch.no_grad():
        breaks(model)
    save_language(folder / "broken", model, small_tokens())
    words = list(command)
    if breaks is activation and words[0] == "quantize":  # which rounds it without running it
        words += ["--activation-mode", "static", "--activation-scale", "tensor"]
        words += ["--calibration", "text.txt", "--calibration-tokens", "64"]
    assert main(words) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert place.format("not NaN or infinity") in said
    assert not (folder / "q").exists()


@pytest.mark.parametrize("name", ["broken.pt", "broken.pth", "broken.bin", "broken.pkl", "broken"])
@pytest.mark.parametrize("command", [QUANTIZE, HEAL, EVALUATE], ids=lambda words: words[0])
def test_a_pickle_is_refused_unread(command: list[str], name: str, folder: Path, capsys) -> None:
    if name == "broken":  # a folder whose weights are a pickle
        save_language(folder / name, small_llama(), small_tokens())
        (folder / name / "model.safetensors").unlink()
        shutil.move(_pickled(folder / "weights"), folder / name / "pytorch_model.bin")
    else:
        _pickled(folder / name)
    assert main([name if word == "broken" else word for word in command]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "pickle" in said
    assert not (folder / "ran").exists()
    assert not (folder / "q").exists()


def _pickled(path: Path) -> Path:
    path.write_bytes(pickle.dumps(Malicious()))
    return path
