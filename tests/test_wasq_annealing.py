"""Searches over what is healed at how many bits; widths per layer; weights that stay float."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from sw.wasq import SFConfig, quantize_
from sw.wasq.checkpoint import load, save
from sw.wasq.config import effective_bits
from sw.wasq.healing import HealingError, HealOptions, heal_
from sw.wasq.healing.annealed import scouted_bench
from sw.wasq.healing.samples import Samples
from sw.wasq.healing.task import Task
from sw.wasq.kept import SelectiveLayer
from sw.wasq.modules import QuantizedLayer
from tests.tiny_models import TinyVision, tiny_llama, tiny_text

FOUR = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
OPTIONS = HealOptions(steps=2, batch=4, learning_rate=5e-3, warmup=0, rho=0.5)


def test_the_energy_is_the_loss_of_the_model_with_those_widths() -> None:
    text, options = tiny_text(8), replace(OPTIONS, distillation=1.0, extra={"grouping": "part"})
    task = Task(tiny_llama(), "mixed", Samples.of(text), FOUR, options)
    bench, problem = scouted_bench(task, heals=False)
    assert problem.groups == 2
    state = (bench.choices.index(type(bench.choices[0])(6)), 0)
    found = bench.measure(state)
    other = quantize_(tiny_llama(), bench.config(state))
    with torch.no_grad():
        mine = functional.log_softmax(other(text), -1)
        wanted = functional.log_softmax(tiny_llama()(text), -1)
    assert found == pytest.approx(float((wanted.exp() * (wanted - mine)).sum(-1).mean()), rel=1e-3)
    assert bench.measure((1, 1)) != found
    assert bench.measure(state) == found


def test_annealed_healing_keeps_the_budget_and_the_share(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=4, extra={"measurements": 12, "grouping": "part"})
    text = tiny_text()
    healed = heal_(tiny_llama(), "sa-mplth", text, FOUR, options, checkpoint=tmp_path)
    assert healed.fraction <= 0.5
    assert healed.notes["measurements"] <= 12
    config = SFConfig.from_json(healed.notes["config"])
    total = bits = 0.0
    for name, weight in healed.weights.items():
        assert weight.format == config.for_module(name).weight_format
        rows, terms = weight.words.shape
        total += rows * terms
        bits += rows * terms * effective_bits(weight.format.bits, "block", terms)
        uniform = effective_bits(4, "block", terms)
    assert bits / total <= max(uniform, effective_bits(4, "block", 48)) + 1e-9
    again = heal_(tiny_llama(), "sa-mplth", text, FOUR, options, resume=tmp_path)
    assert again.losses == healed.losses
    assert all(torch.equal(w.words, healed.weights[n].words) for n, w in again.weights.items())


@pytest.mark.parametrize("how", ["integer program", "greedy", "annealing"])
def test_mixed_widths_are_no_worse_than_uniform_ones_at_equal_bits(how: str) -> None:
    options = replace(OPTIONS, steps=0, extra={"search": how, "measured": 4})
    model = tiny_llama()
    healed = heal_(model, "mixed", tiny_text(), FOUR, options)
    assert healed.notes["energy"] <= healed.notes["uniform"]
    assert healed.notes["bits"] <= 4 + 8 * 2 / 48 + 1e-9
    assert len({w.format.bits for w in healed.weights.values()}) > 1
    assert all(isinstance(model.get_submodule(n), QuantizedLayer) for n in healed.weights)


def selected(**extra: object) -> tuple[torch.nn.Module, dict[str, object]]:
    model = tiny_llama()
    healed = heal_(model, "selective", tiny_text(2), FOUR, replace(OPTIONS, extra=extra))
    return model, dict(healed.notes)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_large_weights_stay_float_and_small_ones_are_words(scope: str) -> None:
    before = tiny_llama()
    model, notes = selected(percentile=90, scope=scope)
    every = torch.cat(
        [
            layer.weight.abs().flatten()
            for name, layer in before.named_modules()
            if isinstance(layer, torch.nn.Linear) and name != "head"
        ]
    )
    assert notes["kept"] == pytest.approx(0.1, abs=0.005)
    for name, layer in model.named_modules():
        if not isinstance(layer, SelectiveLayer):
            continue
        weight = before.get_submodule(name).weight
        kept = layer.matrix()
        source = weight if scope == "layer" else every
        ordered = sorted(source.abs().flatten().tolist())
        limit = ordered[math.ceil(0.9 * len(ordered)) - 1]
        inside = kept != 0
        assert torch.equal(kept[inside], weight[inside])
        assert torch.equal(inside, weight.abs() > limit)
        assert bool((layer.quantized.words[inside] == 0).all())


def test_a_selective_layer_computes_words_plus_what_was_kept() -> None:
    for extra in ({}, {"kept": "rows"}):
        model, _ = selected(percentile=90, **extra)
        layer = next(m for m in model.modules() if isinstance(m, SelectiveLayer))
        x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
        wanted = layer.quantized(x) + x @ layer.matrix().T
        assert torch.allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("kept", ["values", "rows"])
def test_kept_weights_are_in_the_checkpoint(kept: str, tmp_path: Path) -> None:
    model, _ = selected(percentile=90, kept=kept)
    save(model, FOUR, tmp_path / "saved", {"model": "tiny"})
    again = load(tmp_path / "saved", tiny_llama())
    with torch.no_grad():
        assert torch.equal(again(tiny_text(2)), model(tiny_text(2)))


def test_keeping_nothing_is_vanilla_and_epsilon_makes_zeros() -> None:
    model, notes = selected(percentile=100)
    plain = quantize_(tiny_llama(), FOUR)
    with torch.no_grad():
        assert torch.equal(model(tiny_text(2)), plain(tiny_text(2)))
    assert notes["kept"] == 0
    model, _ = selected(percentile=100, epsilon=0.2)
    before = tiny_llama()
    for name, layer in model.named_modules():
        if isinstance(layer, SelectiveLayer):
            small = before.get_submodule(name).weight.abs() < 0.2
            assert bool((layer.quantized.words[small] == 0).all())


def test_effective_bits_count_places_and_values() -> None:
    _, notes = selected(percentile=90)
    layers = [(32, 32)] * 2 + [(16, 32)] * 2 + [(48, 32)] * 2 + [(32, 48)]
    total = sum(n * k for n, k in layers)
    bits = sum(n * k * 4 + n * -(-k // 32) * 8 for n, k in layers)
    for n, k in layers:
        above = n * k - math.ceil(n * k * 0.9)
        bits += above * (32 + math.ceil(math.log2(n * k)))
    assert notes["effective_bits"] == pytest.approx(bits / total)


@pytest.mark.parametrize("kept", ["values", "rows"])
def test_convolutions_keep_weights_too(kept: str) -> None:
    config = SFConfig(weights=16, activations=None, weight_scale="channel")
    model, images = TinyVision(), torch.randn(4, 2, 4, 4)
    options = replace(OPTIONS, extra={"percentile": 80, "kept": kept})
    heal_(model, "selective", (images, torch.arange(4)), config, options)
    with torch.no_grad():
        assert torch.allclose(model(images), TinyVision()(images), atol=1e-3)


@pytest.mark.parametrize(
    ("method", "extra", "message"),
    [
        ("selective", {"percentile": 0}, "percentile must be above 0"),
        ("selective", {"scope": "row"}, "scope must be one of layer, model"),
        ("selective", {"kept": "blocks"}, "kept must be one of values, rows"),
        ("mixed", {"search": "guess"}, "search must be one of annealing, greedy"),
        ("mixed", {"bits": [3, 5]}, "bits must have the 4 of the configuration"),
        ("mixed", {"budget": 2}, "budget must be at least"),
    ],
)
def test_impossible_options_are_refused(
    method: str, extra: dict[str, object], message: str
) -> None:
    with pytest.raises(HealingError, match=message):
        heal_(tiny_llama(), method, tiny_text(4), FOUR, replace(OPTIONS, extra=extra))
