"""What a layer means: from words to words or exact sums, without addresses.

The definition that machines are compared with. Sums are exact integers, whatever their order, so
that it does not matter how a machine walks through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import torch

from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Function,
    Granularity,
    Layer,
    Matmul,
    Plan,
    WordsOutput,
)
from sw.compiler.quantize import (
    add_shifts,
    clamp_word,
    column_parameters,
    exponent_of,
    identity_word,
)
from sw.config import MachineConfig
from sw.drain import drain
from sw.format import Activation
from sw.matmul import multiply
from sw.runtime.shapes import output_shape
from sw.tensor import decode, encode, exponents, matmul, to_binary32
from sw.words import check_words, narrow, operands, widen

#: Words of patches that a convolution gathers at once.
_PATCH_WORDS: Final = 1 << 24


def upload(
    value: torch.Tensor, tensor: ArrayTensor, config: MachineConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """The words of a host's value.

    Parameters
    ----------
    value : torch.Tensor of float
        ``[n, h, w, c]``, see :meth:`sw.compiler.layers.View.to_array`.
    tensor : ArrayTensor
    config : MachineConfig

    Returns
    -------
    words : torch.Tensor of uint8 or uint16 ``[n, h, w, c]``
    exponents : torch.Tensor of int64
        Broadcastable to the words: 0-d for TENSOR, ``[n, h, w, 1]`` for ROW, ``[n, 1, 1, c]`` for
        COLUMN.

    Raises
    ------
    ValueError
        If the shape differs, a value is NaN, or one is infinite and the exponent dynamic.
    """
    if tuple(value.shape) != tensor.shape:
        raise ValueError(f"{tensor.name} must have shape {tensor.shape}, not {tuple(value.shape)}")
    value = value.to(torch.float32).contiguous()
    if tensor.exponent is not None:
        found = torch.tensor(tensor.exponent)
    elif tensor.granularity == Granularity.TENSOR:
        found = exponents(value, config.format, name=tensor.name)
    else:
        dim = 3 if tensor.granularity == Granularity.ROW else (1, 2)
        found = exponents(value, config.format, dim=dim, name=tensor.name)
    return encode(value, config.format, found, name=tensor.name), found


def download(words: torch.Tensor, tensor: ArrayTensor, config: MachineConfig) -> torch.Tensor:
    """The values of a tensor with a static exponent, float32 ``[n, h, w, c]``."""
    if tensor.exponent is None:
        raise ValueError(f"{tensor.name} must have a static exponent")
    return decode(words, config.format, tensor.exponent)


def compute(layer: Layer, plan: Plan, words: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A layer's result.

    Parameters
    ----------
    layer : Layer
    plan : Plan
        For its tensors and configuration; the layer need not be in it.
    words : mapping of str to torch.Tensor of uint8 or uint16
        ``[n, h, w, c]`` of every tensor that the layer reads, without border.

    Returns
    -------
    torch.Tensor ``[n, h, w, c]``
        Words for a WordsOutput; exact sums, int64 in units of ``2**-2F``, for a HostOutput.

    Raises
    ------
    ValueError
        If a shape is not what the plan says, or a word is not of the format.
    """
    if isinstance(layer.output, WordsOutput):
        return layer_words(layer, plan, words)
    return layer_sums(layer, plan, words)


def layer_words(layer: Layer, plan: Plan, words: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The words of a layer with a WordsOutput: see :func:`compute`."""
    _check_operands(layer, plan, words)
    if isinstance(layer, Add) or (isinstance(layer, Convolution) and _is_depthwise(layer)):
        return drain_sums(layer, plan, layer_sums(layer, plan, words))
    if isinstance(layer, Matmul):
        parts = [_factors(layer, words)]
    else:
        parts = list(_patches(layer, plan, words[layer.a]))
    drained = [_drained_product(layer, plan, left, right) for left, right in parts]
    return _gathered(layer, plan, drained)


def layer_sums(layer: Layer, plan: Plan, words: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The exact sums of any layer, int64 in units of ``2**-2F``: see :func:`compute`."""
    _check_operands(layer, plan, words)
    f = plan.config.format
    if isinstance(layer, Add):
        return _add(layer, plan, words)
    if isinstance(layer, Matmul):
        parts = [_factors(layer, words)]
    elif _is_depthwise(layer):
        return _depthwise(layer, plan, words[layer.a])
    else:
        parts = list(_patches(layer, plan, words[layer.a]))
    return _gathered(layer, plan, [multiply(left, right, f, f) for left, right in parts])


def drain_sums(layer: Layer, plan: Plan, sums: torch.Tensor) -> torch.Tensor:
    """The words of a layer with a WordsOutput from its exact sums ``[n, h, w, c]``."""
    output = _words_output(layer)
    biases, shifts = column_parameters(layer, plan.tensors, plan.config)
    rows = drain(
        sums.reshape(-1, sums.shape[3]),
        plan.config.format,
        column_shift=shifts,
        bias=biases,
        bias_format=plan.config.bias_format,
        activation=_activation(output),
    )
    return _limit(output, plan, rows.reshape(sums.shape))


def to_host(
    layer: Layer,
    sums: torch.Tensor,
    a_exponents: torch.Tensor,
    b_exponents: torch.Tensor | None,
    config: MachineConfig,
) -> torch.Tensor:
    """The host's end of a HostOutput: scale and bias, rounded once to binary32, nearest even.

    Parameters
    ----------
    layer : Convolution or Matmul
    sums : torch.Tensor of int64 ``[n, h, w, c]``
        From :func:`compute`.
    a_exponents, b_exponents : torch.Tensor of int64
        As :func:`upload` gives them, or 0-d; ``b_exponents`` None for a convolution.
    config : MachineConfig

    Returns
    -------
    torch.Tensor of float32 ``[n, h, w, c]``
    """
    bias = None
    if isinstance(layer, Convolution):
        scales = a_exponents + layer.weights.exponents
        bias = layer.weights.bias
    elif isinstance(layer, Matmul) and b_exponents is not None:
        if b_exponents.dim():
            shared = b_exponents.mT if layer.transposed else b_exponents
            b_exponents = shared.repeat_interleave(layer.repeat, dim=0)
        scales = a_exponents + b_exponents
    else:
        raise ValueError(f"{layer.name} must have exponents of both operands")
    return to_binary32(sums, 2 * config.format.fraction_bits, scales, bias)


def factors(
    layer: Convolution | Matmul, plan: Plan, words: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer multiplies.

    Parameters
    ----------
    layer : Convolution or Matmul
    plan : Plan
    words : mapping of str to torch.Tensor of uint8 or uint16
        ``[n, h, w, c]`` of every tensor that the layer reads, without border.

    Returns
    -------
    a : torch.Tensor ``[groups, M, K]``
        Words; a convolution's patches, zeros of its border among them.
    b : torch.Tensor ``[groups, K, N]``
    """
    _check_operands(layer, plan, words)
    if isinstance(layer, Matmul):
        return _factors(layer, words)
    parts = list(_patches(layer, plan, words[layer.a]))
    return torch.cat([left for left, _ in parts], dim=1), parts[0][1]


def _check_operands(layer: Layer, plan: Plan, words: Mapping[str, torch.Tensor]) -> None:
    for name in (layer.a,) if isinstance(layer, Convolution) else (layer.a, layer.b):
        want, given = plan.tensors[name].shape, tuple(words[name].shape)
        if want != given:
            raise ValueError(f"{name} must have shape {want}, not {given}")


def _is_depthwise(layer: Convolution) -> bool:
    groups, _, _, channels, _ = layer.weights.words.shape
    return groups > 1 and channels == 1


def _patches(
    layer: Convolution, plan: Plan, words: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """What output pixels read, ``[groups, pixels, K]``, some images at a time, and the weights."""
    groups, height, width, channels, out = layer.weights.words.shape
    weights = layer.weights.words.reshape(groups, -1, out)
    n, rows, columns, _ = output_shape(layer, plan.tensors)
    (down, across), (below, beside) = layer.stride, layer.dilation
    inner = height * width * channels
    step = max(1, _PATCH_WORDS // max(rows * columns * groups * inner, 1))
    for first in range(0, n, step):
        padded = _pad(words[first : first + step], layer.padding)
        image, line, pixel, _ = padded.stride()
        windows = padded.as_strided(
            (groups, len(padded), rows, columns, height, width, channels),
            (channels, image, line * down, pixel * across, line * below, pixel * beside, 1),
        )
        yield windows.reshape(groups, -1, inner), weights


def _pad(words: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """Words with rows and columns of zeros around every image, contiguous."""
    top, bottom, left, right = padding
    n, h, w, c = words.shape
    if not any(padding):
        return words.contiguous()
    padded = torch.zeros((n, h + top + bottom, w + left + right, c), dtype=words.dtype)
    padded[:, top : top + h, left : left + w] = words
    return padded


def _factors(layer: Matmul, words: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Both operands; what shares one b is one matrix."""
    n, _, rows, inner = words[layer.a].shape
    a = words[layer.a].reshape(n // layer.repeat, layer.repeat * rows, inner)
    b = words[layer.b][:, 0]
    return a, b.mT if layer.transposed else b


def _drained_product(
    layer: Convolution | Matmul, plan: Plan, left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Words ``[groups, M, N]`` of a product, drained as it is made."""
    config, output = plan.config, _words_output(layer)
    biases, shifts = column_parameters(layer, plan.tensors, config)
    groups = layer.weights.words.shape[0] if isinstance(layer, Convolution) else 1
    words = matmul(
        left,
        right,
        config.format,
        bias=biases.reshape(groups, -1),
        bias_format=config.bias_format,
        column_shift=shifts.reshape(groups, -1),
        activation=_activation(output),
        max_terms=max(left.shape[-1], 2),
    )
    assert isinstance(words, torch.Tensor)
    return _limit(output, plan, words)


def _gathered(layer: Convolution | Matmul, plan: Plan, parts: list[torch.Tensor]) -> torch.Tensor:
    """Products ``[groups, pixels, channels]``, or ``[n, M, N]``, as ``[n, h, w, c]``."""
    if isinstance(layer, Convolution):
        parts = [part.permute(1, 0, 2) for part in parts]
    return torch.cat(parts).reshape(output_shape(layer, plan.tensors))


def _depthwise(layer: Convolution, plan: Plan, words: torch.Tensor) -> torch.Tensor:
    """Exact sums where every group has one channel: one pass per element of the kernel."""
    f = plan.config.format
    groups, height, width, _, out = layer.weights.words.shape
    n, rows, columns, _ = shape = output_shape(layer, plan.tensors)
    check_words(layer.a, words, f)
    values = operands(_pad(words, layer.padding), f)
    weights = operands(layer.weights.words, f).to(torch.int64)
    image, line, pixel, _ = values.stride()
    (down, across), (below, beside) = layer.stride, layer.dilation
    sums = torch.zeros((n, rows, columns, groups, out), dtype=torch.int64)
    for i in range(height):
        for j in range(width):
            tap = values.as_strided(
                (n, rows, columns, groups, 1),
                (image, line * down, pixel * across, 1, 1),
                i * below * line + j * beside * pixel,
            )
            sums += tap * weights[:, i, j, 0, :]
    return sums.reshape(shape)


def _add(layer: Add, plan: Plan, words: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The machine's ADD: products with entries of its identity, added exactly."""
    f = plan.config.format
    sums = torch.zeros(plan.tensors[layer.a].shape, dtype=torch.int64)
    *shifts, _ = add_shifts(layer, plan.tensors, plan.config)
    for name, shift in zip((layer.a, layer.b), shifts, strict=True):
        check_words(name, words[name], f)
        entry = f.operand(identity_word(shift, plan.config))
        sums += operands(words[name], f).to(torch.int64) * entry
    return sums


def _words_output(layer: Layer) -> WordsOutput:
    if not isinstance(layer.output, WordsOutput):
        raise ValueError(f"{layer.name} must make words, not exact sums")
    return layer.output


def _activation(output: WordsOutput) -> Activation:
    return "linear" if output.function == Function.LINEAR else "relu"


def _limit(output: WordsOutput, plan: Plan, words: torch.Tensor) -> torch.Tensor:
    """What CLAMP does to words of ReLU: encoding is monotonic, so words keep the limit's order."""
    if output.function != Function.CLAMP:
        return words
    limit = clamp_word(output, exponent_of(plan.tensors, output.tensor), plan.config)
    return narrow(widen(words).clamp(max=limit), plan.config.format)
