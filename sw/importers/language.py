"""The language models that the project knows, as decoding steps with their tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from sw.importers.gguf_file import load_gguf
from sw.models import byte_pairs, smollm, stories
from sw.models.llama import Llama, LlamaStep


class Tokenizer(Protocol):
    """From text to tokens and back."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """A language model.

    Parameters
    ----------
    model : Llama
    tokenizer : Tokenizer
    """

    model: Llama
    tokenizer: Tokenizer

    def step(self, context: int) -> tuple[LlamaStep, tuple[torch.Tensor, ...]]:
        """The decoding step for so many positions, and inputs of its first token."""
        step = LlamaStep(self.model, context)
        return step, (torch.tensor([[0]]), torch.tensor([0]), *step.empty_cache())


def load_language(name: str) -> Language:
    """A language model by its name.

    Raises
    ------
    ValueError
        If there is none of this name, or its files are missing or broken.
    """
    if name not in LANGUAGES:
        raise ValueError(f"model must be one of {', '.join(LANGUAGES)}, not {name!r}")
    return LANGUAGES[name]()


def _stories260k() -> Language:
    return Language(stories.load_stories(), stories.load_tokenizer())


def _smollm2() -> Language:
    model, file = load_gguf(smollm.model_path())
    return Language(model, byte_pairs.from_metadata(file.metadata))


LANGUAGES: Final[Mapping[str, Callable[[], Language]]] = {
    "stories260k": _stories260k,
    "smollm2-135m": _smollm2,
}
