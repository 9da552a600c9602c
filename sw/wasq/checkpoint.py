"""A quantized model on disk: words without gaps, exponents, and what stayed float, all checked.

A directory of two files, written whole or not at all: ``config.json`` says what the model is, and
``weights.safetensors`` holds its tensors. Nothing in it is code, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sw.format import SFx
from sw.runtime.artefact_files import replace_directory, scratch_directory
from sw.tensor import pack, unpack
from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.described import (
    CONFIG_FILE,
    FORMAT,
    KIND,
    CheckpointError,
    Description,
    check_target,
    describe,
)
from sw.wasq.modules import LAYERS, Geometry, QuantizedLayer
from sw.wasq.products import AttentionProducts, attach_products_, attention_products
from sw.wasq.quantize import replace_module, share_faults_
from sw.wasq.rotate import restore_structure_, structure
from sw.wasq.weights import QuantizedWeight

TENSOR_FILE: Final = "weights.safetensors"
#: Buffers of a layer that are exponents, by the type that holds them on disk.
_EXPONENTS: Final = ("exponents", "input_exponents", "output_exponents")


def save(
    model: nn.Module, config: SFConfig, directory: Path | str, source: Mapping[str, Any]
) -> Path:
    """Write a quantized model; a directory of the same name is replaced in one step.

    Parameters
    ----------
    model : nn.Module
        From :func:`sw.wasq.quantize_`.
    config : SFConfig
    directory : Path or str
    source : mapping of str to plain data
        Where the float model is from: ``model`` (as the command line takes it), ``sha256``, and
        what else is known (method, data, seed).

    Raises
    ------
    CheckpointError
        If the model has no quantized layer, or the directory holds something else.
    OSError
        If it cannot be written.
    """
    target = Path(directory)
    check_target(target)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    if not layers:
        raise CheckpointError("model must be quantized before it is saved: no layer of it is")
    tensors, tied = _tensors(model, layers)
    products = attention_products(model)
    told = None
    if products is not None:
        told = {
            "bits": products.form.bits,
            "unity": products.form.unity,
            "value_scale": products.value_scale,
            "values": len(products.values),
        }
        for number, found in enumerate(products.values):
            tensors[f"attention_products.{number}"] = _narrow(found)
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_directory(target) as scratch:
        try:
            save_file(tensors, scratch / TENSOR_FILE)
        except SafetensorError as error:
            raise OSError(str(error).rpartition("I/O error: ")[2]) from None
        os.chmod(scratch / TENSOR_FILE, 0o644)
        data = {
            "kind": KIND,
            "format": FORMAT,
            "config": config.to_json(),
            "source": dict(source),
            "structure": structure(model),
            "layers": {
                name: {"shape": list(layer.words.shape), **asdict(layer.config)}
                for name, layer in layers.items()
            },
            "tied": tied,
            "products": told,
            "sha256": _sha256(scratch / TENSOR_FILE),
        }
        (scratch / CONFIG_FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        replace_directory(scratch, target)
    return target


def load(
    directory: Path | str, model: nn.Module | None = None, config: SFConfig | None = None
) -> nn.Module:
    """Read a quantized model back.

    Parameters
    ----------
    directory : Path or str
    model : nn.Module, optional
        The float model that was quantized, which becomes the quantized one in place; loaded as the
        checkpoint's source says if omitted.
    config : SFConfig, optional
        What the checkpoint is expected to have been made with.

    Raises
    ------
    CheckpointError
        If the directory is no whole checkpoint, or of another model or configuration; a model that
        was given may have been rearranged by then, and is of no more use.
    """
    told = describe(directory)
    if config is not None and told.config != config:
        changed = [k for k, v in config.to_json().items() if told.config.to_json()[k] != v]
        raise CheckpointError(
            f"{directory} must be made with the same configuration: {changed[0]} differs"
        )
    tensors = _read(Path(directory) / TENSOR_FILE, told.sha256)
    if model is None:
        model = _source(told, Path(directory))
    try:
        restore_structure_(model, told.structure)
        layers = {name: _layer(model, name, told, tensors) for name in told.layers}
        rest = _rest(model, told, tensors)
        products = _products(told, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{directory} must be a whole checkpoint: {error}") from None
    for name, layer in layers.items():
        replace_module(model, name, layer)
    for name, tensor in rest.items():
        _set(model, name, tensor)
    if products is not None:
        attach_products_(model, products)
    share_faults_(model)
    return model.eval()


def _tensors(
    model: nn.Module, layers: Mapping[str, QuantizedLayer]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What goes to disk, and the names of what is there already under another one."""
    tensors: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    known: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, value in model.state_dict().items():
        owner, _, last = name.rpartition(".")
        value = value.detach()
        if owner in layers:
            if last == "words":
                tensors[name] = pack(value.cpu(), layers[owner].weight.format)
            else:
                tensors[name] = _narrow(value) if last in _EXPONENTS else value.cpu().contiguous()
            continue
        key = (value.data_ptr(), tuple(value.shape))
        if value.numel() and key in known:
            tied[name] = known[key]
            continue
        known[key] = name
        tensors[name] = value.cpu().contiguous().clone()
    return tensors, tied


def _narrow(exponents: torch.Tensor) -> torch.Tensor:
    """Exponents in as few bytes as hold them all."""
    values = exponents.detach().cpu()
    small = not values.numel() or int(values.abs().max()) < 128
    return values.to(torch.int8 if small else torch.int16).contiguous()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    try:
        if _sha256(path) != sha256:
            raise CheckpointError(f"{path} must have the hash that {CONFIG_FILE} gives: damaged")
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise CheckpointError(f"{path} must be a file to read: {error.strerror}") from None
    except SafetensorError as error:
        raise CheckpointError(f"{path} must be a safetensors file: {error}") from None


def _source(told: Description, directory: Path) -> nn.Module:
    from sw import importers
    from sw.importers.named import NAMED
    from sw.wasq.language import load_language

    spec = told.source.get("model")
    if not isinstance(spec, str):
        raise CheckpointError(f"{directory} must say in its source what model it is of")
    if spec in NAMED or Path(spec).suffix.lower() in importers.READERS:
        loaded = importers.load(spec)
        module, sha256 = loaded.module, loaded.source_hash
    else:
        language = load_language(spec)
        module, sha256 = language.module, language.sha256
    known = told.source.get("sha256")
    if known is not None and known != sha256:
        raise CheckpointError(
            f"{directory} must be of the model {spec} as it is now: hashes differ"
        )
    return module


def _layer(
    model: nn.Module, name: str, told: Description, tensors: Mapping[str, torch.Tensor]
) -> QuantizedLayer:
    data = dict(told.layers[name])
    shape = tuple(data.pop("shape"))
    config = LayerConfig(**data)
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise CheckpointError(f"checkpoint must be of this model, which has no {name}") from None
    if not isinstance(module, LAYERS) or tuple(module.weight.flatten(1).shape) != shape:
        raise CheckpointError(
            f"checkpoint must be of this model, whose {name} is no layer of shape {shape}"
        )
    form, device = config.weight_format, module.weight.device
    if form is None:
        raise CheckpointError(f"layer {name} must have a width of weights")
    words = unpack(tensors[f"{name}.words"], form, prod(shape)).reshape(shape)
    found = {
        last: tensors[f"{name}.{last}"].to(device, torch.int64)
        for last in _EXPONENTS
        if f"{name}.{last}" in tensors
    }
    weight = QuantizedWeight(words.to(device), found["exponents"], form, config.weight_scale)
    bias = tensors.get(f"{name}.bias")
    if (bias is None) != (module.bias is None):
        raise CheckpointError(f"checkpoint must be of this model: the bias of {name} differs")
    layer = QuantizedLayer(
        name, weight, None if bias is None else bias.to(device), config, Geometry.of(module)
    )
    layer.input_exponents = found.get("input_exponents")
    layer.output_exponents = found.get("output_exponents")
    return layer


def _rest(
    model: nn.Module, told: Description, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Parameters and buffers beside the layers, tied ones as one tensor."""
    own = model.state_dict()
    inside = tuple(f"{name}." for name in told.layers)
    wanted = {name for name in own if not name.startswith(inside)}
    given = {
        name
        for name in tensors
        if not name.startswith(inside) and not name.startswith("attention_products.")
    }
    differing = sorted(wanted ^ (given | set(told.tied)))
    if differing:
        raise CheckpointError(f"checkpoint must be of this model: {differing[0]} is not in both")
    moved = {name: tensors[name].to(own[name].device) for name in sorted(given)}
    moved |= {name: moved[first] for name, first in told.tied.items()}
    for name, tensor in moved.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(
                f"checkpoint must be of this model, whose {name} has the shape "
                f"{tuple(own[name].shape)}, not {tuple(tensor.shape)}"
            )
    # One parameter for tied names: that is what makes them one.
    made: dict[int, torch.Tensor] = {}
    parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in moved.items():
        if name in parameters:
            made.setdefault(id(tensor), nn.Parameter(tensor, requires_grad=False))
            moved[name] = made[id(tensor)]
    return moved


def _products(told: Description, tensors: Mapping[str, torch.Tensor]) -> AttentionProducts | None:
    data = told.products
    if data is None:
        return None
    values = tuple(
        tensors[f"attention_products.{number}"].to(torch.int64) for number in range(data["values"])
    )
    return AttentionProducts(SFx(data["bits"], data["unity"]), data["value_scale"], values)


def _set(model: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(last, tensor)
    else:
        module.register_buffer(last, tensor)
