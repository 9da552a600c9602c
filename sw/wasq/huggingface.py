"""Hugging Face folders: ``config.json`` and safetensors, read and written; never a pickle.

Names of tensors are those of ``LlamaForCausalLM`` in https://github.com/huggingface/transformers,
whose rotary positions turn the halves of a head, as :mod:`sw.models.llama` does.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sw.importers.gguf_file import MAX_CONTEXT
from sw.importers.loaded import ModelError, file_hash, one_line
from sw.models.llama import Llama, LlamaConfig
from sw.wasq.tokens import JSON_FILE, STORIES_FILE, LanguageTokenizer, read_json, write_tokens

WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
#: Architectures whose plain form is :class:`sw.models.llama.Llama`.
_LLAMAS: Final = ("llama", "mistral")
#: Entries that must be absent, null or false in a plain one.
_UNKNOWN: Final = ("attention_bias", "mlp_bias", "quantization_config")
_DTYPES: Final = ("F64", "F32", "F16", "BF16")
_MAX_SIZE: Final = 1 << 20
_SIZES: Final = {
    "width": "hidden_size",
    "hidden": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
}
_BLOCK: Final = {
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
    more = _beyond_llama(data)
    if more is None:
        return _llama(config_file, data, weights)
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
    config = {**_public_config(module), "atreides": dict(provenance or {})}
    names = _names(module.config, _is_tied(module))
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


def _beyond_llama(data: Mapping[str, Any]) -> str | None:
    """The entry of a configuration that asks for what our network lacks, None if there is none."""
    window, context = data.get("sliding_window"), data.get("max_position_embeddings")
    rope = "rope_parameters" if data.get("rope_parameters") else "rope_scaling"
    scaling = data.get(rope) or {}
    kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else scaling
    heads, size = data.get("num_attention_heads"), data.get("head_dim")
    strange = {
        "model_type": data.get("model_type") not in _LLAMAS,
        "hidden_act": data.get("hidden_act", "silu") != "silu",
        **{name: bool(data.get(name)) for name in _UNKNOWN},
        "sliding_window": window is not None
        and not (isinstance(window, int) and isinstance(context, int) and window >= context),
        rope: kind not in (None, "default"),
        "head_dim": size is not None
        and not (isinstance(heads, int) and size * heads == data.get("hidden_size")),
    }
    return next((f"{name} {data.get(name)!r}" for name, is_so in strange.items() if is_so), None)


def _llama(path: Path, data: Mapping[str, Any], weights: Sequence[Path]) -> Llama:
    sizes = {}
    for name, key in _SIZES.items():
        value = data.get(key)
        if key == "num_key_value_heads" and value is None:
            value = data.get("num_attention_heads")
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_SIZE:
            raise ModelError(f"{path} must have {key} from 1 to {_MAX_SIZE}, not {value!r}")
        sizes[name] = value
    sizes["context"] = min(sizes["context"], MAX_CONTEXT)
    theta = (data.get("rope_parameters") or {}).get("rope_theta", data.get("rope_theta", 10000.0))
    epsilon = data.get("rms_norm_eps", 1e-6)
    for key, value in (("rope_theta", theta), ("rms_norm_eps", epsilon)):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ModelError(f"{path} must have {key} above 0, not {value!r}")
    try:
        config = LlamaConfig(**sizes, rope_theta=float(theta), epsilon=float(epsilon))
    except ValueError as error:
        raise ModelError(f"{path} must be a Llama that can be built ({error})") from None
    tied = bool(data.get("tie_word_embeddings", False))
    return Llama.from_state(config, _read_state(weights, _names(config, tied), tied), tied)


def _read_state(
    weights: Sequence[Path], names: Mapping[str, tuple[str, tuple[int, ...]]], tied: bool
) -> dict[str, torch.Tensor]:
    """Tensors of the files under the module's names, float32; every one checked first."""
    state: dict[str, torch.Tensor] = {}
    for path in weights:
        try:
            with safe_open(path, framework="pt") as file:
                for public in sorted(file.keys()):
                    if public.endswith("rotary_emb.inv_freq") or (
                        tied and public == "lm_head.weight"
                    ):
                        continue
                    if public not in names:
                        raise ModelError(f"{path} must have the tensors of a Llama, not {public}")
                    own, shape = names[public]
                    part = file.get_slice(public)
                    if tuple(part.get_shape()) != shape or part.get_dtype() not in _DTYPES:
                        raise ModelError(
                            f"{path} must have {public} as {list(shape)} in one of "
                            f"{', '.join(_DTYPES)}, not {part.get_shape()} in {part.get_dtype()}"
                        )
                    state[own] = file.get_tensor(public).to(torch.float32, copy=True)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path} must be a whole safetensors file ({one_line(error)})"
            ) from None
    missing = sorted(public for public, (own, _) in names.items() if own not in state)
    if missing:
        raise ModelError(f"{weights[0].parent} must have a tensor {missing[0]}")
    return state


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


def _names(config: LlamaConfig, tied: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name in the file: name in the module, and shape."""
    width, hidden, inner = config.width, config.hidden, config.kv_heads * config.head_size
    table = (config.vocabulary, width)
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "model.embed_tokens.weight": ("embedding.weight", table),
        "model.norm.weight": ("norm.weight", (width,)),
    }
    if not tied:
        names["lm_head.weight"] = ("head.weight", table)
    shapes: dict[str, tuple[int, ...]] = {
        "attention_norm": (width,),
        "attention.q": (width, width),
        "attention.k": (inner, width),
        "attention.v": (inner, width),
        "attention.o": (width, width),
        "feed_forward_norm": (width,),
        "feed_forward.gate": (hidden, width),
        "feed_forward.up": (hidden, width),
        "feed_forward.down": (width, hidden),
    }
    for layer in range(config.layers):
        for own, public in _BLOCK.items():
            names[f"model.layers.{layer}.{public}.weight"] = (
                f"blocks.{layer}.{own}.weight",
                shapes[own],
            )
    return names


def _is_tied(module: Llama) -> bool:
    return module.head.weight is module.embedding.weight


def _public_config(module: Llama) -> dict[str, Any]:
    config = module.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{public: getattr(config, own) for own, public in _SIZES.items()},
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.epsilon,
        "tie_word_embeddings": _is_tied(module),
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }
