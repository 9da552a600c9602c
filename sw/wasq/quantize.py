"""quantize_: replace a model's layers by layers on words, after checking all of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from sw.wasq.calibrate import calibrate_
from sw.wasq.config import LayerConfig, SFConfig
from sw.wasq.finite import check_parameters
from sw.wasq.modules import LAYERS, FakeQuantizedLayer, Geometry, QuantizedLayer
from sw.wasq.products import attention_products, quantize_products_
from sw.wasq.rounding import Faults
from sw.wasq.tables import quantize_tables_
from sw.wasq.weights import QuantizedWeight, quantize_weight

#: Last parts of the names that output heads of language models go by.
_HEADS: Final = ("head", "lm_head", "output_projection")
#: Called with a layer's name, its number from 1 and the number of layers.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Target:
    """A module that is going to be quantized.

    Parameters
    ----------
    name : str
    module : nn.Module
        Linear, Conv1d or Conv2d.
    config : LayerConfig
        With a width for weights.
    is_head : bool
    """

    name: str
    module: nn.Module
    config: LayerConfig
    is_head: bool


def targets(model: nn.Module, config: SFConfig) -> tuple[Target, ...]:
    """The modules that a configuration quantizes, all checked before any work starts.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite (layer and count named), an override matches no module, a
        module cannot be quantized as asked, or nothing is left to quantize.
    """
    found, names = [], []
    head = find_head(model)
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS):
            continue
        names.append(name)
        own = config.for_module(name, is_head=name == head)
        if own.weights is not None:
            _check_module(name, module)
            found.append(Target(name, module, own, name == head))
    for pattern in config.overrides:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"override {pattern!r} must match a linear layer or convolution")
    check_parameters(model)
    if not found:
        raise ValueError("model must have a linear layer or convolution to quantize, not none")
    return tuple(found)


def find_head(model: nn.Module) -> str | None:
    """The output head of a model with an embedding: tied to it, or named as heads are."""
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    if not tables:
        return None
    linears: list[tuple[str, nn.Linear]] = [
        (n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)
    ]
    for name, module in linears:
        if any(module.weight is table.weight for table in tables):
            return name
    sizes = {table.num_embeddings for table in tables}
    for name, module in linears:
        if name.split(".")[-1] in _HEADS and module.out_features in sizes:
            return name
    return None


def quantize_(
    model: nn.Module,
    config: SFConfig | None = None,
    *,
    weights: Mapping[str, QuantizedWeight] | None = None,
    calibration: Iterable[Sequence[torch.Tensor]] | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Quantize a float model in place: its layers become :class:`QuantizedLayer`.

    Parameters
    ----------
    model : nn.Module
        In float32; its float weights are let go layer by layer.
    config : SFConfig, optional
    weights : mapping of str to QuantizedWeight, optional
        Words that a method has chosen, by module; what is not in it is rounded to nearest.
    calibration : iterable of sequences of torch.Tensor, optional
        Inputs of the model, for static exponents; needed if the configuration has any.
    progress : callable, optional

    Returns
    -------
    nn.Module
        The model itself, in evaluation mode.

    Raises
    ------
    ValueError
        As :func:`targets`; or if static exponents are asked for without inputs, or given words do
        not fit the model.
    """
    config = SFConfig() if config is None else config
    chosen = targets(model, config)
    given = dict(weights or {})
    _check_given(chosen, given)
    static = None if calibration is None else list(calibration)
    model.eval()
    scales = calibrate_(model, config, chosen, static)
    for number, target in enumerate(chosen, 1):
        if progress is not None:
            progress(target.name, number, len(chosen))
        layer = _quantized(target, given.get(target.name))
        scales.attach(target.name, layer)
        replace_module(model, target.name, layer)
    quantize_products_(model, config, scales)
    quantize_tables_(model, config)
    share_faults_(model)
    return model


def share_faults_(model: nn.Module) -> None:
    """Let a model's layers collect what a device cannot round, and look at it once per pass."""
    faults = Faults()
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            layer.faults = faults
    products = attention_products(model)
    if products is not None:
        products.faults = faults
    if _check_faults not in model._forward_hooks.values():
        model.register_forward_hook(_check_faults)


def _check_faults(model: nn.Module, inputs: object, output: object) -> None:
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer) and layer.faults is not None:
            layer.faults.check()
            return


def prepare_(model: nn.Module, config: SFConfig) -> tuple[FakeQuantizedLayer, ...]:
    """Make a model ready to be trained under fake quantization, in place.

    Returns
    -------
    tuple of FakeQuantizedLayer
        The layers that were put in, in the order of the model; :func:`finish_` ends training.
    """
    made = []
    for target in targets(model, config):
        layer = FakeQuantizedLayer(target.name, target.module, target.config)
        replace_module(model, target.name, layer)
        made.append(layer)
    return tuple(made)


def trained_weights(model: nn.Module) -> dict[str, QuantizedWeight]:
    """The words of every :class:`FakeQuantizedLayer` as they are now, by module."""
    layers = [m for m in model.modules() if isinstance(m, FakeQuantizedLayer)]
    return {layer.name: layer.quantized() for layer in layers}


def finish_(model: nn.Module) -> None:
    """Turn every :class:`FakeQuantizedLayer` into its :class:`QuantizedLayer`, in place."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, FakeQuantizedLayer):
            quantized = QuantizedLayer(
                layer.name, layer.quantized(), layer.bias, layer.config, layer.geometry
            )
            quantized.input_exponents = layer.input_exponents
            replace_module(model, name, quantized)
    share_faults_(model)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module where another is."""
    path, _, last = name.rpartition(".")
    parent = model.get_submodule(path)
    if isinstance(parent, nn.Sequential | nn.ModuleList):
        parent[int(last)] = new
    else:
        setattr(parent, last, new)


def _quantized(target: Target, given: QuantizedWeight | None) -> QuantizedLayer:
    module = target.module
    assert isinstance(module, LAYERS)
    weight = given
    if weight is None:
        matrix = module.weight.detach().flatten(1)
        weight = quantize_weight(matrix, target.config, name=target.name)
    return QuantizedLayer(target.name, weight, module.bias, target.config, Geometry.of(module))


def _check_module(name: str, module: nn.Module) -> None:
    assert isinstance(module, LAYERS)
    try:
        Geometry.of(module)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_given(chosen: Sequence[Target], given: Mapping[str, QuantizedWeight]) -> None:
    by_name = {target.name: target for target in chosen}
    for name, weight in given.items():
        target = by_name.get(name)
        if target is None:
            raise ValueError(f"words for {name!r} must belong to a layer that is quantized")
        assert isinstance(target.module, LAYERS)
        shape = tuple(target.module.weight.flatten(1).shape)
        if tuple(weight.words.shape) != shape:
            raise ValueError(
                f"words for {name} must have shape {shape}, not {tuple(weight.words.shape)}"
            )
        if weight.format != target.config.weight_format or (
            weight.scale != target.config.weight_scale
        ):
            raise ValueError(
                f"words for {name} must be {target.config.weight_format} per "
                f"{target.config.weight_scale}, not {weight.format} per {weight.scale}"
            )
