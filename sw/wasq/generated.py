"""Text that a model generates itself, to calibrate and heal it with.

The way of Z. Liu et al., "LLM-QAT", arXiv:2305.17888: a random first token, the most likely ones
after it, then draws from the model's own distribution.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sw.importers.loaded import one_line
from sw.models.llama import Llama, LlamaStep
from sw.wasq.corpus import Corpus, CorpusError
from sw.wasq.language import LanguageModel

#: Called with the sequences done and their number.
Progress = Callable[[int, int], None]
_NAME: Final = "generated"
#: Apart from each other, so that the seeds of sequences are, too.
_SEEDS: Final = 1_000_003


def generate_corpus(
    model: LanguageModel,
    tokens: int,
    length: int = 512,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    greedy: int = 3,
    batch: int = 64,
    path: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Let a model write sequences; each is the same whatever the batch is, but for ties.

    Parameters
    ----------
    model : LanguageModel
        On its device.
    tokens : int
        How many at least; whole sequences are written.
    length : int
        Of a sequence.
    seed : int
    temperature : float
        What logits are divided by.
    greedy : int
        How many tokens after the first are the most likely ones.
    batch : int
        Sequences at a time.
    path : Path, optional
        A ``.safetensors`` file to keep it in, with where it is from; :func:`read_corpus` reads it.
    progress : callable, optional

    Raises
    ------
    ValueError
        If a number is out of range, or the file cannot be written.
    """
    for name, value, least in (
        ("tokens", tokens, 2),
        ("length", length, 2),
        ("greedy", greedy, 0),
        ("batch", batch, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if length > model.context:
        raise ValueError(f"length must be at most {model.context}, the context, not {length}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a finite number above 0, not {temperature!r}")
    count = -(-tokens // length)
    parts = []
    for first in range(0, count, batch):
        numbers = range(first, min(count, first + batch))
        parts.append(_sequences(model, numbers, length, seed, temperature, greedy))
        if progress is not None:
            progress(numbers[-1] + 1, count)
    split = f"{model.name} seed {seed}"
    corpus = Corpus.of(_NAME, split, torch.cat(parts).flatten())
    if path is not None:
        origin = {
            **{"model": model.name, "model_sha256": model.sha256, "length": length, "seed": seed},
            **{"temperature": temperature, "greedy": greedy, "sequences": count},
        }
        write_corpus(path, corpus, origin)
    return corpus


def write_corpus(path: Path, corpus: Corpus, origin: dict[str, Any]) -> None:
    """Keep tokens in a ``.safetensors`` file, whole or not at all."""
    about = {"name": corpus.name, "split": corpus.split, "sha256": corpus.sha256, "origin": origin}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"tokens": corpus.tokens.int()}, scratch, {"corpus": json.dumps(about)})
        os.replace(scratch, path)
    except (OSError, SafetensorError) as error:
        raise CorpusError(f"{path} must be writable ({one_line(error)})") from None
    finally:
        scratch.unlink(missing_ok=True)


def read_corpus(path: Path) -> Corpus:
    """Tokens that :func:`write_corpus` kept.

    Raises
    ------
    CorpusError
        If the file is missing, damaged or of something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["corpus"])
            tokens = file.get_tensor("tokens")
        name, split, digest = about["name"], about["split"], about["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise CorpusError(f"{path} must be a file of kept tokens ({one_line(error)})") from None
    if tokens.dtype != torch.int32 or tokens.dim() != 1 or len(tokens) < 2 or tokens.min() < 0:
        raise CorpusError(f"{path} must hold int32 tokens [n] from 0")
    corpus = Corpus.of(str(name), str(split), tokens)
    if corpus.sha256 != digest:
        raise CorpusError(f"{path} must hold the tokens that were written, not others")
    return corpus


def next_logits(
    module: nn.Module, tokens: torch.Tensor, length: int
) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    """Logits ``[B, V]`` behind tokens ``[B, T]``, again and again, up to ``length`` positions.

    Each comes with a function that takes the tokens ``[B]`` to go on with. A Llama keeps keys and
    values; another network computes the whole text each time.
    """
    if isinstance(module, Llama):
        yield from _cached(module, tokens, length)
        return
    known = [tokens]
    while True:
        whole = torch.cat(known, 1)
        logits = module(whole)[:, -1]
        yield logits, lambda chosen: known.append(chosen[:, None])
        if sum(part.shape[1] for part in known) >= length:
            return


def _cached(
    module: Llama, tokens: torch.Tensor, length: int
) -> Iterator[tuple[torch.Tensor, Callable[[torch.Tensor], None]]]:
    config, device = module.config, tokens.device
    step = LlamaStep(module, length).to(device)
    shape = (config.layers, len(tokens) * config.kv_heads, length, config.head_size)
    keys, values = (torch.zeros(shape, device=device) for _ in range(2))
    known = list(torch.split(tokens, 1, 1))
    for position in range(length):
        place = torch.tensor([position], device=device)
        logits, keys, values = step(known[position], place, keys, values)
        if position + 1 < len(known):
            continue
        yield logits[:, 0], lambda chosen: known.append(chosen[:, None])
        if len(known) == position + 1:
            return


@torch.no_grad()
def _sequences(
    model: LanguageModel, numbers: range, length: int, seed: int, temperature: float, greedy: int
) -> torch.Tensor:
    """Sequences ``[B, length]`` of these numbers."""
    parameter = next(model.module.parameters(), None)
    buffer = next(model.module.buffers(), None)
    held = parameter if parameter is not None else buffer
    device = torch.device("cpu") if held is None else held.device
    draws = torch.stack([_draws(seed, number, length) for number in numbers]).to(device)
    first = (draws[:, 0] * model.tokenizer.vocabulary).long()
    if model.tokenizer.bos is not None:
        first = torch.full_like(first, model.tokenizer.bos)
    found = [first]
    for logits, go_on in next_logits(model.module, first[:, None], length):
        place = len(found)
        chosen = logits.argmax(-1)
        if place > greedy:
            sums = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
            wanted = draws[:, place, None] * sums[:, -1:]
            chosen = torch.searchsorted(sums, wanted).flatten().clamp_max(logits.shape[-1] - 1)
        found.append(chosen)
        if len(found) == length:
            break
        go_on(chosen)
    return torch.stack(found, 1).cpu()


def _draws(seed: int, number: int, length: int) -> torch.Tensor:
    """What decides each token of a sequence, float64 from 0 to 1, whatever the device."""
    generator = torch.Generator().manual_seed(seed * _SEEDS + number)
    return torch.rand(length, dtype=torch.float64, generator=generator)
