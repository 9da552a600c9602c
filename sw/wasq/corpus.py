"""Texts as tokens, to calibrate, heal and evaluate on, and that those are not the same."""

from __future__ import annotations

import hashlib
import importlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from sw import datasets
from sw.importers.loaded import one_line
from sw.wasq.tokens import LanguageTokenizer

#: Largest file of text, in bytes.
_MAX_TEXT: Final = 1 << 30
#: What models are evaluated on unless a user says otherwise.
EVALUATION: Final = "wikitext-2:raw-test"
#: Splits that are for evaluation alone, by the first word of their names.
_HELD_OUT: Final = ("test",)
#: Words of a gram where T. Brown et al. look for contamination (arXiv:2005.14165, appendix C);
#: tokens here, with as much text as so many of a vocabulary of 2**16.
_GRAM: Final = 13
_GRAM_BITS: Final = 16
#: Most shared grams: of all, and of any ``_STRETCH`` that follow each other. WikiText-2's valid
#: and test splits share 0.005 % and at most 0.2 %; test with its spaces joined shares 7.7 % with
#: itself and at least 1 % in any stretch, test as tokenized 46 % and 10 % (tokens of SmolLM2).
_SHARED: Final = 0.01
_SHARED_NEARBY: Final = 0.05
_STRETCH: Final = 2000
_SHAKESPEARE_TRAIN: Final = 0.9
_WORD: Final = re.compile(r"\w+")


class CorpusError(ValueError):
    """A text that is missing, empty, too short or not what it should be, in one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """A text as tokens.

    Parameters
    ----------
    name : str
    split : str
    tokens : torch.Tensor of int64 ``[n]``
    sha256 : str
        Of the tokens as little-endian int64.
    """

    name: str
    split: str
    tokens: torch.Tensor
    sha256: str

    @classmethod
    def of(cls, name: str, split: str, tokens: torch.Tensor) -> Corpus:
        """A corpus with its hash.

        Raises
        ------
        CorpusError
            If there are fewer than two tokens.
        """
        if len(tokens) < 2:
            raise CorpusError(f"{name} must hold a text of at least 2 tokens, not {len(tokens)}")
        tokens = tokens.to(torch.int64).cpu().contiguous()
        content = tokens.numpy().astype("<i8", copy=False)
        return cls(name, split, tokens, hashlib.sha256(content.data).hexdigest())

    def __len__(self) -> int:
        return len(self.tokens)

    def head(self, count: int) -> Corpus:
        """The first tokens of it, all if there are fewer."""
        return self if len(self) <= count else Corpus.of(self.name, self.split, self.tokens[:count])


def load_corpus(spec: str, tokenizer: LanguageTokenizer) -> Corpus:
    """Read a text and encode it; nothing is put before it.

    Parameters
    ----------
    spec : str
        ``NAME`` or ``NAME:SPLIT`` with a name and its splits of ``SOURCES``, the first if left; a
        file of UTF-8 text; a ``.safetensors`` file of tokens (:mod:`sw.wasq.generated`); or a
        folder that Hugging Face ``datasets`` saved to disk, ``FOLDER`` or ``FOLDER:SPLIT``.
    tokenizer : LanguageTokenizer

    Raises
    ------
    CorpusError, sw.datasets.DatasetError
        If it is missing, empty, or cannot be read.
    """
    name, _, split = spec.rpartition(":") if ":" in spec else (spec, "", "")
    if name in SOURCES:
        splits = SOURCES[name]
        if split and split not in splits:
            raise CorpusError(f"split of {name} must be one of {', '.join(splits)}, not {split!r}")
        split = split or next(iter(splits))
        return Corpus.of(name, split, splits[split](tokenizer))
    path = Path(spec)
    if path.is_file() and path.suffix == ".safetensors":
        from sw.wasq.generated import read_corpus  # which needs this module

        return read_corpus(path)
    if path.is_file():
        return Corpus.of(path.name, "file", _encoded(_file_text(path), tokenizer))
    folder = path if path.is_dir() else Path(name or spec)
    if folder.is_dir():
        text, split = _saved_text(folder, "" if folder == path else split)
        return Corpus.of(folder.resolve().name, split, _encoded(text, tokenizer))
    raise CorpusError(
        f"text must be a file, a folder of a saved data set, or one of {', '.join(SOURCES)}, "
        f"not {spec!r}"
    )


def windows(corpus: Corpus, length: int) -> torch.Tensor:
    """Windows ``[n, length]`` that do not overlap; what is left at the end is left out.

    Raises
    ------
    CorpusError
        If not even one is whole.
    """
    if length < 2:
        raise CorpusError(f"window must be at least 2 tokens, not {length}")
    if len(corpus) < length:
        raise CorpusError(
            f"{corpus.name} must have at least {length} tokens, a window, not {len(corpus)}"
        )
    return corpus.tokens[: len(corpus) // length * length].reshape(-1, length)


def documents(corpus: Corpus, first: int) -> list[torch.Tensor]:
    """The parts that begin with a token (BOS), each of at least two tokens."""
    starts = (corpus.tokens == first).nonzero().flatten().tolist()
    ends = [*starts[1:], len(corpus)]
    return [corpus.tokens[a:b] for a, b in zip(starts, ends, strict=True) if b - a > 1]


def check_calibration(corpus: Corpus) -> None:
    """CorpusError if a text is held out for evaluation."""
    if any(
        word.startswith(_HELD_OUT) for word in corpus.split.lower().replace("_", "-").split("-")
    ):
        raise CorpusError(
            f"calibration must not use {corpus.name}:{corpus.split}, which is for evaluation alone"
        )


def check_overlap(
    calibration: Corpus, evaluation: Corpus, *, what: str = "calibration", unit: str = "tokens"
) -> float:
    """See that what is calibrated or healed on is not what is evaluated on.

    Both are of the same tokenizer; the sentence of an error calls the first and its parts by
    ``what`` and ``unit``.

    Returns
    -------
    float
        The share of the calibration's grams that the evaluation has, too: under 0.01.

    Raises
    ------
    CorpusError
        If the calibration's split is held out, it is shorter than a gram, or it shares text.
    """
    check_calibration(calibration)
    highest = max(int(calibration.tokens.max()), int(evaluation.tokens.max()), 15)
    size = round(_GRAM * _GRAM_BITS / math.log2(highest + 1))
    if len(calibration) < size:
        raise CorpusError(f"{what} must have at least {size} {unit}, not {len(calibration)}")
    shared = np.isin(_grams(calibration, size), _grams(evaluation, size))
    rate = float(shared.mean())
    sums = np.concatenate([[0], np.cumsum(shared)])
    stretch = min(_STRETCH, len(shared))
    nearby = float((sums[stretch:] - sums[:-stretch]).max() / stretch)
    if rate > _SHARED or nearby > _SHARED_NEARBY:
        raise CorpusError(
            f"{what} must not share text with {evaluation.name}:{evaluation.split}, but "
            f"{rate:.1%} of its runs of {size} {unit} are there, and {nearby:.1%} in one place"
        )
    return rate


def check_held_out(corpus: Corpus, tokenizer: LanguageTokenizer) -> None:
    """CorpusError if a text shares any with what models are evaluated on, where that is there."""
    check_calibration(corpus)
    try:
        held_out = load_corpus(EVALUATION, tokenizer)
    except datasets.DatasetError:  # who has no such text cannot have evaluated on it
        return
    check_overlap(corpus, held_out)


def check_text(text: str, what: str, held_out: Mapping[tuple[str, str], str]) -> None:
    """See that a text for training is none that is held out, whatever is between its words.

    Parameters
    ----------
    text : str
    what : str
        How the sentence of an error calls it.
    held_out : mapping of (name, split) to str

    Raises
    ------
    CorpusError
        If it shares text with one of them, or is shorter than a gram.
    """
    numbers: dict[str, int] = {}

    def words(name: str, split: str, text: str) -> Corpus:
        found = [numbers.setdefault(w, len(numbers)) for w in _WORD.findall(text.lower())]
        return Corpus.of(name, split, torch.tensor(found, dtype=torch.int64))

    given = words(what, "file", text)
    for (name, split), other in held_out.items():
        check_overlap(given, words(name, split, other), what=what, unit="words")


def _grams(corpus: Corpus, size: int) -> npt.NDArray[np.uint64]:
    """A hash per run of so many tokens; a collision within 2**40 pairs of runs is unlikely."""
    tokens = corpus.tokens.numpy().astype(np.uint64) + np.uint64(1)
    hashes = np.zeros(max(0, len(tokens) - size + 1), np.uint64)
    for place in range(size):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + tokens[place : place + len(hashes)]
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _encoded(text: str, tokenizer: LanguageTokenizer) -> torch.Tensor:
    return torch.tensor(tokenizer.encode(text), dtype=torch.int64)


def _stories(tokenizer: LanguageTokenizer) -> torch.Tensor:
    """The stories one after the other, each behind BOS if the tokenizer has it."""
    first = [] if tokenizer.bos is None else [tokenizer.bos]
    found: list[int] = []
    for story in datasets.tinystories():
        found += first + tokenizer.encode(story)
    return torch.tensor(found, dtype=torch.int64)


def _shakespeare(first: float, last: float) -> Callable[[LanguageTokenizer], torch.Tensor]:
    def part(tokenizer: LanguageTokenizer) -> torch.Tensor:
        text = datasets.tinyshakespeare()
        return _encoded(text[int(len(text) * first) : int(len(text) * last)], tokenizer)

    return part


def _wikitext(kind: str, joined: bool = False) -> Callable[[LanguageTokenizer], torch.Tensor]:
    def part(tokenizer: LanguageTokenizer) -> torch.Tensor:
        text = datasets.wikitext(kind)
        return _encoded(datasets.detokenize(text) if joined else text, tokenizer)

    return part


def _file_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise CorpusError(f"{path} must hold at most {_MAX_TEXT} bytes of text")
        text = path.read_bytes().decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} must be UTF-8 text ({error})") from None
    except OSError as error:
        raise CorpusError(f"{path} must be a file that can be read ({error.strerror})") from None
    if not text.strip():
        raise CorpusError(f"{path} must hold text, not be empty")
    return text


def _saved_text(folder: Path, split: str) -> tuple[str, str]:
    """The text of a data set on disk and the split it is of."""
    try:
        package: Any = importlib.import_module("datasets")
    except ImportError:
        raise CorpusError(
            f"{folder} must be a file of text, or have the package datasets installed: "
            "pip install 'atreides[language]'"
        ) from None
    try:
        data = package.load_from_disk(str(folder))
    except Exception as error:  # its errors have no narrower class
        raise CorpusError(
            f"{folder} must be a data set saved to disk ({one_line(error)})"
        ) from None
    if isinstance(data, Mapping):
        names = sorted(data)
        if split not in names:
            raise CorpusError(f"split of {folder} must be one of {', '.join(names)}, not {split!r}")
        data = data[split]
    elif not split:
        split = str(data.split or "all")
    columns = [name for name in ("text", *data.column_names) if name in data.column_names]
    rows = list(data[columns[0]]) if columns else []
    if not rows or not all(isinstance(row, str) for row in rows):
        raise CorpusError(f"{folder} must have rows with a column of text")
    ended = any(row.endswith("\n") for row in rows)  # lines of a file, as WikiText's are
    return ("" if ended else "\n\n").join(rows), split


#: Texts by name and split. WikiText-2's raw test has spaces around punctuation, as the tokenized
#: splits have, but no ``<unk>``; ``valid`` has them joined, ``valid-tokenized`` is as published.
SOURCES: Final[Mapping[str, Mapping[str, Callable[[LanguageTokenizer], torch.Tensor]]]] = {
    "wikitext-2": {
        "raw-test": _wikitext("raw-test"),
        "valid": _wikitext("valid", joined=True),
        "valid-tokenized": _wikitext("valid"),
    },
    "tinyshakespeare": {
        "all": _shakespeare(0, 1),
        "train": _shakespeare(0, _SHAKESPEARE_TRAIN),
        "valid": _shakespeare(_SHAKESPEARE_TRAIN, 1),
    },
    "tinystories": {"sample": _stories},
}
