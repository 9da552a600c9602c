"""Language models trained in-house: tokenizer, text, training, files."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sw.models.byte_pairs import byte_characters, split_words
from sw.models.llama import Llama
from sw.wasq import inhouse
from sw.wasq.corpus import CorpusError
from sw.wasq.inhouse_files import checkpoint_path
from sw.wasq.language import load_language
from sw.wasq.pair_training import train_pairs

WORDS = "the cat sat on the mat\nand the dog sat on the log\n12 cats, 34 dogs: they're all here\n"
TEXTS = inhouse.divide([WORDS * 60])
TINY = inhouse.Recipe(
    **{"width": 16, "hidden": 24, "layers": 1, "heads": 2, "kv_heads": 1},
    **{"steps": 12, "rate": 1e-2, "dropout": 0.1, "tokens": 128, "lengths": (32, 16), "every": 4},
)


def merges_by_counting(text: str, count: int) -> list[str]:
    """The definition: count all pairs anew before every merge."""
    spelled = byte_characters()
    words = Counter(tuple(spelled[b] for b in word.encode()) for word in split_words(text))
    merges = []
    for _ in range(count):
        found: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in pairwise(word):
                found[pair] += times
        best = min(found, key=lambda pair: (-found[pair], pair))
        merges.append(" ".join(best))
        joined: Counter[tuple[str, ...]] = Counter()
        for word, times in words.items():
            new, place = [], 0
            while place < len(word):
                step = 2 if word[place : place + 2] == best else 1
                new.append("".join(word[place : place + step]))
                place += step
            joined[tuple(new)] += times
        words = joined
    return merges


@pytest.mark.parametrize("text", [WORDS * 3, "aaaa aaa aa banana bananas\n" * 4, "ééé où éé\n" * 5])
def test_tokenizer_merges_the_most_frequent_pair_again_and_again(text: str) -> None:
    want = merges_by_counting(text, 4)
    assert list(train_pairs(text, 260).merges)[:4] == want


def test_tokenizer_gives_the_text_back_and_shortens_it() -> None:
    tokenizer = train_pairs(WORDS * 2, 280).tokenizer()
    tokens = tokenizer.encode(WORDS)
    assert tokenizer.decode(tokens) == WORDS
    assert len(tokens) < 0.8 * len(WORDS)
    assert tokenizer.decode(tokenizer.encode("Grüße, 日本 7")) == "Grüße, 日本 7"


def test_tokenizer_that_a_text_is_too_short_for_is_refused() -> None:
    with pytest.raises(ValueError, match="vocabulary must be at most 257"):
        train_pairs("ab ab", 300)
    with pytest.raises(ValueError, match="vocabulary must be at least 256"):
        train_pairs("ab ab", 255)


def test_held_out_text_is_the_last_tenth_and_parts_join_to_the_whole() -> None:
    whole = WORDS * 60
    assert TEXTS.train[0] + TEXTS.validation[0] + TEXTS.evaluation[0] == whole
    assert 0.89 < len(TEXTS.train[0]) / len(whole) < 0.92
    with pytest.raises(ValueError, match="lines to hold out"):
        inhouse.divide(["no line end"])


def sentences(seed: int, count: int) -> str:
    """Lines of random words, as no other seed has them."""
    chance = random.Random(seed)
    words = [f"w{number}" for number in range(2000)]
    return "".join(" ".join(chance.choices(words, k=12)) + " .\n" for _ in range(count))


def test_generated_text_that_shares_held_out_text_is_refused(monkeypatch) -> None:
    texts = {"valid": sentences(1, 400), "raw-test": sentences(2, 400)}
    monkeypatch.setattr(inhouse.datasets, "wikitext", texts.__getitem__)
    monkeypatch.setattr(inhouse.datasets, "tinyshakespeare", lambda: sentences(3, 400))
    own, known = sentences(4, 400), inhouse.gather()
    assert inhouse.gather(own).train == (*known.train, *inhouse.divide([own]).train)
    assert inhouse.gather(own + known.train[0][:2000]).train[:2] == known.train  # is learned anyway
    for secret, name in (
        (known.validation[0], "wikitext-2-valid:held-out"),
        (known.evaluation[1].replace(" .", ".").upper(), "tinyshakespeare:held-out"),
        (texts["raw-test"][:3000], "wikitext-2:raw-test"),
    ):
        with pytest.raises(CorpusError, match=f"^generated text must not share text with {name}"):
            inhouse.gather(own + secret)


def test_training_lowers_the_perplexity_and_the_saved_model_is_the_best(tmp_path: Path) -> None:
    trained = inhouse.train("tiny", TEXTS, tmp_path / "m", recipe=TINY, vocabulary=270)
    assert trained.finished
    curve = [look["perplexity"] for look in trained.record["curve"]]
    assert min(curve) < 200 < 270
    assert trained.record["validation_perplexity"] == pytest.approx(min(curve), rel=1e-6)
    found = load_language(str(tmp_path / "m"))
    model = found.module
    validation = torch.tensor(found.tokenizer.encode(TEXTS.validation[0]))
    assert inhouse.perplexity(model, validation) == pytest.approx(min(curve), rel=1e-6)
    assert not checkpoint_path(tmp_path / "m").exists()
    about = json.loads((tmp_path / "m" / "config.json").read_text())["atreides"]
    assert about["parameters"] == sum(p.numel() for p in model.parameters())


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole = inhouse.train("tiny", TEXTS, tmp_path / "a", recipe=TINY, vocabulary=270)

    def stop(step: int, steps: int, told: str) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inhouse.train("tiny", TEXTS, tmp_path / "b", recipe=TINY, vocabulary=270, progress=stop)
    first = inhouse.train("tiny", TEXTS, tmp_path / "b", recipe=TINY, vocabulary=270, seconds=0)
    assert not first.finished
    assert first.record["steps"] == 6
    rest = inhouse.train("tiny", TEXTS, tmp_path / "b", recipe=TINY, vocabulary=270)
    for (name, a), b in zip(whole.model.named_parameters(), rest.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    inhouse.train("tiny", TEXTS, tmp_path / "m", recipe=TINY, vocabulary=270, seconds=0)
    other = inhouse.Recipe(**{**asdict(TINY), "rate": 1e-3})
    with pytest.raises(ValueError, match="same recipe and text"):
        inhouse.train("tiny", TEXTS, tmp_path / "m", recipe=other, vocabulary=270)
    checkpoint_path(tmp_path / "m").write_bytes(b"broken")
    with pytest.raises(ValueError, match="whole checkpoint"):
        inhouse.train("tiny", TEXTS, tmp_path / "m", recipe=TINY, vocabulary=270)


def test_training_leaves_torch_as_it_was(tmp_path: Path) -> None:
    state, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    inhouse.train("tiny", TEXTS, tmp_path / "m", recipe=TINY, vocabulary=270, seconds=0)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_float32_matmul_precision() == precision


def test_recipes_have_the_sizes_they_are_named_for() -> None:
    for name, least in (("0.3m", 0.3e6), ("1m", 1e6), ("5m", 5e6), ("20m", 20e6)):
        with torch.device("meta"):
            model = Llama(inhouse.RECIPES[name].config(inhouse.VOCABULARY))
        assert least <= sum(p.numel() for p in model.parameters()) < 1.2 * least, name
    with pytest.raises(ValueError, match=r"model must be one of 0\.3m"):
        inhouse.train("2m", TEXTS, Path("never"))
