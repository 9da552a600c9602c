"""What the array computes for a layer, on any device: words times words, exact, rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sw.format import SFx
from sw.scale import MAX_SPREAD
from sw.tensor import encode, expand_blocks, exponents, limit_spread, matmul, to_binary32
from sw.wasq.config import ActivationScale, LayerConfig
from sw.wasq.weights import QuantizedWeight


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedActivation:
    """Activations as words.

    Parameters
    ----------
    words : torch.Tensor of uint8 or uint16 ``[M, K]``
    exponents : torch.Tensor of int64
        ``[]`` for "none" and "tensor", ``[M, 1]`` for "token", ``[M, B]`` for "block".
    format : SFx
    scale : {"none", "tensor", "token", "block"}
    """

    words: torch.Tensor
    exponents: torch.Tensor
    format: SFx
    scale: ActivationScale


def quantize_activation(
    x: torch.Tensor, config: LayerConfig, static: torch.Tensor | None = None, name: str = "input"
) -> QuantizedActivation:
    """Round activations to nearest.

    Parameters
    ----------
    x : torch.Tensor of float32 ``[M, K]``
    config : LayerConfig
        With a width for activations.
    static : torch.Tensor of int64, optional
        Calibrated exponents: ``[]``, or ``[B]`` for "block".
    name : str

    Raises
    ------
    ValueError
        If a value is NaN or, with dynamic exponents, infinite.
    """
    form = config.activation_format
    assert form is not None
    scale = config.activation_scale
    if scale == "none":
        found = torch.zeros((), dtype=torch.int64, device=x.device)
    elif static is not None:
        found = static.expand(x.shape[0], -1) if scale == "block" else static
    else:
        found = exponents(x, form, scale, name=name)
    if scale == "block":
        found, _ = limit_spread(found, MAX_SPREAD)
    spread = expand_blocks(found, x.shape[1]) if scale == "block" else found
    return QuantizedActivation(encode(x, form, spread, name=name), found, form, scale)


def product(a: QuantizedActivation, b: QuantizedWeight) -> torch.Tensor:
    """``a @ b.T`` exactly, rounded once to binary32: float32 ``[M, N]``. The definition.

    Faster ways are proven equal to it.
    """
    fraction_bits = a.format.fraction_bits + b.format.fraction_bits
    transposed = b.words.T.contiguous()
    if "block" not in (a.scale, b.scale):
        sums = matmul(a.words, transposed, a.format, b.format, output="exact")
        both = a.exponents + b.exponents.reshape(1, -1)
        return to_binary32(sums, fraction_bits, both if both.numel() > 1 else both.reshape(()))
    blocks = -(-a.words.shape[1] // 32)
    rows, columns = a.exponents, b.exponents
    rows = rows if a.scale == "block" else rows.reshape(-1, 1).expand(a.words.shape[0], blocks)
    columns = (
        columns if b.scale == "block" else columns.reshape(-1, 1).expand(b.words.shape[0], blocks)
    )
    sums = matmul(
        a.words,
        transposed,
        a.format,
        b.format,
        output="exact",
        block=32,
        row_shift=-rows,
        column_shift=-columns.T,
    )
    return to_binary32(sums, fraction_bits)


def linear(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    config: LayerConfig,
    static: torch.Tensor | None = None,
    name: str = "input",
) -> torch.Tensor:
    """A layer on ``[..., K]``, float32 ``[..., N]``; float activations by torch in float32."""
    rows = x.reshape(-1, x.shape[-1]).float()
    if config.activations is None:
        y = torch.nn.functional.linear(rows, weight.dequantize(), bias)
    else:
        y = product(quantize_activation(rows, config, static, name), weight)
        y = y if bias is None else y + bias
    return y.reshape(*x.shape[:-1], y.shape[-1])
