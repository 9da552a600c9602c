"""Quantized models on the machine: the words that were evaluated are those that run."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

import sw
from atreides.cli import main
from sw.compiler.compile import DEFAULT_MACHINE
from sw.config import MachineConfig
from sw.models.llama import Llama, LlamaConfig
from sw.models.stories import load_stories
from sw.wasq import SFConfig, quantize_
from sw.wasq.checkpoint import save
from sw.wasq.compiled import decoded, is_quantized
from sw.wasq.rotate import rotate_

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
FLOAT = {"weights": None, "activations": None}


def tiny() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(32, 64, 1, 2, 1, 40, 32)).eval()


def tokens(length: int = 12, vocabulary: int = 40) -> torch.Tensor:
    return torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(1))


def same_bits(got: torch.Tensor, want: torch.Tensor) -> bool:
    return torch.equal(got.view(torch.int32), want.view(torch.int32))


@pytest.mark.parametrize(
    ("config", "machine"),
    [
        (SFConfig(weights=4, head=8), DEFAULT_MACHINE),
        (SFConfig(weights=8, activations=16, weight_scale="tensor"), MachineConfig(bits=16)),
        (
            SFConfig(weights=6, unity=False, weight_scale="none"),
            MachineConfig(bits=8, unity=False),
        ),
        (SFConfig(overrides={"blocks.0.feed_forward.*": FLOAT}), DEFAULT_MACHINE),
    ],
    ids=["narrow", "tensor", "unscaled", "overrides"],
)
def test_compiled_model_gives_the_evaluated_bits(config, machine):
    model = quantize_(tiny(), config)
    artefact = sw.compile(model, (tokens(),), machine)
    (got,) = sw.Session(artefact).run(tokens())
    assert same_bits(got, model(tokens()))


def test_rotated_model_keeps_its_rotation_on_the_host():
    model = tiny()
    rotate_(model)
    quantize_(model, SFConfig())
    (got,) = sw.Session(sw.compile(model, (tokens(),))).run(tokens())
    assert same_bits(got, model(tokens()))


def test_decoded_model_shares_nothing_that_compiling_changes():
    model = quantize_(tiny(), SFConfig())
    want = model(tokens())
    plain = decoded(model)
    assert not is_quantized(plain)
    assert is_quantized(model)
    assert same_bits(model(tokens()), want)
    assert (plain(tokens()) - want).abs().max() < 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SFConfig(weight_scale="block"), "blocks.0.attention.q must have weights per channel"),
        (SFConfig(activation_scale="tensor"), "activations per token"),
        (SFConfig(activations=12), "machine must have words of 12 bits with unity"),
        (SFConfig(unity=False), "8 bits without unity"),
        (SFConfig(weights=12), "weights of blocks.0.attention.q must have at most the 8 bits"),
        (SFConfig(products=8), "products must be None"),
    ],
)
def test_what_has_no_layer_is_refused(config, message):
    model = quantize_(tiny(), config)
    with pytest.raises(ValueError, match=message):
        sw.compile(model, (tokens(),))


def test_convolutions_on_words_are_refused():
    model = quantize_(nn.Sequential(nn.Conv2d(3, 4, 3)), SFConfig())
    with pytest.raises(ValueError, match="0 must be a linear layer"):
        sw.compile(model, (torch.zeros(1, 3, 5, 5),))


@data
def test_command_compiles_a_checkpoint_of_stories_to_the_evaluated_bits(tmp_path, capsys):
    config = SFConfig()
    model = quantize_(load_stories(), config)
    save(model, config, tmp_path / "words", {"model": "stories260k"})
    words, net = str(tmp_path / "words"), str(tmp_path / "net")
    assert main(["compile", words, "-o", net]) == 0
    windows = tokens(64, 512)
    (got,) = sw.Session(sw.load(tmp_path / "net")).run(windows)
    assert same_bits(got, model(windows))
    assert main(["compile", words, "-o", f"{net}2", "--weights-bits", "4"]) == 2
    assert "--weights-bits must be left out" in capsys.readouterr().err
    assert main(["compile", words, "-o", f"{net}2", "--bits", "16"]) == 2
    assert "machine must have words of 8 bits" in capsys.readouterr().err
