"""What a GEMM asks of the machine's control: all that its cycles depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sw.isa import Destination, Flag
from sw.machine_counts import issued_slices
from sw.machine_gemm import Walk
from sw.machine_state import TileMemory
from sw.registers import AMode, BMode
from sw.scale import BLOCK
from sw.timing import Timing


@dataclass(frozen=True, slots=True)
class GemmCycles:
    """How long a GEMM takes, from the start of planner and issuer on, and why its slices wait.

    Parameters
    ----------
    total : int
        Cycles after the one of the start, up to and with the last row's.
    first_read : int
        The first read of an operand, in cycles after the start.
    stall_a, stall_b, stall_drain, stall_results : int
    """

    total: int
    first_read: int
    stall_a: int
    stall_b: int
    stall_drain: int
    stall_results: int

    @property
    def compute_cycles(self) -> int:
        """From the first read to the last row, both included."""
        return self.total - self.first_read + 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some neighbouring terms of a tile.

    Parameters
    ----------
    slices : int
        Slices of it that enter the array; 0 if all of it is left out.
    end : bool
        Whether it is the last of its sum (of its tile, or block).
    rows, columns : int
        Lanes of its tile.
    last_block, last : bool
        Whether its sum is the tile's last, and the GEMM's.
    """

    slices: int
    end: bool
    rows: int
    columns: int
    last_block: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Load:
    """A GEMM as sequences of chunks.

    Parameters
    ----------
    timing : Timing
    walk : Walk
    slices : NDArray of int32
        ``[batches, tiles, chunks]``: how many slices of each chunk enter the array; one batch and
        one tile stand for all where nothing is left out, one batch where all have the same B.
    ends : NDArray of bool
        ``[chunks]``: which are the last of a tile or block.
    """

    timing: Timing
    walk: Walk
    slices: NDArray[np.int32]
    ends: NDArray[np.bool_]

    @classmethod
    def of(cls, walk: Walk, memory: TileMemory) -> Load:
        """The load of a GEMM on what the memory holds as it starts."""
        starts = walk.chunk_starts
        ends = np.zeros(len(starts), dtype=np.bool_)
        ends[-1] = True
        if walk.has(Flag.BLOCK):
            ends = ends | ((starts + walk.chunk_lengths) % BLOCK == 0)
        if walk.skips:
            issued = issued_slices(walk, memory.zero_segments, walk.batches_of_b)
            slices = np.add.reduceat(issued, starts, axis=-1, dtype=np.int32)
        else:
            slices = walk.chunk_lengths.astype(np.int32)[None, None]
        return cls(Timing(walk.gemm.config), walk, slices, ends)

    @property
    def fingerprint(self) -> bytes:
        """Of the slices that enter the array."""
        return hashlib.blake2b(self.slices.tobytes(), digest_size=16).digest()

    @property
    def a_in_lanes(self) -> bool:
        return self.walk.a_mode == AMode.LANES

    @property
    def b_in_lanes(self) -> bool:
        return self.walk.b_mode == BMode.LANES

    @property
    def b_reads(self) -> bool:
        """Whether B lies in memory."""
        return self.walk.b_mode != BMode.IDENTITY

    @property
    def to_stream(self) -> bool:
        return self.walk.destination != Destination.MEMORY

    def chunks(self) -> Iterator[Chunk]:
        """All chunks in order."""
        walk = self.walk
        batches, tiles, _ = self.slices.shape
        for g in range(walk["G"]):
            for row_tile in range(walk.row_tiles):
                for tile in range(walk.tiles):
                    counts = self.slices[g % batches, tile % tiles]
                    tail = g == walk["G"] - 1 and row_tile == walk.row_tiles - 1
                    for index, (count, end) in enumerate(zip(counts, self.ends, strict=True)):
                        last_block = not self.ends[index:-1].any()
                        yield Chunk(
                            slices=int(count),
                            end=bool(end),
                            rows=walk.tile_rows(row_tile),
                            columns=walk.tile_columns(tile),
                            last_block=last_block,
                            last=tail and tile == walk.tiles - 1 and last_block,
                        )
