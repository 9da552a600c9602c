"""The benchmark of speed: what it times, on networks that take no time."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from bench import wasq
from sw.models.llama import LlamaConfig
from sw.wasq.modules import QuantizedLayer

TINY = LlamaConfig(64, 96, 2, 4, 2, 50, 64)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch) -> None:
    monkeypatch.setattr(wasq, "SIZES", TINY)


def test_every_row_is_told_beside_the_float_one(tmp_path, monkeypatch, capsys):
    path = tmp_path / "wasq.json"
    arguments = ["wasq", "--random", "--length", "40", "--repeats", "1", "-o", str(path)]
    monkeypatch.setattr(sys, "argv", arguments)
    wasq.main()
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows] == ["float32", *wasq.CONFIGS]
    assert rows[0]["ratio"] == 1
    assert all(row["ratio"] == row["seconds"] / rows[0]["seconds"] for row in rows)
    assert "time / float's" in capsys.readouterr().out


def test_on_cuda_words_stand_in_the_float32_and_in_the_bfloat16_model():
    model = wasq.network(True, torch.device("cpu"))
    found = wasq.networks(model, torch.device("cuda"))
    names = [f"{name}{ending}" for ending in ("", ", in bfloat16") for name in wasq.CONFIGS]
    assert list(found) == ["float32", "bfloat16", *names]
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    for name, network in found.items():
        words = any(isinstance(layer, QuantizedLayer) for layer in network.modules())
        assert words == (name in names)
        with torch.no_grad():
            kind = network(tokens).dtype
        # A head on words that is given float32 gives float32.
        assert kind == (torch.bfloat16 if "bfloat16" in name else torch.float32), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_graphs_are_timed_beside_what_python_launches():
    device = torch.device("cuda")
    model = wasq.network(True, device)
    tokens = torch.zeros(1, 8, dtype=torch.int64, device=device)
    rows = wasq.measure(wasq.networks(model, device), tokens, device, 2)
    assert all(row["graph_seconds"] > 0 and row["graph_ratio"] > 0 for row in rows)
