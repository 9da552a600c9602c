"""quantize, evaluate and generate from the command line: a small model all the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wasq_models import small_llama, small_tokens, text_file

from atreides import evaluate as evaluate_command
from atreides.cli import main
from atreides.wasq_config import read_config
from sw.wasq import SFConfig, quantize_
from sw.wasq.corpus import load_corpus
from sw.wasq.described import describe
from sw.wasq.evaluation import evaluate
from sw.wasq.language import save_language
from sw.wasq.records import read_records

CPU = ["--device", "cpu"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model, a text beside it, and a cache of its own."""
    monkeypatch.setattr(evaluate_command, "cache_directory", lambda: tmp_path / "cache")
    save_language(tmp_path / "small", small_llama(), small_tokens())
    text_file(tmp_path)
    return tmp_path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_what_is_quantized_is_what_is_evaluated(folder: Path, capsys) -> None:
    model, log = folder / "small", folder / "log.jsonl"
    options = ["--weights", 4, "--weight-scale", "block", *CPU]
    assert run("quantize", model, "-o", folder / "q4", *options) == 0
    told = ["--text", folder / "text.txt", "--window", 32, "--log", log, *CPU]
    assert run("evaluate", folder / "q4", *told) == 0
    assert "divergence" in capsys.readouterr().out
    assert run("evaluate", model, *told) == 0
    quantized, plain = read_records(log).records
    corpus = load_corpus(str(folder / "text.txt"), small_tokens())
    want = evaluate(small_llama(), corpus, 32)
    assert plain.perplexity == pytest.approx(want.perplexity, rel=1e-9)
    own = small_llama()
    quantize_(own, SFConfig(weights=4, weight_scale="block"))
    words = evaluate(own, corpus, 32, reference=small_llama())
    assert quantized.perplexity == pytest.approx(words.perplexity, rel=1e-9)
    assert quantized.divergence == pytest.approx(words.divergence, rel=1e-6)
    assert quantized.model_sha256 == plain.model_sha256
    assert (quantized.method, quantized.weight_bits, plain.method) == ("vanilla", 4, "float")


def test_a_checkpoint_knows_a_tokenizer_that_lies_apart(folder: Path, capsys) -> None:
    apart = folder / "apart.json"
    (folder / "small" / "tokenizer.json").rename(apart)
    text, told = folder / "text.txt", ["--text", folder / "text.txt", "--window", 32, *CPU]
    assert run("quantize", folder / "small", "-o", folder / "q", *CPU) == 2
    assert run("quantize", folder / "small", "-o", folder / "q", "--tokenizer", apart, *CPU) == 0
    healing = ["--steps", 1, "--window", 32, "--tokenizer", apart, "--text", text, *CPU]
    assert run("heal", folder / "small", "-o", folder / "h", *healing) == 0
    assert run("evaluate", folder / "q", *told) == 0
    for checkpoint in ("q", "h"):
        assert run("generate", folder / checkpoint, "--prompt", "the", "--tokens", 2) == 0
    capsys.readouterr()
    apart.rename(folder / "moved.json")
    assert run("generate", folder / "q", "--prompt", "the") == 2
    assert "or a tokenizer be given" in capsys.readouterr().err
    moved = ["--tokenizer", folder / "moved.json", "--tokens", 2]
    assert run("generate", folder / "q", "--prompt", "the", *moved) == 0
    assert run("generate", "stories260k", "--tokenizer", folder / "moved.json") == 2


def test_steps_are_named_and_recovery_is_told(folder: Path, monkeypatch) -> None:
    model, text, log = folder / "small", folder / "text.txt", folder / "log.jsonl"
    other = folder / "other.txt"
    other.write_text("Quite another text, about ships, wind and weather. " * 40)
    monkeypatch.setattr("sw.wasq.corpus.EVALUATION", str(other))
    told = ["--text", text, "--window", 32, "--log", log, *CPU]
    steps = ["--method", "compensate", "--calibration", text, "--calibration-window", 32]
    for name, more in (("a", []), ("b", steps)):
        command = ["quantize", model, "-o", folder / name, "--weights", 4, *CPU, *more]
        assert run(*command) == 0
    assert run("evaluate", folder / "a", *told) == 0
    # What was calibrated on is refused; another text is not.
    assert run("evaluate", folder / "b", *told) == 2
    told[1] = other
    assert run("evaluate", folder / "a", *told) == 0
    assert run("evaluate", folder / "b", *told) == 0
    *_, vanilla, healed = read_records(log).records
    assert healed.method == "compensate"
    assert healed.calibration == str(text.resolve())
    lost = vanilla.perplexity - vanilla.reference_perplexity
    assert healed.recovery == pytest.approx((vanilla.perplexity - healed.perplexity) / lost)


def test_the_published_rule_has_no_scales(folder: Path) -> None:
    method = ["--method", "vanilla-clamped", "--weights", 8, *CPU]
    assert run("quantize", folder / "small", "-o", folder / "q", *method) == 0
    told = describe(folder / "q")
    assert (told.config.weight_scale, told.config.head) == ("none", 8)
    assert told.source["method"] == "vanilla-clamped"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--weights", "2"], "weights must be 3 to 16 bits or None, not 2"),
        (["--weights", "x"], "weights must be a width in bits or float, not 'x'"),
        (["--weight-scale", "row"], "weight_scale must be one of none, tensor, channel, block"),
        (["--method", "magic"], "method must be vanilla, vanilla-published"),
        (["--override", "x"], "override must be PATTERN:field=value, not 'x'"),
        (["--override", "x:weights=4"], "override 'x' must match a linear layer or convolution"),
        (["--override", "*:bits=4"], "must set weights, weight_scale"),
        (["--config", "nosuch.json"], "nosuch.json must exist"),
        (["--device", "tpu"], "device must be auto, cpu or cuda, not 'tpu'"),
        (["--calibration", "nosuch", "--method", "compensate"], "text must be a file"),
        (["--seed", "4294967296"], "less than or equal to 4294967295"),
    ],
)
def test_a_mistake_is_one_sentence(folder: Path, arguments, sentence, capsys) -> None:
    output = folder / "q"
    assert run("quantize", folder / "small", "-o", output, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nosuch"], "model must be one of stories260k"),
        (["small", "--window", "65"], "window must be at most 64, the model's context, not 65"),
        (["small", "--text", "nosuch"], "text must be a file"),
        (["small", "--reference", "x"], "reference must be one of auto, float, none, not 'x'"),
        (["small", "--tokenizer", "nosuch"], "nosuch must be a tokenizer's file"),
        (["small", "--log", "text.txt/log"], "text.txt/log must be in a folder that can be"),
        (["small", "--resume", "small"], "small must be a file, not a folder"),
    ],
)
def test_a_mistake_of_evaluation_is_one_sentence(
    folder: Path, arguments, sentence, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(folder)
    text = [] if "--text" in arguments else ["--text", "text.txt"]
    assert run("evaluate", *arguments, *text, *CPU) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert sentence in said.err


@pytest.mark.parametrize("command", ["quantize", "heal"])
def test_only_a_float_model_is_quantized(folder: Path, command: str, capsys) -> None:
    assert run("quantize", folder / "small", "-o", folder / "q", *CPU) == 0
    assert run(command, folder / "q", "-o", folder / "again", *CPU) == 2
    assert "not the quantized checkpoint" in capsys.readouterr().err


def test_a_place_that_no_checkpoint_can_have_is_refused_first(folder: Path, capsys) -> None:
    output = folder / "text.txt" / "q"
    assert run("quantize", "nosuch", "-o", output, *CPU) == 2
    assert f"{output} must be in a folder that can be written to" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_done(folder: Path, monkeypatch) -> None:
    real = evaluate_command.evaluate_model
    calls: list[int] = []

    def interrupted(*arguments, progress, **more):
        def stop(done: int, count: int) -> None:
            calls.append(done)
            if len(calls) == 3:
                raise KeyboardInterrupt

        return real(*arguments, progress=stop, **more)

    monkeypatch.setattr(evaluate_command, "evaluate_model", interrupted)
    command = ["evaluate", folder / "small", "--text", folder / "text.txt", "--window", 32, *CPU]
    assert run(*command) == 130
    (state,) = (folder / "cache" / "evaluations").iterdir()
    assert len(json.loads(state.read_text())["rows"]) == 3
    assert run(*command) == 0
    assert calls[3] == 4
    assert not state.exists()


def test_a_checkpoint_tells_a_text(folder: Path, capsys) -> None:
    assert run("quantize", folder / "small", "-o", folder / "q16", "--weights", 16, *CPU) == 0
    capsys.readouterr()
    for model in (folder / "small", folder / "q16"):
        assert run("generate", model, "--prompt", "the", "--tokens", 5) == 0
    plain, words = capsys.readouterr().out.split("\n")[:2]
    assert plain.startswith("the")
    assert words.startswith("the")
    assert run("generate", folder / "small", "--prompt", "") == 2
    assert "prompt must be at least one token" in capsys.readouterr().err
    assert run("generate", folder / "small", "--prompt", "a", "--tokens", 64) == 2
    assert "must be at most 64, the context" in capsys.readouterr().err


def test_a_file_an_option_and_an_override_make_one_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"weights": 6, "overrides": {"a*": {"weights": 4}}}))
    overrides = ["a*:weight_scale=none,activations=float", "b:c:weights=float,activations=float"]
    found = read_config(path, {"activations": "16", "head": None}, overrides)
    assert (found.weights, found.activations, found.head) == (6, 16, None)
    assert dict(found.overrides["a*"]) == {
        "weights": 4, "weight_scale": "none", "activations": None,
    }  # fmt: skip
    assert dict(found.overrides["b:c"]) == {"weights": None, "activations": None}
