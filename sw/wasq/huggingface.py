"""Hugging Face folders: ``config.json`` and safetensors, read and written; never a pickle."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from sw.importers.gguf_file import MAX_CONTEXT
from sw.importers.loaded import ModelError, file_hash, one_line
from sw.models.llama import Llama
from sw.wasq.public_llama import beyond_llama, is_tied, names_of, public_config, read_llama
from sw.wasq.tokens import JSON_FILE, STORIES_FILE, LanguageTokenizer, read_json, write_tokens

WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"


class Logits(nn.Module):
    """A network of ``transformers`` as one from tokens to logits."""

    def __init__(self, model: nn.Module, context: int) -> None:
        super().__init__()
        self.model, self.context = model, context

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, T, vocabulary]`` of tokens ``[B, T]``."""
        logits: torch.Tensor = self.model(input_ids=tokens, use_cache=False).logits
        return logits


def load_folder(config_file: Path, weights: Sequence[Path]) -> nn.Module:
    """A network from its configuration and files of weights, in float32, in evaluation mode.

    Raises
    ------
    ModelError
        If a file is missing, broken, or not what the configuration says; or if the architecture
        needs ``transformers`` and it is not installed.
    """
    data = read_json(config_file)
    more = beyond_llama(data)
    if more is None:
        return read_llama(config_file, data, weights)
    return _from_transformers(config_file, data, more)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder, by its index if it has one.

    Raises
    ------
    ModelError
        If there is none, or the index names one that is missing or lies elsewhere.
    """
    index = folder / _INDEX
    if index.is_file():
        places = read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ModelError(f"{index} must have a weight_map")
        names = sorted({str(name) for name in places.values()})
    elif (folder / WEIGHTS).is_file():
        names = [WEIGHTS]
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
        hint = f": {pickles[0].name} would have to be unpickled" if pickles else ""
        raise ModelError(f"{folder} must hold {WEIGHTS}{hint}")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ModelError(f"{folder} must hold {name!r}, which its index names")
    return tuple(folder / name for name in names)


def folder_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the files' SHA-256, of one file that file's own."""
    if len(files) == 1:
        return file_hash(files[0])
    digests = "\n".join(f"{path.name} {file_hash(path)}" for path in sorted(files))
    return hashlib.sha256(digests.encode()).hexdigest()


def first_token(data: Mapping[str, Any], folder: Path) -> int | None:
    """BOS, if the tokenizer's configuration says that texts begin with it."""
    path, bos = folder / "tokenizer_config.json", data.get("bos_token_id")
    if not path.is_file() or not read_json(path).get("add_bos_token"):
        return None
    return bos if isinstance(bos, int) and not isinstance(bos, bool) else None


def save_folder(
    folder: Path,
    module: Llama,
    tokenizer: LanguageTokenizer,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a network so that :func:`load_folder`, and ``transformers``, read it back.

    Parameters
    ----------
    folder : Path
        New, or one that was written so; replaced when all is written.
    module : Llama
    tokenizer : LanguageTokenizer
    provenance : mapping, optional
        Plain data, kept in ``config.json`` under ``atreides``.

    Raises
    ------
    ValueError
        If the folder holds something else, or cannot be written.
    """
    known = {WEIGHTS, "config.json", JSON_FILE, STORIES_FILE}
    if folder.exists() and (
        not folder.is_dir() or {path.name for path in folder.iterdir()} - known
    ):
        raise ModelError(f"{folder} must be new or hold a saved language model alone")
    config = {**public_config(module), "atreides": dict(provenance or {})}
    names = names_of(module.config, is_tied(module))
    state = module.state_dict()
    tensors = {
        public: state[own].detach().float().contiguous().cpu() for public, (own, _) in names.items()
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            save_file(tensors, scratch / WEIGHTS, {"format": "pt"})
            write_tokens(scratch, tokenizer)
            (scratch / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            folder.mkdir(exist_ok=True)
            for path in sorted(scratch.iterdir()):
                path.chmod(0o644)
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder} must be writable ({one_line(error)})") from None


def _from_transformers(path: Path, data: Mapping[str, Any], more: str) -> nn.Module:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise ModelError(
            f"{path} must be of a plain llama, not of one with {more[:80]}, or have the package "
            "transformers installed: pip install 'atreides[language]'"
        ) from None
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
        raise ModelError(
            f"{path.parent} must be a model that transformers reads ({one_line(error)})"
        ) from None
    context = data.get("max_position_embeddings", data.get("n_positions", MAX_CONTEXT))
    return Logits(model, context if isinstance(context, int) else MAX_CONTEXT).eval()
