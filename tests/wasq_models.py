"""Small language models and tokenizers that the tests of WASQ share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atreides import evaluate
from sw.models.byte_pairs import byte_characters
from sw.models.llama import Llama, LlamaConfig
from sw.wasq import corpus
from sw.wasq.language import LanguageModel
from sw.wasq.tokens import PairTokens

SMALL = LlamaConfig(
    width=32, hidden=40, layers=2, heads=4, kv_heads=2, vocabulary=260, context=64, epsilon=1e-6
)


def small_tokens() -> PairTokens:
    """The 256 bytes and four merges."""
    tokens = [*byte_characters().values(), "he", "ll", "Ġt", "Ġthe"]
    return PairTokens(tokens, ["h e", "l l", "Ġ t", "Ġt he"])


def small_llama(seed: int = 0, tied: bool = True) -> Llama:
    """A Llama of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Llama(SMALL, tied).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return model


def small_language() -> LanguageModel:
    """The model with its tokenizer."""
    return LanguageModel("small", small_llama(), small_tokens(), "0" * 64, SMALL.context)


def text_file(folder: Path, repeats: int = 40) -> Path:
    """A text of some hundred words."""
    path = folder / "text.txt"
    lines = [f"The hill number {i} tells the tale of {i * i} bells.\n" for i in range(repeats)]
    path.write_text("".join(lines))
    return path


def working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text, another one that stands for the evaluated one, and a cache of its own; the working
    directory.
    """
    monkeypatch.setattr(evaluate, "cache_directory", lambda: folder / "cache")
    monkeypatch.chdir(folder)
    (folder / "held.txt").write_text("Quite another text, about ships, wind and weather. " * 40)
    monkeypatch.setattr(corpus, "EVALUATION", str(folder / "held.txt"))
    text_file(folder)
    return folder
