"""What every rewriting of a graph needs: replaced names, known shapes, unused parts removed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch

from sw.compiler.graph import Argument, Graph, Node, Ref

#: Shape and dtype of a value; no dtype for several results.
Kind = tuple[tuple[int, ...], torch.dtype | None]


def kinds(graph: Graph) -> dict[str, Kind]:
    """Shape and dtype of every input, constant and node's value."""
    found: dict[str, Kind] = {i.name: (i.shape, i.dtype) for i in graph.inputs}
    found.update((k, (tuple(v.shape), v.dtype)) for k, v in graph.constants.items())
    found.update((n.name, (n.shape, n.dtype)) for n in graph.nodes)
    return found


def reference(argument: Argument) -> str:
    """The name that an argument refers to, empty if it is no reference."""
    return argument.name if isinstance(argument, Ref) else ""


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """A node that reads other values instead of those that have a new name."""
    if not any(name in names for name in node.references()):
        return node
    args = tuple(_renamed(a, names) for a in node.args)
    return replace(node, args=args, kwargs={k: _renamed(a, names) for k, a in node.kwargs.items()})


def _renamed(argument: Argument, names: Mapping[str, str]) -> Argument:
    if isinstance(argument, Ref):
        return Ref(names.get(argument.name, argument.name))
    if isinstance(argument, tuple):
        return tuple(_renamed(part, names) for part in argument)
    return argument


def rewritten(
    graph: Graph,
    nodes: Iterable[Node],
    names: Mapping[str, str],
    constants: Mapping[str, torch.Tensor] | None = None,
) -> Graph:
    """The graph with other nodes and constants, names replaced in its outputs too."""
    outputs = tuple(names.get(name, name) for name in graph.outputs)
    return Graph(
        graph.inputs, tuple(nodes), outputs, graph.constants if constants is None else constants
    )


def pruned(graph: Graph) -> Graph:
    """The graph without the nodes and constants that no output needs; inputs stay."""
    needed = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.references())
            nodes.append(node)
    constants = {name: value for name, value in graph.constants.items() if name in needed}
    return Graph(graph.inputs, tuple(reversed(nodes)), graph.outputs, constants)


def unique(name: str, taken: Collection[str]) -> str:
    """The name, or with the first number that makes it one that is not taken."""
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    return found
