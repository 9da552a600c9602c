"""A layer's weights as words with exponents: what every method of quantization ends in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import decode, encode, expand_blocks, exponents, limit_spread, word_dtype
from sw.wasq.config import LayerConfig, WeightScale

_VALUES_AT_A_TIME: Final = 1 << 20


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
    form, scale = _format(config), config.weight_scale
    weight = weight.detach().float().contiguous()
    per_row = scale in ("channel", "block")
    if given is None and not per_row:
        given = weight_exponents(weight, config, name)
    words = torch.empty(weight.shape, dtype=word_dtype(form), device=weight.device)
    found = []
    # Some rows at a time: what is needed on the way takes several times their memory.
    step = max(1, _VALUES_AT_A_TIME // max(weight.shape[1], 1))
    for first in range(0, weight.shape[0], step):
        rows = weight[first : first + step]
        if given is None:
            own = weight_exponents(rows, config, name)
        else:
            own = given[first : first + step] if per_row else given
        found.append(own)
        spread = expand_blocks(own, weight.shape[1]) if scale == "block" else own
        encode(rows, form, spread, name=name, out=words[first : first + step])
    whole = torch.cat(found) if given is None else given
    return QuantizedWeight(words, whole, form, scale)


def _format(config: LayerConfig) -> SFx:
    if config.weight_format is None:
        raise ValueError("weights must have a width to be quantized")
    return config.weight_format
