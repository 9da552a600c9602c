"""Byte-level byte pair encoding, as GPT-2's, with single digits: the tokenizer of SmolLM2.

A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; the splitting
pattern and the map of bytes to characters are those of ``encoder.py`` in
https://github.com/openai/gpt-2.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

_SPLITTERS: Final = ("smollm", "gpt-2")


class BytePairs:
    """A tokenizer.

    Parameters
    ----------
    tokens : sequence of str
        Pieces, bytes as GPT-2's characters.
    merges : sequence of str
        Two pieces with a space between, the first to be merged first.
    digits : bool
        Whether every digit is a word of its own.
    """

    def __init__(self, tokens: Sequence[str], merges: Sequence[str], digits: bool = True) -> None:
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._tokens = list(tokens)
        self._ranks: dict[tuple[str, ...], int] = {}
        for rank, merge in enumerate(merges):
            self._ranks.setdefault(tuple(merge.split(" ")), rank)
        self._digits = digits
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; nothing is put before it, and names of control tokens are text.

        Bytes that the vocabulary lacks (SmolLM2's: some that never occur in UTF-8) are left out.
        """
        characters = byte_characters()
        found: list[int] = []
        for word in split_words(text, self._digits):
            if word not in self._known:
                spelled = "".join(characters[byte] for byte in word.encode())
                self._known[word] = self._merge(spelled)
            found += self._known[word]
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        values = {character: byte for byte, character in byte_characters().items()}
        text = "".join(self._tokens[token] for token in tokens)
        return bytes(values[c] for c in text if c in values).decode(errors="replace")

    def _merge(self, word: str) -> list[int]:
        pieces = list(word)
        while len(pieces) > 1:
            none = len(self._ranks)
            ranked = [(self._ranks.get(pair, none), i) for i, pair in enumerate(pairwise(pieces))]
            rank, place = min(ranked)
            if rank == none:
                break
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        return [self._ids[piece] for piece in pieces if piece in self._ids]


def split_words(text: str, digits: bool = True) -> Iterator[str]:
    """The words of a text, within which pieces are merged; joined they are the text.

    Parameters
    ----------
    text : str
    digits : bool
        Whether every digit is a word of its own.
    """
    for part in _digit_pattern().split(text) if digits else [text]:
        yield from _word_pattern().findall(part)


def from_metadata(metadata: Mapping[str, Any]) -> BytePairs:
    """The tokenizer in a GGUF file's metadata.

    Raises
    ------
    ValueError
        If it is of another kind, or not complete.
    """
    kind, splitter = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or splitter not in _SPLITTERS:
        raise ValueError(f"tokenizer must be gpt2 with {_SPLITTERS}, not {kind} with {splitter}")
    tokens, merges = (metadata.get(f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    if not isinstance(tokens, list) or not isinstance(merges, list):
        raise ValueError("tokenizer must have tokens and merges")
    return BytePairs(tokens, merges, digits=splitter == "smollm")


@functools.cache
def byte_characters() -> dict[int, str]:
    """A visible character per byte: itself, or the next one from 256 on."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    found = {byte: chr(byte) for byte in visible}
    return found | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


@functools.cache
def _class(category: str) -> str:
    """Ranges of a regular expression's class for a Unicode category's first letter."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] == category:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


@functools.cache
def _digit_pattern() -> re.Pattern[str]:
    return re.compile(f"([{_class('N')}])")


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    letters, numbers = _class("L"), _class("N")
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letters}]+| ?[{numbers}]+"
        f"| ?[^\\s{letters}{numbers}]+|\\s+(?!\\S)|\\s+"
    )
