"""What the array computes for a layer, on any device: words times words, exact, rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sw.format import SFx
from sw.scale import MAX_SPREAD
from sw.tensor import encode, expand_blocks, exponents, limit_spread, matmul, to_binary32
from sw.wasq.config import ActivationScale, LayerConfig
from sw.wasq.gemm import Operand, multiply, way
from sw.wasq.rounding import Faults, round_rows
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


def product(
    a: QuantizedActivation, b: QuantizedWeight, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``a @ b.T + bias`` exactly, rounded once to binary32: float32 ``[M, N]``. The definition.

    Faster ways are proven equal to it.
    """
    fraction_bits = a.format.fraction_bits + b.format.fraction_bits
    transposed = b.words.T.contiguous()
    if "block" not in (a.scale, b.scale):
        sums = matmul(a.words, transposed, a.format, b.format, output="exact")
        both = a.exponents + b.exponents.reshape(1, -1)
        both = both.reshape(()) if both.numel() == 1 else both
        return to_binary32(sums, fraction_bits, both, bias)
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
    return to_binary32(sums, fraction_bits, bias=bias)


def linear(
    x: torch.Tensor,
    weight: QuantizedWeight,
    bias: torch.Tensor | None,
    config: LayerConfig,
    static: torch.Tensor | None = None,
    name: str = "input",
    *,
    operand: Operand | None = None,
    faults: Faults | None = None,
) -> torch.Tensor:
    """A layer on ``[..., K]``, float32 ``[..., N]``; float activations by torch in float32.

    Parameters
    ----------
    x : torch.Tensor ``[..., K]``
    weight : QuantizedWeight
    bias : torch.Tensor of float32 ``[N]``, optional
        Added before the one rounding.
    config, static, name
        As for :func:`quantize_activation`.
    operand : Operand, optional
        The weight made ready, kept by the caller from call to call.
    faults : Faults, optional
        Collects rows that are refused, so that a device need not be waited for; if omitted they
        raise ValueError here.

    Raises
    ------
    ValueError
        As :func:`quantize_activation`.
    """
    rows = x.detach().reshape(-1, x.shape[-1]).float()
    ready = Operand(weight) if operand is None else operand
    if config.activations is None:
        y = torch.nn.functional.linear(rows, ready.values(torch.float32), bias)
    else:
        y = _fast(rows, ready, bias, config, static, name, faults)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _fast(
    rows: torch.Tensor,
    ready: Operand,
    bias: torch.Tensor | None,
    config: LayerConfig,
    static: torch.Tensor | None,
    name: str,
    faults: Faults | None,
) -> torch.Tensor:
    """By floating point where that is proven exact, else by the definition."""
    form, weight = config.activation_format, ready.weight
    assert form is not None
    scale = config.activation_scale
    bits = form.fraction_bits + weight.format.fraction_bits
    widest = max(form.bits, weight.format.bits)
    kind, terms = rows.device.type, rows.shape[1]
    # What is proven for any spread of a row's blocks needs no look at this one's.
    most = MAX_SPREAD if scale == "block" else 0
    how = way(bits, widest, terms, most + ready.spread, kind)
    counter = None
    if faults is not None and kind != "cpu":
        counter = faults.counter(name, rows.device)
    if how is None:
        most = _spread(rows, config, static)
        how = way(bits, widest, terms, most + ready.spread, kind)
    if how is not None and ready.in_range and rows.numel():
        rounded = round_rows(rows, form, scale, static, how.dtype, counter)
        if rounded is not None:
            return multiply(rounded, ready.values(how.dtype).T, how, bias)
    return product(quantize_activation(rows, config, static, name), weight, bias)


def _spread(rows: torch.Tensor, config: LayerConfig, static: torch.Tensor | None) -> int:
    """How far apart the exponents of a row's blocks really lie, at most; waits for the device."""
    form = config.activation_format
    assert form is not None
    if config.activation_scale != "block" or not bool(torch.isfinite(rows).all()):
        return MAX_SPREAD
    found = exponents(rows, form, "block") if static is None else static[None]
    return min(MAX_SPREAD, int((found.amax(-1) - found.amin(-1)).max()))
