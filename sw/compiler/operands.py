"""A layer with its sizes, packed weights and parameters: what arranging and emitting need of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Function,
    Layer,
    Matmul,
    Plan,
    Shape,
    WordsOutput,
)
from sw.compiler.layout import (
    Layout,
    Panels,
    pack_parameters,
    pack_weights,
    uniform_parameters,
    zero_slices,
)
from sw.compiler.lowering import (
    Finish,
    PanelPlace,
    Piece,
    average,
    convolution,
    is_average,
)
from sw.compiler.nest import MAX_COUNT, cycles
from sw.compiler.quantize import add_shifts, clamp_word
from sw.config import MachineConfig
from sw.isa import Function as Code

_CODES = {
    Function.LINEAR: Code.LINEAR,
    Function.RELU: Code.RELU,
    Function.CLAMP: Code.CLAMP,
}


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """A layer.

    Parameters
    ----------
    layer : Layer
    step : int
        Index in the plan's steps.
    output : tuple of int
        Shape.
    reads : tuple of str
        Names of tensors, each once.
    writes : str
        Name of the output tensor; empty for a HostOutput.
    terms : int
        K of one product.
    panels : Panels or None
        Of a convolution.
    weights : NDArray or None
        Packed words.
    parameters : NDArray or None
        ``[entries, columns, 2]`` int32.
    zero_slices : int
        Of the weights' slices, those that are all zero.
    average : bool
        Whether it is done as a row of equal words times the image.
    function : Function
        The instruction's.
    clamp : int
    """

    layer: Layer
    step: int
    output: Shape
    reads: tuple[str, ...]
    writes: str
    terms: int
    panels: Panels | None = None
    weights: NDArray[Any] | None = None
    parameters: NDArray[np.int32] | None = None
    zero_slices: int = 0
    average: bool = False
    function: Code = Code.LINEAR
    clamp: int = 0

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def entries(self) -> int:
        """Parameter entries."""
        return 0 if self.parameters is None else len(self.parameters)

    @property
    def weight_words(self) -> int:
        """Words of packed weights."""
        return 0 if self.weights is None else len(self.weights)

    def too_long(self, config: MachineConfig) -> bool:
        """Whether the sums are longer than an accumulator, or a count, can be."""
        return self.terms > min(config.max_terms, MAX_COUNT)


def describe(layer: Layer, step: int, plan: Plan, whole: bool = True) -> Described:
    """All that follows from a layer alone.

    Parameters
    ----------
    layer : Layer
    step : int
        Its step.
    plan : Plan
    whole : bool
        Whether it is done in one piece; an average can only be done so.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or the border of its operand is too narrow.
    """
    match layer:
        case Convolution():
            return _convolution(layer, step, plan, whole)
        case Matmul():
            return _matmul(layer, step, plan)
        case Add():
            return _add(layer, step, plan)


def out_shape(layer: Convolution, a: ArrayTensor) -> Shape:
    """``[n, h, w, c]`` of a convolution's output."""
    groups, kh, kw, _, outputs = layer.weights.words.shape
    padding, dilation, stride = layer.padding, layer.dilation, layer.stride
    height = a.shape[1] + padding[0] + padding[1] - dilation[0] * (kh - 1) - 1
    width = a.shape[2] + padding[2] + padding[3] - dilation[1] * (kw - 1) - 1
    if height < 0 or width < 0:
        raise ValueError(
            f"{layer.name} must have a kernel within its padded input, not {kh} x {kw} "
            f"in {a.shape[1]} x {a.shape[2]}"
        )
    return a.shape[0], height // stride[0] + 1, width // stride[1] + 1, groups * outputs


def _border_read(layer: Convolution, a: ArrayTensor, output: Shape) -> tuple[int, int, int, int]:
    """How far windows reach beyond an image: the last may end before the padding does."""
    sides = []
    for axis in (0, 1):
        before = layer.padding[2 * axis]
        reach = layer.dilation[axis] * (layer.weights.words.shape[1 + axis] - 1) + 1
        end = (output[1 + axis] - 1) * layer.stride[axis] + reach - before
        sides += [before, max(0, end - a.shape[1 + axis])]
    return sides[0], sides[1], sides[2], sides[3]


def _convolution(layer: Convolution, step: int, plan: Plan, whole: bool) -> Described:
    config, a = plan.config, plan.tensors[layer.a]
    groups, kh, kw, inputs, _ = layer.weights.words.shape
    if a.shape[3] != groups * inputs:
        raise ValueError(f"{layer.name} must read {groups * inputs} channels, not {a.shape[3]}")
    output = out_shape(layer, a)
    read = _border_read(layer, a, output)
    if any(p > b for p, b in zip(read, a.border, strict=True)):
        raise ValueError(
            f"border of {a.name} must be at least {read} for {layer.name}, not {a.border}"
        )
    panels = Panels.of(layer.weights, config.columns)
    writes, code, clamp = _finish(layer, output, plan)
    use_average = whole and is_average(layer, a.shape)
    use_average = use_average and _average_is_faster(layer, panels, a, output, config)
    if use_average:  # one word, and what fills a slice
        word = layer.weights.words.reshape(-1)[:1].numpy()
        packed = np.concatenate([word, np.zeros(config.columns - 1, word.dtype)])
        zeros = 0
    else:
        packed = pack_weights(layer.weights, panels)
        zeros = zero_slices(packed, config)
    parameters = None
    if writes:
        parameters = pack_parameters(layer, panels, a, plan.tensors[writes], config)
        parameters = parameters if parameters.any() else None
    return Described(
        layer,
        step,
        output,
        (layer.a,),
        writes,
        kh * kw * (1 if use_average else panels.together * inputs),
        panels,
        packed,
        parameters,
        zeros,
        use_average,
        code,
        clamp,
    )


def _average_is_faster(
    layer: Convolution, panels: Panels, a: ArrayTensor, output: Shape, config: MachineConfig
) -> bool:
    finish = Finish(None, output)
    place = Layout(a.shape, a.border).place(0)
    kh, kw = panels.kernel
    whole = Piece(
        range(a.shape[0]),
        range(1),
        range(1),
        range(1),
        range(min(config.columns, a.shape[3])),
        range(kh),
        range(kw),
        range(min(panels.together, a.shape[3])),
    )
    diagonal = convolution(layer, panels, whole, place, PanelPlace(0, 0, 0, 0), finish)
    ones = average(layer, config.columns, place, a.shape, 0, finish)
    return cycles(ones, config) < panels.count * cycles(diagonal, config)


def _matmul(layer: Matmul, step: int, plan: Plan) -> Described:
    config, a, b = plan.config, plan.tensors[layer.a], plan.tensors[layer.b]
    terms, columns = b.shape[2:] if not layer.transposed else (b.shape[3], b.shape[2])
    if a.shape[3] != terms or a.shape[0] != b.shape[0] * layer.repeat:
        raise ValueError(
            f"{layer.name} must multiply matching shapes, not {a.shape} and {b.shape} "
            f"with repeat {layer.repeat}"
        )
    output = (a.shape[0], 1, a.shape[2], columns)
    writes, code, clamp = _finish(layer, output, plan)
    parameters = None
    if writes:
        exponents = plan.tensors[writes].exponent, a.exponent, b.exponent
        shift = _shift(layer.name, *exponents)
        if shift:
            tiles = -(-columns // config.columns)
            parameters = uniform_parameters(shift, tiles, config)
    return Described(
        layer,
        step,
        output,
        tuple(dict.fromkeys((layer.a, layer.b))),
        writes,
        terms,
        parameters=parameters,
        function=code,
        clamp=clamp,
    )


def _add(layer: Add, step: int, plan: Plan) -> Described:
    config, a, b = plan.config, plan.tensors[layer.a], plan.tensors[layer.b]
    if a.shape != b.shape:
        raise ValueError(f"{layer.name} must add tensors of one shape, not {a.shape} and {b.shape}")
    writes, code, clamp = _finish(layer, a.shape, plan)
    *_, common = add_shifts(layer, plan.tensors, config)
    exponent = plan.tensors[writes].exponent
    assert exponent is not None
    shift = exponent - common
    return Described(
        layer,
        step,
        a.shape,
        tuple(dict.fromkeys((layer.a, layer.b))),
        writes,
        2 * add_lanes(config),
        parameters=uniform_parameters(shift, 1, config) if shift else None,
        function=code,
        clamp=clamp,
    )


def add_lanes(config: MachineConfig) -> int:
    """Columns that an addition uses: a sum has two terms for each."""
    return min(config.columns, config.max_terms // 2)


def _finish(layer: Layer, output: Shape, plan: Plan) -> tuple[str, Code, int]:
    """Name of the output tensor (or nothing), activation and its largest word."""
    if not isinstance(layer.output, WordsOutput):
        return "", Code.LINEAR, 0
    tensor = plan.tensors[layer.output.tensor]
    if tensor.shape != output:
        raise ValueError(f"{tensor.name} must have the shape {output}, not {tensor.shape}")
    if tensor.exponent is None:
        raise ValueError(f"{tensor.name} must have a static exponent as {layer.name} makes it")
    clamp = 0
    if layer.output.function == Function.CLAMP:
        clamp = clamp_word(layer.output, tensor.exponent, plan.config)
    return tensor.name, _CODES[layer.output.function], clamp


def _shift(name: str, out: int | None, a: int | None, b: int | None) -> int:
    if out is None or a is None or b is None:
        raise ValueError(f"{name} must have static exponents as it makes words")
    return out - a - b
