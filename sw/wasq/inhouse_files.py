"""Files of models trained in-house: Hugging Face folders, and checkpoints of their training."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from sw.models.byte_pairs import BytePairs
from sw.models.llama import Llama, LlamaConfig
from sw.wasq.pair_training import Pairs

CHECKPOINT: Final = "checkpoint.safetensors"
#: Names of the Hugging Face Llama, of the Llama here; both turn halves of heads.
_NAMES: Final = {
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


@dataclass(slots=True)
class Checkpoint:
    """Where a training is.

    Parameters
    ----------
    tensors : dict of str to torch.Tensor
        ``model.*``, moments of the optimizer, and ``best.*`` of the best look so far.
    step : int
    seconds : float
    curve : list of dict
        One row per look at the validation text.
    best : float
        Its lowest perplexity.
    """

    tensors: dict[str, torch.Tensor]
    step: int
    seconds: float
    curve: list[dict[str, float]] = field(default_factory=list)
    best: float = float("inf")


def write_checkpoint(folder: Path, state: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    about = {"step": state.step, "seconds": state.seconds, "curve": state.curve}
    if state.curve:
        about["best"] = state.best
    texts = {"state": json.dumps(about), "identity": json.dumps(identity, sort_keys=True)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    _replace(folder / CHECKPOINT, lambda path: save_file(tensors, path, texts))


def read_checkpoint(folder: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint in a folder, None if there is none.

    Raises
    ------
    ValueError
        If it is of another recipe or text, or broken.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(texts["state"])
        same = texts["identity"] == json.dumps(identity, sort_keys=True)
        state = Checkpoint(tensors, about["step"], about["seconds"], about["curve"])
        state.best = about.get("best", float("inf"))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must be a whole checkpoint ({error})") from None
    if not same:
        raise ValueError(f"{path} must be of the same recipe and text: remove it to start anew")
    return state


def save_model(folder: Path, model: Llama, pairs: Pairs, record: Mapping[str, Any]) -> None:
    """Write ``config.json``, ``model.safetensors``, ``tokenizer.json`` and ``training.json``."""
    sizes = model.config
    config = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"},
        **{"hidden_size": sizes.width, "intermediate_size": sizes.hidden},
        **{"num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads},
        **{"num_key_value_heads": sizes.kv_heads, "head_dim": sizes.head_size},
        **{"vocab_size": sizes.vocabulary, "max_position_embeddings": sizes.context},
        **{"rope_theta": sizes.rope_theta, "rms_norm_eps": sizes.epsilon},
        **{"tie_word_embeddings": True, "torch_dtype": "float32"},
        **{"attention_bias": False, "mlp_bias": False},
        **{"bos_token_id": None, "eos_token_id": None},
    }
    tensors = {
        public_name(name): p.detach().cpu().contiguous() for name, p in model.named_parameters()
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "model.safetensors", lambda path: save_file(tensors, path, {"format": "pt"}))
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", pairs.to_json()),
        ("training.json", dict(record)),
    ):
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        _replace(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))


def load_model(folder: Path) -> tuple[Llama, BytePairs]:
    """A model that :func:`save_model` wrote, with its tokenizer.

    Raises
    ------
    ValueError
        If a file is missing or not what was written.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        public = load_file(folder / "model.safetensors")
        names = (
            *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("num_key_value_heads", "vocab_size", "max_position_embeddings"),
            *("rope_theta", "rms_norm_eps"),
        )
        sizes = LlamaConfig(*(config[name] for name in names))
        with torch.device("meta"):
            own = [name for name, _ in Llama(sizes).named_parameters()]
        model = Llama.from_state(sizes, {name: public[public_name(name)] for name in own})
        tokenizer = BytePairs(list(kind["vocab"]), kind["merges"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} must hold a model trained in-house ({error})") from None
    return model, tokenizer


def public_name(name: str) -> str:
    """A parameter's name in Hugging Face's files."""
    if name.startswith("embedding."):
        return "model.embed_tokens.weight"
    if not name.startswith("blocks."):
        return f"model.{name}" if name.startswith("norm.") else f"lm_{name}"
    _, block, rest = name.split(".", 2)
    part, _, last = rest.rpartition(".")
    return f"model.layers.{block}.{_NAMES[part]}.{last}"


def _replace(path: Path, write: Any) -> None:
    """Write beside a file, then put it in its place."""
    scratch = path.with_name(f".unfinished-{path.name}")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
