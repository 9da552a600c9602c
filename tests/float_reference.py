"""IEEE 754 fused multiply-add in exact integers, and by doubles rounded to odd: two oracles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """A format by its widths, and nothing derived from the hardware's."""

    exponent_bits: int
    fraction_bits: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def infinity(self) -> int:
        return (2**self.exponent_bits - 1) * 2**self.fraction_bits

    @property
    def nan(self) -> int:
        return self.infinity + 2 ** (self.fraction_bits - 1)

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)


def units(shape: Shape, word: int) -> int:
    """The number that a finite word stands for, in units of the least subnormal."""
    exponent, fraction = divmod(word % shape.sign, 2**shape.fraction_bits)
    whole = fraction + (2**shape.fraction_bits if exponent else 0)
    return (-1 if word & shape.sign else 1) * whole * 2 ** (max(exponent, 1) - 1)


def round_to(shape: Shape, number: int) -> int:
    """Nearest word, ties to even, to a number in units of the least subnormal's square."""
    least = 2 ** (shape.exponent_bits - 1) - 2 + shape.fraction_bits  # of a subnormal: 2**-least
    sign, magnitude = (shape.sign if number < 0 else 0), abs(number)
    binade = max(magnitude.bit_length() - 1 - least - shape.fraction_bits, 0)
    step = 2 ** (least + binade)
    steps, rest = divmod(magnitude, step)
    steps += 2 * rest > step or (2 * rest == step and steps % 2 == 1)
    # A carry out of the fraction goes on to the exponent as it should.
    return sign | min(binade * 2**shape.fraction_bits + steps, shape.infinity)


def fused(shape: Shape, a: int, b: int, c: int) -> int:
    """``a * b + c`` rounded once."""
    sizes = [word % shape.sign for word in (a, b, c)]
    if any(size > shape.infinity for size in sizes):
        return shape.nan
    sign = (a ^ b) & shape.sign
    if shape.infinity in sizes[:2]:
        opposed = sizes[2] == shape.infinity and (c & shape.sign) != sign
        return shape.nan if 0 in sizes[:2] or opposed else sign | shape.infinity
    if sizes[2] == shape.infinity:
        return c
    least = 2 ** (shape.exponent_bits - 1) - 2 + shape.fraction_bits
    total = units(shape, a) * units(shape, b) + units(shape, c) * 2**least
    if total:
        return round_to(shape, total)
    # Zero is minus only if both addends are minus.
    return sign & c if 0 in sizes[:2] and not sizes[2] else 0


def fused_arrays(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The same on arrays of float16 or float32: numpy rounds a double once.

    The product is exact in a double; the sum is rounded to odd, so that rounding it again is
    harmless (S. Boldo and G. Melquiond, 2008): 53 bits are more than twice 24 and two.
    """
    with np.errstate(all="ignore"):
        product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
        total = product + addend
        part = total - product
        error = (product - (total - part)) + (addend - part)  # D. Knuth's two-sum
        wrong = np.isfinite(total) & (error != 0) & (total.view(np.int64) & 1 == 0)
        grow = (error > 0) == (total > 0)
        odd = total.view(np.int64) + np.where(grow, 1, -1)
        return np.where(wrong, odd, total.view(np.int64)).view(np.float64).astype(a.dtype)
