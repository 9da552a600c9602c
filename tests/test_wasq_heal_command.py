"""``atreides heal``: a checkpoint comes out, Ctrl-C leaves one to go on from, mistakes are told."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from atreides import heal as command
from atreides.cli import Subcommand, main
from sw import datasets
from sw.wasq.checkpoint import load
from sw.wasq.described import describe
from sw.wasq.healing import training
from sw.wasq.modules import QuantizedLayer

HEAL = (Subcommand("heal", "Heal.", "atreides.heal", "heal"),)
SMALL = ("--text", "tinystories", "--window", "32", "--batch", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def _data() -> None:
    try:
        datasets.path_of("stories260K", "stories260K.bin")
        datasets.path_of("tinystories_sample", "tinystories_sample.txt")
    except datasets.DatasetError as error:
        pytest.skip(str(error))


def run(*words: str) -> int:
    return main(["heal", *words], HEAL)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


def test_a_checkpoint_comes_out_with_what_was_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "healed"
    assert run("stories260k", *SMALL, "--steps", "2", "-o", str(out)) == 0
    assert "100.00% of" in told(capsys)
    source = describe(out).source
    assert source["method"] == "fpm"
    assert source["tokens"] == 2 * 2 * 32
    assert source["calibration"].startswith("tinystories")
    model = load(out)
    assert any(isinstance(m, QuantizedLayer) for m in model.modules())
    rows = [json.loads(line) for line in (tmp_path / "healed.healing/steps.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]


def test_ctrl_c_leaves_a_checkpoint_and_the_rest_gives_the_same_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    words = ("stories260k", *SMALL, "--steps", "3")
    assert run(*words, "-o", str(whole)) == 0
    step = training.Training.step

    def interrupted(self: training.Training) -> tuple[float, bool]:
        if self.done == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(training.Training, "step", interrupted)
    assert run(*words, "-o", str(part)) == 130
    assert f"after step 2; go on with the same command and --resume {part}.healing" in told(capsys)
    assert not part.exists()
    monkeypatch.undo()
    assert run(*words, "-o", str(part), "--resume", f"{part}.healing") == 0
    assert describe(part).sha256 == describe(whole).sha256


def test_healing_goes_on_from_the_words_of_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("stories260k", *SMALL, "--steps", "1", "--rate", "1e-2", "-o", str(first)) == 0
    started = ("stories260k", *SMALL, "--steps", "0", "--from", str(first))
    assert run(*started, "-o", str(second)) == 0
    one, other = (dict(load(folder).named_buffers()) for folder in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "magic"), "method must be one of fpm, lth"),
        (("--weights", "2"), "weights must be 3 to 16 bits"),
        (("--set", "mask"), "set must be NAME=JSON"),
        (("--log", "x.jsonl"), "log must come with --evaluate"),
        (("--text", "wikitext-2:raw-test"), "calibration must not use wikitext-2"),
        (("--window", "100000"), "a window"),
        (("--batch", "3", "--micro", "2"), "batch must be a multiple of micro"),
        (("--resume", "nowhere"), "must hold a checkpoint of a healing"),
        (("--method", "lth", "--set", "mask=best"), "mask must be one of deviation"),
        (("--method", "lth", "--set", "rounds=0"), "rounds must be an integer of at least 1"),
        (("--set", "mask=random"), "set of fpm must be one of calibration, not 'mask'"),
        (("--log", "/", "--evaluate", "tinystories"), "/ must be a file, not a folder"),
        (("--seed", "-1"), "greater than or equal to 0"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("stories260k", *SMALL, "--steps", "1", "-o", str(tmp_path / "out"), *words) == 2
    assert message in told(capsys)
    assert not (tmp_path / "out").exists()


def test_text_that_the_test_split_shares_is_refused_without_an_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, text = tmp_path / "held.txt", tmp_path / "copy.txt"
    held.write_text(" ".join(map(str, range(3000))))
    text.write_text(" ".join(map(str, range(1000, 2000))))
    monkeypatch.setattr("sw.wasq.corpus.EVALUATION", str(held))
    words = ("stories260k", "--text", str(text), "--device", "cpu")
    assert run(*words, "-o", str(tmp_path / "out")) == 2
    assert "calibration must not share text with held.txt" in told(capsys)
    assert not (tmp_path / "out").exists()


def test_a_window_beyond_the_context_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text, held = tmp_path / "text.txt", tmp_path / "held.txt"
    text.write_text(" ".join(map(str, range(3000))))
    held.write_text("Quite another text, about ships, wind and weather. " * 40)
    monkeypatch.setattr("sw.wasq.corpus.EVALUATION", str(held))
    words = ("--text", str(text), "--window", "513", "-o", str(tmp_path / "out"))
    assert run("stories260k", *words, "--device", "cpu") == 2
    assert "window must be at most 512, the model's context, not 513" in told(capsys)


def test_too_little_memory_says_what_to_reduce(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(command, "heal_", full)
    assert run("stories260k", *SMALL, "-o", str(tmp_path / "out")) == 2
    assert "smaller --batch, --micro or --window" in told(capsys)
