"""A traced graph without what need not be done for every input."""

from __future__ import annotations

import hashlib

import torch

from sw.compiler.fold_layout import merge_layouts
from sw.compiler.fold_weights import fold_batch_norm, fold_bias, fold_products
from sw.compiler.graph import Graph
from sw.compiler.operations import GETITEM, evaluate
from sw.compiler.rewriting import kinds, pruned, renamed, rewritten

# Constants larger than this are made only of constants that are half as large: a mask or a table
# that is a few numbers spread over many elements stays an operation.
LARGEST_BYTES = 4 << 20


def fold(graph: Graph) -> Graph:
    """The same network with less to do.

    Batch norm goes into the convolution or linear layer before it, products with constant matrices
    become linear layers, constants added to these become their bias, operations on constants are
    done, those that change nothing are dropped, reshapes of reshapes and permutations of
    permutations are merged, permutations that move only dimensions of one element become reshapes,
    equal constants are shared, and what no output needs is removed.

    Parameters
    ----------
    graph : Graph
        As :func:`sw.compiler.trace.trace` leaves it.

    Returns
    -------
    Graph
        With the inputs and as many outputs. Results are bit-equal where only operations on
        constants and such that change nothing were dropped; new weights are computed in float64
        and rounded once.
    """
    graph = share_constants(graph)
    while True:
        before = graph.nodes
        for rewrite in (
            *(merge_layouts, fold_constants, fold_products, fold_batch_norm, fold_bias, pruned),
        ):
            graph = rewrite(graph)
        if graph.nodes == before:
            return share_constants(graph)


def fold_constants(graph: Graph) -> Graph:
    """The graph with operations on constants done."""
    known = kinds(graph)
    constants = dict(graph.constants)
    several: dict[str, tuple[torch.Tensor, ...]] = {}
    nodes = []
    for node in graph.nodes:
        given = {n: constants[n] for n in node.references() if n in constants}
        picked = node.target == GETITEM and any(n in several for n in node.references())
        if not picked and (
            any(name not in given for name in node.references())
            or _bytes(known[node.name])
            > max(LARGEST_BYTES, 2 * sum(v.nbytes for v in given.values()))
        ):
            nodes.append(node)
            continue
        result = evaluate(node, several if picked else given)
        if isinstance(result, tuple):
            several[node.name] = result
        else:
            constants[node.name] = result.clone(memory_format=torch.contiguous_format)
    left = {name for node in nodes for name in node.references()} | set(graph.outputs)
    constants = {name: value for name, value in constants.items() if name in left}
    return rewritten(graph, nodes, {}, constants)


def share_constants(graph: Graph) -> Graph:
    """The graph with one constant where several have the same bits; the first's name stays."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, value in graph.constants.items():
        groups.setdefault((tuple(value.shape), value.dtype), []).append(name)
    names: dict[str, str] = {}
    for group in groups.values():
        first: dict[object, str] = {}
        for name in group if len(group) > 1 else ():
            value = graph.constants[name]
            kept = first.setdefault(_digest(value), name)
            if kept != name:
                names[name] = kept
    if not names:
        return graph
    nodes = [renamed(node, names) for node in graph.nodes]
    constants = {name: value for name, value in graph.constants.items() if name not in names}
    return rewritten(graph, nodes, names, constants)


def _bytes(kind: tuple[tuple[int, ...], torch.dtype | None]) -> int:
    shape, dtype = kind
    return 0 if dtype is None else torch.Size(shape).numel() * dtype.itemsize


def _digest(value: torch.Tensor) -> bytes:
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).digest()
