"""Products of matrices, and the sum of two tensors."""

from __future__ import annotations

import math

import torch

from sw.compiler.candidates import (
    Kind,
    Match,
    Operand,
    Refusal,
    Values,
    first_reference,
    matrix,
    reference,
)
from sw.compiler.graph import Node, Ref
from sw.compiler.indexing import VIEWS, find_shared
from sw.compiler.layers import View


def linear(node: Node, values: Values) -> Match:
    x, w = reference(node, 0), reference(node, 1)
    bias_name = node.args[2] if len(node.args) > 2 else None
    bias = values.constant(bias_name.name) if isinstance(bias_name, Ref) else None
    weight = values.constant(w)
    if weight is None and bias_name is None and values.constant(x) is None:
        return _product(node, values, x, w, turned=True)
    if weight is None or (bias is None) != (bias_name is None):
        raise Refusal("its weights are computed by the network")
    return _constant_product(node, values, x, weight.reshape(-1, weight.shape[-1]), bias)


def matmul(node: Node, values: Values) -> Match:
    a, b = reference(node, 0), reference(node, 1)
    weight = values.constant(b)
    if weight is not None and weight.dim() <= 2 and values.constant(a) is None:
        columns = weight[:, None] if weight.dim() == 1 else weight
        return _constant_product(node, values, a, columns.mT, None)
    return _product(node, values, a, b)


def _constant_product(
    node: Node, values: Values, x: str, weight: torch.Tensor, bias: torch.Tensor | None
) -> Match:
    if not values.shape(x) or 0 in (*weight.shape, *values.shape(x)):
        raise Refusal("it is empty")
    return Match(
        name=node.name,
        kind=Kind.LINEAR,
        nodes=(node.name,),
        a=matrix(x, values),
        value=node.name,
        shape=node.shape,
        source=node.source,
        weight=weight[:, :, None, None],
        bias=bias,
        macs=math.prod(node.shape) * weight.shape[1],
    )


def _product(node: Node, values: Values, a: str, b: str, turned: bool = False) -> Match:
    """A product of two values that are computed; ``turned``: b is ``[N, K]``."""
    a_shape, b_shape = values.shape(a), values.shape(b)
    if not (values.is_real(a) and values.is_real(b)):
        raise Refusal("its operands are not float32")
    if 0 in (*a_shape, *b_shape, *node.shape) or not a_shape or not b_shape:
        raise Refusal("it is empty")
    inner = a_shape[-1]
    batches = math.prod(b_shape[:-2])
    if batches > 1 and _significant(a_shape[:-2]) != _significant(b_shape[:-2]):
        raise Refusal("its batches are broadcast in a way that the array does not")
    columns = b_shape[-2] if turned else math.prod(b_shape) // (batches * inner)
    operand, transposed, repeat = _second(b, values, (batches, inner, columns), turned)
    return Match(
        name=node.name,
        kind=Kind.MATMUL,
        nodes=(node.name,),
        a=matrix(a, values, batches),
        b=operand,
        value=node.name,
        shape=node.shape,
        source=node.source,
        transposed=transposed,
        repeat=repeat,
        macs=math.prod(node.shape) * inner,
    )


def _significant(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Batch dimensions without leading ones."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def _second(
    name: str, values: Values, shape: tuple[int, int, int], turned: bool
) -> tuple[Operand, bool, int]:
    """How b ``[n, K, N]`` lies in a value before transposing and repeating."""
    batches, inner, columns = shape
    chain = [name]
    while (node := values.nodes.get(chain[-1])) and node.target in VIEWS:
        chain.append(first_reference(node))
    fallback = None
    for depth in reversed(range(1, len(chain))):
        steps = [values.nodes[n] for n in reversed(chain[:depth])]
        found = find_shared(values.shape(chain[depth]), steps, shape, turned)
        if found is None:
            continue
        view, transposed, repeat = found
        rows = (columns, inner) if transposed else (inner, columns)
        operand = Operand(chain[depth], (batches // repeat, 1, *rows), view)
        if view.permute[-1] == len(view.permute) - 1:
            return operand, transposed, repeat  # neighbours stay neighbours
        fallback = fallback or (operand, transposed, repeat)
    if fallback is not None:
        return fallback
    own = values.shape(name)
    rows = (columns, inner) if turned else (inner, columns)
    return Operand(name, (batches, 1, *rows), View(own, tuple(range(len(own))))), turned, 1


def add(node: Node, values: Values) -> Match:
    if (len(node.args) > 2 and node.args[2] != 1) or node.kwargs.get("alpha", 1) != 1:
        raise Refusal("it scales an operand")
    a, b = reference(node, 0), reference(node, 1)
    if values.shape(a) != node.shape or values.shape(b) != node.shape or not node.shape:
        raise Refusal("it broadcasts an operand")
    if values.constant(a) is not None or values.constant(b) is not None:
        raise Refusal("it adds a constant")
    return Match(
        name=node.name,
        kind=Kind.ADD,
        nodes=(node.name,),
        a=matrix(a, values),
        b=matrix(b, values),
        value=node.name,
        shape=node.shape,
        source=node.source,
    )
