"""Formats that numbers are compared in: Superfloat, floats of any split, symmetric integers.

A float ``1_e_m`` has a sign, e exponent bits and m fraction bits as IEEE 754 has them: bias
``2**(e - 1) - 1``, subnormals, ties to even. bfloat16 is 1_8_7, binary16 1_5_10, TF32 1_8_10, FP8
E5M2 1_5_2. E4M3 keeps its largest exponent for numbers but one code (P. Micikevicius et al., "FP8
Formats for Deep Learning", arXiv:2209.05433); FP4 E2M1 keeps it for numbers alone (Open Compute
Project, "Microscaling Formats v1.0"). What is too large becomes the largest number in all of them,
as it does in Superfloat.

So that the format alone differs, every scale comes from the largest magnitude of its group: a
power of two for Superfloat and floats, ``max / (2**(b - 1) - 1)`` for integers, which thereby may
have one that is finer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import torch

from sw.convert import power_factors
from sw.format import SFx
from sw.scale import BLOCK
from sw.tensor import exponents, fake_quantize
from sw.wasq.config import WEIGHT_SCALES, WeightScale

Top = Literal["reserved", "one", "none"]


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A float of any split.

    Parameters
    ----------
    exponent_bits : int
        2 to 9.
    fraction_bits : int
        1 to 23.
    top : {"reserved", "one", "none"}
        What the largest exponent has no numbers for: all of it, as IEEE 754; one code; nothing.
    """

    exponent_bits: int
    fraction_bits: int
    top: Top = "reserved"

    def __post_init__(self) -> None:
        for name, low, high in (("exponent_bits", 2, 9), ("fraction_bits", 1, 23)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {getattr(self, name)}")

    @property
    def bits(self) -> int:
        """Of a number."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def smallest_exponent(self) -> int:
        """Of normal numbers."""
        return 2 - (1 << (self.exponent_bits - 1))

    @property
    def largest(self) -> float:
        """The largest number."""
        bias = (1 << (self.exponent_bits - 1)) - 1
        exponent = (1 << self.exponent_bits) - 1 - bias - (self.top == "reserved")
        step = math.ldexp(2 if self.top == "one" else 1, -self.fraction_bits)
        return math.ldexp(2 - step, exponent)

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest numbers, in float64.

        Parameters
        ----------
        values : torch.Tensor of a float type, finite
            Any shape.
        """
        wide = values.double()
        power = torch.frexp(wide).exponent.long() - 1
        quantum = power.clamp(min=self.smallest_exponent) - self.fraction_bits
        whole = torch.round(_scaled(wide, -quantum))
        return _scaled(whole, quantum).clamp(-self.largest, self.largest)


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A format with its scales.

    Parameters
    ----------
    name : str
        Without the scale.
    kind : SFx, FloatFormat or int
        An int is the width of symmetric integers.
    scale : {"none", "tensor", "channel", "block"}
        Which values of a matrix share a scale: all, a row, 32 along a row.
    """

    name: str
    kind: SFx | FloatFormat | int
    scale: WeightScale = "none"

    def __post_init__(self) -> None:
        if self.scale not in WEIGHT_SCALES:
            raise ValueError(f"scale must be one of {', '.join(WEIGHT_SCALES)}, not {self.scale!r}")
        if isinstance(self.kind, int) and self.scale == "none":
            raise ValueError("scale must be tensor, channel or block for integers, not 'none'")

    @property
    def bits(self) -> int:
        """Of a number, scales not counted."""
        return self.kind if isinstance(self.kind, int) else self.kind.bits

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """What the format makes of values.

        Parameters
        ----------
        values : torch.Tensor of float32 ``[..., K]``
            Finite.

        Returns
        -------
        torch.Tensor of float32 ``[..., K]``
        """
        rows = values.reshape(-1, values.shape[-1]).float()
        terms = rows.shape[1]
        if self.scale == "block":
            padded = torch.nn.functional.pad(rows, (0, -terms % BLOCK))
            groups = padded.reshape(-1, BLOCK)
            return self._round(groups).reshape(padded.shape)[:, :terms].reshape(values.shape)
        groups = rows.reshape(1, -1) if self.scale in ("tensor", "none") else rows
        return self._round(groups).reshape(values.shape)

    def _round(self, groups: torch.Tensor) -> torch.Tensor:
        """Each row of ``[G, n]`` with its own scale."""
        if isinstance(self.kind, SFx):
            if self.scale == "none":
                return fake_quantize(groups, self.kind, 0)
            found = exponents(groups.contiguous(), self.kind, "token")
            return fake_quantize(groups.contiguous(), self.kind, found)
        if self.scale == "none":
            assert isinstance(self.kind, FloatFormat)
            return self.kind.round(groups).float()
        most = groups.double().abs().amax(1, keepdim=True)
        if isinstance(self.kind, FloatFormat):
            fraction, power = torch.frexp(most / self.kind.largest)
            power = torch.where(fraction == 0.5, power - 1, power).long()
            return _scaled(self.kind.round(_scaled(groups.double(), -power)), power).float()
        limit = 2 ** (self.kind - 1) - 1
        step = torch.where(most == 0, 1.0, most / limit)
        return (torch.round(groups.double() / step).clamp(-limit, limit) * step).float()


def _scaled(values: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
    """``values * 2**powers`` in float64, exact where the result is a normal number."""
    first, second = power_factors(powers, torch.float64)
    return values * first * second


FLOATS: Final = MappingProxyType(
    {
        "tf32": FloatFormat(8, 10),
        "bfloat16": FloatFormat(8, 7),
        "binary16": FloatFormat(5, 10),
        "1_4_11": FloatFormat(4, 11),
        "1_9_6": FloatFormat(9, 6),
        "fp8_e4m3": FloatFormat(4, 3, "one"),
        "fp8_e5m2": FloatFormat(5, 2),
        "fp4_e2m1": FloatFormat(2, 1, "none"),
    }
)


def formats_of(bits: int) -> list[NumberFormat]:
    """All that is compared at a width: Superfloat with every scale, integers, floats.

    TF32, of 19 bits, stands among those of 16, whose words its fraction has.

    Raises
    ------
    ValueError
        If nothing is compared at this width.
    """
    if not 3 <= bits <= 16:
        raise ValueError(f"bits must be 3 to 16, not {bits}")
    scaled: tuple[WeightScale, ...] = ("tensor", "channel", "block")
    found = [NumberFormat(f"sf{bits}", SFx(bits), scale) for scale in WEIGHT_SCALES]
    found += [NumberFormat(f"sf{bits}-no-unity", SFx(bits, False), s) for s in ("none", "block")]
    found += [NumberFormat(f"int{bits}", bits, scale) for scale in scaled]
    for name, form in FLOATS.items():
        if form.bits == bits or (bits == 16 and name == "tf32"):
            own: tuple[WeightScale, ...] = ("none",) if bits == 16 else ("none", *scaled)
            found += [NumberFormat(name, form, scale) for scale in own]
    return found
