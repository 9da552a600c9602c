"""How tensors, weights and parameters lie in tile memory, and how the host moves boxes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sw.compiler.layers import ArrayTensor, Convolution, Shape, Weights
from sw.compiler.nest import Loop, merge
from sw.compiler.quantize import column_parameters, drain_shifts
from sw.compiler.schedule import Place
from sw.config import MachineConfig

Border = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of neighbouring words, as in :class:`~sw.compiler.schedule.WriteWords`."""

    address: int
    rows: int
    count: int
    stride: int
    start: int
    pitch: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor, or a box of one, with its border of zeros, without gaps.

    Parameters
    ----------
    shape : tuple of int
        ``[n, h, w, c]`` without the border.
    border : tuple of int
        Top, bottom, left, right.
    """

    shape: Shape
    border: Border = (0, 0, 0, 0)

    @property
    def line(self) -> int:
        """Words from one row of an image to the next."""
        return (self.shape[2] + self.border[2] + self.border[3]) * self.shape[3]

    @property
    def image(self) -> int:
        """Words from one image to the next."""
        return (self.shape[1] + self.border[0] + self.border[1]) * self.line

    @property
    def words(self) -> int:
        """Words of all of it."""
        return self.shape[0] * self.image

    def place(self, address: int, origin: Shape = (0, 0, 0, 0)) -> Place:
        """The place of a tensor, of which this layout at ``address`` holds the box at ``origin``.

        The address of the place is that of the tensor's first word, even if it is not in the box.
        """
        n, y, x, c = origin
        first = address + self.border[0] * self.line + self.border[2] * self.shape[3]
        first -= n * self.image + y * self.line + x * self.shape[3] + c
        return Place(first, self.image, self.line, self.shape[3])

    def gaps(self, address: int) -> list[tuple[Loop, ...]]:
        """The border: loops over neighbouring words, outer first, their addresses in ``o``.

        The first loop is of one step, and has the address.
        """
        (n, h, w, c), (top, bottom, left, right) = self.shape, self.border
        before = top * self.line + left * c
        between = (left + right) * c
        after = right * c + bottom * self.line
        inside = address + before + w * c
        parts = [
            (address, [Loop(n, o=self.image), Loop(before, o=1)]),
            (inside, [Loop(n, o=self.image), Loop(h - 1, o=self.line), Loop(between, o=1)]),
            (inside + (h - 1) * self.line, [Loop(n, o=self.image), Loop(after, o=1)]),
        ]
        return [(Loop(1, o=at), *loops) for at, loops in parts if all(x.count for x in loops)]


def address(place: Place, n: int, y: int, x: int, c: int) -> int:
    """Of a word of a tensor."""
    return place.address + n * place.image + y * place.line + x * place.pixel + c


def spans(place: Place, shape: Shape, box: Sequence[range] | None = None) -> Iterator[Span]:
    """Where the words of a box of a tensor lie in memory and in the host's copy.

    Parameters
    ----------
    place : Place
        Of the tensor.
    shape : tuple of int
        Of the tensor as the host keeps it.
    box : sequence of four ranges, optional
        Images, rows, pixels, channels; all of the tensor if omitted.
    """
    box = box or [range(size) for size in shape]
    _, h, w, c = shape
    here = place.image, place.line, place.pixel, 1
    there = h * w * c, w * c, c, 1
    loops = [Loop(len(r), a=a, o=o) for r, a, o in zip(box, here, there, strict=True)]
    first = place.address + sum(r.start * a for r, a in zip(box, here, strict=True))
    start = sum(r.start * o for r, o in zip(box, there, strict=True))
    return transfers(loops, first, start)


def transfers(loops: Sequence[Loop], address: int, start: int) -> Iterator[Span]:
    """Loops over words in memory (``a``) and in a source (``o``) as rows of neighbouring words."""
    found = merge(loops, limit=1 << 62)
    count = 1
    if found and found[-1].a == found[-1].o == 1:
        count, found = found[-1].count, found[:-1]
    rows = max(found, key=lambda loop: loop.count, default=Loop(1))
    outer = [loop for loop in found if loop is not rows]
    for step in product(*(range(loop.count) for loop in outer)):
        at = address + sum(i * loop.a for i, loop in zip(step, outer, strict=True))
        source = start + sum(i * loop.o for i, loop in zip(step, outer, strict=True))
        yield Span(at, rows.count, count, rows.a or count, source, rows.o or count)


def gap_spans(layout: Layout, at: int) -> Iterator[Span]:
    """The border of a layout as rows of neighbouring zeros."""
    for first, *loops in layout.gaps(at):
        for span in transfers([replace(x, a=x.o) for x in loops], first.o, 0):
            yield replace(span, start=0, pitch=0)


# Weights


@dataclass(frozen=True, slots=True)
class Panels:
    """How the weights of a convolution are cut: blocks of groups, tiles of columns.

    A block has ``together`` groups, its weights a matrix with one group after the other on the
    diagonal; the last block has what is left. A panel is a column tile of a block:
    ``[kernel height, kernel width, channels, columns]``.

    Parameters
    ----------
    groups, together : int
    kernel : tuple of int
        Height, width.
    inputs, outputs : int
        Channels per group.
    columns : int
        Of the array.
    """

    groups: int
    together: int
    kernel: tuple[int, int]
    inputs: int
    outputs: int
    columns: int

    @classmethod
    def of(cls, weights: Weights, columns: int) -> Panels:
        """As many groups together as fit in a column tile."""
        groups, kh, kw, inputs, outputs = weights.words.shape
        together = max(1, min(groups, columns // outputs))
        return cls(groups, together, (kh, kw), inputs, outputs, columns)

    @property
    def blocks(self) -> list[range]:
        """The groups of each block."""
        return [
            range(first, min(first + self.together, self.groups))
            for first in range(0, self.groups, self.together)
        ]

    @property
    def tiles(self) -> int:
        """Panels of a block."""
        return -(-self.together * self.outputs // self.columns)

    @property
    def count(self) -> int:
        """Panels of all blocks."""
        return self.tiles * len(self.blocks)

    def words(self, groups: int | None = None) -> int:
        """Words of a panel of a block with so many groups."""
        return prod(self.kernel) * (groups or self.together) * self.inputs * self.columns

    @property
    def total(self) -> int:
        """Words of all panels."""
        return sum(self.tiles * self.words(len(block)) for block in self.blocks)


def pack_weights(weights: Weights, panels: Panels) -> NDArray[Any]:
    """The words of all panels, one after the other, 1-D."""
    words = weights.words.numpy()
    _, kh, kw, inputs, outputs = words.shape
    width = panels.tiles * panels.columns
    parts = []
    for block in panels.blocks:
        size = len(block)
        matrix = np.zeros((kh, kw, size, inputs, width), words.dtype)
        for i, group in enumerate(block):
            matrix[:, :, i, :, i * outputs : (i + 1) * outputs] = words[group]
        tiled = matrix.reshape(kh, kw, size * inputs, panels.tiles, panels.columns)
        parts.append(np.ascontiguousarray(tiled.transpose(3, 0, 1, 2, 4)).reshape(-1))
    return np.concatenate(parts)


def zero_slices(packed: NDArray[Any], config: MachineConfig) -> int:
    """How many slices of packed weights are all zero."""
    slices = packed.reshape(-1, config.columns) & config.format.max_code
    return int((~slices.any(axis=1)).sum())


# Parameters


def pack_parameters(
    layer: Convolution, panels: Panels, a: ArrayTensor, output: ArrayTensor, config: MachineConfig
) -> NDArray[np.int32]:
    """Bias words and shifts of a convolution ``[panels, columns, 2]``."""
    bias, shifts = column_parameters(layer, {a.name: a, output.name: output}, config)
    found = np.zeros((panels.count, panels.columns, 2), np.int32)
    for index, block in enumerate(panels.blocks):
        used = range(block.start * panels.outputs, block.stop * panels.outputs)
        part = found[index * panels.tiles : (index + 1) * panels.tiles].reshape(-1, 2)
        part[: len(used), 0] = bias[used.start : used.stop]
        part[: len(used), 1] = shifts[used.start : used.stop]
    return found


def uniform_parameters(shift: int, entries: int, config: MachineConfig) -> NDArray[np.int32]:
    """One shift for all columns, without bias, ``[entries, columns, 2]``."""
    found = np.zeros((entries, config.columns, 2), np.int32)
    found[..., 1] = int(drain_shifts(torch.tensor(shift), config))
    return found
