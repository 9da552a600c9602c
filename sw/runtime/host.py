"""Runs nodes of a graph with torch's ATen operations on the CPU."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch

from sw.compiler.graph import Graph, Node
from sw.compiler.operations import evaluate


def run_node(node: Node, values: Mapping[str, Any]) -> Any:
    """What a node makes of values: :func:`sw.compiler.operations.evaluate`.

    Parameters
    ----------
    node : Node
    values : mapping of str to torch.Tensor or tuple of torch.Tensor
        At least those that it reads, constants too.

    Returns
    -------
    torch.Tensor, or a tuple of them for several results

    Raises
    ------
    ValueError
        As :func:`run_nodes` does.
    """
    return evaluate(node, values)


def run_nodes(
    graph: Graph,
    names: Iterable[str],
    values: MutableMapping[str, Any],
    keep: Collection[str] | None = None,
) -> None:
    """Run nodes in the order given, and add what they make to values.

    Parameters
    ----------
    graph : Graph
    names : iterable of str
        Names of nodes of the graph.
    values : mutable mapping of str to torch.Tensor
        Inputs and results of nodes before; constants are taken from the graph. A node with several
        results leaves a tuple.
    keep : collection of str or None
        None: everything stays. Else a value that is not in it is deleted as soon as the last of
        these nodes that reads it has run.

    Raises
    ------
    ValueError
        If a name is no node's, a value is missing, an operation is not one that a graph may hold
        (:func:`sw.compiler.operations.operation`), or refuses its arguments.
    """
    names = tuple(names)
    known = {node.name: node for node in graph.nodes}
    missing = next((name for name in names if name not in known), None)
    if missing is not None:
        raise ValueError(f"node must be one of the graph, not {missing!r}")
    readers: dict[str, str] = {}
    if keep is not None:
        readers = {read: name for name in names for read in (*known[name].references(), name)}
    everything: ChainMap[str, Any] = ChainMap(values, dict(graph.constants))
    for name in names:
        node = known[name]
        values[name] = evaluate(node, everything)
        if keep is not None:
            for read in {*node.references(), name}:
                if readers[read] == name and read not in keep:
                    values.pop(read, None)


def reference(graph: Graph, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """What the network gives in floating point.

    Parameters
    ----------
    graph : Graph
    inputs : sequence of torch.Tensor
        One per input of the graph, of its shape and dtype.

    Returns
    -------
    tuple of torch.Tensor

    Raises
    ------
    ValueError
        If the inputs do not fit, or as :func:`run_nodes` does.
    """
    values: dict[str, Any] = bind(graph, inputs)
    run_nodes(graph, [node.name for node in graph.nodes], values, keep=graph.outputs)
    return tuple(values[n] if n in values else graph.constants[n] for n in graph.outputs)


def bind(graph: Graph, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs by their names.

    Raises
    ------
    ValueError
        If their number, a shape or a dtype is not the graph's.
    """
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"inputs must be {len(graph.inputs)} tensors, not {len(inputs)}")
    for want, value in zip(graph.inputs, inputs, strict=True):
        got = (tuple(value.shape), value.dtype)
        if got != (want.shape, want.dtype):
            raise ValueError(
                f"input {want.name} must be {want.dtype} of shape {list(want.shape)}, "
                f"not {got[1]} of shape {list(got[0])}"
            )
    return {want.name: value for want, value in zip(graph.inputs, inputs, strict=True)}
