"""Text of a language model that is not compiled: float, or a checkpoint of words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
import typer

from atreides.wasq_options import told_mistakes
from sw.importers.language import Tokenizer
from sw.runtime.generate import check_temperature
from sw.wasq.evaluation import device_of, exact_arithmetic
from sw.wasq.generated import next_logits
from sw.wasq.language import READERS, LanguageModel
from sw.wasq.opened import open_model


def is_file_of_model(spec: str) -> bool:
    """Whether a model is named by a place, and not by a name that the project knows."""
    return ":" in spec or Path(spec).suffix.lower() in READERS or Path(spec).exists()


def tell(
    spec: str,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    tokens_file: Path | None = None,
) -> None:
    """Print a prompt and the tokens that a model adds to it."""
    with told_mistakes("add fewer --tokens"):
        check_temperature(temperature)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        language = open_model(spec, device, tokens_file).language
        tokenizer = language.tokenizer
        known = ([] if tokenizer.bos is None else [tokenizer.bos]) + tokenizer.encode(prompt)
        if not known:
            raise ValueError(f"prompt must be at least one token of {spec}")
        if len(known) + tokens > language.context:
            raise ValueError(
                f"prompt and tokens must be at most {language.context}, the context, "
                f"not {len(known)} and {tokens}"
            )
        if max(known) >= tokenizer.vocabulary:
            raise ValueError(f"prompt must be of {tokenizer.vocabulary} tokens")
        show_text(tokenizer, known, go_on(language, known, tokens, temperature, seed))


@torch.no_grad()
def go_on(
    language: LanguageModel, known: Sequence[int], count: int, temperature: float, seed: int
) -> Iterator[int]:
    """The next tokens, the most likely ones or drawn."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.tensor([list(known)], device=device_of(language.module))
    with exact_arithmetic():
        steps = next_logits(language.module, start, len(known) + count)
        for number, (logits, add) in enumerate(steps, 1):
            token = logits[0].argmax()
            if temperature:
                weights = torch.softmax(logits[0].double().cpu() / temperature, -1)
                token = torch.multinomial(weights, 1, generator=generator)[0]
            yield int(token)
            if number == count:
                return
            add(token.reshape(1).to(start.device))


def show_text(tokenizer: Tokenizer, known: Sequence[int], found: Iterable[int]) -> None:
    """Print a text as it grows; a character that needs another token waits for it."""
    tokens, shown = list(known), ""
    for token in chain([None], found):
        tokens += [] if token is None else [token]
        text = tokenizer.decode(tokens)
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
        typer.echo(whole[len(shown) :], nl=False)
        shown = whole
    typer.echo(tokenizer.decode(tokens)[len(shown) :])
