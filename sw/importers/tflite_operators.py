"""What each operator of a TensorFlow Lite file computes, as torch functions.

Meanings are those of TensorFlow Lite's operator definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import tflite  # type: ignore[import-untyped]
import torch
from torch.nn import functional

from sw.importers.tflite_file import Operator, Translator
from sw.importers.tflite_windows import bias, convolution, make, pool

Handler = Callable[[Translator, Operator], None]


def _fully_connected(t: Translator, op: Operator) -> None:
    op.check_counts((2, 3))
    options = op.options("FullyConnectedOptions")
    if options.WeightsFormat() != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise t.builder.error(f"{op.kind} must have weights in the default format")
    x = t.plain(op.kind, op.inputs[0])
    weight = t.plain(op.kind, op.inputs[1])
    inner = t.builder.shape(op.kind, weight)[-1:]
    shape = t.builder.shape(op.kind, x)
    if not options.KeepNumDims() and len(shape) != 2:
        flat = f"{x}_flat_{op.outputs[0]}"
        t.builder.add("flatten", partial(torch.reshape, shape=(-1, *inner)), [x], [flat])
        x = flat
    inputs = [x, weight, *bias(t, op)]
    make(t, op, functional.linear, inputs, False, options.FusedActivationFunction())


def _binary(
    t: Translator, op: Operator, options: str, function: Callable[..., torch.Tensor]
) -> None:
    op.check_counts((2, 2))
    a, b = op.inputs
    activation = op.options(options).FusedActivationFunction()
    first = [t.is_channels_first(t.check(op.kind, i)) for i in (a, b)]
    if any(first):
        inputs = [_broadcast_first(t, op, i) for i in (a, b)]
    else:
        inputs = [t.plain(op.kind, i) for i in (a, b)]
    make(t, op, function, inputs, any(first), activation)


def _broadcast_first(t: Translator, op: Operator, index: int) -> str:
    """An operand channels first, whatever its rank: dimensions of 1 are put before it."""
    rank = len(t.shape(op.kind, index))
    if rank == 4:
        return t.first(op.kind, index)
    name = f"t{index}_broadcast"
    if not t.builder.is_known(name):
        shape = (1,) * (4 - rank) + t.shape(op.kind, index)
        order = [shape[d] for d in (0, 3, 1, 2)]
        function = (
            partial(_reshape_permute, shape=shape)
            if rank > 1
            else partial(torch.reshape, shape=order)
        )
        t.builder.add("broadcast", function, [t.plain(op.kind, index)], [name])
    return name


def _reshape_permute(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return x.reshape(shape).permute(0, 3, 1, 2)


def _reshape(t: Translator, op: Operator) -> None:
    op.check_counts((1, 2))
    if len(op.inputs) == 2:
        shape = [int(n) for n in t.constant(op.kind, op.inputs[1]).flatten()]
    else:
        options = op.options("ReshapeOptions")
        shape = [options.NewShape(i) for i in range(options.NewShapeLength())]
    given = t.shape(op.kind, op.inputs[0])
    # One pixel per image lies the same either way, and needs no permutation.
    if t.is_channels_first(op.inputs[0]) and given[1:3] == (1, 1) and len(shape) == 2:
        name = t.first(op.kind, op.inputs[0])
    else:
        name = t.plain(op.kind, op.inputs[0])
    t.make(op.kind, partial(torch.reshape, shape=shape), [name], op.outputs[0])


def _unary(t: Translator, op: Operator, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    op.check_counts((1, 1))
    first = t.is_channels_first(t.check(op.kind, op.inputs[0]))
    name = t.first(op.kind, op.inputs[0]) if first else t.plain(op.kind, op.inputs[0])
    t.make(op.kind, function, [name], op.outputs[0], first)


def _softmax(t: Translator, op: Operator) -> None:
    op.check_counts((1, 1))
    beta = op.options("SoftmaxOptions").Beta()
    function = partial(_scaled_softmax, beta=beta)
    t.make(op.kind, function, [t.plain(op.kind, op.inputs[0])], op.outputs[0])


def _scaled_softmax(x: torch.Tensor, beta: float) -> torch.Tensor:
    return torch.softmax(x if beta == 1 else x * beta, -1)


def _leaky_relu(t: Translator, op: Operator) -> None:
    slope = op.options("LeakyReluOptions").Alpha()
    _unary(t, op, partial(functional.leaky_relu, negative_slope=slope))


#: Where a dimension of a channels-last value lies channels first.
_DIMENSIONS: Final = (0, 2, 3, 1)


def _mean(t: Translator, op: Operator) -> None:
    op.check_counts((2, 2))
    keep = op.options("ReducerOptions").KeepDims()
    rank = len(t.shape(op.kind, op.inputs[0]))
    axes = [int(a) % rank for a in t.constant(op.kind, op.inputs[1]).flatten()]
    first = t.is_channels_first(op.inputs[0]) and (keep or sorted(axes) == [1, 2])
    if first:
        axes, name = [_DIMENSIONS[a] for a in axes], t.first(op.kind, op.inputs[0])
    else:
        name = t.plain(op.kind, op.inputs[0])
    function = partial(torch.mean, dim=axes, keepdim=bool(keep))
    t.make(op.kind, function, [name], op.outputs[0], first and bool(keep))


def _concatenation(t: Translator, op: Operator) -> None:
    op.check_counts((1, 1000))
    options = op.options("ConcatenationOptions")
    rank = len(t.shape(op.kind, op.inputs[0]))
    axis = options.Axis() % rank if rank else 0
    first = any(t.is_channels_first(t.check(op.kind, i)) for i in op.inputs)
    read = t.first if first else t.plain
    function = partial(_join, dim=_DIMENSIONS[axis] if first else axis)
    names = [read(op.kind, i) for i in op.inputs]
    make(t, op, function, names, first, options.FusedActivationFunction())


def _join(*values: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat(values, dim)


def _pad(t: Translator, op: Operator) -> None:
    op.check_counts((2, 2))
    rank = len(t.shape(op.kind, op.inputs[0]))
    pads = t.constant(op.kind, op.inputs[1])
    if tuple(pads.shape) != (rank, 2) or int(pads.min()) < 0:
        raise t.builder.error(f"{op.kind} must have two paddings of at least 0 per dimension")
    sides = [(int(a), int(b)) for a, b in pads]
    first = t.is_channels_first(op.inputs[0])
    if first:
        sides = [sides[d] for d in (0, 3, 1, 2)]
    flat = [n for pair in reversed(sides) for n in pair]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    name = t.first(op.kind, op.inputs[0]) if first else t.plain(op.kind, op.inputs[0])
    t.make(op.kind, partial(functional.pad, pad=flat), [name], op.outputs[0], first)


def _transpose(t: Translator, op: Operator) -> None:
    op.check_counts((2, 2))
    order = [int(d) for d in t.constant(op.kind, op.inputs[1]).flatten()]
    name = t.plain(op.kind, op.inputs[0])
    t.make(op.kind, partial(torch.permute, dims=order), [name], op.outputs[0])


def _squeeze(t: Translator, op: Operator) -> None:
    op.check_counts((1, 1))
    options = op.options("SqueezeOptions")
    shape = t.shape(op.kind, op.inputs[0])
    axes = [options.SqueezeDims(i) for i in range(options.SqueezeDimsLength())]
    chosen = tuple(axes) or tuple(d for d, n in enumerate(shape) if n == 1)
    name = t.plain(op.kind, op.inputs[0])
    t.make(op.kind, partial(torch.squeeze, dim=chosen), [name], op.outputs[0])


def _resize_nearest(t: Translator, op: Operator) -> None:
    op.check_counts((2, 2))
    options = op.options("ResizeNearestNeighborOptions")
    if options.AlignCorners():
        raise t.builder.error(f"{op.kind} must not align corners")
    size = [int(n) for n in t.constant(op.kind, op.inputs[1]).flatten()]
    t.builder.check_size(op.kind, size)
    mode = "nearest-exact" if options.HalfPixelCenters() else "nearest"
    function = partial(functional.interpolate, size=size, mode=mode)
    t.make(op.kind, function, [t.first(op.kind, op.inputs[0])], op.outputs[0], True)


def _clone(x: torch.Tensor) -> torch.Tensor:
    return x.float()


OPERATORS: Final[Mapping[str, Handler]] = {
    "ADD": partial(_binary, options="AddOptions", function=torch.add),
    "AVERAGE_POOL_2D": partial(pool, average=True),
    "CONCATENATION": _concatenation,
    "CONV_2D": partial(convolution, depthwise=False),
    "DEPTHWISE_CONV_2D": partial(convolution, depthwise=True),
    "DEQUANTIZE": partial(_unary, function=_clone),
    "FULLY_CONNECTED": _fully_connected,
    "HARD_SWISH": partial(_unary, function=functional.hardswish),
    "LEAKY_RELU": _leaky_relu,
    "LOGISTIC": partial(_unary, function=torch.sigmoid),
    "MAX_POOL_2D": partial(pool, average=False),
    "MEAN": _mean,
    "MUL": partial(_binary, options="MulOptions", function=torch.mul),
    "PAD": _pad,
    "RELU": partial(_unary, function=torch.relu),
    "RELU6": partial(_unary, function=functional.relu6),
    "RESHAPE": _reshape,
    "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
    "SOFTMAX": _softmax,
    "SQUEEZE": _squeeze,
    "SUB": partial(_binary, options="SubOptions", function=torch.sub),
    "TANH": partial(_unary, function=torch.tanh),
    "TRANSPOSE": _transpose,
}
