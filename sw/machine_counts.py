"""Which slices of a GEMM are issued, and what their operands count for."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sw.config import MachineConfig
from sw.machine_gemm import Walk
from sw.machine_operands import Words

Flags = NDArray[np.bool_]


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


def issued_slices(walk: Walk, zero_segments: Flags, batch: int) -> Flags:
    """Which slices of every column tile are issued, ``[tiles, K]``.

    All, or with SKIP those whose segment of B is not known to be zero; of a block without any, the
    first slice of its last chunk.
    """
    if not walk.skips:
        return np.ones((walk.tiles, walk.terms), dtype=np.bool_)
    k = np.arange(walk.terms)
    k0, outer = k % walk["K0"], k // walk["K0"]
    offsets = (
        k0 * walk["B_K0"]
        + (outer % walk["K1"]) * walk["B_K1"]
        + (outer // walk["K1"]) * walk["B_K2"]
    )
    base = walk["B_BASE"] + batch * walk["B_G"] + np.arange(walk.tiles) * walk["B_N"]
    issued: Flags = ~zero_segments[(base[:, None] + offsets) // walk.lanes]
    chunks = walk.chunk_starts
    for start, end in walk.block_bounds:
        empty = ~issued[:, start:end].any(axis=1)
        issued[empty, chunks[chunks < end][-1]] = True
    return issued


def first_slices(walk: Walk, issued: Flags) -> Flags:
    """Which of the issued slices start a sum."""
    first = np.zeros_like(issued)
    tiles = np.arange(len(issued))
    for start, end in walk.block_bounds:
        first[tiles, start + issued[:, start:end].argmax(axis=1)] = True
    return first


def count_operands(a: Words, b: Words, walk: Walk, issued: Flags, config: MachineConfig) -> Counts:
    """What the slices of some column tiles of one batch count for.

    Parameters
    ----------
    a : words ``[M, K]``
    b : words ``[K, lanes]``
        Of the column tiles side by side.
    issued : bool ``[tiles, K]``
        Of the same tiles.
    """
    bounds = np.arange(0, b.shape[1], walk.lanes)
    lanes = np.diff(np.append(bounds, b.shape[1]))
    slices = issued.sum(axis=1)

    def count(of_a: Flags, of_b: Flags, which: Flags) -> int:
        rows = np.count_nonzero(of_a, axis=0)
        columns = np.add.reduceat(of_b, bounds, axis=1, dtype=np.int64)
        return int((which @ rows).sum()) + walk.row_tiles * int((which * columns.T).sum())

    code = a.dtype.type(config.format.max_code)
    zero = (a & code) == 0, (b & code) == 0
    later = issued & ~first_slices(walk, issued)
    return Counts(
        macs=walk.rows * int(lanes @ slices),
        slices=walk.row_tiles * int(slices.sum()),
        skipped_slices=walk.row_tiles * int((~issued).sum()),
        zero_operands=count(*zero, issued),
        # The edge passes a sum's first slice as it is.
        held_operands=count(*zero, later) if config.hold else 0,
        unity_operands=count((a & code) == code, (b & code) == code, issued) if config.unity else 0,
    )
