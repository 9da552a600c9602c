"""Folders as Hugging Face has them: which files they are, and what is written over them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from wasq_models import small_llama, small_tokens

from sw.importers.loaded import ModelError
from sw.wasq.huggingface import first_token, folder_hash, save_folder, weight_files
from sw.wasq.public_llama import beyond_llama, names_of, public_config


def index(folder: Path, content: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_an_index_says_which_files_hold_the_weights(tmp_path: Path) -> None:
    for name in ("b.safetensors", "a.safetensors", "other.safetensors"):
        (tmp_path / name).touch()
    assert [p.name for p in weight_files(tmp_path)] == sorted(p.name for p in tmp_path.iterdir())
    index(tmp_path, {"weight_map": {"x": "b.safetensors", "y": "a.safetensors"}})
    assert [p.name for p in weight_files(tmp_path)] == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "missing.safetensors", "."])
def test_an_index_cannot_name_what_lies_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "a.safetensors").touch()
    index(folder, {"weight_map": {"x": name}})
    with pytest.raises(ModelError, match="which its index names"):
        weight_files(folder)


@pytest.mark.parametrize("content", [{}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_must_map_weights(tmp_path: Path, content: object) -> None:
    index(tmp_path, content)
    with pytest.raises(ModelError, match="must have a weight_map"):
        weight_files(tmp_path)


def test_the_hash_of_one_file_is_its_own_and_of_several_of_their_list(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(file.name.encode())
    own = [hashlib.sha256(file.name.encode()).hexdigest() for file in files]
    assert folder_hash(files[:1]) == own[0]
    lines = f"a {own[0]}\nb {own[1]}".encode()
    assert folder_hash(files) == folder_hash(files[::-1]) == hashlib.sha256(lines).hexdigest()


def test_texts_begin_with_bos_only_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    assert first_token({"bos_token_id": 1}, tmp_path) is None
    path.write_text('{"add_bos_token": false}')
    assert first_token({"bos_token_id": 1}, tmp_path) is None
    path.write_text('{"add_bos_token": true}')
    assert first_token({"bos_token_id": 1}, tmp_path) == 1
    assert first_token({"bos_token_id": True}, tmp_path) is None


def test_a_saved_folder_holds_every_weight_under_its_public_name(tmp_path: Path) -> None:
    module = small_llama()
    save_folder(tmp_path / "model", module, small_tokens(), {"steps": 3})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config == {**public_config(module), "atreides": {"steps": 3}}
    assert beyond_llama(config) is None
    found = load_file(tmp_path / "model" / "model.safetensors")
    names = names_of(module.config, config["tie_word_embeddings"])
    assert found.keys() == names.keys()
    state = module.state_dict()
    for public, (own, shape) in names.items():
        assert tuple(found[public].shape) == shape
        assert torch.equal(found[public], state[own])
    covered = {state[own].data_ptr() for own, _ in names.values()}
    assert covered == {tensor.data_ptr() for tensor in module.parameters()}


def test_a_folder_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ModelError, match="must be new or hold a saved language model alone"):
        save_folder(tmp_path, small_llama(), small_tokens())
    with pytest.raises(ModelError, match="must be new or hold"):
        save_folder(tmp_path / "notes.txt", small_llama(), small_tokens())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
