"""Comparisons of healing methods: every run once, in slices, as rows that can be read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sw.wasq import SFConfig
from sw.wasq.corpus import Corpus
from sw.wasq.healing import HealOptions
from sw.wasq.healing.comparisons import (
    compare_masks,
    compare_searches,
    compare_speed,
    seconds_to_most,
)
from sw.wasq.healing.setting import Setting
from sw.wasq.language import LanguageModel
from sw.wasq.opt import OptOptions
from sw.wasq.records import read_records
from tests.tiny_models import tiny_llama, tiny_text

FOUR = SFConfig(weights=4, activations=8, weight_scale="block", activation_scale="block")
OPTIONS = HealOptions(
    steps=2, batch=2, learning_rate=1e-3, warmup=0, extra={"grouping": "part", "bits": [3, 4, 5]}
)


class Letters:
    """A tokenizer that nothing is encoded with."""

    vocabulary, bos = 32, None

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % 32 for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return "".join(chr(token + 64) for token in tokens)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    language = LanguageModel("tiny", tiny_llama(), Letters(), "0" * 64, 16)  # type: ignore[arg-type]
    text = Corpus.of("text", "train", tiny_text(60).flatten())
    judged = Corpus.of("judged", "test", tiny_text(8, seed=6).flatten())
    log = tmp_path / "log.jsonl"
    return Setting(language, text, judged, FOUR, OPTIONS, log, window=12, judged_window=12)


def test_every_mask_is_compared_once_and_in_slices(setting: Setting) -> None:
    study = {"shares": (0.1,), "seeds": (1,), "rules": ("deviation", "random")}
    assert not compare_masks(replace(setting, seconds=1e-9), **study)  # type: ignore[arg-type]
    assert len(read_records(setting.log).records) == 1  # the first is always begun
    assert compare_masks(setting, **study)  # type: ignore[arg-type]
    log = read_records(setting.log)
    assert not log.mistakes
    rules = [record.extra["rule"] for record in log.records]
    assert rules == ["none", "all", "deviation", "random"]
    assert [record.method for record in log.records] == ["vanilla", "fpm", "lth", "lth"]
    assert log.records[2].trained == pytest.approx(0.1, abs=0.01)
    assert compare_masks(setting, **study)  # type: ignore[arg-type]
    assert len(read_records(setting.log).records) == 4


def test_searches_get_equal_measurements(setting: Setting) -> None:
    before = {n: p.clone() for n, p in setting.language.module.named_parameters()}
    assert compare_searches(setting, seeds=(1,))
    rows = read_records(setting.log).records
    assert [r.extra["search"] for r in rows] == ["annealing", "greedy", "random", "integer program"]
    assert len({r.extra["start"] for r in rows}) == 1
    assert all(r.extra["measurements"] <= 2 * 5 + 2 for r in rows)
    assert all(r.extra["energy"] <= r.extra["start"] for r in rows)
    after = dict(setting.language.module.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in before.items())


def test_speed_is_a_curve_and_the_seconds_to_most_of_the_gain(setting: Setting) -> None:
    options = OptOptions(steps=2, batch=2)
    assert compare_speed(setting, opt_options=options, evaluations=2, windows_each=2)
    fpm, opt = read_records(setting.log).records
    assert (fpm.method, opt.method) == ("fpm", "opt")
    assert len(fpm.extra["curve"]) == 3
    assert len(opt.extra["curve"]) == 2
    assert fpm.extra["curve"][0][1] == opt.extra["curve"][0][1]
    for row in (fpm, opt):
        assert 0 <= row.extra["seconds_to_95_percent"] <= row.extra["curve"][-1][0]


def test_seconds_to_most_lie_on_the_lines_of_the_curve() -> None:
    assert seconds_to_most([(0, 30.0), (10, 20.0)]) == pytest.approx(9.5)
    assert seconds_to_most([(0, 30.0), (10, 21.0), (20, 20.0)]) == pytest.approx(15.0)
    assert seconds_to_most([(0, 30.0), (5, 30.0)]) == 5
