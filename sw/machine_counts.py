"""Which slices of a GEMM are issued, and what their operands count for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sw.config import MachineConfig
from sw.machine_gemm import Walk
from sw.machine_operands import Words

Flags = NDArray[np.bool_]
#: Rows that are counted in a byte.
_SHORT: Final = 255


@dataclass(frozen=True, slots=True)
class Counts:
    """Operand counters of a part of a program; they add."""

    macs: int = 0
    slices: int = 0
    skipped_slices: int = 0
    zero_operands: int = 0
    held_operands: int = 0
    unity_operands: int = 0

    def __add__(self, other: Counts) -> Counts:
        names = [field.name for field in fields(self)]
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def issued_slices(walk: Walk, zero_segments: Flags, batches: range) -> Flags:
    """Which slices of every column tile of some batches are issued, ``[batches, tiles, K]``.

    All, or with SKIP those whose segment of B is not known to be zero; of a block without any, the
    first slice of its last chunk.
    """
    if not walk.skips:
        return np.ones((len(batches), walk.tiles, walk.terms), dtype=np.bool_)
    k = np.arange(walk.terms)
    k0, outer = k % walk["K0"], k // walk["K0"]
    offsets = (
        k0 * walk["B_K0"]
        + (outer % walk["K1"]) * walk["B_K1"]
        + (outer // walk["K1"]) * walk["B_K2"]
    )
    base = walk["B_BASE"] + np.array(batches)[:, None] * walk["B_G"]
    base = base + np.arange(walk.tiles) * walk["B_N"]
    issued: Flags = ~zero_segments[(base[..., None] + offsets) // walk.lanes]
    chunks = walk.chunk_starts
    for start, end in walk.block_bounds:
        empty = ~issued[..., start:end].any(axis=-1)
        issued[empty, chunks[chunks < end][-1]] = True
    return issued


def first_slices(walk: Walk, issued: Flags) -> Flags:
    """Which of the issued slices start a sum."""
    first = np.zeros_like(issued)
    for start, end in walk.block_bounds:
        at = start + issued[..., start:end].argmax(axis=-1)
        np.put_along_axis(first, at[..., None], True, axis=-1)
    return first


def count_operands(a: Words, b: Words, walk: Walk, issued: Flags, config: MachineConfig) -> Counts:
    """What the slices of some column tiles count for.

    Parameters
    ----------
    a : words ``[batches, rows, K]``
        The rows of one batch, or of several that have the same B.
    b : words ``[batches, K, lanes]``
        Of the column tiles side by side.
    issued : bool ``[batches, tiles, K]``
        Of the same tiles.
    """
    rows: int = a.shape[1]
    row_tiles = walk.row_tiles * (rows // walk.rows)
    bounds = np.arange(0, b.shape[2], walk.lanes)
    lanes = np.diff(np.append(bounds, b.shape[2]))
    slices = issued.sum(axis=-1)
    first = first_slices(walk, issued)
    terms = np.flatnonzero(first.any(axis=(0, 1)))

    def count(of_a: Flags, of_b: Flags, which: Flags) -> int:
        if which.all():
            of_rows, of_columns = int(np.count_nonzero(of_a)), int(np.count_nonzero(of_b))
            return len(bounds) * of_rows + row_tiles * of_columns
        of_rows = int((which.sum(axis=1) * _count_rows(of_a)).sum())
        columns = np.add.reduceat(of_b, bounds, axis=-1, dtype=np.int64).swapaxes(1, 2)
        of_columns = int((which * columns).sum())
        return of_rows + row_tiles * of_columns

    code = a.dtype.type(config.format.max_code)
    zero = (a & code) == 0, (b & code) == 0
    zeros = count(*zero, issued)
    # The edge passes a sum's first slice as it is.
    passed = count(zero[0][..., terms], zero[1][:, terms], first[..., terms]) if config.hold else 0
    return Counts(
        macs=rows * int((slices @ lanes).sum()),
        slices=row_tiles * int(slices.sum()),
        skipped_slices=row_tiles * int((~issued).sum()),
        zero_operands=zeros,
        held_operands=zeros - passed if config.hold else 0,
        unity_operands=count((a & code) == code, (b & code) == code, issued) if config.unity else 0,
    )


def _count_rows(flags: Flags) -> NDArray[np.int64]:
    """How many rows have each flag, ``[batches, rows, K]`` to ``[batches, K]``."""
    batches, rows, terms = flags.shape
    whole = rows // _SHORT * _SHORT
    ones = flags.view(np.uint8)  # sums of few rows fit in a byte, and bytes are added quickly
    parts = ones[:, :whole].reshape(batches, -1, _SHORT, terms).sum(axis=2, dtype=np.uint8)
    rest = ones[:, whole:].sum(axis=1, dtype=np.uint8)
    return np.asarray(parts.sum(axis=1, dtype=np.int64) + rest)
