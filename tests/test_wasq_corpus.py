"""Texts as tokens: windows, what is generated, and that calibration is not evaluation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from wasq_models import small_language, small_tokens, text_file

from sw.wasq.corpus import Corpus, CorpusError, check_overlap, documents, load_corpus, windows
from sw.wasq.generated import generate_corpus, next_logits, read_corpus
from sw.wasq.language import load_language

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)


def random_corpus(count: int, seed: int, split: str = "valid", vocabulary: int = 5000) -> Corpus:
    drawn = torch.Generator().manual_seed(seed)
    return Corpus.of("random", split, torch.randint(0, vocabulary, (count,), generator=drawn))


def test_windows_follow_each_other_and_the_rest_is_left_out() -> None:
    corpus = Corpus.of("n", "s", torch.arange(11))
    assert windows(corpus, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(CorpusError, match="n must have at least 12 tokens, a window, not 11"):
        windows(corpus, 12)
    with pytest.raises(CorpusError, match="window must be at least 2 tokens, not 1"):
        windows(corpus, 1)


def test_documents_begin_with_their_token() -> None:
    corpus = Corpus.of("n", "s", torch.tensor([7, 1, 2, 3, 1, 1, 5]))
    assert [part.tolist() for part in documents(corpus, 1)] == [[1, 2, 3], [1, 5]]


def test_the_hash_is_of_the_tokens() -> None:
    import hashlib

    corpus = Corpus.of("n", "s", torch.tensor([1, 258]))
    want = hashlib.sha256(bytes([1, *[0] * 7, 2, 1, *[0] * 6])).hexdigest()
    assert corpus.sha256 == want


def test_a_file_is_encoded(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    corpus = load_corpus(str(path), small_tokens())
    assert small_tokens().decode(corpus.tokens.tolist()) == path.read_text()
    assert (corpus.name, corpus.split) == ("text.txt", "file")
    for content, sentence in ((b"", "not be empty"), (b" \n", "not be empty"), (b"\xff", "UTF-8")):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=sentence):
            load_corpus(str(path), small_tokens())


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nosuch", "text must be a file, a folder of a saved data set, or one of wikitext-2"),
        ("wikitext-2:train", "split of wikitext-2 must be one of raw-test, valid"),
    ],
)
def test_an_unknown_text_is_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(CorpusError, match=sentence):
        load_corpus(spec, small_tokens())


@pytest.mark.parametrize("split", ["test", "raw-test", "test_small", "Test"])
def test_a_held_out_split_is_never_calibration(split: str) -> None:
    with pytest.raises(CorpusError, match="for evaluation alone"):
        check_overlap(random_corpus(100, 0, split), random_corpus(100, 1, "test"))


def test_shared_text_is_refused_wherever_it_is() -> None:
    held_out = random_corpus(20_000, 1, "test")
    clean = random_corpus(50_000, 2)
    assert check_overlap(clean, held_out) == 0
    for slice_ in (slice(0, 60), slice(5000, 5200), slice(None)):
        with pytest.raises(CorpusError, match="must not share text with random:test"):
            check_overlap(Corpus.of("n", "valid", held_out.tokens[slice_]), held_out)
    mixed = torch.cat([clean.tokens[:30_000], held_out.tokens[:150], clean.tokens[30_000:]])
    with pytest.raises(CorpusError, match="in one place"):
        check_overlap(Corpus.of("n", "valid", mixed), held_out)
    with pytest.raises(CorpusError, match="calibration must have at least"):
        check_overlap(Corpus.of("n", "valid", clean.tokens[:5]), held_out)


@data
def test_wikitext_valid_may_calibrate_and_test_in_any_spelling_may_not() -> None:
    tokenizer = load_language("stories260k").tokenizer
    held_out = load_corpus("wikitext-2", tokenizer)
    valid = load_corpus("wikitext-2:valid", tokenizer)
    assert held_out.split == "raw-test"
    assert 0 < check_overlap(valid, held_out) < 0.002
    from sw import datasets

    spelled = datasets.detokenize(datasets.wikitext("test"))[300_000:330_000]
    tokens = torch.tensor(tokenizer.encode(spelled))
    with pytest.raises(CorpusError, match="must not share text"):
        check_overlap(Corpus.of("mine", "file", tokens), held_out)


def test_cached_logits_are_those_of_the_whole_text() -> None:
    model = small_language().module
    start = torch.tensor([[5, 6, 7], [9, 8, 250]])
    known = start
    with torch.no_grad():
        for logits, go_on in next_logits(model, start, 8):
            want = model(known)[:, -1]
            assert torch.allclose(logits, want, atol=1e-4)
            chosen = want.argmax(-1)
            known = torch.cat([known, chosen[:, None]], 1)
            if known.shape[1] == 8:
                break
            go_on(chosen)
    assert known.shape == (2, 8)


def test_generated_text_depends_on_the_seed_not_on_the_batch(tmp_path: Path) -> None:
    model = small_language()
    path = tmp_path / "text.safetensors"
    seen: list[tuple[int, int]] = []
    one = generate_corpus(
        model, 90, 20, batch=2, path=path, progress=lambda *told: seen.append(told)
    )
    assert len(one) == 100
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert torch.equal(one.tokens, generate_corpus(model, 90, 20, batch=5).tokens)
    assert not torch.equal(one.tokens, generate_corpus(model, 90, 20, seed=1).tokens)
    again = load_corpus(str(path), small_tokens())
    assert torch.equal(again.tokens, one.tokens)
    assert (again.name, again.split, again.sha256) == (one.name, one.split, one.sha256)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorpusError, match="must be a file of kept tokens"):
        read_corpus(path)
    for wrong in ({"length": 65}, {"temperature": 0.0}, {"batch": 0}):
        with pytest.raises(ValueError, match="must be"):
            generate_corpus(model, 90, **{"length": 20, **wrong})


def test_the_first_tokens_are_the_most_likely_ones() -> None:
    model = small_language()
    rows = generate_corpus(model, 60, 20, greedy=19).tokens.reshape(-1, 20)
    with torch.no_grad():
        logits = model.module(rows)
    assert torch.equal(logits[:, :-1].argmax(-1), rows[:, 1:])
