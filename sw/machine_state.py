"""The memories of a machine: tiles with their zero flags, and the parameters of the columns."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from sw.activation import SEGMENTS, Table
from sw.config import MachineConfig
from sw.isa import Flag
from sw.machine_gemm import Walk
from sw.machine_operands import ResultRows, Words
from sw.scale import SHIFT_BITS, check_shift

#: A block's sum is lifted by less than ``2**LIFT_BITS`` bits.
LIFT_BITS: Final = 4


class TileMemory:
    """Words, and per aligned segment of ``columns`` words whether it is known to be zero.

    Parameters
    ----------
    config : MachineConfig

    Attributes
    ----------
    words : NDArray of uint8 or uint16
        ``[memory_words]``.
    zero_segments : NDArray of bool
        Set by a write of zeros to a whole segment, cleared by any other write that touches it.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        dtype = np.uint8 if config.bits <= 8 else np.uint16
        self.words: Words = np.zeros(config.memory_words, dtype=dtype)
        self.zero_segments = np.ones(-(-config.memory_words // config.columns), dtype=np.bool_)

    @property
    def tiles(self) -> Words:
        """A view of the tile slots ``[slots, rows, columns]``."""
        config = self.config
        used = self.words[: config.slots * config.slot_words]
        return used.reshape(config.slots, config.rows, config.columns)

    def load(self, words: ArrayLike, address: int = 0) -> None:
        """Write words from an address on as the host does: ``columns`` at a time.

        The first access ends at the next multiple of ``columns``, the others start at one.

        Raises
        ------
        ValueError
            If there are more than the memory holds, or one is outside the format.
        """
        new = np.asarray(words).ravel()
        room = len(self.words) - address
        if address < 0 or len(new) > room:
            raise ValueError(
                f"memory must have at most {len(self.words)} words, "
                f"not {len(new)} from {address} on"
            )
        check_words(new, self.config)
        if len(new):
            self._store(address, new)

    def _store(self, address: int, new: Words) -> None:
        lanes = self.config.columns
        end = address + len(new)
        self.words[address:end] = new
        first, last = -(-address // lanes), end // lanes  # the segments that are whole
        self.zero_segments[address // lanes : -(-end // lanes)] = False
        if first < last:
            whole = new[first * lanes - address : last * lanes - address]
            zero = (whole.reshape(-1, lanes) & self.config.format.max_code) == 0
            self.zero_segments[first:last] = zero.all(axis=1)

    def write(self, address: int, words: Sequence[int]) -> None:
        """Write up to ``columns`` neighbouring words in one access."""
        lanes = self.config.columns
        end = address + len(words)
        self.words[address:end] = words
        whole = address % lanes == 0 and len(words) == lanes
        zero = not any(int(word) & self.config.format.max_code for word in words)
        for segment in range(address // lanes, (end - 1) // lanes + 1):
            self.zero_segments[segment] = whole and zero

    def write_rows(self, rows: ResultRows) -> None:
        """Write each row in one access; where rows overlap, the later one stays."""
        lanes = self.config.columns
        count = int(rows.counts[0])
        # numpy keeps the last of several values that are assigned to one index.
        if (rows.counts == count).all():
            windows = sliding_window_view(self.words, count, writeable=True)
            windows[rows.addresses] = rows.words[:, :count]
        else:
            j = np.arange(lanes)
            used = j < rows.counts[:, None]
            self.words[(rows.addresses[:, None] + j)[used]] = rows.words[used]
        any_bit = reduce(np.bitwise_or, rows.words.T)  # beyond a row's count they are 0
        zero = (any_bit & self.config.format.max_code) == 0
        whole = (rows.addresses % lanes == 0) & (rows.counts == lanes)
        first = rows.addresses // lanes
        if not whole.all():
            touched = np.stack((first, (rows.addresses + rows.counts - 1) // lanes), axis=1)
            self.zero_segments[touched.ravel()] = np.repeat(whole & zero, 2)
        else:
            self.zero_segments[first] = zero


class Parameters:
    """Bias, shift and lift per column and entry, shift and lift per row entry, the table.

    Parameters
    ----------
    config : MachineConfig

    Attributes
    ----------
    biases, column_shifts, column_lifts : NDArray of int64
        ``[parameters, columns]``.
    row_shifts, row_lifts : NDArray of int64
        ``[row_parameters]``.
    starts, slopes : NDArray of int64
        Of the segments of the piecewise-linear activation.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        shape = config.parameters, config.columns
        self.biases = np.zeros(shape, dtype=np.int64)
        self.column_shifts = np.zeros(shape, dtype=np.int64)
        self.column_lifts = np.zeros(shape, dtype=np.int64)
        self.row_shifts = np.zeros(config.row_parameters, dtype=np.int64)
        self.row_lifts = np.zeros(config.row_parameters, dtype=np.int64)
        self.starts = np.zeros(SEGMENTS, dtype=np.int64)
        self.slopes = np.zeros(SEGMENTS, dtype=np.int64)

    def write_column(
        self, entry: int, column: int, *, bias: int = 0, shift: int = 0, lift: int = 0
    ) -> None:
        """What a column's drain adds and divides by, and how far it lifts a block's sum.

        Parameters
        ----------
        entry, column : int
        bias : int
            A word of ``config.bias_format``.
        shift : int
            The column's part of the shift, -128 to 127.
        lift : int
            0 to 15 bits: how far the block's part lies below the column's largest.
        """
        _check("entry", entry, self.config.parameters)
        _check("column", column, self.config.columns)
        _check("bias", bias, 1 << self.config.bias_format.bits)
        _check("lift", lift, 1 << LIFT_BITS)
        self.column_shifts[entry, column] = check_shift("shift", shift)
        self.biases[entry, column] = bias
        self.column_lifts[entry, column] = lift

    def write_columns(self, entry: int, biases: ArrayLike, shifts: ArrayLike) -> None:
        """Write whole entries from one on; lifts become 0.

        Parameters
        ----------
        entry : int
        biases, shifts : array of int ``[entries, columns]``
            As of :meth:`write_column`.
        """
        new = check_columns(entry, biases, shifts, self.config)
        end = entry + len(new[0])
        self.biases[entry:end], self.column_shifts[entry:end] = new
        self.column_lifts[entry:end] = 0

    def write_row(self, entry: int, *, shift: int = 0, lift: int = 0) -> None:
        """A row's part of the shift and its lift of a block's sum."""
        _check("entry", entry, self.config.row_parameters)
        _check("lift", lift, 1 << LIFT_BITS)
        self.row_shifts[entry] = check_shift("shift", shift)
        self.row_lifts[entry] = lift

    def write_table(self, table: Table) -> None:
        """The piecewise-linear activation."""
        self.starts[:] = table.starts
        self.slopes[:] = table.slopes

    @property
    def table(self) -> Table:
        """The piecewise-linear activation."""
        return Table(tuple(map(int, self.starts)), tuple(map(int, self.slopes)))

    def column_entries(self, walk: Walk, batches: range) -> NDArray[np.int64]:
        """The entry of every batch, column tile and block, ``[batches, tiles, blocks]``."""
        offsets = np.arange(walk.tiles * walk.blocks).reshape(walk.tiles, walk.blocks)
        first = walk["P_COLUMN"] + np.array(batches) * walk["P_COLUMN_G"]
        return (first[:, None, None] + offsets) % self.config.parameters

    def row_entries(self, walk: Walk, batches: range) -> NDArray[np.int64]:
        """The entry of every row and block of some batches, ``[batches, M, blocks]``."""
        offsets = np.arange(walk.rows * walk.blocks).reshape(walk.rows, walk.blocks)
        first = walk["P_ROW"] + np.array(batches) * walk["P_ROW_G"]
        return (first[:, None, None] + offsets) % self.config.row_parameters

    def scaling(self, walk: Walk, batches: range, *, merged: bool = False) -> Scaling:
        """What a GEMM's drain takes from here for some batches.

        Parameters
        ----------
        merged : bool
            All batches have the columns' parameters of the first, and are given as one whose rows
            follow one another.
        """
        column = self.column_entries(walk, batches[:1] if merged else batches)
        row = self.row_entries(walk, batches)
        if merged:
            row = row.reshape(1, -1, walk.blocks)
        by_column, by_row = walk.has(Flag.COLUMN), walk.has(Flag.ROW)

        def of_columns(table: NDArray[np.int64], entries: NDArray[np.int64]) -> NDArray[np.int64]:
            return table[entries].reshape(len(column), -1)[:, : walk.columns] * by_column

        lifts = self.column_lifts[column].swapaxes(1, 2).reshape(len(column), walk.blocks, -1)
        return Scaling(
            biases=of_columns(self.biases, column[..., -1]),
            column_shifts=of_columns(self.column_shifts, column[..., -1]),
            row_shifts=self.row_shifts[row[..., -1]] * by_row,
            column_lifts=lifts[..., : walk.columns],
            row_lifts=self.row_lifts[row],
            limit=walk["CLAMP"],
            table=self.table,
        )


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the drain of some batches takes from the parameters, per row m and column n.

    Parameters
    ----------
    biases, column_shifts : NDArray of int64
        ``[batches, N]``.
    row_shifts : NDArray of int64
        ``[batches, M]``.
    column_lifts, row_lifts : NDArray of int64
        ``[batches, blocks, N]`` and ``[batches, M, blocks]``; they count with the flag BLOCK alone.
    limit : int
        The register CLAMP.
    table : Table
    """

    biases: NDArray[np.int64]
    column_shifts: NDArray[np.int64]
    row_shifts: NDArray[np.int64]
    column_lifts: NDArray[np.int64]
    row_lifts: NDArray[np.int64]
    limit: int
    table: Table


def check_columns(
    entry: int, biases: ArrayLike, shifts: ArrayLike, config: MachineConfig
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The arrays of :meth:`Parameters.write_columns`, or ValueError."""
    new = np.asarray(biases), np.asarray(shifts)
    for name, part in zip(("biases", "shifts"), new, strict=True):
        if part.ndim != 2 or part.shape[1] != config.columns or part.shape != new[0].shape:
            raise ValueError(
                f"{name} must be [entries, {config.columns}], both alike, not {part.shape}"
            )
    end = entry + len(new[0])
    if not 0 <= entry <= end <= config.parameters:
        raise ValueError(
            f"entries must be 0 to {config.parameters - 1}, not {entry!r} to {end - 1}"
        )
    limits = (0, 1 << config.bias_format.bits), (-1 << SHIFT_BITS - 1, 1 << SHIFT_BITS - 1)
    for name, part, (low, high) in zip(("biases", "shifts"), new, limits, strict=True):
        if part.size and not low <= part.min() <= part.max() < high:
            raise ValueError(
                f"{name} must be {low} to {high - 1}, not {part.min()} to {part.max()}"
            )
    return new


def check_words(words: Words, config: MachineConfig) -> None:
    """Refuse what is no word of the machine's format, saying how many."""
    limit = 1 << config.bits
    if not len(words) or (words.min() >= 0 and words.max() < limit):
        return
    bad = int(((words < 0) | (words >= limit)).sum())
    raise ValueError(
        f"memory must hold words from 0 to {limit - 1} for {config.format}, not {bad} others"
    )


def _check(name: str, value: int, limit: int) -> None:
    if not 0 <= operator.index(value) < limit:
        raise ValueError(f"{name} must be 0 to {limit - 1}, not {value!r}")
