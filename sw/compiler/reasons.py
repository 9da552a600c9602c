"""Why a node runs where it does, in half a sentence."""

from __future__ import annotations

from typing import Final

from sw.compiler.graph import Node

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
