"""Drops operations that change nothing and merges those that only say how a value lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sw.compiler.graph import Graph, Node
from sw.compiler.rewriting import Kind, kinds, reference, renamed, rewritten

_RESHAPE, _PERMUTE = "aten.reshape.default", "aten.permute.default"


def merge_layouts(graph: Graph) -> Graph:
    """The graph without copies and the like, and with runs of reshapes or permutations merged."""
    known = kinds(graph)
    names: dict[str, str] = {}
    made: dict[str, Node] = {}
    for node in graph.nodes:
        node = _merged(_plain(renamed(node, names), known), made)
        source = unchanged(node, known)
        if source:
            names[node.name] = source
        else:
            made[node.name] = node
    return rewritten(graph, made.values(), names)


def unchanged(node: Node, known: Mapping[str, Kind]) -> str:
    """The value that a node passes on as it is, empty if it does something.

    Parameters
    ----------
    node : Node
    known : mapping of str to (shape, dtype)
        Of the values that it reads.

    Returns
    -------
    str
    """
    source = reference(node.args[0]) if node.args else ""
    if not source or known[source] != (node.shape, node.dtype):
        parts = node.args[0] if node.args else None
        one = isinstance(parts, tuple) and len(parts) == 1 and node.target == "aten.cat.default"
        return reference(parts[0]) if one and isinstance(parts, tuple) else ""
    rest = node.args[1:]
    match node.target:
        case "aten.clone.default" | "aten.reshape.default" | "aten.expand.default":
            return source
        case "aten._to_copy.default" | "aten.positive.default" | "aten.type_as.default":
            return source
        case "aten.to.dtype" | "aten.repeat.default":
            return source
        case "aten.dropout.default":
            return source if rest[1] is False else ""
        case "aten.permute.default":
            return source if rest[0] == tuple(range(len(node.shape))) else ""
        case "aten.slice.Tensor":
            return source if rest[3] == 1 else ""
        case "aten.constant_pad_nd.default":
            return source if isinstance(rest[0], tuple) and not any(rest[0]) else ""
    return ""


def _plain(node: Node, known: Mapping[str, Kind]) -> Node:
    """A permutation that moves only dimensions of one element, as a reshape."""
    if node.target != _PERMUTE:
        return node
    shape, _ = known[reference(node.args[0])]
    order = node.args[1]
    assert isinstance(order, tuple)
    moved = [d for d in order if isinstance(d, int) and shape[d] != 1]
    if moved != sorted(moved):
        return node
    return replace(node, target=_RESHAPE, args=(node.args[0], node.shape))


def _merged(node: Node, made: Mapping[str, Node]) -> Node:
    """A reshape or permutation that reads what the one before it read."""
    before = made.get(reference(node.args[0])) if node.args else None
    if before is None or before.target != node.target:
        return node
    if node.target == _RESHAPE:
        return replace(node, args=(before.args[0], node.args[1]))
    if node.target == _PERMUTE:
        inner, outer = before.args[1], node.args[1]
        assert isinstance(inner, tuple)
        assert isinstance(outer, tuple)
        order = tuple(inner[d] for d in outer if isinstance(d, int))
        return replace(node, args=(before.args[0], order))
    return node
