"""Tokenizers of language models, all with the same face, and their files."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

from sw.importers.loaded import ModelError, one_line, read_bytes
from sw.models import byte_pairs, stories

#: What a folder may hold, in the order of preference.
JSON_FILE: Final = "tokenizer.json"
STORIES_FILE: Final = "tokenizer.bin"
_MAX_TOKENS: Final = 1 << 20


class LanguageTokenizer(Protocol):
    """From text to tokens and back."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, from 0 on."""

    @property
    def bos(self) -> int | None:
        """The token that a text begins with when it is generated; None: nothing."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; nothing is put before it."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""


class PairTokens:
    """Byte-level byte pair encoding as GPT-2's; see :class:`sw.models.byte_pairs.BytePairs`.

    Parameters
    ----------
    tokens, merges : sequence of str
    digits : bool
        Whether every digit is a word of its own.
    bos : int, optional
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[str],
        digits: bool = True,
        bos: int | None = None,
    ) -> None:
        self._tokens, self._merges = tuple(tokens), tuple(merges)
        self._digits, self.bos = digits, bos
        self._pairs = byte_pairs.BytePairs(tokens, merges, digits)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self._tokens)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; names of control tokens in it are text."""
        return self._pairs.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._pairs.decode(tokens)

    def to_json(self) -> dict[str, Any]:
        """As a Hugging Face ``tokenizer.json``."""
        sides = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        level = {"type": "ByteLevel", **sides}
        digits = {"type": "Digits", "individual_digits": True}
        return {
            "version": "1.0",
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}
            if self._digits
            else level,
            "post_processor": None,
            "decoder": level,
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(self._tokens)},
                "merges": list(self._merges),
            },
        }


class StoryTokens:
    """The tokenizer of llama2.c; see :class:`sw.models.stories.Tokenizer`."""

    bos: int | None = stories.BOS

    def __init__(self, tokenizer: stories.Tokenizer, content: bytes) -> None:
        self._tokenizer, self.content = tokenizer, content

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self._tokenizer.pieces)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text behind a space, without BOS."""
        return self._tokenizer.encode(text, bos=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self._tokenizer.decode(tokens)


class FileTokens:
    """Any ``tokenizer.json``, through the optional package ``tokenizers``."""

    def __init__(self, path: Path, bos: int | None = None) -> None:
        try:
            tokenizers: Any = importlib.import_module("tokenizers")
        except ImportError:
            raise ModelError(
                f"{path} must be byte pairs as GPT-2's, or have the package tokenizers installed: "
                "pip install 'atreides[language]'"
            ) from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # its errors have no narrower class
            raise ModelError(f"{path} must be a tokenizer ({one_line(error)})") from None
        self._tokenizer.no_truncation()
        self.bos = bos
        self.content = path.read_bytes()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, nothing put before it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def load_tokens(path: Path, vocabulary: int, bos: int | None = None) -> LanguageTokenizer:
    """Read ``tokenizer.json``, or a llama2.c ``tokenizer.bin``.

    Parameters
    ----------
    path : Path
    vocabulary : int
        Of the model.
    bos : int, optional
        What the model's configuration says a text begins with.

    Raises
    ------
    ModelError
        If the file is missing, broken, of an unknown kind, or does not fit the model.
    """
    if path.suffix == ".bin":
        content = read_bytes(path)
        try:
            return StoryTokens(stories.load_tokenizer(path, vocabulary), content)
        except stories.StoriesError as error:
            raise ModelError(f"{error}: it must fit the model's vocabulary") from None
    if path.suffix != ".json":
        raise ModelError(
            f"tokenizer must be a tokenizer.json or a llama2.c .bin, not {str(path)!r}"
        )
    data = read_json(path)
    found = _pairs(data, bos)
    tokenizer: LanguageTokenizer = FileTokens(path, bos) if found is None else found
    check_fit(tokenizer, vocabulary, str(path))
    return tokenizer


def check_fit(tokenizer: LanguageTokenizer, vocabulary: int, where: str) -> None:
    """ModelError unless a tokenizer's tokens are those of a model with this vocabulary.

    A model may have a few more, to fill a round number: a tenth at most.
    """
    least = vocabulary - vocabulary // 10
    if not least <= tokenizer.vocabulary <= vocabulary:
        raise ModelError(
            f"{where} must have {least} to {vocabulary} tokens, to fit the model, "
            f"not {tokenizer.vocabulary}"
        )


def write_tokens(folder: Path, tokenizer: LanguageTokenizer) -> None:
    """Write a tokenizer into a folder, so that :func:`load_tokens` reads it."""
    if isinstance(tokenizer, StoryTokens):
        (folder / STORIES_FILE).write_bytes(tokenizer.content)
    elif isinstance(tokenizer, FileTokens):
        (folder / JSON_FILE).write_bytes(tokenizer.content)
    elif isinstance(tokenizer, PairTokens):
        text = json.dumps(tokenizer.to_json(), ensure_ascii=False, indent=1)
        (folder / JSON_FILE).write_text(text, encoding="utf-8")
    else:
        raise TypeError(f"tokenizer must be one that was loaded, not {type(tokenizer).__name__}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file with an object.

    Raises
    ------
    ModelError
        If it is missing, broken or holds something else.
    """
    try:
        data = json.loads(read_bytes(path))
    except ModelError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be JSON ({one_line(error)})") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(data).__name__}")
    return data


def _pairs(data: dict[str, Any], bos: int | None) -> PairTokens | None:
    """The tokenizer that a ``tokenizer.json`` is if it is GPT-2's kind; None if it is not."""
    model, digits = data.get("model"), _splits_digits(data.get("pre_tokenizer"))
    if not isinstance(model, dict) or digits is None or data.get("normalizer") is not None:
        return None
    plain = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model.get("type", "BPE") != "BPE" or any(model.get(key) for key in plain):
        return None
    if model.get("ignore_merges") or not isinstance(model.get("vocab"), dict):
        return None
    by_id = {number: token for token, number in model["vocab"].items()}
    for added in data.get("added_tokens") or ():
        by_id[added.get("id")] = added.get("content")
    if len(by_id) > _MAX_TOKENS or set(by_id) != set(range(len(by_id))):
        return None
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges") or ()]
    return PairTokens([by_id[number] for number in range(len(by_id))], merges, digits, bos)


def _splits_digits(splitter: object) -> bool | None:
    """Whether a pre-tokenizer as GPT-2's makes every digit a word; None if it is another."""
    if not isinstance(splitter, dict):
        return None
    parts = [splitter]
    if splitter.get("type") == "Sequence":
        parts = cast("list[dict[str, Any]]", splitter.get("pretokenizers") or [])
    kinds = [part.get("type") for part in parts]
    if kinds not in (["ByteLevel"], ["Digits", "ByteLevel"]):
        return None
    level = parts[-1]
    if level.get("add_prefix_space", True) or not level.get("use_regex", True):
        return None
    if len(parts) == 2 and not parts[0].get("individual_digits"):
        return None
    return len(parts) == 2
