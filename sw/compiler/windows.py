"""Operations that move a window over images: convolution and average pooling."""

from __future__ import annotations

import math

from sw.compiler.candidates import (
    Kind,
    Match,
    Operand,
    Refusal,
    Values,
    first_reference,
    integers,
    reference,
)
from sw.compiler.graph import Node, Ref
from sw.compiler.layers import View


def image(name: str, values: Values) -> Operand:
    """A batch of images or sequences, channels first, as the array has it."""
    shape = values.shape(name)
    if len(shape) == 3:
        n, c, w = shape
        return Operand(name, (n, 1, w, c), View(shape, (0, 2, 1)))
    if len(shape) == 4:
        n, c, h, w = shape
        return Operand(name, (n, h, w, c), View(shape, (0, 2, 3, 1)))
    raise Refusal(f"its input has {len(shape)} dimensions, not 3 or 4")


def convolution(node: Node, values: Values) -> Match:
    x, w = reference(node, 0), reference(node, 1)
    weight = values.constant(w)
    bias_name = node.args[2]
    bias = values.constant(bias_name.name) if isinstance(bias_name, Ref) else None
    if node.args[6]:
        raise Refusal("transposed convolution is not done by the array")
    if weight is None or (bias is None) != (bias_name is None):
        raise Refusal("its weights are computed by the network")
    if weight.dim() not in (3, 4):
        raise Refusal(f"the array has no convolution of {weight.dim() - 2} dimensions")
    rank = weight.dim() - 2
    stride, padding, dilation = (integers(node.args[i], rank) for i in (3, 4, 5))
    nodes: tuple[str, ...] = (node.name,)
    pads = (*(p for p in padding for _ in (0, 1)),)
    padded = values.nodes.get(x)
    before = _zero_padding(padded, values, rank) if padded is not None else None
    if padded is not None and before is not None:
        x, nodes = first_reference(padded), (padded.name, node.name)
        pads = tuple(p + q for p, q in zip(pads, before, strict=True))
    a = image(x, values)
    weight = weight if rank == 2 else weight[:, :, None]
    if rank == 1:
        stride, dilation, pads = (1, *stride), (1, *dilation), (0, 0, *pads)
    groups = node.args[8]
    assert isinstance(groups, int)
    if 0 in (*weight.shape, *a.shape, *node.shape):
        raise Refusal("it is empty")
    return Match(
        name=node.name,
        kind=Kind.CONVOLUTION,
        nodes=nodes,
        a=a,
        value=node.name,
        shape=node.shape,
        source=node.source,
        weight=weight,
        bias=bias,
        stride=(stride[0], stride[1]),
        padding=(pads[0], pads[1], pads[2], pads[3]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
        kernel=(weight.shape[2], weight.shape[3]),
        macs=math.prod(node.shape) * math.prod(weight.shape[1:]),
    )


def _zero_padding(node: Node, values: Values, rank: int) -> tuple[int, ...] | None:
    """Top, bottom, left, right (or left, right) of zeros that a node adds, if that is all it does.

    Only if everybody who reads it is a convolution: else it is there anyway.
    """
    if node.target == "aten.pad.default":
        sides, fill = node.args[1], node.args[3]
        if node.args[2] != "constant":
            return None
    elif node.target == "aten.constant_pad_nd.default":
        sides, fill = node.args[1], node.args[2]
    else:
        return None
    if fill not in (None, 0) or not isinstance(sides, tuple) or len(sides) > 2 * rank:
        return None
    pads = [p for p in sides if isinstance(p, int) and p >= 0]
    readers = values.readers.get(node.name, [])
    if len(pads) != len(sides) or node.name in values.graph.outputs:
        return None
    if any(r.target != "aten.convolution.default" for r in readers):
        return None
    pads += [0] * (2 * rank - len(pads))  # the last dimension comes first
    return (*pads[2:], *pads[:2]) if rank == 2 else tuple(pads)


def pool(node: Node, values: Values) -> Match:
    x = reference(node, 0)
    a = image(x, values)
    _, height, width, channels = a.shape
    stride: tuple[int, ...]
    kernel, padding, area = (height, width), (0, 0), 0
    if node.target == "aten.avg_pool2d.default":
        kernel = (integers(node.args[1], 2) * 2)[:2]  # type: ignore[assignment]
        stride = integers(node.args[2], 2) or kernel
        padding = integers(node.args[3], 2)  # type: ignore[assignment]
        given = node.args[6]
        area = given if isinstance(given, int) and not isinstance(given, bool) else 0
        ragged = any(
            (size + 2 * p - k) % s
            for size, p, k, s in zip((height, width), padding, kernel, stride, strict=True)
        )
        if (node.args[4] and ragged) or (any(padding) and not node.args[5] and not area):
            raise Refusal("its windows count different numbers of pixels")
    elif node.target == "aten.adaptive_avg_pool2d.default":
        rows, columns = integers(node.args[1], 2)
        if height % rows or width % columns:
            raise Refusal("its windows have different sizes")
        kernel = stride = (height // rows, width // columns)
    else:
        if len(values.shape(x)) != 4 or node.args[1] not in ((2, 3), (3, 2)):
            raise Refusal("it is not the mean of an image")
        stride = kernel
    if len(values.shape(x)) != 4 or 0 in (*a.shape, *node.shape) or area < 0:
        raise Refusal("it is not the mean of an image")
    return Match(
        name=node.name,
        kind=Kind.POOL,
        nodes=(node.name,),
        a=a,
        value=node.name,
        shape=node.shape,
        source=node.source,
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[0], padding[1], padding[1]),
        groups=channels,
        kernel=kernel,
        area=area or math.prod(kernel),
        macs=math.prod(node.shape) * math.prod(kernel),
    )
