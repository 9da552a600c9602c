"""Folds what follows a product with constants into the constants: batch norm, bias, transposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from sw.compiler.graph import Argument, Graph, Node, Ref
from sw.compiler.rewriting import kinds, reference, renamed, rewritten, unique

_CONVOLUTION, _LINEAR = "aten.convolution.default", "aten.linear.default"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A convolution or linear layer whose weights are constants.

    Parameters
    ----------
    node : Node
    weight, bias : torch.Tensor
        float64; the bias zero if there is none.
    outputs : int
        Its channels.
    """

    node: Node
    weight: torch.Tensor
    bias: torch.Tensor
    outputs: int

    def per_output(self, scale: torch.Tensor) -> torch.Tensor:
        """The weights, each multiplied by the factor of the channel that it makes."""
        rest = (1,) * (self.weight.ndim - 2)
        if self.node.target == _LINEAR or not self.node.args[6]:
            return self.weight * scale.reshape(-1, 1, *rest)
        groups = self.node.args[8]
        assert isinstance(groups, int)
        apart = (groups, -1, *self.weight.shape[1:])
        grouped = self.weight.reshape(apart) * scale.reshape(groups, 1, -1, *rest)
        return grouped.reshape(self.weight.shape)


_Folded = tuple[_Layer, torch.Tensor, torch.Tensor]  # with new weights and bias


def fold_batch_norm(graph: Graph) -> Graph:
    """The graph with batch norms in the convolution or linear layer that alone feeds them."""

    def rule(node: Node, layers: Callable[[Argument], _Layer | None]) -> _Folded | None:
        layer = layers(node.args[0]) if node.target == "aten.batch_norm.default" else None
        if layer is None or node.args[5] is not False:
            return None
        if layer.node.target == _LINEAR and len(node.shape) != 2:
            return None  # its channels are not the layer's
        statistics = [_constant(graph, a) for a in node.args[1:5]]
        epsilon = node.args[7]
        assert isinstance(epsilon, float)
        gamma, beta, mean, variance = statistics
        if mean is None or variance is None:
            return None
        scale = (variance + epsilon).rsqrt() * (1.0 if gamma is None else gamma)
        bias = (layer.bias - mean) * scale + (0.0 if beta is None else beta)
        return layer, layer.per_output(scale), bias

    return _absorb(graph, rule)


def fold_bias(graph: Graph) -> Graph:
    """The graph with constants that are added per channel in the layer that alone feeds them."""

    def rule(node: Node, layers: Callable[[Argument], _Layer | None]) -> _Folded | None:
        if node.target != "aten.add.Tensor" or node.kwargs:
            return None
        for value, other in (node.args, node.args[::-1]):
            addend = _constant(graph, other)
            layer = None if addend is None else layers(value)
            if layer is None or addend is None or layer.node.shape != node.shape:
                continue
            axis = -1 if layer.node.target == _LINEAR else 1 - len(node.shape)
            if addend.ndim < -axis or addend.shape[axis] != layer.outputs:
                continue
            if addend.numel() == layer.outputs:
                return layer, layer.weight, layer.bias + addend.flatten()
        return None

    return _absorb(graph, rule)


def fold_products(graph: Graph) -> Graph:
    """The graph with products by constant matrices as linear layers."""
    known = kinds(graph)
    constants = dict(graph.constants)
    transposed: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        name = reference(node.args[1]) if node.target == "aten.matmul.default" else ""
        matrix = graph.constants.get(name)
        if matrix is None or matrix.ndim != 2 or not matrix.is_floating_point():
            nodes.append(node)
            continue
        if name not in transposed:
            transposed[name] = unique(f"{name}.transposed", {*known, *constants})
            constants[transposed[name]] = matrix.t().contiguous()
        args = (node.args[0], Ref(transposed[name]), None)
        nodes.append(replace(node, target=_LINEAR, args=args))
    return rewritten(graph, nodes, {}, constants)


def _absorb(
    graph: Graph, rule: Callable[[Node, Callable[[Argument], _Layer | None]], _Folded | None]
) -> Graph:
    """The graph with each node that a rule folds into a layer before it gone."""
    readers = graph.consumers()
    made: dict[str, Node] = {}
    names: dict[str, str] = {}
    constants = dict(graph.constants)
    taken = set(kinds(graph))

    def layer(argument: Argument) -> _Layer | None:
        name = reference(argument)
        alone = len(readers.get(name, ())) == 1 and name not in graph.outputs
        return _layer(made[name], constants) if alone and name in made else None

    for node in graph.nodes:
        node = renamed(node, names)
        folded = rule(node, layer)
        if folded is None:
            made[node.name] = node
            continue
        before, weight, bias = folded
        args = list(before.node.args)
        for index, value in ((1, weight), (2, bias)):
            old = reference(args[index]) or f"{before.node.name}.bias"
            if index == 1 and weight is before.weight:
                continue
            name = unique(f"{old.removesuffix('.folded')}.folded", taken)
            taken.add(name)
            constants[name] = value.to(torch.float32)
            args[index] = Ref(name)
        made[before.node.name] = replace(before.node, args=tuple(args))
        names[node.name] = before.node.name
        readers[before.node.name] = readers.get(node.name, [])
        if node.name in graph.outputs:
            readers[before.node.name] = []  # it is an output now, and may not be folded again
    return rewritten(graph, made.values(), names, constants)


def _layer(node: Node, constants: Mapping[str, torch.Tensor]) -> _Layer | None:
    if node.target not in (_CONVOLUTION, _LINEAR) or node.dtype != torch.float32:
        return None
    weight, bias = (constants.get(reference(a)) for a in node.args[1:3])
    if weight is None or (bias is None and node.args[2] is not None):
        return None
    outputs = node.shape[-1] if node.target == _LINEAR else node.shape[1]
    start = torch.zeros(outputs, dtype=torch.float64) if bias is None else bias.double()
    return _Layer(node, weight.double(), start, outputs)


def _constant(graph: Graph, argument: Argument) -> torch.Tensor | None:
    value = graph.constants.get(reference(argument))
    return None if value is None or not value.is_floating_point() else value.double()
