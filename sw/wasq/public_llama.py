"""A Llama as public folders have it: its configuration, and the names and shapes of its tensors.

Names are those of ``LlamaForCausalLM`` in https://github.com/huggingface/transformers, whose rotary
positions turn the halves of a head, as :mod:`sw.models.llama` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from sw.importers.gguf_file import MAX_CONTEXT
from sw.importers.loaded import ModelError, one_line
from sw.models.llama import Llama, LlamaConfig

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


def beyond_llama(data: Mapping[str, Any]) -> str | None:
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


def read_llama(path: Path, data: Mapping[str, Any], weights: Sequence[Path]) -> Llama:
    """A Llama in float32, from its configuration and its files of weights.

    Raises
    ------
    ModelError
        If an entry is out of range, or a tensor is missing, strange or of another shape.
    """
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
    return Llama.from_state(config, _read_state(weights, names_of(config, tied), tied), tied)


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


def names_of(config: LlamaConfig, tied: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
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


def is_tied(module: Llama) -> bool:
    """Whether the output head is the embedding's table."""
    return module.head.weight is module.embedding.weight


def public_config(module: Llama) -> dict[str, Any]:
    """The configuration that :func:`read_llama` reads back."""
    config = module.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{public: getattr(config, own) for own, public in _SIZES.items()},
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.epsilon,
        "tie_word_embeddings": is_tied(module),
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }
