from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sw.format import SFx
from sw.models.llama import Llama, LlamaConfig
from sw.wasq.baselines import IntegerConfig, compensate_integers, integers, round_integers
from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.corpus import Corpus, CorpusError
from sw.wasq.experiments import Setting, Spec, calibration_tokens, run_table
from sw.wasq.language import LanguageModel
from sw.wasq.quantize import quantize_, targets
from sw.wasq.statistics import Moments
from sw.wasq.vanilla import mxint, vanilla


def tiny() -> Llama:
    torch.manual_seed(0)
    model = Llama(LlamaConfig(32, 48, 2, 4, 2, 40, 32)).eval()
    with torch.no_grad():
        model.blocks[0].attention.q.weight[2, 3] = 1.5
        model.blocks[1].feed_forward.down.weight[0, 0] = -1.0
    return model


TOKENS = torch.randint(0, 40, (4, 16), generator=torch.Generator().manual_seed(1))


def test_the_published_rule_keeps_layers_that_reach_outside_float() -> None:
    model = tiny()
    config, words = vanilla(model, SFConfig(weights=8), "published")
    assert "blocks.0.attention.q" not in words
    assert len(words) == len(targets(model, SFConfig())) - 1
    for name, word in words.items():
        assert word.scale == "none"
        weight = model.get_submodule(name).get_parameter("weight")
        form = SFx(8)
        want = [float(form.decode(form.encode(v))) for v in weight.flatten()[:50].tolist()]
        assert word.dequantize().flatten()[:50].tolist() == want
    quantized = quantize_(model, config, weights=words)
    assert isinstance(quantized.get_submodule("blocks.0.attention.q"), nn.Linear)


def test_the_clamp_takes_every_parameter_to_one_at_most() -> None:
    model = tiny()
    with torch.no_grad():
        model.norm.weight[:] = 3.0
    config, words = vanilla(model, SFConfig(weights=8), "clamped")
    assert (config.head, config.embedding, config.norms) == (8, 8, 8)
    assert words["blocks.0.attention.q"].dequantize()[2, 3] == 1.0
    assert "head" in words


def test_the_rule_that_works_covers_every_layer_and_errs_least() -> None:
    config = SFConfig(weights=8, activations=8)
    with torch.no_grad():
        want = tiny()(TOKENS)
        errors = []
        for form in ("scaled", "clamped"):
            model = tiny()
            chosen, words = vanilla(model, config, form)  # type: ignore[arg-type]
            got = quantize_(model, chosen, weights=words)(TOKENS)
            errors.append(float((got - want).square().sum()))
    assert errors[0] < 0.1 * errors[1]


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="form must be one of published, clamped, scaled, not 'x'"):
        vanilla(tiny(), SFConfig(), "x")  # type: ignore[arg-type]
    outside = nn.Linear(2, 2)
    nn.init.constant_(outside.weight, 2.0)
    with pytest.raises(ValueError, match=r"must have a layer inside \[-1, 1\]"):
        vanilla(outside, SFConfig(), "published")
    with pytest.raises(ValueError, match="bits must be 2 to 16, not 1"):
        IntegerConfig(weights=1)


def test_mxint_takes_the_shared_exponent_of_the_largest() -> None:
    config = mxint(8)
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(2))
    model = nn.Sequential(nn.Linear(64, 4, bias=False))
    model[0].weight.data.copy_(weight)
    _, words = vanilla(model, config)
    largest = weight.reshape(4, 2, 32).abs().amax(-1)
    shared = torch.floor(torch.log2(largest)).long()
    assert torch.equal(words["0"].exponents, shared + 1)
    steps = torch.ldexp(torch.ones(4, 2), shared - 6).repeat_interleave(32, 1)
    want = torch.round(weight / steps).clamp(-127, 127) * steps
    assert torch.equal(words["0"].dequantize(), want)


@pytest.mark.parametrize("group", ["row", "block"])
def test_integers_are_the_nearest_multiples_of_their_scale(group: Any) -> None:
    x = torch.randn(3, 70, generator=torch.Generator().manual_seed(3))
    x[1] = 0
    got = round_integers(x, 4, group)
    for row, values in zip(x.tolist(), got.tolist(), strict=True):
        edges = [0, 70] if group == "row" else [0, 32, 64, 70]
        for first, last in pairwise(edges):
            scale = max(abs(v) for v in row[first:last]) / 7 or 1.0
            for v, q in zip(row[first:last], values[first:last], strict=True):
                assert abs(v - q) <= scale * 0.5001
                assert abs(q / scale - round(q / scale)) < 1e-4


def test_compensated_integers_err_less_than_rounded_ones() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(300, 8, generator=generator) @ torch.randn(8, 64, generator=generator)
    weight = torch.randn(10, 64, generator=generator)
    config = IntegerConfig(weights=4, group="block")
    moments = Moments(64)
    moments.add(x, LayerConfig(activations=None))
    errors = [
        float(((weight - q) @ x.T).square().sum())
        for q in (
            compensate_integers(weight, config, moments),
            round_integers(weight, 4, "block"),
        )
    ]
    assert errors[0] < 0.3 * errors[1]


def test_an_integer_model_is_a_copy_with_a_float_head() -> None:
    model = tiny()
    rounded = integers(model, IntegerConfig(8, 8, "row"))
    compensated = integers(model, IntegerConfig(4, None, "block"), TOKENS)
    assert isinstance(rounded.get_submodule("head"), nn.Linear)
    assert isinstance(model.blocks[0].attention.q, nn.Linear)
    with torch.no_grad():
        want = model(TOKENS)
        for got in (rounded(TOKENS), compensated(TOKENS)):
            assert 0 < float((got - want).square().sum() / want.square().sum()) < 0.05


def test_a_table_runs_each_row_once(tmp_path: Path) -> None:
    tokens = torch.randint(0, 40, (600,), generator=torch.Generator().manual_seed(5))
    text = Corpus.of("text", "train", tokens[:300])
    other = Corpus.of("other", "later", tokens[300:])
    language = LanguageModel("tiny", tiny(), None, "0" * 64, 32)  # type: ignore[arg-type]
    setting = Setting(
        language=language,
        calibration=[text],
        evaluation=other,
        log=tmp_path / "log.jsonl",
        folder=tmp_path,
        sequences=8,
        length=16,
        window=30,
        keep=True,
    )
    words = SFConfig(weights=4)
    specs = [
        Spec("float", None),
        Spec("plain", words),
        Spec("compensated", words, ("compensate",)),
        Spec("integers", IntegerConfig(4, 8)),
    ]
    said: list[str] = []
    first = run_table(setting, specs[:2], report=said.append)
    second = run_table(setting, specs, report=said.append)
    assert [r.extra["row"] for r in (*first, *second)] == [s.name for s in specs]
    assert [r.method for r in (*first, *second)] == ["float", "vanilla", "compensate", "vanilla"]
    assert said[2:4] == ["float: in the log", "plain: in the log"]
    assert (tmp_path / "compensated" / "model").is_dir()
    assert run_table(setting, [*specs, Spec("late", words)], 0.0, said.append) == []
    assert said[-1] == "late: left for the next call"


def test_calibration_is_spread_over_texts_and_never_a_test_split() -> None:
    long = Corpus.of("long", "valid", torch.arange(100))
    short = Corpus.of("short", "train", torch.arange(100, 120))
    found = calibration_tokens([long, short], 6, 10)
    assert found[:, 0].tolist() == [100, 110, 0, 30, 60, 90]
    with pytest.raises(CorpusError, match="for evaluation alone"):
        calibration_tokens([Corpus.of("text", "test", torch.arange(100))], 2, 10)
