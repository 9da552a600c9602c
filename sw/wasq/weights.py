"""A layer's weights as words with exponents: what every method of quantization ends in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import decode, encode, expand_blocks, exponents, limit_spread
from sw.wasq.config import LayerConfig, WeightScale


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """Words of a weight as a matrix, one row per output channel, K along the row.

    Parameters
    ----------
    words : torch.Tensor of uint8 or uint16 ``[N, K]``
        A convolution's rows are ``[in channels / groups, kernel...]`` flattened, as torch has them.
    exponents : torch.Tensor of int64
        ``[]`` for "none" and "tensor", ``[N, 1]`` for "channel", ``[N, B]`` for "block", at most
        15 apart within a row.
    format : SFx
    scale : {"none", "tensor", "channel", "block"}
    """

    words: torch.Tensor
    exponents: torch.Tensor
    format: SFx
    scale: WeightScale

    def __post_init__(self) -> None:
        rows, terms = self.words.shape
        shape = {
            "channel": (rows, 1),
            "block": (rows, -(-terms // BLOCK)),
        }.get(self.scale, ())
        if tuple(self.exponents.shape) != shape:
            raise ValueError(
                f"exponents must have shape {shape} for {self.scale!r}, "
                f"not {tuple(self.exponents.shape)}"
            )

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The values ``[N, K]``, exact."""
        return decode(self.words, self.format, self.per_value(), dtype=dtype)

    def per_value(self) -> torch.Tensor:
        """Exponents that broadcast to the words."""
        if self.scale == "block":
            return expand_blocks(self.exponents, self.words.shape[1])
        return self.exponents

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same on a device."""
        return QuantizedWeight(
            self.words.to(device), self.exponents.to(device), self.format, self.scale
        )


def weight_exponents(weight: torch.Tensor, config: LayerConfig, name: str) -> torch.Tensor:
    """The exponents of a float weight ``[N, K]``, shaped as in :class:`QuantizedWeight`.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite.
    """
    form = _format(config)
    if config.weight_scale == "none":
        return torch.zeros((), dtype=torch.int64, device=weight.device)
    found = exponents(weight, form, config.weight_scale, config.weight_rule, name=name)
    if config.weight_scale == "block":
        found, _ = limit_spread(found, MAX_SPREAD)
    return found


def quantize_weight(
    weight: torch.Tensor,
    config: LayerConfig,
    given: torch.Tensor | None = None,
    name: str = "weight",
) -> QuantizedWeight:
    """Round a float weight to nearest.

    Parameters
    ----------
    weight : torch.Tensor of float32 ``[N, K]``
    config : LayerConfig
    given : torch.Tensor of int64, optional
        Exponents to use, shaped as in :class:`QuantizedWeight`; found by the rule if omitted.
    name : str
        What an error calls the weight.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite.
    """
    form = _format(config)
    weight = weight.detach().float().contiguous()
    found = weight_exponents(weight, config, name) if given is None else given
    spread = expand_blocks(found, weight.shape[1]) if config.weight_scale == "block" else found
    words = encode(weight, form, spread, name=name)
    return QuantizedWeight(words, found, form, config.weight_scale)


def _format(config: LayerConfig) -> SFx:
    if config.weight_format is None:
        raise ValueError("weights must have a width to be quantized")
    return config.weight_format
