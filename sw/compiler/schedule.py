"""What a device is told to do for a plan: writes, programs and reads, with every address fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sw.config import MachineConfig


@dataclass(frozen=True, slots=True)
class WriteWords:
    """Words to tile memory, in rows of neighbouring words.

    Row r of ``rows`` goes to ``address + r * stride`` and comes from word ``start + r * pitch`` of
    the flattened source.

    Parameters
    ----------
    source : str
        An ArrayTensor's name (its words as the host keeps them, ``[n, h, w, c]`` without border),
        a constant's (``weights.LAYER``, laid out by the scheduler), or ``zeros``.
    address, rows, count, stride, start, pitch : int
        Words; ``count`` is the length of a row.
    """

    source: str
    address: int
    rows: int
    count: int
    stride: int
    start: int
    pitch: int


@dataclass(frozen=True, slots=True)
class WriteColumns:
    """Biases and shifts to column parameter entries, from a constant.

    Parameters
    ----------
    source : str
        A constant ``[entries, columns, 2]`` of int32: bias words, shifts.
    start : int
        First entry of the source.
    entry, entries : int
        First entry of the parameter memory, and how many.
    """

    source: str
    start: int
    entry: int
    entries: int


@dataclass(frozen=True, slots=True)
class Collect:
    """Where the rows that a GEMM sends on the result stream belong in a layer's output.

    Rows come for each batch, each ``config.rows`` rows, each column tile, the rows in order.
    The output is ``[n, pixels, channels]`` flattened from ``[n, h, w, c]``; row m of batch b is its
    flat row ``(batch * pixels + row) + b * (pitch or pixels) + m``, so that rows may run on into
    the images that follow. :meth:`positions` says the same in arrays.

    Parameters
    ----------
    layer : str
    batch, batches : int
        First n and how many.
    row, rows : int
        First pixel and how many.
    column, columns : int
        First channel and how many.
    accumulate : bool
        Whether these are exact sums of further terms of K, to be added to what is there.
    pitch : int
        Flat rows from one batch to the next; 0 for the pixels of an image.
    """

    layer: str
    batch: int
    batches: int
    row: int
    rows: int
    column: int
    columns: int
    accumulate: bool = False
    pitch: int = 0

    def positions(
        self, config: MachineConfig, pixels: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Where each row of the stream belongs.

        Parameters
        ----------
        config : MachineConfig
        pixels : int
            Of an image of the output.

        Returns
        -------
        rows, columns, counts : NDArray of int64 ``[R]``
            Per beat, in the stream's order: the flat row of ``[n * pixels, channels]``, its first
            channel, and how many channels.
        """
        tiles = -(-self.columns // config.columns)
        row_tiles = -(-self.rows // config.rows)
        side = np.arange(config.rows)
        m, t = np.broadcast_arrays(
            (np.arange(row_tiles) * config.rows)[:, None, None] + side,
            np.arange(tiles)[:, None],
        )
        m, t = m[m < self.rows], t[m < self.rows]
        first = self.batch * pixels + self.row
        batches = first + np.arange(self.batches) * (self.pitch or pixels)
        start = np.tile(t * config.columns, self.batches)
        counts = np.minimum(self.columns - start, config.columns)
        return (batches[:, None] + m).ravel(), self.column + start, counts


@dataclass(frozen=True, slots=True)
class Section:
    """The part of a program that does (a piece of) one layer.

    Parameters
    ----------
    layer : str
    end : int
        Index of the word after its last.
    collects : tuple of Collect
        One per GEMM that sends results, in order.
    """

    layer: str
    end: int
    collects: tuple[Collect, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """A program; tile memory, parameters and table stay as they are from one to the next.

    Each section sets every register it needs relative to what sections before it left. A program
    cut at a section's end runs on its own if the registers are first set to what they were there.

    Parameters
    ----------
    words : tuple of int
    sections : tuple of Section
    """

    words: tuple[int, ...]
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class ReadWords:
    """Words from tile memory into a tensor that the host keeps: WriteWords the other way round."""

    tensor: str
    address: int
    rows: int
    count: int
    stride: int
    start: int
    pitch: int


@dataclass(frozen=True, slots=True)
class Drain:
    """The host makes a layer's words from the exact sums that it collected.

    For a layer with a :class:`~sw.compiler.layers.WordsOutput` whose sums are longer than the
    machine can hold at a time: ``act(sum * 2**(e_a + e_b) + bias)`` rounded once, by the layer's
    meaning, into the words of its output tensor as the host keeps them. What must lie in tile
    memory is written by the commands that follow.

    Parameters
    ----------
    layer : str
    """

    layer: str


Command: TypeAlias = WriteWords | WriteColumns | Run | ReadWords | Drain


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in tile memory while it lives there.

    Word ``(n, h, w, c)`` is at ``address + n * image + h * line + w * pixel + c``: the first word
    inside the border.

    Parameters
    ----------
    address, image, line, pixel : int
        Words.
    """

    address: int
    image: int
    line: int
    pixel: int


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The commands of a plan.

    Parameters
    ----------
    config : MachineConfig
    setup : tuple of Command
        Once, before the first inference: resident weights, parameters and zero borders.
    steps : tuple of tuple of Command
        One per step of the plan, empty for host steps. An Upload's writes its words (or, for a
        tensor that the host keeps, nothing); a run of layers that need the host for nothing between
        them has one program, in the commands of the first of them.
    places : mapping of str to Place
        Where tensors lie as the step ends that makes them; tensors that the host keeps have none.
    constants : mapping of str to array
        Sources of writes: ``weights.LAYER`` (words, 1-D), ``parameters.LAYER``
        (int32 ``[entries, columns, 2]``).
    """

    config: MachineConfig
    setup: tuple[Command, ...]
    steps: tuple[tuple[Command, ...], ...]
    places: Mapping[str, Place]
    constants: Mapping[str, NDArray[Any]]
