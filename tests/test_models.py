"""The networks of ``sw.models``: LeNet trains and is cached, stories260K tells what it should."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch

from sw import datasets
from sw.models import lenet, stories
from sw.models.llama import Llama, LlamaConfig, LlamaStep

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
SMALL = LlamaConfig(width=16, hidden=24, layers=2, heads=4, kv_heads=2, vocabulary=11, context=8)


def small() -> Llama:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Llama(SMALL).eval()


def test_steps_with_caches_equal_the_window() -> None:
    model = small()
    step = LlamaStep(model)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    keys, values = (torch.full_like(cache, 9.0) for cache in step.empty_cache())
    with torch.no_grad():
        want = model(tokens)[0]
        for i in range(8):
            logits, keys, values = step(tokens[:, i : i + 1], torch.tensor([i]), keys, values)
            torch.testing.assert_close(logits[0, 0], want[i], atol=1e-5, rtol=1e-5)


def test_later_tokens_change_nothing_before_them() -> None:
    model = small()
    with torch.no_grad():
        a = model(torch.tensor([[3, 1, 4, 1]]))
        b = model(torch.tensor([[3, 1, 4, 7]]))
    torch.testing.assert_close(a[0, :3], b[0, :3])
    assert not torch.allclose(a[0, 3], b[0, 3])


def test_both_forms_are_exported_with_static_shapes() -> None:
    model = small()
    step = LlamaStep(model, 6)
    inputs = (torch.tensor([[3]]), torch.tensor([2]), *step.empty_cache())
    with torch.no_grad():
        exported = torch.export.export(step, inputs).module()
        torch.testing.assert_close(exported(*inputs), step(*inputs))
        window = (torch.tensor([[3, 1, 4]]),)
        exported = torch.export.export(model, window).module()
        torch.testing.assert_close(exported(*window), model(*window))


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must be a multiple of kv_heads 3"):
        LlamaConfig(16, 24, 2, 4, 3, 11, 8)
    with pytest.raises(ValueError, match="layers must be at least 1, not 0"):
        LlamaConfig(16, 24, 0, 4, 2, 11, 8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 10,
        struct.pack("<7i", 64, 172, 5, 8, 4, 512, 512),
        struct.pack("<7i", -64, 172, 5, 8, 4, 512, 512) + b"\0" * 100,
        struct.pack("<7i", 1 << 16, 1 << 16, 1 << 16, 8, 4, 512, 512) + b"\0" * 100,
        struct.pack("<7i", 64, 172, 5, 8, 3, 512, 512) + b"\0" * 100,
    ],
)
def test_broken_model_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(stories.StoriesError, match=r"model\.bin must"):
        stories.load_stories(tmp_path / "model.bin")


@data
@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:300]])
def test_a_tokenizer_that_is_cut_or_too_long_is_refused(tmp_path: Path, change) -> None:
    whole = datasets.path_of("stories260K", "tok512.bin").read_bytes()
    (tmp_path / "tok.bin").write_bytes(change(whole))
    with pytest.raises(stories.StoriesError, match=r"tok\.bin must"):
        stories.load_tokenizer(tmp_path / "tok.bin")


@data
def test_stories_are_as_likely_as_published() -> None:
    """Each story without the line breaks around it, after BOS, in one window: 1.306 per token."""
    model, tokenizer = stories.load_stories(), stories.load_tokenizer()
    assert sum(p.numel() for p in model.parameters()) == 260_032
    texts = datasets.tinystories()
    sequences = [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(sequence) for sequence in sequences] == texts
    total, count = stories.negative_log_likelihood(model, sequences)
    assert count == 1806
    assert round(total / count, 3) == 1.306


@data
def test_stories_go_on() -> None:
    model, tokenizer = stories.load_stories(), stories.load_tokenizer()
    start = tokenizer.encode("Once upon a time")
    told = tokenizer.decode([*start, *stories.generate(model, start, 20)])
    # The beginning that llama2.c's README shows for its models, too.
    assert told.startswith("Once upon a time, there was a little girl named Lily")


def test_the_cache_of_weights_is_read_and_a_broken_one_is_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lenet, "cache_directory", lambda: tmp_path / "cache")
    made = lenet.LeNet()
    assert sum(p.numel() for p in made.parameters()) == 46_730
    calls = []
    monkeypatch.setattr(lenet, "train", lambda recipe, progress: calls.append(recipe) or made)
    recipe = lenet.Recipe(epochs=1)
    assert lenet.trained(recipe) is made
    again = lenet.trained(recipe)
    assert len(calls) == 1
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), made.parameters(), strict=True)
    )
    lenet.trained(lenet.Recipe(epochs=2))
    assert len(calls) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 2
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"\xff" * 40)
    lenet.trained(recipe)
    assert len(calls) == 3


@data
@pytest.mark.slow
def test_lenet_reads_digits() -> None:
    module = lenet.trained()
    assert lenet.accuracy(module, datasets.mnist("test")) >= 0.988
