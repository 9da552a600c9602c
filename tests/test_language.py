"""Language models token by token: a small one in detail, stories260K and SmolLM2 as they are."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from atreides.cli import main
from bench.language import widths
from sim.machine_device import make_device
from sw import datasets
from sw.compiler.compile import Traced, compile_traced, trace_model
from sw.config import MachineConfig
from sw.importers import language
from sw.models import smollm, stories
from sw.models.llama import Llama, LlamaConfig
from sw.runtime.artefact import Artefact
from sw.runtime.check import lockstep
from sw.runtime.checksums import Boundary
from sw.runtime.generate import Decoder, generate, negative_log_likelihood
from sw.runtime.session import Session

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
SMALL = LlamaConfig(width=16, hidden=24, layers=1, heads=4, kv_heads=2, vocabulary=11, context=8)
TOKENS = [3, 1, 4]


class Letters:
    """A tokenizer of the letters from a to k."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in tokens)


@cache
def small() -> language.Language:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Llama(SMALL).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
    return language.Language(model, Letters())


@cache
def small_artefact() -> Artefact:
    traced = trace_model(*small().step(6))
    return compile_traced(traced, MachineConfig(bits=16, rows=4, columns=4, slots=512))


@cache
def story_step(context: int) -> Traced:
    return trace_model(*language.load_language("stories260k").step(context))


def stories_on(bits: int, context: int = 64) -> Artefact:
    config = MachineConfig(bits=bits, bias_bits=16, parameters=1024, slots=8192)
    return compile_traced(story_step(context), config)


def test_logits_are_those_of_the_window_nearly() -> None:
    tokens = [3, 1, 4, 1, 5, 9]
    with torch.no_grad():
        want = small().model(torch.tensor([tokens]))[0]
    with Session(small_artefact()) as session:
        decoder = Decoder(session)
        assert decoder.context == 6
        for again in range(2):
            found = torch.stack([decoder.feed(token) for token in tokens])
            assert decoder.position == 6
            torch.testing.assert_close(found, want, atol=0.02, rtol=0.01)
            with pytest.raises(ValueError, match="tokens must be at most 6, the context, not more"):
                decoder.feed(again)
            decoder.reset()


def test_the_most_likely_token_follows_and_every_back_end_agrees() -> None:
    with Session(small_artefact()) as session:
        decoder = Decoder(session)
        found = list(generate(decoder, TOKENS, 4))
        decoder.reset()
        likely = [int(decoder.feed(token).argmax()) for token in (TOKENS + found)[:-1]]
        assert likely[len(TOKENS) - 1 :] == found
    equal: list[Boundary] = []
    with lockstep(small_artefact(), "tensor", "model", observer=equal.append) as session:
        assert list(generate(Decoder(session), TOKENS, 4)) == found
    assert len(equal) == 6 * len(small_artefact().plan.layers)


def test_draws_are_of_the_seed_and_cold_ones_are_the_most_likely() -> None:
    with Session(small_artefact()) as session:
        decoder = Decoder(session)

        def drawn(temperature: float, seed: int) -> list[int]:
            numbers = torch.Generator().manual_seed(seed)
            return list(generate(decoder, TOKENS, 4, temperature, numbers))

        assert drawn(50.0, 1) == drawn(50.0, 1)
        assert len({tuple(drawn(50.0, seed)) for seed in range(5)}) > 1
        assert drawn(1e-6, 1) == drawn(0.0, 2)


def test_likelihood_is_that_of_the_words_that_follow() -> None:
    sequences = [[3, 1, 4, 1], [5, 9, 2], [6]]
    want, count = stories.negative_log_likelihood(small().model, sequences[:2])
    told: list[tuple[int, int]] = []
    with Session(small_artefact()) as session:
        found, number = negative_log_likelihood(
            Decoder(session), sequences, lambda done, total: told.append((done, total))
        )
    assert number == count == 5
    assert told == [(done, 5) for done in range(1, 6)]
    assert math.isclose(found, want, rel_tol=0.01)


def test_what_cannot_be_generated_is_refused() -> None:
    with Session(small_artefact()) as session:
        decoder = Decoder(session)
        for tokens, count in (([], 1), ([1], 0), ([1] * 5, 3)):
            with pytest.raises(ValueError, match="tokens and those to add must be 1 to 7 together"):
                generate(decoder, tokens, count)
        for temperature in (-1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="temperature must be 0 or a finite number above"):
                generate(decoder, [1], 1, temperature)
    window = trace_model(small().model, (torch.tensor([TOKENS]),))
    artefact = compile_traced(window, small_artefact().config)
    with (
        Session(artefact) as session,
        pytest.raises(ValueError, match="network must be a decoding step"),
    ):
        Decoder(session)


def test_the_command_prints_the_text_and_what_a_token_took(capsys, monkeypatch) -> None:
    monkeypatch.setattr(language, "LANGUAGES", {"small": small})
    sizes = ["--bits", "16", "--rows", "4", "--columns", "4", "--slots", "512"]
    command = ["generate", "small", "--prompt", "dbe", "--tokens", "4", *sizes]
    with Session(small_artefact()) as session:
        tokens = list(generate(Decoder(session), TOKENS, 4))
    told = []
    for more in ([], ["--backend", "model", "--check", "tensor"]):
        assert main([*command, *more]) == 0
        said, told_now = capsys.readouterr()
        assert said == "dbe" + Letters().decode(tokens) + "\n"
        told.append(" ".join(told_now.split()))
    cycles = small_artefact().report["total"]["cycles"]
    assert f"SF16 on 4 x 4: {cycles:,} cycles per token (estimated)" in told[0]
    assert "cycles per token (counted)" in told[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nosuch"], "a folder with config.json, a file (.bin, .gguf, .onnx, .safetensors) or"),
        (["small"], "prompt must be at least one token of small"),
        (["small", "--prompt", "a", "--tokens", "9"], "context must be 1 to 8 positions, not 9"),
        (["small", "--prompt", "a", "--temperature", "-1"], "temperature must be 0 or a finite"),
        (["small", "--prompt", "a", "--backend", "x"], "backend must be one of tensor, model"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, capsys, monkeypatch) -> None:
    monkeypatch.setattr(language, "LANGUAGES", {"small": small})
    assert main(["generate", *arguments]) == 2
    said, complaint = capsys.readouterr()
    assert said == ""
    assert complaint.count("\n") == 1
    assert sentence in complaint


def test_the_benchmark_takes_widths_of_words_alone() -> None:
    assert widths("4,16") == (4, 16)
    for text in ("2", "8,17", "8,", "x"):
        with pytest.raises(ArgumentTypeError, match="must be numbers from 3 to 16, as in"):
            widths(text)


@data
def test_stories_are_told_in_equal_words_on_tensors_and_on_the_machine_model() -> None:
    artefact = stories_on(8)
    tokenizer = stories.load_tokenizer()
    start = tokenizer.encode("Once upon a time")
    equal: list[Boundary] = []
    with lockstep(artefact, "tensor", "model", observer=equal.append) as session:
        found = list(generate(Decoder(session), start, 3))
    assert tokenizer.decode([*start, *found]) == "Once upon a time, there was"
    assert len(equal) == 46 * (len(start) + 2)


@data
@pytest.mark.slow
@pytest.mark.parametrize("bits", [8, 16])
def test_sixteen_tokens_are_equal_on_the_rtl(bits: int) -> None:
    artefact = stories_on(bits)
    tokenizer = stories.load_tokenizer()
    start = tokenizer.encode("Once upon a time")
    with lockstep(artefact, "tensor", "model") as session:
        want = list(generate(Decoder(session), start, 16))
        modelled = {layers: tally.counters for layers, tally in session.tallies.items()}
    device = make_device(artefact.config, "verilator")
    with lockstep(artefact, "model", device) as session:
        assert list(generate(Decoder(session), start, 16)) == want
        found = {layers: tally.counters for layers, tally in session.tallies.items()}
    assert found == modelled
    text = tokenizer.decode([*start, *want])
    assert text.startswith("Once upon a time, there was a little girl named Lily. She ")


@data
@pytest.mark.slow
@pytest.mark.parametrize(("bits", "most"), [(8, 0.03), (16, 0.0005)])
def test_stories_are_nearly_as_likely_as_in_float(bits: int, most: float) -> None:
    tokenizer = stories.load_tokenizer()
    sequences = [tokenizer.encode(text) for text in datasets.tinystories()][2:3]
    want, count = stories.negative_log_likelihood(stories.load_stories(), sequences)
    with Session(stories_on(bits, 256)) as session:
        found, _ = negative_log_likelihood(Decoder(session), sequences)
    assert abs(found - want) / count < most


@data
@pytest.mark.slow
def test_smollm2_compiles_in_six_gigabytes_and_predicts_as_in_float(tmp_path: Path) -> None:
    try:
        smollm.model_path()
    except datasets.DatasetError as error:
        pytest.skip(str(error))
    code = (
        "import resource, sys; from atreides.cli import main;"
        "status = main(sys.argv[1:]);"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 6e6;"
        "sys.exit(status)"
    )
    target = tmp_path / "smollm2"
    command = [sys.executable, "-c", code, "compile", "smollm2-135m", "-o", str(target)]
    subprocess.run(command, check=True, timeout=900, stdout=subprocess.DEVNULL)
    from sw.importers import load
    from sw.runtime.artefact import load as load_artefact

    loaded = load("smollm2-135m")
    assert loaded.calibration is not None
    (window,) = loaded.calibration(1)[0]
    with torch.no_grad():
        want = loaded.module(window)[0]
    with Session(load_artefact(target)) as session:
        found = session.run(window)[0][0]
    assert float((found.argmax(-1) == want.argmax(-1)).float().mean()) > 0.7
