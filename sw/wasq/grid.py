"""Rounding to the values of SFx in plain tensor operations, on any device, without a wait.

:func:`sw.tensor.fake_quantize` is the definition and refuses NaN, for which a GPU must be waited
for. Methods that round millions of times use these; they differ from it at most where a value lies
within a rounding error of float32 of a tie.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.wasq.config import ActivationScale, LayerConfig


def snap(units: torch.Tensor, form: SFx) -> torch.Tensor:
    """The nearest operand of a format, signed, of values in units of ``2**-fraction_bits``.

    Under unity the operands are 0 to ``2**F - 2`` and ``2**F``; without it, 0 to ``2**F - 1``.
    """
    top = 1 << form.fraction_bits
    if not form.unity:
        return torch.round(units).clamp_(1 - top, top - 1)
    inner = torch.round(units).clamp_(2 - top, top - 2)
    return torch.where(units.abs() >= top - 1, torch.sign(units) * top, inner)


def unit(exponents: torch.Tensor, form: SFx) -> torch.Tensor:
    """``2**(e - fraction_bits)``, float32: what one step of the magnitude is worth.

    Made from the exponent's bits, so that it is exact everywhere; at least ``2**-126``.
    """
    biased = (exponents.to(torch.int32) - form.fraction_bits + 127).clamp(1, 254)
    return (biased << 23).view(torch.float32)


def largest_exponent(largest: torch.Tensor, form: SFx) -> torch.Tensor:
    """The exponent by maximum, int64, of groups whose largest magnitudes are given."""
    fraction, top = torch.frexp(largest)
    if form.unity:
        top = top - (fraction == 0.5).to(top.dtype)
    return torch.where(largest > 0, top, 0).long()


def dynamic_units(x: torch.Tensor, form: SFx, scale: ActivationScale) -> torch.Tensor:
    """Units of activations ``[..., K]`` with exponents found by maximum, broadcasting to them."""
    terms = x.shape[-1]
    if scale == "none":
        return unit(torch.zeros((), dtype=torch.int64, device=x.device), form)
    if scale == "tensor":
        return unit(largest_exponent(x.abs().amax(), form), form)
    if scale == "token":
        return unit(largest_exponent(x.abs().amax(-1, keepdim=True), form), form)
    padded = functional.pad(x.abs(), (0, -terms % BLOCK))
    found = largest_exponent(padded.reshape(*x.shape[:-1], -1, BLOCK).amax(-1), form)
    found = torch.maximum(found, found.amax(-1, keepdim=True) - MAX_SPREAD)
    return unit(found, form).repeat_interleave(BLOCK, -1)[..., :terms]


def round_activations(
    x: torch.Tensor, config: LayerConfig, static: torch.Tensor | None = None
) -> torch.Tensor:
    """What a layer sees of its input ``[..., K]``; straight-through inside the range, 0 outside.

    Parameters
    ----------
    x : torch.Tensor of float32
    config : LayerConfig
    static : torch.Tensor of int64, optional
        Exponents ``[]`` or, per block, ``[B]``; by maximum if omitted.
    """
    form = config.activation_format
    if form is None:
        return x
    with torch.no_grad():
        if static is None:
            units = dynamic_units(x, form, config.activation_scale)
        else:
            units = unit(static, form)
            if static.dim():
                units = units.repeat_interleave(BLOCK)[: x.shape[-1]]
        values = snap(x / units, form) * units
    if not x.requires_grad:
        return values
    if static is not None or config.activation_scale == "none":
        limit = units * (1 << form.fraction_bits)
        x = torch.minimum(torch.maximum(x, -limit), limit)
    return x + (values - x).detach()


def round_weights(weight: torch.Tensor, config: LayerConfig) -> torch.Tensor:
    """A weight ``[N, K]`` rounded to nearest with the exponents that the rule finds.

    As :func:`sw.wasq.weights.quantize_weight` followed by ``dequantize``, but for errors that
    differ by less than float32 sums tell, and for spreads within a row.
    """
    form, scale = config.weight_format, config.weight_scale
    if form is None:
        return weight
    terms = weight.shape[1]
    if scale == "none":
        units = unit(torch.zeros((), dtype=torch.int64, device=weight.device), form)
        return snap(weight / units, form) * units
    if scale == "tensor":
        groups = weight.reshape(1, -1)
    elif scale == "channel":
        groups = weight
    else:
        groups = functional.pad(weight, (0, -terms % BLOCK)).reshape(len(weight), -1, BLOCK)
    highest = largest_exponent(groups.abs().amax(-1, keepdim=True), form)
    values = least = None
    for step in range(3 if config.weight_rule == "squared_error" else 1):
        units = unit(highest - step, form)
        tried = snap(groups / units, form) * units
        error = (tried - groups).square().sum(-1, keepdim=True)
        if values is None or least is None:
            values, least = tried, error
        else:
            values = torch.where(error < least, tried, values)
            least = torch.minimum(error, least)
    assert values is not None
    return values.reshape(len(weight), -1)[:, :terms]
