"""Words as the array takes them, for the tests of cell, edge and array."""

from __future__ import annotations

import random

from sw.format import SFx

SEED = 20261122


def special_words(format: SFx) -> list[int]:
    """Zero, minus zero, one ulp, the largest below all ones, and all ones, of both signs."""
    sign, ones = format.sign_bit, format.max_code
    return [magnitude | s for magnitude in (0, 1, ones - 1, ones) for s in (0, sign)]


def random_word(format: SFx, generator: random.Random) -> int:
    """A special word or any word."""
    if generator.random() < 0.5:
        return generator.choice(special_words(format))
    return generator.getrandbits(format.bits)


def stored(format: SFx, word: int) -> dict[str, int]:
    """The fields of ``stored_layout``, from the integer model."""
    size = abs(format.operand(word))
    return {"word": word, "zero": int(size == 0), "unity": int(size == 1 << format.fraction_bits)}


def operand(format: SFx, word: int) -> dict[str, int]:
    """The fields of ``operand_layout``, from the integer model."""
    size = abs(format.operand(word))
    unity = size == 1 << format.fraction_bits
    return {
        "magnitude": 0 if unity else size,
        "sign": int(bool(word & format.sign_bit)),
        "unity": int(unity),
        "zero": int(size == 0),
    }
