"""Ctrl-C and places that cannot be written, in the commands on language models."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from wasq_models import small_llama, small_tokens, working_folder

from atreides import evaluate as evaluate_command
from atreides import quantize as quantize_command
from atreides import wasq_methods
from atreides.cli import main
from sw import paths
from sw.wasq import inhouse
from sw.wasq.healing import annealed, training
from sw.wasq.healing.measured import Bench
from sw.wasq.language import load_language, save_language
from sw.wasq.opt import OptOptions
from sw.wasq.stacks import StackOptions

CPU = ["--device", "cpu"]
HEAL = ["--steps", "4", "--batch", "2", "--window", "16", *CPU]
NOWHERE = Path("/proc/nothing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a small model in it."""
    save_language(tmp_path / "small", small_llama(), small_tokens())
    return working_folder(tmp_path, monkeypatch)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def press_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Press Ctrl-C before one call of a function, and again before each one after it."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = []

    def pressed(*arguments: Any, **more: Any) -> Any:
        calls.append(None)
        if len(calls) >= call:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments, **more)

    monkeypatch.setattr(owner, name, pressed)


@pytest.mark.skipif(not NOWHERE.parent.is_dir(), reason="/proc is Linux's")
@pytest.mark.parametrize(
    "command",
    [
        ["quantize", "small", "-o", NOWHERE],
        ["heal", "small", "-o", NOWHERE],
        ["heal", "small", "-o", "h", "--resume", NOWHERE],
        ["heal", "small", "-o", "h", "--evaluate", "text.txt", "--log", NOWHERE],
        ["evaluate", "small", "--log", NOWHERE],
        ["evaluate", "small", "--resume", NOWHERE],
        ["study", "formats", "small", "-o", NOWHERE],
        ["study", "formats", "small", "-o", "s", "--log", NOWHERE],
        ["study", "train-model", "-o", NOWHERE],
        ["report", "text.txt", "-o", NOWHERE.with_suffix(".html")],
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_a_place_that_takes_no_file_is_refused_before_any_work(
    command: list[str | Path], folder: Path, capsys, monkeypatch
) -> None:
    def worked(*_: Any, **__: Any) -> None:
        raise AssertionError("places must be checked first")

    for module in ("quantize", "heal_job", "study_kinds"):
        monkeypatch.setattr(f"atreides.{module}.load_language", worked)
    monkeypatch.setattr(evaluate_command, "open_model", worked)
    before = sorted(folder.iterdir())
    assert main([str(word) for word in command]) == 2
    assert "must be in a folder that can be written to, not in /proc" in told(capsys)
    assert sorted(folder.iterdir()) == before


def test_a_folder_that_takes_no_file_is_not_writable(tmp_path: Path, monkeypatch) -> None:
    assert paths.is_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not paths.is_writable(tmp_path / "missing")

    def refused(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(paths.tempfile, "TemporaryFile", refused)
    assert not paths.is_writable(tmp_path)
    with pytest.raises(ValueError, match="must be a folder that can be written to"):
        paths.check_folder(tmp_path)


def test_an_interrupted_quantization_leaves_nothing_but_says_so(
    folder: Path, capsys, monkeypatch
) -> None:
    press_before(monkeypatch, quantize_command, "quantize_", 1)
    assert main(["quantize", "small", "-o", "q", *CPU]) == 130
    assert told(capsys) == (
        "atreides: interrupted; nothing is kept yet and q is as it was: run the same again"
    )
    assert not list(folder.glob("*q*"))


def test_what_opt_has_finished_is_kept_and_gone_on_with(folder: Path, capsys, monkeypatch) -> None:
    few = StackOptions(opt=OptOptions(steps=2))
    monkeypatch.setattr(wasq_methods, "StackOptions", lambda: few)
    looks = ["--calibration", "text.txt", "--calibration-window", "16"]
    looks += ["--calibration-tokens", "64", *CPU]
    command = ["quantize", "small", "-o", "q", "--method", "opt", *looks]
    with monkeypatch.context() as patch:
        press_before(patch, quantize_command, "quantize_", 1)
        assert main(command) == 130
    assert "2 finished parts are kept in q.unfinished: run the same again" in told(capsys)
    assert main(command) == 0
    assert not (folder / "q.unfinished").exists()


def test_an_interrupted_evaluation_says_where_its_windows_are(
    folder: Path, capsys, monkeypatch
) -> None:
    press_before(monkeypatch, small_llama().__class__, "forward", 3)
    command = ["evaluate", "small", "--text", "text.txt", "--window", "32", *CPU]
    assert main(command) == 130
    kept = folder / "cache" / "evaluations"
    assert f"the windows done are kept in {kept}: run the same again" in told(capsys)
    assert list(kept.iterdir())


def test_a_second_press_ends_healing_at_once(folder: Path, capsys, monkeypatch) -> None:
    press_before(monkeypatch, training.Training, "_limit", 1)
    press_before(monkeypatch, training.Training, "_refresh", 1)
    assert main(["heal", "small", "-o", "h", "--text", "text.txt", *HEAL]) == 130
    assert "no checkpoint is kept yet: run the same again" in told(capsys)
    assert not (folder / "h").exists()


def test_a_search_stops_at_the_next_measurement(folder: Path, capsys, monkeypatch) -> None:
    press_before(monkeypatch, annealed, "search", 1)
    measured = []
    monkeypatch.setattr(Bench, "measure", lambda *_: measured.append(None))
    words = ["--method", "sa-mplth", "--set", "bits=[3,4]", "--weights", "4"]
    assert main(["heal", "small", "-o", "h", "--text", "text.txt", *words, *HEAL]) == 130
    assert not measured
    assert "no checkpoint is kept yet: run the same again" in told(capsys)


def test_a_healing_whose_evaluation_is_interrupted_is_whole(
    folder: Path, capsys, monkeypatch
) -> None:
    (folder / "other.txt").write_text("Quite another text, about ships, wind and weather. " * 40)
    press_before(monkeypatch, evaluate_command.evaluate_model.__globals__["Partial"], "put", 1)
    words = ["--text", "text.txt", "--evaluate", "other.txt", *HEAL]
    assert main(["heal", "small", "-o", "h", *words]) == 130
    assert "h is whole, and `atreides evaluate` measures it" in told(capsys)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["evaluate", "h", "--text", "other.txt", "--window", "16", *CPU]) == 0


def test_training_stops_behind_a_step_and_goes_on(folder: Path, capsys, monkeypatch) -> None:
    lines = "the cat sat on the mat\nand the dog sat on the log\n"
    monkeypatch.setattr(inhouse, "gather", lambda generated: inhouse.divide([lines * 60]))
    monkeypatch.setitem(inhouse.train.__kwdefaults__, "vocabulary", 262)
    sizes = {"width": 8, "hidden": 8, "layers": 1, "heads": 1, "kv_heads": 1}
    recipe = inhouse.Recipe(**sizes, steps=3, rate=1e-2, dropout=0.1, tokens=32, lengths=(16,))
    monkeypatch.setattr(inhouse, "RECIPES", {"0.3m": recipe})
    command = ["study", "train-model", "0.3m", "-o", "trained"]
    with monkeypatch.context() as patch:
        press_before(patch, torch.optim.AdamW, "zero_grad", 2)
        assert main(command) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1].endswith("the last step done is kept in trained: run the same again to go on")
    assert not (folder / "trained" / "study.jsonl").exists()
    assert main(command) == 0
    assert "3 steps" in capsys.readouterr().out
    assert load_language(str(folder / "trained" / "0.3m")).module.config.width == 8
