"""Why a node runs where it does, in half a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from sw.compiler.candidates import Kind, Matches, Values
from sw.compiler.edges import Edges
from sw.compiler.graph import Node
from sw.compiler.indexing import VIEWS
from sw.compiler.layers import Layer, Placement

_ON_ARRAY: Final = {
    Kind.CONVOLUTION: "convolution with constant weights",
    Kind.LINEAR: "product with constant weights",
    Kind.MATMUL: "product of two activations",
    Kind.ADD: "sum of two tensors of words",
    Kind.POOL: "mean as a convolution with constant weights",
}
_FAMILIES: Final = {
    "softmax has no unit in the array": "softmax _softmax _safe_softmax log_softmax",
    "norms need means and roots that the array has not": (
        "layer_norm native_layer_norm rms_norm _fused_rms_norm group_norm native_group_norm "
        "batch_norm instance_norm"
    ),
    "embedding is a look-up": "embedding gather index_select index take one_hot",
    "the array has no maximum": (
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max amax argmax topk maximum "
        "adaptive_max_pool2d"
    ),
    "this activation is not one of the drain's": (
        "silu gelu sigmoid tanh hardswish hardsigmoid leaky_relu elu mish softplus prelu erf exp "
        "hardtanh relu clamp"
    ),
    "it only says where elements lie": (
        "reshape permute expand clone slice select cat split split_with_sizes stack getitem "
        "unbind pad constant_pad_nd repeat_interleave repeat flip roll chunk"
    ),
    "elementwise arithmetic is the host's": (
        "add sub mul div pow rsqrt sqrt neg abs reciprocal where masked_fill minimum sin cos"
    ),
    "it is a comparison or a count": (
        "eq ne lt le gt ge arange cumsum triu tril logical_not logical_and logical_or isinf isnan"
    ),
}
_BY_NAME: Final = {name: why for why, names in _FAMILIES.items() for name in names.split()}


def host_reason(node: Node) -> str:
    """Why the array does not do an operation that no rule matches."""
    name = node.target.split(".")[1] if "." in node.target else node.target
    return _BY_NAME.get(name, f"the array has no {name.replace('_', ' ').strip()}")


def placements(
    values: Values,
    matches: Matches,
    edges: Edges,
    layers: Mapping[str, Layer],
    host: set[str],
) -> Iterator[Placement]:
    """Where every node of a graph runs, in the graph's order.

    Parameters
    ----------
    values, matches, edges
        The graph, what was found in it, and what was decided.
    layers : mapping of str to Layer
        By name, that of the match.
    host : set of str
        Nodes that the host runs.
    """
    owners = {node: layer.name for layer in layers.values() for node in layer.nodes}
    followers = {m.final: m.name for m in edges.active.values() if m.final != m.value}
    for node in values.graph.nodes:
        layer = owners.get(node.name, "")
        match = matches.found.get(node.name)
        if layer and match is not None:
            yield Placement(node.name, True, _ON_ARRAY[match.kind], layer, match.macs)
        elif layer:
            yield Placement(node.name, True, f"part of {layer}", layer)
        elif node.name not in host:
            on_array = node.target in VIEWS
            why = "read as it lies" if on_array else "nothing needs it"
            yield Placement(node.name, on_array, why)
        else:
            macs = matches.macs.get(node.name, 0 if match is None else match.macs)
            why = edges.refused.get(node.name) or matches.refused.get(node.name) or ""
            if node.name in followers:
                why = f"{followers[node.name]} gives exact sums"
            yield Placement(node.name, False, why or host_reason(node), macs=macs)
