from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sw.models.llama import Llama, LlamaConfig
from sw.wasq.baselines import IntegerConfig, IntegerLinear, integers, round_integers, scales
from sw.wasq.corpus import Corpus
from sw.wasq.experiments import Setting, Spec, run_table
from sw.wasq.language import LanguageModel
from sw.wasq.opt import BlockReport
from sw.wasq.rivals import AutoRoundOptions, AWQOptions, autoround_model, awq_, integer_model
from sw.wasq.rivals.autoround import TunedLinear
from sw.wasq.rivals.awq import clip_integers, group_moments

BLOCKS = IntegerConfig(4, None, "block")
TOKENS = torch.randint(0, 40, (12, 16), generator=torch.Generator().manual_seed(1))
FRESH = torch.randint(0, 40, (12, 16), generator=torch.Generator().manual_seed(2))


def tiny(layers: int = 2) -> Llama:
    """Blocks whose norms stretch a few channels, on inputs that hang together."""
    torch.manual_seed(0)
    model = Llama(LlamaConfig(64, 80, layers, 4, 2, 40, 32)).eval()
    with torch.no_grad():
        model.embedding.weight.copy_(torch.randn(40, 12) @ torch.randn(12, 64) * 0.1)
        for block in model.blocks:
            block.attention_norm.weight[::9] = 12.0
            block.feed_forward_norm.weight[::11] = 12.0
            for parameter in block.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(2)
    return model


def lost(model: nn.Module, tokens: torch.Tensor) -> float:
    """Squared error of the logits, relative to their power."""
    with torch.no_grad():
        want, got = tiny()(tokens), model(tokens)
    return float((got - want).square().sum() / want.square().sum())


@pytest.mark.parametrize("group", ["row", "block"])
def test_factors_change_the_float_function_by_its_rounding_alone(group: Any) -> None:
    model = tiny()
    awq_(model, IntegerConfig(4, 8, group), TOKENS, batch=5)
    before = tiny()
    moved = {
        name
        for name, now in model.named_parameters()
        if not torch.allclose(now, before.get_parameter(name))
    }
    assert moved == {name for name, _ in before.named_parameters() if name.startswith("blocks.")}
    assert lost(model, FRESH) < 1e-10


def test_awq_errs_less_than_nearest_on_its_calibration_and_on_other_text() -> None:
    many = torch.randint(0, 40, (48, 12), generator=torch.Generator().manual_seed(3))
    nearest = integers(tiny(), BLOCKS)
    scaled = integer_model(tiny(), BLOCKS, ("awq",), many)
    assert lost(scaled, many) < 0.9 * lost(nearest, many)
    assert lost(scaled, FRESH) < 0.95 * lost(nearest, FRESH)
    layers = [m for m in scaled.modules() if isinstance(m, IntegerLinear)]
    assert len(layers) == 14
    for layer in layers:
        for group in layer.get_buffer("weight").split(32, 1):
            assert max(len(row.abs().unique()) for row in group) <= 8


def test_a_grid_of_one_without_clips_is_rounding_to_nearest() -> None:
    model = tiny()
    found = awq_(model, BLOCKS, TOKENS, AWQOptions(grid=1, clips=1))
    for name, weight in found.items():
        assert torch.equal(
            weight, round_integers(model.get_parameter(f"{name}.weight"), 4, "block")
        )
        assert torch.equal(
            model.get_parameter(f"{name}.weight"), tiny().get_parameter(f"{name}.weight")
        )


@pytest.mark.parametrize("group", ["row", "block"])
def test_clips_are_the_best_of_each_group_by_its_own_output(group: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5, 70, generator=generator) ** 3
    x = torch.randn(2, 40, 70, generator=generator)
    config = IntegerConfig(4, None, group)
    got = clip_integers(weight, group_moments([x[:1], x[1:]], config), config)
    assert not torch.equal(got, round_integers(weight, 4, group))
    step = scales(weight, 4, group).expand_as(weight)
    rows = x.flatten(0, 1)
    edges = [(0, 70)] if group == "row" else [(0, 32), (32, 64), (64, 70)]
    for first, last in edges:
        part = rows[:, first:last].double()
        for n in range(5):
            errors = []
            own, units = weight[n, first:last], step[n, first:last]
            for share in [1 - i / 20 for i in range(10)]:
                tried = (own / (units * share)).round().clamp(-7, 7) * (units * share)
                errors.append(float((part @ (tried - own).double()).square().sum()))
            mine = float((part @ (got[n, first:last] - own).double()).square().sum())
            assert mine == pytest.approx(min(errors), rel=1e-3)


def test_autoround_starts_at_nearest_and_stays_within_one_code() -> None:
    layer = nn.Linear(70, 6)
    config = IntegerConfig(4, 8, "block")
    tuned = TunedLinear(layer, config)
    near = round_integers(layer.weight.detach(), 4, "block")
    assert torch.equal(tuned.rounded_weight().detach(), near)
    x = torch.randn(3, 70)
    with torch.no_grad():
        assert torch.equal(tuned(x), IntegerLinear(layer, near, config)(x))
        tuned.offset.copy_(torch.randn(6, 70) * 3)
        tuned.clip.copy_(torch.rand(6, 3) * 3 - 1)
    tuned.limit()
    assert float(tuned.offset.detach().abs().max()) == 0.5
    assert 0 < float(tuned.clip.detach().min()) < float(tuned.clip.detach().max()) == 1
    step = (tuned.step * tuned.clip.repeat_interleave(32, 1)[:, :70]).detach()
    codes = (tuned.rounded_weight().detach() / step).round()
    assert float(codes.abs().max()) <= 7
    distance = (codes - (layer.weight.detach() / step).round().clamp(-7, 7)).abs()
    assert float(distance.max()) == 1


def test_gradients_are_straight_through_and_stop_at_the_largest_code() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[7.0, 2.4]]))
    tuned = TunedLinear(layer, IntegerConfig(4, None, "row"))
    with torch.no_grad():
        tuned.clip.fill_(0.5)  # a step of 0.5: 14 is beyond 7, 4.8 becomes 5
    x = torch.tensor([[3.0, 5.0]])
    tuned(x).sum().backward()
    assert tuned.offset.grad is not None
    assert tuned.clip.grad is not None
    assert tuned.offset.grad.tolist() == [[0.0, 2.5]]
    assert tuned.clip.grad.item() == pytest.approx(3 * 7 + 5 * (5 - 4.8), rel=1e-5)


@pytest.mark.parametrize("config", [BLOCKS, IntegerConfig(4, 8, "row")])
def test_autoround_errs_less_than_nearest(config: IntegerConfig) -> None:
    reports: list[BlockReport] = []
    options = AutoRoundOptions(steps=12, batch=6)
    model = tiny()
    found = autoround_model(model, config, TOKENS, options, on_block=reports.append)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), tiny().parameters(), strict=True)
    )
    assert [(r.index, r.blocks) for r in reports] == [(0, 2), (1, 2)]
    assert all(r.after < 0.9 * r.before for r in reports)
    assert all(0 < r.changed < r.words for r in reports)
    assert len(found) == 14


def test_autoround_without_steps_is_nearest_and_seeds_give_the_same_weights() -> None:
    plain = autoround_model(tiny(), BLOCKS, TOKENS, AutoRoundOptions(steps=0))
    for name, weight in plain.items():
        want = round_integers(tiny().get_parameter(f"{name}.weight").detach(), 4, "block")
        assert torch.equal(weight, want)
    first, again, other = (
        autoround_model(tiny(1), BLOCKS, TOKENS, AutoRoundOptions(steps=12, batch=6, seed=seed))
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not all(torch.equal(first[n], other[n]) for n in first)


def test_autoround_keeps_nearest_where_tuning_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(walk: Any, pair: Any, layers: dict[str, TunedLinear], *_: Any) -> Any:
        with torch.no_grad():
            for layer in layers.values():
                layer.offset.fill_(0.5)
        yield {name: layer.rounded_weight().detach() for name, layer in layers.items()}

    monkeypatch.setattr("sw.wasq.rivals.autoround._tuned", spoiled)
    reports: list[BlockReport] = []
    found = autoround_model(tiny(), BLOCKS, TOKENS, on_block=reports.append)
    want = autoround_model(tiny(), BLOCKS, TOKENS, AutoRoundOptions(steps=0))
    assert all(torch.equal(found[n], want[n]) for n in want)
    assert [(r.changed, r.after) for r in reports] == [(0, r.before) for r in reports]


def test_the_model_that_is_given_is_left_as_it_is() -> None:
    model = tiny()
    made = integer_model(model, IntegerConfig(4, 8, "block"), ("awq",), TOKENS[:2])
    assert isinstance(made.get_submodule("head"), nn.Linear)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), tiny().parameters(), strict=True)
    )


@pytest.mark.parametrize("steps", [("equalise",), ("awq", "autoround"), ("gptq",)])
def test_other_steps_of_integers_are_one_sentence(steps: tuple[str, ...]) -> None:
    wanted = "steps of integers must be one of compensate, awq, autoround or none, not "
    with pytest.raises(ValueError, match=wanted + "+".join(steps).replace("+", r"\+")):
        Spec("row", BLOCKS, steps)
    with pytest.raises(ValueError, match=wanted):
        integer_model(tiny(), BLOCKS, steps, TOKENS)


def test_bad_settings_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="grid must be at least 1, not 0"):
        AWQOptions(grid=0)
    with pytest.raises(ValueError, match="steps must be at least 0, not -1"):
        AutoRoundOptions(steps=-1)
    with pytest.raises(ValueError, match="awq must have calibration tokens, not None"):
        integer_model(tiny(), BLOCKS, ("awq",))
    with pytest.raises(ValueError, match="model must be a Llama to be walked block by block"):
        integer_model(nn.Linear(3, 3), BLOCKS, ("autoround",), TOKENS)
    with pytest.raises(ValueError, match="calibration tokens must be 0 to 39, not 77"):
        awq_(tiny(), BLOCKS, torch.full((1, 3), 77))
    broken = tiny()
    with torch.no_grad():
        broken.blocks[0].attention_norm.weight.fill_(3e38)
    with pytest.raises(ValueError, match=r"input of blocks\.0\.attention\.q must hold finite"):
        awq_(broken, BLOCKS, TOKENS)


def test_a_table_has_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randint(0, 40, (300,), generator=torch.Generator().manual_seed(5))
    setting = Setting(
        language=LanguageModel("tiny", tiny(), None, "0" * 64, 32),  # type: ignore[arg-type]
        calibration=[Corpus.of("text", "train", tokens[:150])],
        evaluation=Corpus.of("other", "later", tokens[150:]),
        log=tmp_path / "log.jsonl",
        folder=tmp_path,
        sequences=2,
        length=16,
        window=30,
    )
    said: list[str] = []
    short = partial(autoround_model, options=AutoRoundOptions(steps=2))
    monkeypatch.setattr("sw.wasq.rivals.autoround_model", short)
    specs = [Spec(step, BLOCKS, (step,)) for step in ("awq", "autoround")]
    rows = run_table(setting, specs, report=said.append)
    assert [(r.method, r.weight_bits, r.activation_bits) for r in rows] == [
        ("awq", 4, None),
        ("autoround", 4, None),
    ]
    assert [b["index"] for b in rows[1].extra["blocks"]] == [0, 1]
    assert said[1].startswith("autoround: block 1/2, error ")
