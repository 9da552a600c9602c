"""IEEE 754 binary formats as facts: widths, bias and the layout of a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from amaranth.lib import data


@dataclass(frozen=True, slots=True)
class FloatFormat:
    """A binary interchange format of IEEE 754, or one of the same make.

    Parameters
    ----------
    exponent_bits : int
        3 to 15.
    fraction_bits : int
        Stored bits of the significand, 2 to 64. The addend must reach past the product within
        the exponents there are: ``2**(exponent_bits - 1) - 1 >= fraction_bits + 5``.

    Raises
    ------
    TypeError
        If a width is not an integer.
    ValueError
        If a width is out of range.
    """

    exponent_bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        for name, low, high in (("exponent_bits", 3, 15), ("fraction_bits", 2, 64)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
        if self.bias < self.precision + 4:
            raise ValueError(
                f"fraction_bits must be at most {self.bias - 5} with {self.exponent_bits} "
                f"exponent bits, not {self.fraction_bits!r}"
            )

    @property
    def bits(self) -> int:
        """Bits of a word."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def precision(self) -> int:
        """Bits of a significand with its leading bit."""
        return self.fraction_bits + 1

    @property
    def bias(self) -> int:
        """What is added to an exponent to store it."""
        return (1 << self.exponent_bits - 1) - 1

    @property
    def layout(self) -> data.StructLayout:
        """``fraction``, ``exponent`` and ``sign``, from bit 0 up."""
        return data.StructLayout(
            {"fraction": self.fraction_bits, "exponent": self.exponent_bits, "sign": 1}
        )


BINARY32: Final = FloatFormat(8, 23)
BINARY16: Final = FloatFormat(5, 10)
#: Not in IEEE 754: binary32 without its lower 16 bits; the rules of the standard hold for it.
BFLOAT16: Final = FloatFormat(8, 7)
FLOAT_FORMATS: Final = {"binary32": BINARY32, "bfloat16": BFLOAT16, "binary16": BINARY16}
