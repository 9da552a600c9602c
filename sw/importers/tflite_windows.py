"""TensorFlow Lite's convolutions and pooling, and the activations that are fused into operators.

``SAME`` padding as in https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import tflite  # type: ignore[import-untyped]
import torch
from torch.nn import functional

from sw.importers.tflite_file import Operator, Translator

Pads = tuple[int, int, int, int]

_ACTIVATIONS: Final[Mapping[int, Callable[[torch.Tensor], torch.Tensor] | None]] = {
    tflite.ActivationFunctionType.NONE: None,
    tflite.ActivationFunctionType.RELU: torch.relu,
    tflite.ActivationFunctionType.RELU_N1_TO_1: partial(functional.hardtanh),
    tflite.ActivationFunctionType.RELU6: functional.relu6,
    tflite.ActivationFunctionType.TANH: torch.tanh,
}


def make(
    t: Translator,
    op: Operator,
    function: Callable[..., torch.Tensor],
    inputs: list[str],
    channels_first: bool = False,
    activation: int = tflite.ActivationFunctionType.NONE,
) -> None:
    """Add the operator's step, and its fused activation as a step of its own."""
    if activation not in _ACTIVATIONS:
        raise t.builder.error(f"{op.kind} must have a supported activation, not {activation}")
    fused = _ACTIVATIONS[activation]
    if fused is not None:
        before = f"{op.outputs[0]}_before"
        t.builder.add(op.kind, function, inputs, [before])
        names = {v: k for k, v in vars(tflite.ActivationFunctionType).items() if k.isupper()}
        t.make(names[activation], fused, [before], op.outputs[0], channels_first)
    else:
        t.make(op.kind, function, inputs, op.outputs[0], channels_first)


def _pads(
    t: Translator,
    op: Operator,
    options: Any,
    kernel: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> Pads:
    """Top, bottom, left and right padding of a window operation."""
    if options.Padding() == tflite.Padding.VALID:
        return 0, 0, 0, 0
    shape = t.shape(op.kind, op.inputs[0])
    pads = []
    for size, length, stride, step in zip(
        shape[1:3], kernel, _strides(t, op, options), dilation, strict=True
    ):
        out = -(-size // stride)
        total = max((out - 1) * stride + (length - 1) * step + 1 - size, 0)
        pads += [total // 2, total - total // 2]
    return pads[0], pads[1], pads[2], pads[3]


def _strides(t: Translator, op: Operator, options: Any) -> tuple[int, int]:
    strides = options.StrideH(), options.StrideW()
    if min(strides) < 1:
        raise t.builder.error(f"{op.kind} must have strides of at least 1, not {strides}")
    return strides


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    pads: Pads,
    stride: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> torch.Tensor:
    """Convolution, padded by itself where both sides are equal."""
    top, bottom, left, right = pads
    if top != bottom or left != right:
        x = functional.pad(x, (left, right, top, bottom))
        top = left = 0
    return functional.conv2d(x, weight, bias, stride, (top, left), dilation, groups)


def convolution(t: Translator, op: Operator, depthwise: bool) -> None:
    op.check_counts((2, 3))
    options = op.options("DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
    weight = t.constant(op.kind, op.inputs[1])
    if weight.dim() != 4 or (depthwise and weight.shape[0] != 1):
        raise t.builder.error(f"{op.kind} must have weights of four dimensions")
    x = t.first(op.kind, op.inputs[0])
    channels = t.builder.shape(op.kind, x)[1]
    _, height, width, inner = weight.shape
    groups = channels // inner if not depthwise and inner and channels % inner == 0 else 1
    dilation = options.DilationHFactor(), options.DilationWFactor()
    function = partial(
        _convolve,
        pads=_pads(t, op, options, (height, width), dilation),
        stride=_strides(t, op, options),
        dilation=dilation,
        groups=channels if depthwise else groups,
    )
    order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
    laid = f"t{op.inputs[1]}_{op.kind}"
    if not t.builder.is_known(laid):
        t.builder.add(
            "weights", partial(torch.permute, dims=order), [t.plain("", op.inputs[1])], [laid]
        )
    inputs = [x, laid, *bias(t, op)]
    make(t, op, function, inputs, True, options.FusedActivationFunction())


def bias(t: Translator, op: Operator) -> list[str]:
    """The third input, if there is one."""
    if len(op.inputs) < 3 or op.inputs[2] < 0:
        return []
    return [t.plain(op.kind, op.inputs[2])]


def pool(t: Translator, op: Operator, average: bool) -> None:
    op.check_counts((1, 1))
    options = op.options("Pool2DOptions")
    kernel = options.FilterHeight(), options.FilterWidth()
    if min(kernel) < 1:
        raise t.builder.error(f"{op.kind} must have a window of at least 1, not {kernel}")
    pads = _pads(t, op, options, kernel)
    function = partial(
        _average_pool if average else _max_pool,
        kernel=kernel,
        stride=_strides(t, op, options),
        pads=pads,
    )
    inputs = [t.first(op.kind, op.inputs[0])]
    make(t, op, function, inputs, True, options.FusedActivationFunction())


def _average_pool(
    x: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], pads: Pads
) -> torch.Tensor:
    """The mean over what of each window lies inside."""
    top, bottom, left, right = pads
    if top == bottom and left == right and 2 * top <= kernel[0] and 2 * left <= kernel[1]:
        return functional.avg_pool2d(x, kernel, stride, (top, left), count_include_pad=False)
    sides = (left, right, top, bottom)
    sums = functional.avg_pool2d(functional.pad(x, sides), kernel, stride)
    inside = functional.avg_pool2d(
        functional.pad(torch.ones_like(x[:1, :1]), sides), kernel, stride
    )
    return sums / inside


def _max_pool(
    x: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], pads: Pads
) -> torch.Tensor:
    top, bottom, left, right = pads
    if top != bottom or left != right:
        x = functional.pad(x, (left, right, top, bottom), value=float("-inf"))
        top = left = 0
    return functional.max_pool2d(x, kernel, stride, (top, left))
