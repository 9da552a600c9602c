"""Lottery tickets: what is frozen stays frozen, what is chosen is what the rule says."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sw.wasq import QuantizedWeight, SFConfig, quantize_
from sw.wasq.healing import Healed, HealingError, HealOptions, heal_
from sw.wasq.healing.activity import clusters, layer_deviations, mean_magnitudes
from sw.wasq.healing.masks import RULES, best_masks, group_means
from sw.wasq.modules import QuantizedLayer
from tests.tiny_models import tiny_llama, tiny_text

FOUR = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
OPTIONS = HealOptions(
    steps=4, batch=4, learning_rate=2e-2, warmup=0, weight_decay=0.5, refresh=1, rho=0.2
)
LAYERS = 7


def heal(method: str = "lth", options: HealOptions = OPTIONS, **extra: object) -> Healed:
    given = replace(options, extra=extra)
    return heal_(tiny_llama(), method, tiny_text(), FOUR, given)


def vanilla() -> dict[str, QuantizedWeight]:
    model = quantize_(tiny_llama(), FOUR)
    return {n: m.weight for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}


def changed(healed: Healed) -> dict[str, torch.Tensor]:
    before = vanilla()
    return {n: w.words != before[n].words for n, w in healed.weights.items()}


@pytest.mark.parametrize("group", ["row", "block", "weight"])
@pytest.mark.parametrize("rule", RULES)
def test_frozen_words_stay_and_only_the_share_changes(rule: str, group: str) -> None:
    healed = heal(mask=rule, group=group)
    assert 0.15 < healed.fraction <= OPTIONS.rho
    differ = changed(healed)
    count = sum(int(d.sum()) for d in differ.values())
    total = sum(d.numel() for d in differ.values())
    assert 0 < count <= OPTIONS.rho * total
    if group == "row":
        rows = sum(int(d.any(1).sum()) * d.shape[1] for d in differ.values())
        assert rows <= OPTIONS.rho * total
    before = vanilla()
    assert all(torch.equal(w.exponents, before[n].exponents) for n, w in healed.weights.items())
    assert not healed.others


def test_nothing_changes_at_a_share_of_zero_and_anything_may_at_one() -> None:
    assert not any(bool(d.any()) for d in changed(heal(options=replace(OPTIONS, rho=0.0))).values())
    assert heal(options=replace(OPTIONS, rho=1.0)).fraction == 1


def test_rounds_end_at_the_share_and_rewind(tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=6, extra={"rounds": 3})
    healed = heal_(tiny_llama(), "lth", tiny_text(), FOUR, options, checkpoint=tmp_path)
    assert 0.15 < healed.fraction <= 0.2
    assert len(healed.losses) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-1", "round-2", "round-3"]
    again = heal_(tiny_llama(), "lth", tiny_text(), FOUR, options, resume=tmp_path)
    assert all(torch.equal(w.words, healed.weights[n].words) for n, w in again.weights.items())


def test_a_ticket_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = heal()
    part = replace(OPTIONS, stop_after=2)
    heal_(tiny_llama(), "lth", tiny_text(), FOUR, part, checkpoint=tmp_path)
    rest = heal_(tiny_llama(), "lth", tiny_text(), FOUR, OPTIONS, resume=tmp_path)
    assert rest.losses == whole.losses
    assert all(torch.equal(w.words, whole.weights[n].words) for n, w in rest.weights.items())


def test_the_best_of_several_prizes_is_kept(tmp_path: Path) -> None:
    prizes = [[0.05, "block"], [0.3, "block"], [0.3, "row"]]
    options = replace(OPTIONS, extra={"prizes": prizes, "held_out": 4, "scout_steps": 2})
    healed = heal_(tiny_llama(), "mplth", tiny_text(), FOUR, options, checkpoint=tmp_path)
    scores = healed.notes["scores"]
    assert len(scores) == 3
    assert len(set(scores.values())) == 3
    share, group = healed.notes["prize"]
    assert scores[f"{share} {group}"] == min(scores.values())
    assert healed.fraction <= share
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert kept["found"] == scores


def test_magnitudes_are_means_over_all_tokens() -> None:
    model, text = tiny_llama(), tiny_text(5)
    seen = []
    handle = model.blocks[0].attention.q.register_forward_hook(
        lambda _m, _i, output: seen.append(output.detach().double())
    )
    found = mean_magnitudes(model, ["blocks.0.attention.q"], text, 2)["blocks.0.attention.q"]
    handle.remove()
    wanted = torch.cat([part.reshape(-1, part.shape[-1]) for part in seen]).abs().mean(0)
    assert torch.allclose(found, wanted)


def test_deviations_are_relative() -> None:
    before = {"a": torch.tensor([1.0, 3.0]), "b": torch.zeros(2)}
    after = {"a": torch.tensor([1.0, 2.0]), "b": torch.ones(2)}
    assert layer_deviations(before, after) == {"a": 0.25, "b": 1.0}


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_clusters_are_the_best_of_all_partitions(count: int) -> None:
    values = torch.rand(8, generator=torch.Generator().manual_seed(4)).tolist()

    def error(groups: list[int]) -> float:
        total = 0.0
        for group in set(groups):
            inside = [v for v, g in zip(values, groups, strict=True) if g == group]
            total += sum((v - sum(inside) / len(inside)) ** 2 for v in inside)
        return total

    order = sorted(range(8), key=lambda i: -values[i])
    best = min(
        error([sum(order.index(i) >= cut for cut in cuts) for i in range(8)])
        for cuts in itertools.combinations(range(1, 8), min(count, 8) - 1)
    )
    found = clusters(values, count)
    assert error(found) == pytest.approx(best)
    assert found[order[0]] == 0


def test_masks_take_tiers_in_order_and_never_more_than_the_share() -> None:
    scores = {"a": torch.tensor([[1.0], [9.0]]), "b": torch.tensor([[5.0], [7.0]])}
    terms = {"a": 10, "b": 10}
    plain = best_masks(scores, terms, "row", 0.5)
    assert plain["a"].any(1).tolist() == [False, True]
    assert plain["b"].any(1).tolist() == [False, True]
    tiered = best_masks(scores, terms, "row", 0.5, {"a": 1, "b": 0})
    assert not tiered["a"].any()
    assert tiered["b"].all()
    assert sum(int(m.sum()) for m in best_masks(scores, terms, "row", 0.3).values()) == 10


def test_means_of_ragged_blocks_do_not_count_the_padding() -> None:
    values = torch.ones(2, 40)
    assert torch.equal(group_means(values, "block"), torch.ones(2, 2))


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(HealingError, match="mask must be one of deviation, random"):
        heal(mask="best")
    with pytest.raises(HealingError, match="group must be one of row, block, weight"):
        heal(group="tile")
    with pytest.raises(HealingError, match="more than the 99 held out, not 24"):
        heal("mplth", held_out=99)
