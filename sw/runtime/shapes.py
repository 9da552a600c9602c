"""Shapes that follow from a layer and its operands."""

from __future__ import annotations

from collections.abc import Mapping

from sw.compiler.layers import Add, ArrayTensor, Convolution, Layer, Shape


def output_shape(layer: Layer, tensors: Mapping[str, ArrayTensor]) -> Shape:
    """``[n, h, w, c]`` of a layer's result, words or sums."""
    n, height, width, channels = tensors[layer.a].shape
    if isinstance(layer, Add):
        return n, height, width, channels
    if isinstance(layer, Convolution):
        top, bottom, left, right = layer.padding
        kernel = layer.weights.words.shape[1:3]
        padded = (height + top + bottom, width + left + right)
        sides = [
            (size - dilation * (taps - 1) - 1) // stride + 1
            for size, taps, stride, dilation in zip(
                padded, kernel, layer.stride, layer.dilation, strict=True
            )
        ]
        return n, sides[0], sides[1], layer.weights.exponents.numel()
    b = tensors[layer.b].shape
    return n, height, width, b[2] if layer.transposed else b[3]
