"""Finds what the array could do in a graph: operations shaped like products, and what fuses.

A match says what an operation reads and means, not whether it runs on the array: see
:mod:`sw.compiler.edges`. The graph is in the spelling of :mod:`sw.compiler.canonical`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import torch

from sw.compiler.candidates import Kind, Match, Matches, Refusal, Values
from sw.compiler.graph import Graph, Node, Ref
from sw.compiler.layers import Function
from sw.compiler.options import CompileOptions
from sw.compiler.products import add, linear, matmul
from sw.compiler.windows import convolution, pool

_RULES: Final[Mapping[str, Callable[[Node, Values], Match]]] = {
    "aten.convolution.default": convolution,
    "aten.linear.default": linear,
    "aten.matmul.default": matmul,
    "aten.add.Tensor": add,
    "aten.avg_pool2d.default": pool,
    "aten.adaptive_avg_pool2d.default": pool,
    "aten.mean.dim": pool,
}


def find_matches(graph: Graph, options: CompileOptions) -> Matches:
    """Everything in a graph that the array could do."""
    values, matches = Values(graph), Matches()
    taken: set[str] = set()
    for node in graph.nodes:
        rule = _RULES.get(node.target)
        if rule is None or node.name in taken:
            continue
        try:
            if not values.is_real(node.name):
                raise Refusal(f"it is not float32 but {node.dtype}")
            match = rule(node, values)
            if _is_held(node, options):
                matches.macs[node.name] = match.macs
                raise Refusal("it was asked to stay on the host")
        except Refusal as reason:
            matches.refused[node.name] = str(reason)
            continue
        match = _with_activation(_with_bias(match, values), values)
        taken.update(match.fused)
        matches.found[node.name] = match
    return matches


def check_names(graph: Graph, options: CompileOptions) -> None:
    """Refuse options for nodes, modules or values that the graph has not, as ValueError."""
    for name in sorted(options.host_only):
        if not any(_is_named(node, name) for node in graph.nodes):
            raise ValueError(f"host_only must name a node or a module of the network, not {name!r}")
    values = {spec.name for spec in graph.inputs} | {node.name for node in graph.nodes}
    for name in sorted(options.exponents):
        if name not in values:
            raise ValueError(f"exponents must be of values of the network, not of {name!r}")


def _is_held(node: Node, options: CompileOptions) -> bool:
    return any(_is_named(node, name) for name in options.host_only)


def _is_named(node: Node, name: str) -> bool:
    return name in (node.name, node.source) or node.source.startswith(f"{name}.")


def _with_bias(match: Match, values: Values) -> Match:
    """The match with a constant that is added to its channels and to nothing else."""
    node = values.only_reader(match.value)
    if match.weight is None or node is None or node.target != "aten.add.Tensor":
        return match
    names = [r.name for r in node.args[:2] if isinstance(r, Ref)]
    others = [n for n in names if n != match.value]
    scaled = node.kwargs.get("alpha", 1) != 1 or (len(node.args) > 2 and node.args[2] != 1)
    constant = values.constant(others[0]) if others else None
    if constant is None or scaled or node.shape != match.shape:
        return match
    if constant.dtype != torch.float32:
        return match
    axis = 1 if match.kind == Kind.CONVOLUTION else len(match.shape) - 1
    wide = constant.reshape((1,) * (len(match.shape) - constant.dim()) + tuple(constant.shape))
    if any(size != 1 for d, size in enumerate(wide.shape) if d != axis):
        return match
    bias = wide.reshape(-1).expand(match.channels)
    return replace(
        match,
        bias=bias if match.bias is None else match.bias + bias,
        nodes=(*match.nodes, node.name),
        value=node.name,
    )


def _with_activation(match: Match, values: Values) -> Match:
    """The match with an activation that the drain does, if nothing else reads what is before it."""
    node = values.only_reader(match.value)
    if match.kind != Kind.POOL and node is not None:
        if node.target == "aten.relu.default":
            return replace(match, final=node.name, function=Function.RELU)
        if node.target == "aten.hardtanh.default" and node.args[1] == 0:
            high = node.args[2]
            if isinstance(high, int | float) and high > 0:
                return replace(match, final=node.name, function=Function.CLAMP, clamp=float(high))
    return replace(match, final=match.value)
