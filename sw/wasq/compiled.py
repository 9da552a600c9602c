"""From a quantized model to an artefact: the words that were evaluated are those that are compiled.

The compiler reads a float network. It is given one whose weights are the values of the words; words
found for these values, by maximum, have the same values again: where the exponent comes out smaller
than the layer's own, every operand is a multiple of two, and so none is the all ones that rounding
would avoid. Every layer is compared with the quantized model's before the artefact is given away.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sw.compiler.compile import DEFAULT_MACHINE, Stage, compile_traced, trace_model
from sw.compiler.layers import Convolution, Granularity, Plan
from sw.compiler.options import CompileOptions
from sw.config import MachineConfig
from sw.runtime.artefact import Artefact
from sw.tensor import decode
from sw.wasq.modules import QuantizedLayer
from sw.wasq.products import attention_products
from sw.wasq.quantize import replace_module


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has layers on words."""
    return any(isinstance(module, QuantizedLayer) for module in model.modules())


def compile_quantized(
    model: nn.Module,
    example_inputs: tuple[object, ...],
    config: MachineConfig = DEFAULT_MACHINE,
    *,
    example: Sequence[torch.Tensor] | None = None,
    source: Mapping[str, Any] | None = None,
    stage: Stage | None = None,
) -> Artefact:
    """Compile a quantized model for a machine whose words are its activations'.

    Parameters
    ----------
    model : nn.Module
        From :func:`sw.wasq.quantize_`: linear layers, weights per channel, per tensor or without a
        scale, activations per token, exact drains, attention products in float.
    example_inputs, config, example, source, stage
        As for :func:`sw.compiler.compile.compile`.

    Raises
    ------
    ValueError
        If the machine cannot do what the model was quantized to; the sentence names the layer.
    """
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    check_compilable(model, layers, config)
    traced = trace_model(decoded(model), example_inputs, stage)
    options = CompileOptions(
        machine=config,
        weight_rule="maximum",
        activations="dynamic",
        host_only=frozenset(n.name for n in traced.graph.nodes if n.source not in layers),
    )
    made = compile_traced(
        traced, config, example=example, source=source, options=options, stage=stage
    )
    _check_plan(made.plan, layers)
    return made


def check_compilable(
    model: nn.Module, layers: Mapping[str, QuantizedLayer], config: MachineConfig
) -> None:
    """Refuse, before any work, what the compiler has no layer for."""
    if attention_products(model) is not None:
        raise ValueError(
            "products must be None for a model that is compiled: values per channel or per 32 "
            "tokens have no place in a plan"
        )
    for name, layer in layers.items():
        own = layer.config
        if layer.geometry is not None:
            raise ValueError(f"{name} must be a linear layer to be compiled from words")
        if own.weight_scale == "block" or own.activation_scale != "token":
            raise ValueError(
                f"{name} must have weights per channel or tensor and activations per token to be "
                f"compiled, not {own.weight_scale} and {own.activation_scale}"
            )
        if own.output is not None:
            raise ValueError(f"{name} must give exact sums to be compiled, not {own.output} bits")
        if own.activations != config.bits or own.unity != config.unity:
            raise ValueError(
                f"machine must have words of {own.activations} bits "
                f"{'with' if own.unity else 'without'} unity, as the activations of {name} are, "
                f"not {config.format}"
            )
        assert own.weights is not None
        if own.weights > config.bits:
            raise ValueError(
                f"weights of {name} must have at most the {config.bits} bits of the machine, "
                f"not {own.weights}"
            )


def decoded(model: nn.Module) -> nn.Module:
    """A float model whose linear layers have the values of the words; hooks are left out."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    # Layers are not copied, only replaced.
    copied = copy.deepcopy(model, {id(layer): layer for layer in layers.values()})
    copied._forward_hooks.clear()
    copied._forward_pre_hooks.clear()
    for name, layer in layers.items():
        rows, terms = layer.words.shape
        with torch.device("meta"):
            plain = nn.Linear(terms, rows, bias=layer.bias is not None)
        plain.weight = nn.Parameter(layer.weight.dequantize(), requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.clone(), requires_grad=False)
        replace_module(copied, name, plain)
    return copied.eval()


def _check_plan(plan: Plan, layers: Mapping[str, QuantizedLayer]) -> None:
    """Refuse a plan whose layers are not the model's, word's value by word's value."""
    met = set()
    for placed in plan.layers.values():
        own = layers.get(placed.source)
        if own is None or not isinstance(placed, Convolution):
            raise ValueError(f"{placed.name} must be a layer that was quantized to be on the array")
        met.add(placed.source)
        values = decode(
            placed.weights.words.reshape(own.words.shape[1], -1).T.contiguous(),
            plan.config.format,
            placed.weights.exponents[:, None],
        )
        tensor = plan.tensors[placed.a]
        if tensor.granularity != Granularity.ROW or not torch.equal(
            values, own.weight.dequantize()
        ):
            raise ValueError(
                f"{placed.source} must be compiled as it was quantized: its neighbours change it"
            )
    missing = sorted(set(layers) - met)
    if missing:
        raise ValueError(f"{missing[0]} must be placed on the array, as it was quantized")
