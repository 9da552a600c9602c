"""The steps of a plan: as few changes between host and array as their order allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sw.compiler.graph import Graph, Node
from sw.compiler.layers import (
    Convolution,
    Download,
    HostOutput,
    HostStep,
    Layer,
    LayerStep,
    Step,
    Upload,
)


def operand_names(layer: Layer) -> tuple[str, ...]:
    """Names of the tensors that a layer reads."""
    return (layer.a,) if isinstance(layer, Convolution) else (layer.a, layer.b)


def needed_nodes(graph: Graph, wanted: Iterable[str], given: set[str]) -> list[Node]:
    """The nodes that the host has to run, in order, for the values it needs.

    Parameters
    ----------
    graph : Graph
    wanted : iterable of str
        Values that it needs.
    given : set of str
        Values that the array gives it.
    """
    nodes = {node.name: node for node in graph.nodes}
    needed: set[str] = set()
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name in nodes and name not in given and name not in needed:
            needed.add(name)
            pending.extend(nodes[name].references())
    return [node for node in graph.nodes if node.name in needed]


def order_steps(
    graph: Graph,
    host: Sequence[Node],
    uploads: Mapping[str, Upload],
    layers: Mapping[str, Layer],
    downloads: Mapping[str, Download],
) -> tuple[Step, ...]:
    """All that host and array do, in turns: the host what it can, then the array what it can.

    Parameters
    ----------
    graph : Graph
    host : sequence of Node
        In order.
    uploads, downloads : mapping of str to Upload, Download
        By tensor. An upload waits until a layer can run with it.
    layers : mapping of str to Layer
    """
    have = {i.name for i in graph.inputs} | graph.constants.keys()
    there: set[str] = set()
    waiting = list(layers.values())
    left = list(host)
    steps: list[Step] = []
    while left or waiting:
        done = _run_host(left, have)
        if done:
            steps.append(HostStep(tuple(node.name for node in done)))
            left = [node for node in left if node.name not in have]
        ready = _ready(waiting, uploads, have, there)
        for layer in ready:
            for name in operand_names(layer):
                if name not in there and name in uploads:
                    there.add(name)
                    steps.append(uploads[name])
        steps.extend(LayerStep(layer.name) for layer in ready)
        for layer in ready:
            if isinstance(layer.output, HostOutput):
                have.add(layer.output.value)
            elif layer.output.tensor in downloads:
                steps.append(downloads[layer.output.tensor])
                have.add(downloads[layer.output.tensor].value)
        names = {layer.name for layer in ready}
        waiting = [layer for layer in waiting if layer.name not in names]
        if not done and not ready:
            raise AssertionError("steps of a plan must not wait for each other")
    return tuple(steps)


def _run_host(left: Sequence[Node], have: set[str]) -> list[Node]:
    done = []
    for node in left:
        if all(name in have for name in node.references()):
            have.add(node.name)
            done.append(node)
    return done


def _ready(
    waiting: Sequence[Layer], uploads: Mapping[str, Upload], have: set[str], there: set[str]
) -> list[Layer]:
    """Layers that need the host for nothing more; adds the words they make to what is there."""
    ready = []
    for layer in waiting:
        if all(
            name in there or (name in uploads and uploads[name].value in have)
            for name in operand_names(layer)
        ):
            ready.append(layer)
            if not isinstance(layer.output, HostOutput):
                there.add(layer.output.tensor)
    return ready
