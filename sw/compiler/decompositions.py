"""What tracing takes apart, so that every product is seen; everything else stays whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import default_decompositions

# Taken apart as torch itself does: convolutions to one operation, recurrent layers to their steps,
# einsum and its like to products. The rest of torch's table would break up norms and activations.
_TORCH_OWN = (
    *("conv1d.default", "conv1d.padding", "conv2d.default", "conv2d.padding"),
    *("conv3d.default", "conv3d.padding", "_convolution.default", "_convolution_mode.default"),
    *("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"),
    *("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input"),
    *("lstm_cell.default", "gru_cell.default", "rnn_tanh_cell.default", "rnn_relu_cell.default"),
    *("einsum.default", "tensordot.default", "inner.default"),
    *("chain_matmul.default", "linalg_multi_dot.default", "linalg_vecdot.default"),
    *("broadcast_tensors.default", "meshgrid.default", "meshgrid.indexing"),
    *("hstack.default", "vstack.default", "dstack.default", "column_stack.default"),
    *("atleast_1d.default", "atleast_2d.default", "atleast_3d.default"),
)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for ``ExportedProgram.run_decompositions``."""
    default = default_decompositions()
    found: dict[Any, Callable[..., Any]] = {}
    for name in _TORCH_OWN:
        packet, overload = name.split(".")
        op = getattr(getattr(torch.ops.aten, packet), overload)
        if op in default:
            found[op] = default[op]
    aten = torch.ops.aten
    found[aten.scaled_dot_product_attention.default] = attention
    found[aten.addmm.default] = _add_product
    found[aten.baddbmm.default] = _add_product
    found[aten.addmv.default] = _add_product
    found[aten.addbmm.default] = _add_products
    return found


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(query key' * scale + mask) value``, both products visible.

    Arguments, shapes and meaning are those of
    :func:`torch.nn.functional.scaled_dot_product_attention`. The scale multiplies the scores. A row
    whose mask hides everything gives zeros, as there. With ``enable_gqa`` keys and values are
    repeated by reshape, expand, reshape.
    """
    if enable_gqa:
        key, value = (_repeated(t, query.shape[-3] // t.shape[-3]) for t in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query, key.transpose(-2, -1)) * factor
    if is_causal:
        rows, columns = scores.shape[-2:]
        hidden = torch.ones(rows, columns, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    if attn_mask is None:
        weights = scores.softmax(-1)
    else:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
        else:
            scores = scores + attn_mask
        weights = torch.ops.aten._safe_softmax.default(scores, -1)
    if dropout_p > 0:
        weights = torch.dropout(weights, dropout_p, True)
    return torch.matmul(weights, value)


def _repeated(heads: Tensor, times: int) -> Tensor:
    if times == 1:
        return heads
    *batch, count, length, width = heads.shape
    wide = heads.unsqueeze(-3).expand(*batch, count, times, length, width)
    return wide.reshape(*batch, count * times, length, width)


def _add_product(
    addend: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    product = torch.matmul(a, b)
    return (addend if beta == 1 else addend * beta) + (product if alpha == 1 else product * alpha)


def _add_products(
    addend: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    product = torch.matmul(a, b).sum(0)
    return (addend if beta == 1 else addend * beta) + (product if alpha == 1 else product * alpha)
