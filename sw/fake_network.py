"""A placed network in floating point, rounded where the array rounds, differentiable.

It walks over the steps of a plan, as the runtime does, on float32 values instead of words: weights,
biases, what is uploaded and what layers leave pass through :func:`sw.tensor.fake_quantize` at the
plan's exponents. As long as float32 holds every sum exactly (SF8 and narrower, up to about 1,000
terms) its results are those of the array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sw.compiler.graph import Argument, Graph, Node, Ref
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Download,
    Function,
    Granularity,
    HostOutput,
    HostStep,
    Layer,
    LayerStep,
    Plan,
    Upload,
    Weights,
    WordsOutput,
)
from sw.compiler.operations import GETITEM, operation
from sw.compiler.quantize import group_weights, widen
from sw.format import SFx
from sw.tensor import decode, encode, exponents, fake_quantize


class FakeQuantizedNetwork(nn.Module):
    """A plan as a module: its parameters are the float weights behind the plan's words.

    Parameters
    ----------
    plan : Plan
    graph : Graph, optional
        The folded graph that the plan was made from, for the weights before rounding; the plan's
        own if omitted. Where it does not have them, training starts from the rounded ones.
    weight_bits : int, optional
        Width that weights are rounded to; the machine's if omitted.

    Notes
    -----
    Exponents stay the plan's. Layers without a constant of the graph behind their weights, as
    pooling, are not trained.
    """

    def __init__(
        self, plan: Plan, graph: Graph | None = None, weight_bits: int | None = None
    ) -> None:
        super().__init__()
        self.plan = plan
        config = plan.config
        self.weight_format = SFx(weight_bits or config.bits, config.unity)
        self._nodes = {node.name: node for node in plan.graph.nodes}
        self._names = [n for n, layer in plan.layers.items() if isinstance(layer, Convolution)]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for name in self._names:
            layer = plan.layers[name]
            assert isinstance(layer, Convolution)
            weight, trained = self._starting_weight(layer, graph or plan.graph)
            bias = layer.weights.bias
            bias = torch.zeros(0) if bias is None else bias.clone()
            self.weights.append(nn.Parameter(weight, requires_grad=trained))
            self.biases.append(nn.Parameter(bias, requires_grad=trained and bias.numel() > 0))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs of the graph, for inputs of its shapes."""
        graph = self.plan.graph
        values: dict[str, Any] = dict(graph.constants)
        values.update({i.name: v for i, v in zip(graph.inputs, inputs, strict=True)})
        tensors: dict[str, torch.Tensor] = {}
        for step in self.plan.steps:
            match step:
                case HostStep():
                    for name in step.nodes:
                        values[name] = _evaluate(self._nodes[name], values)
                case Upload():
                    target = self.plan.tensors[step.tensor]
                    laid_out = step.view.to_array(values[step.value], target.shape)
                    tensors[step.tensor] = self._rounded(laid_out, target)
                case LayerStep():
                    self._layer(self.plan.layers[step.layer], tensors, values)
                case Download():
                    values[step.value] = step.view.to_host(tensors[step.tensor])
        return tuple(values[name] for name in graph.outputs)

    def quantized(self) -> dict[str, Weights]:
        """The weights as they are now, in words, by layer."""
        found = {}
        for number, name in enumerate(self._names):
            layer = self.plan.layers[name]
            assert isinstance(layer, Convolution)
            if not self.weights[number].requires_grad:
                found[name] = layer.weights
                continue
            scales = layer.weights.exponents.reshape(-1, 1, 1, 1)
            weight = self.weights[number].detach().contiguous()
            words = encode(weight, self.weight_format, scales, name=f"weight of {name}")
            words = widen(words, self.weight_format, self.plan.config.format)
            bias = None if layer.weights.bias is None else self.biases[number].detach().clone()
            groups = layer.weights.words.shape[0]
            found[name] = replace(layer.weights, words=group_weights(words, groups), bias=bias)
        return found

    def _starting_weight(self, layer: Convolution, graph: Graph) -> tuple[torch.Tensor, bool]:
        """Weights ``[out, in / groups, h, w]`` before rounding, and whether they are trained."""
        groups, height, width, inputs, outputs = layer.weights.words.shape
        shape = (groups * outputs, inputs, height, width)
        scales = layer.weights.exponents.reshape(-1, 1, 1, 1)
        ungrouped = layer.weights.words.permute(0, 4, 3, 1, 2).reshape(shape).contiguous()
        rounded = decode(ungrouped, self.plan.config.format, scales)
        made_of = [c for c in _constants(layer, graph) if c.numel() == rounded.numel()]
        for constant in made_of:
            for candidate in _as_weight(constant, shape):
                words = encode(candidate, self.weight_format, scales)
                if torch.equal(
                    widen(words, self.weight_format, self.plan.config.format), ungrouped
                ):
                    return candidate.clone(), True
        return rounded, bool(made_of)

    def _layer(
        self, layer: Layer, tensors: dict[str, torch.Tensor], values: dict[str, Any]
    ) -> None:
        if isinstance(layer, Convolution):
            result = self._convolution(layer, tensors[layer.a])
        elif isinstance(layer, Add):
            result = tensors[layer.a] + tensors[layer.b]
        else:
            b = tensors[layer.b].repeat_interleave(layer.repeat, 0)
            result = tensors[layer.a] @ (b.mT if layer.transposed else b)
        if isinstance(layer.output, HostOutput):
            values[layer.output.value] = layer.output.view.to_host(result)
            return
        target = self.plan.tensors[layer.output.tensor]
        result = _activated(result, layer.output)
        tensors[target.name] = self._rounded(result, target)

    def _convolution(self, layer: Convolution, a: torch.Tensor) -> torch.Tensor:
        number = self._names.index(layer.name)
        scales = layer.weights.exponents.reshape(-1, 1, 1, 1)
        weight = fake_quantize(self.weights[number].contiguous(), self.weight_format, scales)
        top, bottom, left, right = layer.padding
        padded = functional.pad(a.permute(0, 3, 1, 2), (left, right, top, bottom))
        groups = layer.weights.words.shape[0]
        result = functional.conv2d(padded, weight, None, layer.stride, 0, layer.dilation, groups)
        result = result.permute(0, 2, 3, 1)
        if layer.weights.bias is None:
            return result
        bias: torch.Tensor = self.biases[number]
        if isinstance(layer.output, WordsOutput):
            exponent = self.plan.tensors[layer.output.tensor].exponent
            assert exponent is not None
            bias = fake_quantize(bias, self.plan.config.bias_format, exponent)
        return result + bias

    def _rounded(self, value: torch.Tensor, tensor: ArrayTensor) -> torch.Tensor:
        f = self.plan.config.format
        value = value.float().contiguous()
        found: int | torch.Tensor
        if tensor.exponent is not None:
            found = tensor.exponent
        elif tensor.granularity == Granularity.TENSOR:
            found = exponents(value.detach(), f)
        else:
            dim = 3 if tensor.granularity == Granularity.ROW else (1, 2)
            found = exponents(value.detach(), f, dim=dim)
        return fake_quantize(value, f, found)


def with_weights(plan: Plan, weights: Mapping[str, Weights]) -> Plan:
    """A plan with other weights, as of the same network placed for another batch.

    Raises
    ------
    ValueError
        If a layer is missing, or its weights' shape or exponents differ.
    """
    layers = dict(plan.layers)
    for name, new in weights.items():
        old = layers.get(name)
        if not isinstance(old, Convolution):
            raise ValueError(f"weights must be of convolutions of the plan, not {name!r}")
        if new.words.shape != old.weights.words.shape:
            shapes = tuple(old.weights.words.shape), tuple(new.words.shape)
            raise ValueError(f"weights of {name} must have the shape {shapes[0]}, not {shapes[1]}")
        if not torch.equal(new.exponents, old.weights.exponents):
            raise ValueError(f"weights of {name} must have the exponents of the plan")
        layers[name] = replace(old, weights=new)
    return replace(plan, layers=layers)


def _activated(value: torch.Tensor, output: WordsOutput) -> torch.Tensor:
    if output.function == Function.RELU:
        return torch.relu(value)
    if output.function == Function.CLAMP:
        return value.clamp(0.0, max(output.clamp, 0.0))
    return value


def _constants(layer: Convolution, graph: Graph) -> list[torch.Tensor]:
    """The constants that a layer's nodes read."""
    names = [
        name
        for node in graph.nodes
        if node.name in (layer.name, *layer.nodes)
        for name in node.references()
        if name in graph.constants
    ]
    return [graph.constants[name] for name in dict.fromkeys(names)]


def _as_weight(constant: torch.Tensor, shape: tuple[int, ...]) -> Sequence[torch.Tensor]:
    """A constant as ``[out, in / groups, h, w]``, as it lies and transposed."""
    found = [constant] if constant.dim() > 1 else []
    if constant.dim() == 2:
        found.append(constant.t())
    return [
        c.detach().float().contiguous().reshape(shape)
        for c in found
        if c.shape[0] == shape[0] or c.dim() > 2
    ]


def _evaluate(node: Node, values: Mapping[str, Any]) -> Any:
    """What a node makes of values, with gradient."""
    args = [_argument(a, values) for a in node.args]
    if node.target == GETITEM:
        return args[0][args[1]]
    kwargs = {name: _argument(a, values) for name, a in node.kwargs.items()}
    return operation(node.target)(*args, **kwargs)


def _argument(argument: Argument, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, tuple):
        return [_argument(part, values) for part in argument]
    return argument
