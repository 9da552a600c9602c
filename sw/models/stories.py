"""stories260K: a Llama of 260,032 parameters that tells children's stories, and its tokenizer.

File formats: https://github.com/karpathy/llama2.c, version 0 of the model (28 bytes of sizes, then
float32) and ``tokenizer.bin``.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch.nn import functional

from sw import datasets
from sw.models.llama import Llama, LlamaConfig, LlamaStep, deinterleave

BOS: Final = 1
_HEADER: Final = struct.Struct("<7i")
#: Bytes that no piece of the vocabulary spells are tokens from here on.
_FIRST_BYTE: Final = 3
_MAX_SIZE: Final = 1 << 16
#: A word with the spaces before it, and a piece that would join one to the next.
_WORD: Final = re.compile(r" *[^ ]+| +")
_ACROSS: Final = re.compile(rb"[^ ] ")
_MAX_FILE: Final = 1 << 31


class StoriesError(ValueError):
    """A model or tokenizer file that is not what it should be, in one sentence."""


def load_stories(path: Path | None = None) -> Llama:
    """Read a llama2.c model, by default stories260K of the data folder.

    Raises
    ------
    StoriesError
        If the sizes in the header are impossible, or the file is not as long as they say.
    sw.datasets.DatasetError
        If no path is given and the file is missing.
    """
    path = path or datasets.path_of("stories260K", "stories260K.bin")
    data = _read(path)
    if len(data) < _HEADER.size:
        raise StoriesError(f"{path} must begin with seven sizes of 4 bytes")
    width, hidden, layers, heads, kv_heads, vocabulary, context = _HEADER.unpack_from(data)
    sizes = (width, hidden, layers, heads, kv_heads, abs(vocabulary), context)
    if not all(1 <= size <= _MAX_SIZE for size in sizes):
        raise StoriesError(f"{path} must have sizes from 1 to {_MAX_SIZE}, not {sizes}")
    try:
        config = LlamaConfig(*sizes)
    except ValueError as error:
        raise StoriesError(f"{path} must be a llama2.c model ({error})") from None
    shapes = _shapes(config, tied=vocabulary > 0)
    expected = _HEADER.size + 4 * sum(math.prod(shape) for shape in shapes.values())
    if len(data) != expected:
        raise StoriesError(f"{path} must hold {expected} bytes by its header, not {len(data)}")
    return _assemble(config, _tensors(data, shapes), tied=vocabulary > 0)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Byte pair encoding by scores, as sentencepiece has it.

    Parameters
    ----------
    pieces : tuple of bytes
    scores : tuple of float
        Of two pairs, the one with the larger score is merged first.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    _ids: dict[bytes, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    _known: dict[str, list[int]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for number, piece in enumerate(self.pieces):
            self._ids.setdefault(piece, number)

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Tokens of a text, after BOS if wanted; a space is put before the text."""
        tokens = [BOS] if bos else []
        for word in self._words(" " + text if text else ""):
            if word not in self._known:
                self._known[word] = self._merge(word)
            tokens += self._known[word]
        return tokens

    def _words(self, text: str) -> list[str]:
        """Parts of a text that no piece of the vocabulary reaches across the edges of."""
        if any(_ACROSS.search(piece) for piece in self.pieces):
            return [text] if text else []
        return _WORD.findall(text)

    def _merge(self, text: str) -> list[int]:
        tokens: list[int] = []
        for character in text:
            piece = character.encode()
            found = self._ids.get(piece)
            tokens += [b + _FIRST_BYTE for b in piece] if found is None else [found]
        while True:
            best: tuple[float, int, int] | None = None
            for place, pair in enumerate(pairwise(tokens)):
                merged = self._ids.get(self.pieces[pair[0]] + self.pieces[pair[1]])
                if merged is not None and (best is None or self.scores[merged] > best[0]):
                    best = (self.scores[merged], place, merged)
            if best is None:
                return tokens
            tokens[best[1] : best[1] + 2] = [best[2]]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; BOS and the space after it are left out."""
        text = b""
        previous = None
        for token in tokens:
            piece = self.pieces[token]
            if _FIRST_BYTE <= token < _FIRST_BYTE + 256:
                piece = bytes([token - _FIRST_BYTE])
            elif token == BOS:
                piece = b""
            elif previous == BOS:
                piece = piece.removeprefix(b" ")
            text += piece
            previous = token
        return text.decode(errors="replace")


def load_tokenizer(path: Path | None = None, vocabulary: int = 512) -> Tokenizer:
    """Read a llama2.c tokenizer, by default tok512.bin of the data folder.

    Raises
    ------
    StoriesError
        If the file is cut short, too long, or has a piece longer than it says pieces are.
    """
    path = path or datasets.path_of("stories260K", "tok512.bin")
    data = _read(path)
    pieces, scores, place = [], [], 4
    try:
        (longest,) = struct.unpack_from("<i", data)
        for _ in range(vocabulary):
            score, length = struct.unpack_from("<fi", data, place)
            place += 8
            if not 0 <= length <= longest or place + length > len(data) or not math.isfinite(score):
                raise StoriesError(f"{path} must have pieces of 0 to {longest} bytes with scores")
            pieces.append(data[place : place + length])
            scores.append(score)
            place += length
    except struct.error:
        raise StoriesError(f"{path} must hold {vocabulary} pieces, not {len(pieces)}") from None
    if place != len(data):
        raise StoriesError(f"{path} must end after {vocabulary} pieces")
    return Tokenizer(tuple(pieces), tuple(scores))


def generate(model: Llama, tokens: Sequence[int], count: int) -> Iterator[int]:
    """The most likely ``count`` next tokens, one by one, in float32, through the caches."""
    step = LlamaStep(model)
    keys, values = step.empty_cache()
    known = list(tokens)
    if not known or len(known) + count > step.context:
        raise ValueError(f"tokens and count must be 1 to {step.context} positions together")
    with torch.no_grad():
        for position in range(len(tokens) + count - 1):
            logits, keys, values = step(
                torch.tensor([[known[position]]]), torch.tensor([position]), keys, values
            )
            if position + 1 == len(known):
                known.append(int(logits.argmax()))
                yield known[-1]


def negative_log_likelihood(model: Llama, sequences: Sequence[Sequence[int]]) -> tuple[float, int]:
    """Sum over all tokens but the first of each sequence, in nats, and their number.

    Each sequence is one window; the losses are float32, summed in float64.
    """
    total, count = 0.0, 0
    with torch.no_grad():
        for sequence in sequences:
            tokens = torch.tensor(sequence)
            logits = model(tokens[None, :-1])[0]
            losses = functional.cross_entropy(logits, tokens[1:], reduction="none")
            total += float(losses.double().sum())
            count += len(losses)
    return total, count


def _shapes(config: LlamaConfig, tied: bool) -> dict[str, tuple[int, ...]]:
    """Tensors of the file in order; the two tables of frequencies are not used."""
    n, width, hidden, inner = (
        config.layers,
        config.width,
        config.hidden,
        config.kv_heads * config.head_size,
    )
    return {
        "embedding": (config.vocabulary, width),
        "attention_norm": (n, width),
        "attention.q": (n, width, width),
        "attention.k": (n, inner, width),
        "attention.v": (n, inner, width),
        "attention.o": (n, width, width),
        "feed_forward_norm": (n, width),
        "feed_forward.gate": (n, hidden, width),
        "feed_forward.down": (n, width, hidden),
        "feed_forward.up": (n, hidden, width),
        "norm": (width,),
        "frequencies": (2, config.context, config.head_size // 2),
        **({} if tied else {"head": (config.vocabulary, width)}),
    }


def _tensors(data: bytes, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    found, place = {}, _HEADER.size
    for name, shape in shapes.items():
        count = math.prod(shape)
        part = bytearray(data[place : place + 4 * count])
        found[name] = torch.frombuffer(part, dtype=torch.float32).reshape(shape)
        place += 4 * count
    return found


def _assemble(config: LlamaConfig, tensors: dict[str, torch.Tensor], tied: bool) -> Llama:
    plain = ("embedding", "norm", "head")
    state = {f"{name}.weight": tensors[name] for name in plain if name in tensors}
    for name, stacked in tensors.items():
        if name in (*plain, "frequencies"):
            continue
        for layer in range(config.layers):
            weight = stacked[layer]
            if name in ("attention.q", "attention.k"):
                heads = config.heads if name == "attention.q" else config.kv_heads
                weight = deinterleave(weight, heads)
            state[f"blocks.{layer}.{name}.weight"] = weight
    return Llama.from_state(config, state, tied)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise StoriesError(f"{path} must be a file that can be read ({error.strerror})") from None
    if len(data) > _MAX_FILE:
        raise StoriesError(f"{path} must hold at most {_MAX_FILE} bytes")
    return data
