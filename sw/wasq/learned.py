"""A linear layer whose rounding is learned: each weight's word within one code of where it began.

After M. Nagel et al., "AdaRound", arXiv:2004.10568, and W. Cheng et al., "AutoRound",
arXiv:2309.05516 (a straight-through offset per weight), and S. Esser et al., "LSQ",
arXiv:1902.08153 (the gradient of a scale), here of an exponent that moves by whole steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from sw.scale import BLOCK, MAX_SPREAD
from sw.tensor import encode, expand_blocks
from sw.wasq.config import LayerConfig
from sw.wasq.grid import round_activations, snap, unit
from sw.wasq.weights import QuantizedWeight

#: How near a code's border a learned value may begin or end, in codes.
_MARGIN = 0.02


class LearnedLinear(nn.Module):
    """A layer on rounded inputs, its words and exponents differentiable.

    Parameters
    ----------
    name : str
    weight : torch.Tensor of float32 ``[N, K]``
        The float weight, which says to which side of its code each value begins.
    start : QuantizedWeight
        Where words and exponents begin.
    config : LayerConfig
    bias : torch.Tensor of float32 ``[N]``, optional
    exponents : bool
        Whether exponents are learned, within one of where they began.

    Attributes
    ----------
    position : nn.Parameter of float32 ``[N, K]``
        In codes of the first exponents.
    shift : nn.Parameter of float32
        Shaped like the exponents; added to them, rounded. None if they are not learned.
    """

    bias: torch.Tensor | None
    first_codes: torch.Tensor
    first_exponents: torch.Tensor

    def __init__(
        self,
        name: str,
        weight: torch.Tensor,
        start: QuantizedWeight,
        config: LayerConfig,
        bias: torch.Tensor | None = None,
        exponents: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.config, self.form = name, config, start.format
        self.scale = start.scale
        units = unit(start.per_value(), start.format)
        codes = torch.round(start.dequantize() / units)
        self.register_buffer("first_codes", codes.to(torch.int32))
        self.register_buffer("first_exponents", start.exponents)
        self.register_buffer("bias", bias)
        wish = weight.detach().float() / units
        inside = 0.5 - _MARGIN
        position = codes + (wish - codes).clamp(-inside, inside)
        self.position = nn.Parameter(position.contiguous())
        learned = exponents and start.scale != "none"
        self.shift = (
            nn.Parameter(torch.zeros(start.exponents.shape, device=weight.device))
            if learned
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 sums of rounded inputs times rounded weights."""
        return functional.linear(
            round_activations(x, self.config), self.rounded_weight(), self.bias
        )

    def rounded_weight(self) -> torch.Tensor:
        """The weight as it acts, with straight-through gradients."""
        units = unit(self.first_exponents, self.form)
        top = float(1 << self.form.fraction_bits)
        if self.shift is None:
            inside = self.position.clamp(-top, top)
            rounded = inside + (snap(inside.detach(), self.form) - inside).detach()
            return rounded * self._spread(units)
        whole = self.shift + (torch.round(self.shift) - self.shift).detach()
        factor = torch.exp2(whole)
        inside = (self.position / self._spread(factor)).clamp(-top, top)
        rounded = inside + (snap(inside.detach(), self.form) - inside).detach()
        return rounded * self._spread(units * factor)

    @torch.no_grad()
    def limit(self) -> None:
        """Keep every value within one code of where it began, and exponents within one."""
        codes = self.first_codes
        reach = 1.5 - _MARGIN
        low, high = codes - reach, codes + reach
        if self.form.unity:  # no word lies between the last but one and unity
            top = 1 << self.form.fraction_bits
            low = low - ((codes == top) | (codes == 2 - top)).float()
            high = high + ((codes == -top) | (codes == top - 2)).float()
        self.position.copy_(torch.maximum(torch.minimum(self.position, high), low))
        if self.shift is not None:
            self.shift.clamp_(-1.49, 1.49)

    @torch.no_grad()
    def quantized(self) -> QuantizedWeight:
        """The words as they are now."""
        chosen = self.first_exponents
        if self.shift is not None:
            chosen = chosen + torch.round(self.shift).long()
        if self.scale == "block":
            chosen = torch.maximum(chosen, chosen.amax(-1, keepdim=True) - MAX_SPREAD)
        values = self.rounded_weight().contiguous()
        terms = values.shape[1]
        spread = expand_blocks(chosen, terms) if self.scale == "block" else chosen
        words = encode(values, self.form, spread, name=self.name)
        return QuantizedWeight(words, chosen, self.form, self.scale)

    def changed(self) -> int:
        """How many words differ in value from where they began."""
        first = self._spread(unit(self.first_exponents, self.form)) * self.first_codes
        return int((self.rounded_weight().detach() != first).sum())

    def _spread(self, per_group: torch.Tensor) -> torch.Tensor:
        if self.scale != "block":
            return per_group
        return per_group.repeat_interleave(BLOCK, -1)[:, : self.position.shape[1]]


def parameter_groups(
    layers: list[LearnedLinear], others: list[nn.Parameter], rate: float
) -> list[dict[str, object]]:
    """For an optimiser: values in codes, exponents at half their rate, norms at a tenth."""
    shifts = [layer.shift for layer in layers if layer.shift is not None]
    groups: list[dict[str, object]] = [{"params": [y.position for y in layers], "lr": rate}]
    if shifts:
        groups.append({"params": shifts, "lr": rate / 2})
    if others:
        groups.append({"params": others, "lr": rate / 10})
    return groups


@contextmanager
def tensor_float32(allowed: bool) -> Iterator[None]:
    """TF32 products on CUDA while the context is open; what was set before comes back."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
