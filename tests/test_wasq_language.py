"""Language models from outside: what is read is what was written, and nothing is unpickled."""

from __future__ import annotations

import json
import os
import pickle
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file
from wasq_models import SMALL, small_llama, small_tokens

from sw import datasets
from sw.importers.loaded import ModelError
from sw.models import stories
from sw.wasq.language import load_language, save_language
from sw.wasq.tokens import FileTokens, load_tokens

data = pytest.mark.skipif(
    not os.environ.get("ATREIDES_DATA"), reason="ATREIDES_DATA names no folder of data sets"
)
TOKENS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model as a Hugging Face folder."""
    path = tmp_path / "small"
    save_language(path, small_llama(), small_tokens(), {"seed": 0})
    return path


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_folder_gives_the_same_logits(tmp_path: Path, tied: bool) -> None:
    model = small_llama(1, tied)
    save_language(tmp_path / "m", model, small_tokens())
    for spec in (tmp_path / "m", tmp_path / "m" / "model.safetensors"):
        found = load_language(str(spec))
        assert torch.equal(found.module(TOKENS), model(TOKENS))
        assert (found.name, found.context, found.tokenizer.vocabulary) == ("m", 64, 260)
    names = load_file(tmp_path / "m" / "model.safetensors")
    assert ("lm_head.weight" in names) != tied
    assert "model.layers.1.self_attn.k_proj.weight" in names


def test_a_sharded_folder_is_read_whole(folder: Path) -> None:
    want = load_language(str(folder))
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for part in set(places.values()):
        half = {n: tensors[n].bfloat16().float() for n in names if places[n] == part}
        save_file(half, folder / part)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    found = load_language(str(folder))
    gap = (found.module(TOKENS) - want.module(TOKENS)).abs().max()
    assert 0 < gap < 1
    assert found.sha256 != want.sha256
    places[names[0]] = "../model.safetensors"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="which its index names"):
        load_language(str(folder))


def test_half_floats_become_float32(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: t.half() for name, t in load_file(path).items()}, path)
    state = load_language(str(folder)).module.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["norm.weight"], torch.ones(32))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hidden_size": 0}, "must have hidden_size from 1 to"),
        ({"hidden_size": "32"}, "must have hidden_size from 1 to 1048576, not '32'"),
        ({"num_hidden_layers": 3}, "must have a tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "must have the tensors of a Llama, not model.layers.1"),
        ({"intermediate_size": 48}, "as [32, 48] in one of F64, F32, F16, BF16, not [32, 40]"),
        ({"rms_norm_eps": -1}, "must have rms_norm_eps above 0, not -1"),
        ({"num_attention_heads": 5}, "must be a Llama that can be built"),
        ({"vocab_size": 300}, "must have embed"),
        ({"model_type": "zebra"}, "must be of a plain llama, not of one with model_type 'zebra'"),
        ({"sliding_window": "all"}, "not of one with sliding_window 'all'"),
        ({"rope_parameters": [1]}, "not of one with rope_parameters [1]"),
        ({"head_dim": 7}, "not of one with head_dim 7"),
        ({"attention_bias": True}, "not of one with attention_bias True"),
    ],
)
def test_a_config_that_does_not_fit_is_one_sentence(
    folder: Path, changes, sentence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # as where it is not installed
    edit(folder, **changes)
    with pytest.raises(ModelError) as caught:
        load_language(str(folder))
    assert "\n" not in str(caught.value)
    if "embed" in sentence:
        assert "embed_tokens" in str(caught.value)
    else:
        assert sentence in str(caught.value)


def test_a_cut_file_is_one_sentence(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="must be a whole safetensors file"):
        load_language(str(folder))
    path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin would have to be unpickled"):
        load_language(str(folder))


class Trap:
    """What runs if it is unpickled."""

    def __reduce__(self):
        return (os.abort, ())


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pkl"])
def test_a_pickle_is_refused_unread(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="unpickles"):
        load_language(str(path))
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(ModelError, match="unpickles"):
        load_language(str(path))


@pytest.mark.parametrize("spec", ["", "nosuch", "nosuch.gguf", "nosuch.bin", "nosuch.txt"])
def test_an_unknown_model_is_one_sentence(spec: str) -> None:
    with pytest.raises(ModelError, match="must"):
        load_language(spec)


def test_a_tokenizer_must_fit_the_model(folder: Path, tmp_path: Path) -> None:
    other = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = other["model"]["vocab"]
    for count in (200, 300):
        names = [*vocabulary, *(f"x{i}" for i in range(100))][:count]
        other["model"]["vocab"] = {name: i for i, name in enumerate(names)}
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(other))
        with pytest.raises(ModelError, match=f"must have 234 to 260 tokens.*not {count}"):
            load_language(str(folder), tokenizer=path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"must hold tokenizer\.json or tokenizer\.bin"):
        load_language(str(folder))


def test_a_function_gives_a_model_with_its_tokenizer(tmp_path: Path) -> None:
    here = Path(__file__).parent
    (tmp_path / "mine.py").write_text(
        f"import sys; sys.path.insert(0, {str(here)!r})\n"
        "from wasq_models import small_llama, small_tokens\n"
        "def whole(): return small_llama(), small_tokens()\n"
        "def bare(): return small_llama()\n"
        "def text(): return 'no'\n"
    )
    spec = str(tmp_path / "mine.py")
    found = load_language(f"{spec}:whole")
    assert (found.name, found.context) == ("whole", SMALL.context)
    for name, sentence in (("bare", "must give"), ("text", "must give an nn.Module, not str")):
        with pytest.raises(ModelError, match=sentence):
            load_language(f"{spec}:{name}")


def test_pairs_are_read_as_the_tokenizers_package_reads_them(folder: Path) -> None:
    pytest.importorskip("tokenizers", reason="the optional extra language is not installed")
    text = "Hello the 123 hill, it's élan\n\n  ok"
    public = FileTokens(folder / "tokenizer.json")
    own = load_tokens(folder / "tokenizer.json", 260)
    assert own.encode(text) == public.encode(text)


def test_text_comes_back(folder: Path) -> None:
    tokenizer = load_tokens(folder / "tokenizer.json", 260)
    text = "Hello the 123 hill, it's élan\n\n  ok"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode("tell the")) == 259


def slow_encode(tokenizer: stories.Tokenizer, text: str) -> list[int]:
    """As llama2.c does it: the best pair of the whole text is merged first."""
    ids = {piece: i for i, piece in reversed(list(enumerate(tokenizer.pieces)))}
    tokens = []
    for character in " " + text:
        found = ids.get(character.encode())
        tokens += [b + 3 for b in character.encode()] if found is None else [found]
    while True:
        best = None
        for place, (a, b) in enumerate(pairwise(tokens)):
            merged = ids.get(tokenizer.pieces[a] + tokenizer.pieces[b])
            if merged is not None and (best is None or tokenizer.scores[merged] > best[0]):
                best = (tokenizer.scores[merged], place, merged)
        if best is None:
            return tokens
        tokens[best[1] : best[1] + 2] = [best[2]]


@data
def test_words_are_encoded_as_the_whole_text_is() -> None:
    found = load_language("stories260k")
    plain = stories.load_tokenizer()
    for text in (
        *datasets.tinystories()[:2],
        "  two  spaces é\n\n end ",
        datasets.tinyshakespeare()[:900],
    ):
        assert found.tokenizer.encode(text) == slow_encode(plain, text)
    assert found.tokenizer.bos == 1


@data
def test_stories_survive_as_a_folder(tmp_path: Path) -> None:
    model = load_language("stories260k")
    save_language(tmp_path / "s", model.module, model.tokenizer)
    again = load_language(str(tmp_path / "s"))
    tokens = torch.tensor([model.tokenizer.encode("Once upon a time")])
    assert torch.equal(again.module(tokens), model.module(tokens))
    assert again.tokenizer.encode("a cat") == model.tokenizer.encode("a cat")
    path = datasets.path_of("stories260K", "stories260K.bin")
    with pytest.raises(ModelError, match="tokenizer"):
        load_language(str(path))
    own = datasets.path_of("stories260K", "tok512.bin")
    assert load_language(str(path), tokenizer=own).sha256 == model.sha256


def test_an_onnx_file_from_tokens_to_logits_is_a_language_model(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(260, 6)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["x"]),
            helper.make_node("MatMul", ["x", "head"], ["logits"]),
        ],
        "language",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8, 260])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(table.T.copy(), "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "tokenizer.json").write_text(json.dumps(small_tokens().to_json()))
    found = load_language(str(tmp_path / "m.onnx"))
    tokens = torch.arange(8)[None] * 3
    want = torch.from_numpy(table[tokens.numpy()] @ table.T)
    assert torch.allclose(found.module(tokens), want, atol=1e-5)
    assert (found.name, found.context) == ("m", 8)
