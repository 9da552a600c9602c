"""Vectors: everything where that is feasible, else corners and seeded random values."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from sw.format import SFx

#: Operand bits up to which a unit is compared on every input.
EXHAUSTIVE_BITS = 16


@dataclass(frozen=True, slots=True)
class Operand:
    """One input of a unit.

    Parameters
    ----------
    name : str
    width : int
        Bits.
    corners : tuple of int
        Values worth meeting often; two's complement patterns where the input is signed.
    """

    name: str
    width: int
    corners: tuple[int, ...] = ()

    def draw(self, random: Random) -> int:
        """A corner, a value with few ones or few zeros, or any value."""
        choice = random.random()
        ones = (1 << self.width) - 1
        if choice < 0.4 and self.corners:
            return random.choice(self.corners)
        if choice < 0.6:
            value = 0
            for _ in range(random.randint(1, 3)):
                value |= 1 << random.randrange(self.width)
            return value ^ ones if random.random() < 0.5 else value
        return random.getrandbits(self.width)


def vectors(
    operands: Sequence[Operand],
    limit: int,
    seed: object,
    draw: Callable[[Random], tuple[int, ...]] | None = None,
) -> list[tuple[int, ...]]:
    """Inputs for a unit, in an order without pattern.

    Parameters
    ----------
    operands : sequence of Operand
    limit : int
        How many at most. If all combinations are no more, they are all there, each once.
    seed : object
        Everything random follows from its text.
    draw : callable, optional
        Draws one vector, for inputs that only make sense together.

    Returns
    -------
    list of tuple of int
        One value per operand each.
    """
    random = Random(f"{seed}")
    bits = sum(operand.width for operand in operands)
    if 1 << bits <= limit:
        found = list(itertools.product(*(range(1 << operand.width) for operand in operands)))
        random.shuffle(found)
        return found
    corners = itertools.product(*(operand.corners for operand in operands))
    count = math.prod(len(operand.corners) for operand in operands)
    found = list(corners) if 0 < count <= limit // 4 else []
    while len(found) < limit:
        if draw is not None and random.random() < 0.75:
            found.append(draw(random))
        else:
            found.append(tuple(operand.draw(random) for operand in operands))
    random.shuffle(found)
    return found


def word_operand(name: str, format: SFx) -> Operand:
    """An SFx word: zeros, ones, all ones, its neighbours and the middle, with both signs."""
    top, middle = format.max_code, format.sign_bit >> 1
    magnitudes = {0, 1, 2, middle - 1, middle, middle + 1, top - 2, top - 1, top}
    magnitudes = {m for m in magnitudes if 0 <= m <= top}
    corners = sorted(magnitudes | {m | format.sign_bit for m in magnitudes})
    return Operand(name, format.bits, tuple(corners))


def number_operand(name: str, width: int) -> Operand:
    """An unsigned or two's complement number: the ends, the middle and their neighbours."""
    middle = 1 << (width - 1)
    near = {0, 1, 2, middle - 1, middle, middle + 1, (1 << width) - 2, (1 << width) - 1}
    return Operand(name, width, tuple(sorted(value % (1 << width) for value in near)))


def float_operand(name: str, width: int) -> Operand:
    """A binary16 or binary32 pattern: zeros, subnormals, ones, infinities, NaN."""
    mantissa = {16: 10, 32: 23}[width]
    exponent = width - 1 - mantissa
    one = ((1 << (exponent - 1)) - 1) << mantissa
    infinity = ((1 << exponent) - 1) << mantissa
    positive = {
        0,
        1,
        (1 << mantissa) - 1,
        1 << mantissa,
        one - 1,
        one,
        one + 1,
        infinity - 1,
        infinity,
        infinity + 1,
        infinity | 1 << (mantissa - 1),
        (1 << (width - 1)) - 1,
    }
    sign = 1 << (width - 1)
    return Operand(name, width, tuple(sorted(positive | {value | sign for value in positive})))


def float_draw(format: SFx, width: int) -> Callable[[Random], tuple[int, ...]]:
    """Patterns on, just below and just above the words of a format and the middles between."""
    code, last = ("e", (1 << 16) - 1) if width == 16 else ("f", (1 << 32) - 1)

    def draw(random: Random) -> tuple[int, ...]:
        if random.random() < 0.3:  # any mantissa, exponents around the format's range
            mantissa = {16: 10, 32: 23}[width]
            bias = (1 << (width - 2 - mantissa)) - 1
            exponent = bias + random.randint(-min(format.bits + 2, bias), 2)
            sign = random.getrandbits(1) << (width - 1)
            return (sign | exponent << mantissa | random.getrandbits(mantissa),)
        half_steps = random.randrange(2 * format.sign_bit + 2)
        if random.random() < 0.2:
            half_steps = random.choice((0, 1, 2, 3)) + random.choice((0, 2 * format.max_code - 2))
        value = float(Fraction(half_steps, 2 * format.sign_bit)) * random.choice((1, -1))
        pattern = int.from_bytes(struct.pack("<" + code, value), "little")
        return (max(0, min(last, pattern + random.choice((-1, 0, 0, 1)))),)

    return draw


def float_value(pattern: int, width: int) -> float:
    """The value of a binary16 or binary32 pattern."""
    code, size = {16: ("e", 2), 32: ("f", 4)}[width]
    return struct.unpack("<" + code, pattern.to_bytes(size, "little"))[0]


def signed(pattern: int, width: int) -> int:
    """The two's complement value of a pattern."""
    return pattern - (1 << width) if pattern >> (width - 1) else pattern


def formats(bits: Sequence[int]) -> Iterator[SFx]:
    """Each width with and without unity."""
    for width in bits:
        for unity in (True, False):
            yield SFx(width, unity)
