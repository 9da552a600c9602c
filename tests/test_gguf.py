"""GGUF files: read back what the ``gguf`` package writes, tokenize, refuse hostile files."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sw import datasets
from sw.importers.gguf_file import GgufFile, load_gguf
from sw.importers.loaded import ModelError
from sw.models import byte_pairs, smollm

WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS, WORDS = 64, 96, 2, 4, 2, 40


def write(path: Path, kind=gguf.GGMLQuantizationType.F32, extra: str = "") -> dict[str, np.ndarray]:
    """A small Llama; gives its tensors."""
    rng = np.random.default_rng(3)
    inner = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd": (WORDS, WIDTH), "output_norm": (WIDTH,)}
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.{name}": shape
            for name, shape in {
                "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (inner, WIDTH),
                "attn_v": (inner, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,),
                "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN),
            }.items()
        }  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(32)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "b"])
    tensors = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape).astype(np.float32)
        tensors[name] = value
        if len(shape) == 2:
            stored = gguf.quants.quantize(value, kind)
            tensors[name] = gguf.quants.dequantize(stored, kind)
            writer.add_tensor(f"{name}.weight", stored, raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", value)
    if extra:
        writer.add_tensor(extra, np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def reference(tensors: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """The Llama of GGUF's conventions: rotary pairs side by side, one head at a time."""
    size = WIDTH // HEADS

    def norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight

    def rotate(x: np.ndarray) -> np.ndarray:
        angles = np.outer(np.arange(len(x)), 10000.0 ** (-np.arange(0, size, 2) / size))
        turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    x = t["token_embd"][tokens]
    for i in range(LAYERS):
        part = {k.split(".")[2]: v for k, v in t.items() if k.startswith(f"blk.{i}.")}
        h = norm(x, part["attn_norm"])
        mixed = []
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            group = head // (HEADS // KV_HEADS)
            shared = slice(group * size, (group + 1) * size)
            q, k = rotate(h @ part["attn_q"][own].T), rotate(h @ part["attn_k"][shared].T)
            scores = np.where(np.tri(len(x)) > 0, q @ k.T / np.sqrt(size), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed.append(weights @ (h @ part["attn_v"][shared].T))
        x = x + np.concatenate(mixed, -1) @ part["attn_output"].T
        h = norm(x, part["ffn_norm"])
        gate = h @ part["ffn_gate"].T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ part["ffn_up"].T)) @ part["ffn_down"].T
    return norm(x, t["output_norm"]) @ t["token_embd"].T


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_a_written_network_computes_what_its_tensors_say(tmp_path: Path, kind: str) -> None:
    tensors = write(tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind])
    model, _ = load_gguf(tmp_path / "m.gguf")
    tokens = [3, 0, 39, 7, 7, 21]
    with torch.no_grad():
        got = model(torch.tensor([tokens]))[0].numpy()
    want = reference(tensors, tokens)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_metadata_is_read_as_written(tmp_path: Path) -> None:
    write(tmp_path / "m.gguf")
    metadata = GgufFile(tmp_path / "m.gguf").metadata
    assert metadata["llama.attention.head_count"] == HEADS
    assert metadata["tokenizer.ggml.tokens"] == ["a", "b"]


def test_what_is_no_llama_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelError, match="must exist"):
        load_gguf(path)
    path.write_bytes(b"")
    with pytest.raises(ModelError):
        load_gguf(path)
    path.write_bytes(b"this is text")
    with pytest.raises(ModelError, match="must be a GGUF file"):
        load_gguf(path)
    write(path, extra="rope_freqs.weight")
    with pytest.raises(ModelError, match=r"tensors of a Llama, not rope_freqs\.weight"):
        load_gguf(path)


def test_a_lying_count_ends_with_the_file(tmp_path: Path) -> None:
    """An array of 2**62 values: the gguf package's own reader would count them all."""
    path = tmp_path / "m.gguf"
    for kind in (4, 8):
        text = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
        path.write_bytes(text + struct.pack("<IIQ", 9, kind, 1 << 62) + b"\0" * 64)
        with pytest.raises(ModelError, match="must hold"):
            GgufFile(path)


@settings(max_examples=150, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_broken_files_give_one_kind_of_error(tmp_path: Path, draw: st.DataObject) -> None:
    sound = tmp_path / "sound.gguf"
    if not sound.exists():
        write(sound)
    broken = bytearray(sound.read_bytes())
    header = 2000
    for _ in range(draw.draw(st.integers(0, 3))):
        place = draw.draw(st.integers(0, header))
        broken[place] ^= 1 << draw.draw(st.integers(0, 7))
    if draw.draw(st.booleans()):
        place = draw.draw(st.integers(0, header))
        struct.pack_into("<Q", broken, place, draw.draw(st.integers(0, (1 << 64) - 1)))
    size = len(broken) if draw.draw(st.booleans()) else draw.draw(st.integers(1, len(broken)))
    (tmp_path / "broken.gguf").write_bytes(broken[:size])
    # Whatever is left may still be a model; nothing but ModelError may come out.
    with contextlib.suppress(ModelError):
        load_gguf(tmp_path / "broken.gguf")


def test_byte_pairs_merge_the_earliest_first_and_round_trip() -> None:
    letters = sorted(byte_pairs.byte_characters().values())
    merges = ["l o", "lo w", "Ġ low", "e r"]
    tokens = [*letters, "lo", "low", "Ġlow", "er"]
    tokenizer = byte_pairs.BytePairs(tokens, merges)
    ids = tokenizer.encode("low lower 42é")
    assert [tokens[i] for i in ids] == ["low", "Ġlow", "er", "Ġ", "4", "2", "Ã", "©"]
    assert tokenizer.decode(ids) == "low lower 42é"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA is not set")
def test_smollm2_tokenizes_wikitext_as_published() -> None:
    """301,948 tokens: the tokenizers library counts as many with this vocabulary."""
    try:
        path = smollm.model_path()
    except datasets.DatasetError as missing:
        pytest.skip(str(missing))
    tokenizer = byte_pairs.from_metadata(GgufFile(path).metadata)
    text = datasets.wikitext("raw-test")
    tokens = tokenizer.encode(text)
    assert len(tokens) == 301_948
    assert tokenizer.decode(tokens) == text
