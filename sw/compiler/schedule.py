"""What a device is told to do for a plan: writes, programs and reads, with every address fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

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
    The output is ``[n, pixels, channels]`` flattened from ``[n, h, w, c]``.

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
    """

    layer: str
    batch: int
    batches: int
    row: int
    rows: int
    column: int
    columns: int
    accumulate: bool = False


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


Command: TypeAlias = WriteWords | WriteColumns | Run | ReadWords


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
