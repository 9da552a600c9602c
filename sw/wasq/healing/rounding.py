"""Rounding to Superfloat for training: the same values as :func:`sw.tensor.fake_quantize`.

Plain operations that never wait for a device: NaN is not refused here, it shows in the loss.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from sw.arrays import powers_of_two
from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.wasq.config import ActivationScale

#: Smaller exponents count as this one: their values are below 1e-30.
_LEAST: Final = -100


class _Round(torch.autograd.Function):
    """Nearest, ties away from zero, as ``sw.format`` has it; gradient 1 inside, 0 outside."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, scale: torch.Tensor, format: SFx) -> torch.Tensor:
        top = float(2 * format.max_code)
        magnitude = x.abs()
        context.save_for_backward(magnitude <= scale)
        # Half units, truncated: scaling by a power of two is exact, and so is all after it.
        halves = (magnitude * (2.0 * format.sign_bit / scale)).clamp_(max=top).floor_()
        rounded = ((halves + 1) * 0.5).floor_()
        if format.unity:  # saturation is 1; rounding stops one code below
            rounded += (halves == top).to(rounded.dtype)
            rounded -= (halves == top - 1).to(rounded.dtype)
        return torch.copysign(rounded, x).mul_(scale / format.sign_bit)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inside,) = context.saved_tensors
        return gradients[0] * inside, None, None


def scales(exponents: torch.Tensor) -> torch.Tensor:
    """``2**exponents``, float32."""
    return powers_of_two(exponents.clamp(min=_LEAST)).float()


def round_in_blocks(x: torch.Tensor, scale: torch.Tensor, format: SFx) -> torch.Tensor:
    """``x [..., K]`` rounded with one scale per 32 values, ``[..., B]``."""
    length = x.shape[-1]
    if length % BLOCK:
        wide = scale.repeat_interleave(BLOCK, -1)[..., :length]
        return round_to(x, wide, format)
    parts = x.reshape(*x.shape[:-1], -1, BLOCK)
    return round_to(parts, scale[..., None], format).reshape(x.shape)


def round_to(x: torch.Tensor, scale: torch.Tensor, format: SFx) -> torch.Tensor:
    """``x`` as words of the format times a scale, a power of two; differentiable.

    Parameters
    ----------
    x : torch.Tensor of float32
    scale : torch.Tensor of float32
        Broadcastable to ``x``.
    format : SFx

    Notes
    -----
    The gradient is 1 where ``|x| <= scale`` and 0 elsewhere.
    """
    rounded: torch.Tensor = _Round.apply(x, scale, format)  # type: ignore[no-untyped-call]
    return rounded


def activation_scales(x: torch.Tensor, format: SFx, scale: ActivationScale) -> torch.Tensor:
    """Dynamic scales by maximum: ``[]``, ``[..., 1]`` per token, ``[..., B]`` per block.

    As :func:`sw.tensor.exponents` and :func:`sw.tensor.limit_spread` give them.
    """
    if scale == "none":
        return torch.ones((), device=x.device)
    magnitude = x.detach().abs()
    if scale == "tensor":
        largest = magnitude.amax()
    elif scale == "token":
        largest = magnitude.amax(-1, keepdim=True)
    else:
        padded = torch.nn.functional.pad(magnitude, (0, -x.shape[-1] % BLOCK))
        largest = padded.reshape(*x.shape[:-1], -1, BLOCK).amax(-1)
    fraction, exponents = torch.frexp(largest)
    if format.unity:  # a power of two itself is covered
        exponents = exponents - (fraction == 0.5).to(exponents.dtype)
    exponents = torch.where(fraction == 0, 0, exponents)
    if scale == "block":
        exponents = torch.maximum(exponents, exponents.amax(-1, keepdim=True) - MAX_SPREAD)
    return scales(exponents)
