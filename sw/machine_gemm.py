"""One GEMM as the machine walks it: batches, row tiles, column tiles, blocks, chunks of terms."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sw.checks import Gemm
from sw.isa import Destination, Flag, Function
from sw.registers import AMode, BMode, Register
from sw.scale import BLOCK


@dataclass(frozen=True, slots=True)
class Walk:
    """The loops of a GEMM or ADD that has passed its checks.

    A row of the result is named by ``(batch, m)``, a column by ``(tile, j)``, a term by k; the
    machine makes them batch by batch, row tile by row tile, column tile by column tile.

    Parameters
    ----------
    gemm : Gemm
    """

    gemm: Gemm

    def __getitem__(self, register: str) -> int:
        return self.gemm[Register[register]]

    def has(self, flag: Flag) -> bool:
        """Whether the instruction has the flag."""
        return bool(self.gemm.flags & flag)

    @property
    def destination(self) -> Destination:
        return Destination(self.gemm.instruction.operands[0])

    @property
    def function(self) -> Function:
        """The activation."""
        return Function(self.gemm.instruction.operands[1])

    @property
    def a_mode(self) -> AMode:
        return AMode(self["A_MODE"])

    @property
    def b_mode(self) -> BMode:
        return BMode(self.gemm.b_mode)

    @property
    def side(self) -> int:
        """Rows of the array."""
        return self.gemm.config.rows

    @property
    def lanes(self) -> int:
        """Columns of the array."""
        return self.gemm.config.columns

    @property
    def rows(self) -> int:
        """M, rows of the result per batch."""
        return self.gemm.rows

    @property
    def columns(self) -> int:
        """N, columns of the result per batch."""
        return self.gemm.columns

    @property
    def terms(self) -> int:
        """K, the length of every dot product."""
        return self.gemm.inner

    @property
    def tiles(self) -> int:
        """Column tiles."""
        return self["NT"]

    @property
    def row_tiles(self) -> int:
        """Tiles of rows, the last one ragged."""
        return -(-self.rows // self.side)

    @property
    def blocks(self) -> int:
        """Sums that leave the array per tile: one, or one per 32 terms."""
        return -(-self.terms // BLOCK) if self.has(Flag.BLOCK) else 1

    def tile_columns(self, tile: int) -> int:
        """Columns of a column tile."""
        return self.lanes if tile < self.tiles - 1 else self["NL"]

    def tile_rows(self, row_tile: int) -> int:
        """Rows of a row tile."""
        return min(self.side, self.rows - row_tile * self.side)

    @property
    def skips(self) -> bool:
        """Whether the flag SKIP has an effect: B's slices are whole segments of memory."""
        aligned = ("B_BASE", "B_K1", "B_K2", "B_N", "B_G")
        return (
            self.has(Flag.SKIP)
            and self.b_mode == BMode.SLICES
            and self.gemm.config.skips
            and self["B_K0"] == self.lanes
            and all(self[name] % self.lanes == 0 for name in aligned)
        )

    @property
    def control(self) -> tuple[int, ...]:
        """All that its cycles depend on but for the slices that SKIP leaves out."""
        counts = ("MX", "MY", "K0", "K1", "K2", "NT", "NL", "G")
        modes = self.a_mode, self.b_mode, self.destination, self.has(Flag.BLOCK), self.skips
        return (*(self[name] for name in counts), *modes)

    @property
    def batches_of_b(self) -> range:
        """Batches whose B differ: the first alone where all have the same."""
        shared = self.b_mode == BMode.IDENTITY or self["B_G"] == 0
        return range(1 if shared else self["G"])

    @property
    def block_bounds(self) -> list[tuple[int, int]]:
        """The first term of every sum that leaves the array, and the first that it has not."""
        bounds = [*range(0, self.blocks * BLOCK, BLOCK), self.terms]
        return list(pairwise(bounds))

    @property
    def chunk_lengths(self) -> NDArray[np.int64]:
        """Terms of every chunk of a tile, in order: what is read of a lane at once.

        A run of K0 terms is cut into vectors; what is left between 1 and 1.5 vectors into half a
        vector and the rest, so that no short chunk has to hide the reading of the next.
        """
        vector = self.gemm.config.vector
        lengths = []
        done = 0
        while done < self["K0"]:
            left = self["K0"] - done
            if self.has(Flag.BLOCK):
                left = min(left, BLOCK - done % BLOCK)
            half = vector < left < vector + vector // 2
            lengths.append(vector // 2 if half else min(left, vector))
            done += lengths[-1]
        return np.tile(np.array(lengths, dtype=np.int64), self["K1"] * self["K2"])

    @property
    def chunk_starts(self) -> NDArray[np.int64]:
        """The first term of every chunk of a tile."""
        lengths = self.chunk_lengths
        return np.cumsum(lengths) - lengths
