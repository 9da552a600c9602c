"""Memory images of the programs here, and what they must leave: ``python programs/make.py``.

``NAME.npz`` is what ``atreides run --memory`` reads; ``NAME.expected.npz`` has ``tiles`` after the
run and, where a program sends results, ``stream``: the exact matrix. The reference below is plain
integer arithmetic on numpy arrays that shares no code with the machine model: SF16 with unity, as
docs and contract define it, on the default machine of 16 slots of 8 x 8 words.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BITS = 16
FRACTION = BITS - 1
ONES = (1 << FRACTION) - 1
SIGN = 1 << FRACTION
SLOTS, ROWS, COLUMNS = 16, 8, 8
ENTRIES = 256
HERE = Path(__file__).parent

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]


def operand(words: Array) -> Array:
    """The integers that words stand for, in units of 2**-15; all ones is 1."""
    magnitude = words.astype(np.int64) & ONES
    magnitude += magnitude == ONES
    return np.where(words & SIGN, -magnitude, magnitude)


def drain(sums: Array, shift: Array | int = 0, bias: Array | int = 0, relu: bool = False) -> Array:
    """Words for exact sums in units of 2**-30, divided by 2**shift, plus a word's operand."""
    places = FRACTION + np.asarray(shift)
    values = sums + (np.asarray(bias, np.int64) << places)
    if relu:
        values = np.maximum(values, 0)
    magnitude = (np.abs(values) + (np.int64(1) << places - 1)) >> places  # ties away from zero
    magnitude = np.minimum(magnitude, ONES - 1)  # all ones is only for what reaches it
    magnitude = np.where(np.abs(values) >= np.int64(ONES) << places, ONES, magnitude)
    return np.where((values < 0) & (magnitude > 0), magnitude + SIGN, magnitude).astype(np.uint16)


class Image:
    """Tile memory that matrices are put into, row by row."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.memory = np.zeros(SLOTS * ROWS * COLUMNS, np.uint16)
        self.biases = np.zeros((ENTRIES, COLUMNS), np.uint16)
        self.shifts = np.zeros((ENTRIES, COLUMNS), np.int8)
        self.scaled = False

    def words(self, *shape: int) -> Array:
        """Random words, some of them zero of either sign, some unity."""
        words = self.random.integers(0, 1 << BITS, shape, dtype=np.uint16)
        special = np.array([0, SIGN, ONES, ONES + SIGN], np.uint16)
        chosen = self.random.random(shape) < 0.1
        words[chosen] = self.random.choice(special, int(chosen.sum()))
        return words

    def put(self, address: int, words: Array) -> Array:
        """Lay a matrix at an address, and return it."""
        self.memory[address : address + words.size] = words.ravel()
        return words

    def columns(self, entry: int, count: int) -> tuple[Array, Array]:
        """Random shifts and biases' operands of so many columns, from an entry on."""
        entries = -(-count // COLUMNS)
        self.biases[entry : entry + entries] = self.words(entries, COLUMNS)
        self.shifts[entry : entry + entries] = self.random.integers(0, 5, (entries, COLUMNS))
        self.scaled = True
        parts = (self.shifts.astype(np.int64), operand(self.biases))
        shift, bias = (part[entry : entry + entries].reshape(-1)[:count] for part in parts)
        return shift, bias

    def arrays(self) -> Arrays:
        """What an image file holds."""
        found = {"tiles": self.memory.reshape(SLOTS, ROWS, COLUMNS).copy()}
        return found | (
            {"biases": self.biases, "column_shifts": self.shifts} if self.scaled else {}
        )


def hello() -> tuple[Arrays, Arrays]:
    image = Image(1)
    a, b = image.put(0, image.words(8, 8) >> 1), image.put(64, image.words(8, 8))
    before = image.arrays()
    image.put(128, drain(operand(a) @ operand(b)))
    return before, image.arrays()


def gemm() -> tuple[Arrays, Arrays]:
    image = Image(2)
    a, b = image.put(0, image.words(12, 20)), image.put(256, image.words(20, 19))
    shift, bias = image.columns(0, 19)
    before = image.arrays()
    image.put(656, drain(operand(a) @ operand(b), shift, bias, relu=True))
    return before, image.arrays()


def perceptron() -> tuple[Arrays, Arrays]:
    image = Image(3)
    x, first = image.put(0, image.words(4, 16)), image.put(64, image.words(16, 24))
    second = image.put(544, image.words(24, 10))
    scales = image.columns(0, 24), image.columns(3, 10)
    before = image.arrays()
    hidden = image.put(448, drain(operand(x) @ operand(first), *scales[0], relu=True))
    image.put(800, drain(operand(hidden) @ operand(second), *scales[1]))
    return before, image.arrays()


def convolution() -> tuple[Arrays, Arrays]:
    image = Image(4)
    pixels = np.zeros((8, 8, 4), np.uint16)
    pixels[1:-1, 1:-1] = image.words(6, 6, 4)
    image.put(0, pixels)
    weights = image.put(256, image.words(3, 3, 4, 8))
    shift, bias = image.columns(0, 8)
    before = image.arrays()
    sums = np.zeros((6, 6, 8), np.int64)
    for y, x in np.ndindex(6, 6):
        window = operand(pixels[y : y + 3, x : x + 3])
        sums[y, x] = np.tensordot(window, operand(weights), 3)
    image.put(576, drain(sums, shift, bias, relu=True))
    return before, image.arrays()


def attention() -> tuple[Arrays, Arrays]:
    image = Image(5)
    q, k = image.put(0, image.words(12, 16)), image.put(192, image.words(12, 16))
    p = image.put(384, image.random.integers(0, SIGN // 12, (12, 12), dtype=np.uint16))
    v = image.put(528, image.words(12, 16))
    before = image.arrays()
    image.put(720, drain(operand(p) @ operand(v)))
    return before, image.arrays() | {"stream": operand(q) @ operand(k).T}


PROGRAMS: dict[str, Callable[[], tuple[Arrays, Arrays]]] = {
    f.__name__: f for f in (hello, gemm, perceptron, convolution, attention)
}


def files() -> dict[str, bytes]:
    """The content of every file by name, the same bytes on every run."""
    found = {}
    for name, make in PROGRAMS.items():
        image, expected = make()
        kept = {key: expected[key] for key in ("tiles", "stream") if key in expected}
        for suffix, arrays in (("npz", image), ("expected.npz", kept)):
            content = io.BytesIO()
            np.savez(content, **arrays)
            found[f"{name}.{suffix}"] = content.getvalue()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only see that the files are these")
    check = parser.parse_args().check
    for name, content in files().items():
        path = HERE / name
        if check:
            if not path.exists() or path.read_bytes() != content:
                parser.error(f"{path} must be what this program makes: run it without --check")
            continue
        scratch = path.with_name(f".{name}.{os.getpid()}")
        scratch.write_bytes(content)
        os.replace(scratch, path)


if __name__ == "__main__":
    main()
