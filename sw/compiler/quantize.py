"""Weights, biases and the drain's numbers of a layer, in the machine's format."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Function,
    Layer,
    Weights,
    WordsOutput,
)
from sw.compiler.options import CompileOptions
from sw.config import MachineConfig
from sw.format import SFx
from sw.scale import power_of_two
from sw.tensor import decode, encode, exponents


def quantize_weights(
    weight: torch.Tensor, bias: torch.Tensor | None, groups: int, options: CompileOptions, name: str
) -> Weights:
    """A float weight as the constant operand of a convolution.

    Parameters
    ----------
    weight : torch.Tensor of float
        ``[out channels, in channels / groups, kernel height, kernel width]``, finite.
    bias : torch.Tensor of float or None
        ``[out channels]``, finite.
    groups : int
    options : CompileOptions
    name : str
        What an error calls the weight.

    Raises
    ------
    ValueError
        If a weight or a bias is NaN or infinite.
    """
    weight = weight.detach().to(torch.float32).contiguous()
    if bias is not None:
        bias = bias.detach().to(torch.float32).contiguous()
        bad = int((~torch.isfinite(bias)).sum())
        if bad:
            raise ValueError(
                f"bias of {name} must hold finite numbers, not NaN or infinity in {bad} places"
            )
    called = f"weight of {name}"
    narrow = options.weight_format
    scales = exponents(
        weight, narrow, options.weight_granularity, options.weight_rule, name=called
    ).expand(weight.shape[0], 1, 1, 1)
    words = widen(encode(weight, narrow, scales, name=called), narrow, options.machine.format)
    return Weights(group_weights(words, groups), scales.reshape(-1).clone(), bias)


def widen(words: torch.Tensor, narrow: SFx, wide: SFx) -> torch.Tensor:
    """Words of a format as those of one at least as wide with the same values."""
    return words if narrow == wide else encode(decode(words, narrow), wide)


def group_weights(words: torch.Tensor, groups: int) -> torch.Tensor:
    """``[out, in / groups, h, w]`` as ``[groups, h, w, in / groups, out / groups]``."""
    out, channels, height, width = words.shape
    grouped = words.reshape(groups, out // groups, channels, height, width)
    return grouped.permute(0, 3, 4, 2, 1).contiguous()


def exponent_of(tensors: Mapping[str, ArrayTensor], name: str) -> int:
    """The static exponent of a tensor.

    Raises
    ------
    ValueError
        If it has none.
    """
    exponent = tensors[name].exponent
    if exponent is None:
        raise ValueError(f"{name} must have a static exponent")
    return exponent


def column_parameters(
    layer: Layer, tensors: Mapping[str, ArrayTensor], config: MachineConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the drain adds to and divides each output channel by, for a layer that makes words.

    Returns
    -------
    biases : torch.Tensor of uint8 or uint16 ``[out channels]``
        Words of ``config.bias_format``.
    shifts : torch.Tensor of int64 ``[out channels]``
        The column part of the shift, -128 to 127; the row part is 0.
    """
    if not isinstance(layer.output, WordsOutput):
        raise ValueError(f"{layer.name} must make words to have drain parameters")
    out = exponent_of(tensors, layer.output.tensor)
    channels = tensors[layer.output.tensor].shape[3]
    bias = torch.zeros(channels)
    if isinstance(layer, Convolution):
        scales = exponent_of(tensors, layer.a) + layer.weights.exponents
        bias = bias if layer.weights.bias is None else layer.weights.bias
    elif isinstance(layer, Add):
        _, _, common = add_shifts(layer, tensors, config)
        scales = torch.full((channels,), common)
    else:
        both = exponent_of(tensors, layer.a) + exponent_of(tensors, layer.b)
        scales = torch.full((channels,), both)
    words = encode(bias, config.bias_format, out, name=f"bias of {layer.name}")
    return words, drain_shifts(out - scales.to(torch.int64), config)


def drain_shifts(shifts: torch.Tensor, config: MachineConfig) -> torch.Tensor:
    """Shifts that give the same words (the contract) and fit the 8 bits of a column's part."""
    return shifts.clamp(-(2 * config.format.fraction_bits + 1), config.accumulator_bits)


def clamp_word(output: WordsOutput, exponent: int, config: MachineConfig) -> int:
    """The register CLAMP for a layer's output: all ones, which limits nothing, if it has none."""
    if output.function != Function.CLAMP:
        return config.format.max_code
    limit = max(output.clamp, 0.0)
    return int(encode(torch.tensor(limit), config.format, exponent, name="clamp"))


def add_shifts(
    layer: Add, tensors: Mapping[str, ArrayTensor], config: MachineConfig
) -> tuple[int, int, int]:
    """The identity's shifts S of both operands of an addition, and the exponent M of its sums.

    Each operand is multiplied by the identity's ``2**-S``; sums count in units of ``2**M``.

    Raises
    ------
    ValueError
        If no entry of the machine's identity is as small.
    """
    both = exponent_of(tensors, layer.a), exponent_of(tensors, layer.b)
    common = max(both) + (0 if config.unity else 1)
    shifts = common - both[0], common - both[1]
    if max(shifts) > min(15, config.format.fraction_bits):
        raise ValueError(
            f"operands of {layer.name} must have exponents at most "
            f"{config.format.fraction_bits} below {common}, not {max(shifts)}"
        )
    return *shifts, common


def identity_word(shift: int, config: MachineConfig) -> int:
    """The word of ``2**-shift`` in the machine's identity."""
    return config.format.encode(power_of_two(-shift))
