"""Training of a byte-level byte pair tokenizer: the most frequent pair is merged, again and again.

R. Sennrich, B. Haddow, A. Birch, "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909, on the words and bytes of :mod:`sw.models.byte_pairs`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from sw.models.byte_pairs import BytePairs, byte_characters, split_words

BYTES: Final = 256
_Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Pairs:
    """A trained tokenizer as its parts, of which :class:`BytePairs` is made.

    Parameters
    ----------
    tokens : tuple of str
        The 256 bytes by value, then one token per merge, as GPT-2's characters.
    merges : tuple of str
        Two pieces with a space between, the first to be merged first.
    """

    tokens: tuple[str, ...]
    merges: tuple[str, ...]

    def tokenizer(self) -> BytePairs:
        """Ready to encode."""
        return BytePairs(self.tokens, self.merges)


def train_pairs(text: str, vocabulary: int) -> Pairs:
    """A tokenizer of ``vocabulary`` tokens, the same for the same text everywhere.

    Of pairs that are equally frequent the first in the order of characters is merged first.

    Raises
    ------
    ValueError
        If the vocabulary has no room for the 256 bytes, or the text has too few pairs for it.
    """
    if vocabulary < BYTES:
        raise ValueError(f"vocabulary must be at least {BYTES} tokens, not {vocabulary}")
    characters = byte_characters()
    counted = Counter(split_words(text))
    words = [[characters[byte] for byte in word.encode()] for word in counted]
    table = _Table(words, list(counted.values()))
    tokens = [characters[byte] for byte in range(BYTES)]
    known = set(tokens)
    merges: list[str] = []
    while len(tokens) < vocabulary:
        pair = table.best()
        if pair is None:
            raise ValueError(
                f"vocabulary must be at most {len(tokens)} tokens for so short a text, "
                f"not {vocabulary}"
            )
        merges.append(" ".join(pair))
        table.merge(pair)
        if (joined := pair[0] + pair[1]) not in known:  # two ways to spell one piece share a token
            known.add(joined)
            tokens.append(joined)
    return Pairs(tuple(tokens), tuple(merges))


class _Table:
    """How often every pair occurs, and in which words, kept up to date by merges."""

    def __init__(self, words: list[list[str]], counts: list[int]) -> None:
        self.words, self.counts = words, counts
        self.found: Counter[_Pair] = Counter()
        self.places: defaultdict[_Pair, set[int]] = defaultdict(set)
        for number, word in enumerate(words):
            for pair in pairwise(word):
                self.found[pair] += counts[number]
                self.places[pair].add(number)
        self.heap = [(-count, pair) for pair, count in self.found.items()]
        heapq.heapify(self.heap)

    def best(self) -> _Pair | None:
        """The pair to merge: the most frequent, at least twice."""
        while self.heap:
            count, pair = self.heap[0]
            if self.found[pair] == -count:
                return pair if count <= -2 else None
            heapq.heappop(self.heap)  # an old count; the new one is in the heap, too
        return None

    def merge(self, pair: _Pair) -> None:
        """Join the pair in every word."""
        changed: set[_Pair] = set()
        for number in self.places.pop(pair):
            old = self.words[number]
            new = _joined(old, pair)
            count = self.counts[number]
            for before in pairwise(old):
                self.found[before] -= count
                changed.add(before)
            for after in pairwise(new):
                self.found[after] += count
                self.places[after].add(number)
                changed.add(after)
            self.words[number] = new
        for touched in changed:
            if self.found[touched] > 0:
                heapq.heappush(self.heap, (-self.found[touched], touched))
        self.places.pop(pair, None)


def _joined(word: list[str], pair: _Pair) -> list[str]:
    made: list[str] = []
    place = 0
    while place < len(word):
        if place + 1 < len(word) and (word[place], word[place + 1]) == pair:
            made.append(word[place] + word[place + 1])
            place += 2
        else:
            made.append(word[place])
            place += 1
    return made
