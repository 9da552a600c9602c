"""What serial control takes for the loops of a GEMM or ADD, after its checks: in closed form.

Stretches of steps are named by the labels of ``hw.serial_gemm`` at which they begin. A tile takes
the same wherever it is, but for its numbers of rows and columns.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from sw import serial_timing as t
from sw.isa import Destination, Flag
from sw.machine_gemm import Walk
from sw.registers import AMode, BMode

#: ``checked`` to ``columns_of_b``, one of its turns, and from there to ``next_g``.
_START, _COLUMN, _BEGIN = 4 + 5 + (2 + 7) + (2 + 7) + 3, 13, 12
#: ``next_g``, ``next_m``, ``next_row``, ``next_t``, and what follows their bodies.
_BATCH, _ROW_TILE, _ROW, _TILE = 10, 3 + 3 + 10, 25, 5 + 8
_BATCH_END, _ROW_TILE_END, _TILE_END, _END = 19, 7, 16, 5
#: ``next_k2``, ``next_k1``, and what follows their bodies.
_K2, _K1, _K_END = 6, 8, 10
#: ``next_k0`` to its lanes, lanes of A and what leads to those of B.
_CHUNK, _LANE_A, _TO_B = 3 + 1 + 4, 14, 5
#: Lanes of B and what is around them; the same of an identity, and its words.
_LANE_B, _AROUND_B, _LANE_I, _AROUND_I, _WORD_I = 16, 2 + 1, 7 + 5, 3 + 5, 11
#: ``loaded``: up to the order GO, and after it.
_GO, _AFTER_GO = 3, 15
#: Steps from the order to load a lane to the next order: of A, from A to B, of B, from B to GO.
_A_TO_A, _A_TO_B, _A_TO_I, _B_TO_B, _B_TO_GO = 7, 12, 5 + 5 + 3 + 5 + 3, 8, 9
#: Steps from ``next_k0`` to its first order, but for the length of the chunk.
_TO_ORDER: Final = 3 + 1 + 2
#: After a tile's chunks: up to the first order of the drain, and to its rows.
_ENTRY, _TO_DRAIN, _TO_ROWS = 6 + 3, 2, 4
#: ``row_out`` but for the row's shift, ``word_out`` but for activation and place, and their ends.
_ROW_OUT, _ROW_SHIFT, _WORD_OUT = 6 + 3 + 2 + 3 + 2 + 5, (1, 7), 3 + t.ELEMENT + 2 + 5
_COLUMN_ENTRY, _WIDE_ENTRY = 3 + 2 + 3, 3 + 2 + 4 + 3
_PLACE: Final = {Destination.MEMORY: 2, Destination.STREAM: 5, Destination.EXACT: 4}
#: A row that goes to the stream: lanes that it has not, and what tells the last row of all.
_STREAMED, _UNUSED, _TOLD_G, _TOLD_T, _TOLD_M, _TOLD = 4 + 9 + 2, 6, 3, 3, 4, 3


class SerialLoops:
    """The loops of one GEMM or ADD that has passed its checks.

    Parameters
    ----------
    walk : Walk

    Attributes
    ----------
    cycles : int
        From ``checked`` on, with the jump to ``finish``.
    draining : int
        Of them those from the sums of tiles to words.
    """

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._config = walk.gemm.config
        self._runs = walk["K1"] * walk["K2"]
        full, rest = divmod(walk["K0"], t.DEPTH)
        #: The chunks of a run: the first term of each, and how many it has.
        self._chunks = [(start * t.DEPTH, t.DEPTH) for start in range(full)]
        if rest:
            self._chunks.append((full * t.DEPTH, rest))
        self._entry = _ENTRY + t.multiply(0, self._config.columns).steps
        self.draining = 0
        self.cycles = self._cycles()

    def _cycles(self) -> int:
        walk = self._walk
        full, ragged = divmod(walk.rows, walk.side)
        rows = [(walk.side, full), (ragged, int(ragged > 0))]
        columns = [(walk.lanes, walk.tiles - 1), (walk["NL"], 1)]
        shapes = [
            (number * each, height, width)
            for height, number in rows
            for width, each in columns
            if number * each
        ]
        drains = sum(number * self._drain(*shape) for number, *shape in shapes)
        self.draining = walk["G"] * drains
        tiles = drains + sum(number * self._tile(*shape) for number, *shape in shapes)
        row_tiles = walk.row_tiles
        steps = _BATCH + row_tiles * (_ROW_TILE + _ROW_TILE_END) + full + 2 * (ragged > 0)
        steps += walk.rows * (_ROW + 6 + 3 * (walk.a_mode == AMode.SLICES)) + 2 * walk["MY"]
        steps += 2 * row_tiles + _BATCH_END  # NL is looked up for the last tile
        outside = self._start() + self._told() + _END
        return walk["G"] * (tiles + t.STEP * steps) + t.STEP * outside

    def _start(self) -> int:
        """Steps before the first batch."""
        walk = self._walk
        a_slices, b_slices = walk.a_mode == AMode.SLICES, walk.b_mode == BMode.SLICES
        negative = bool(walk["CLAMP"] & self._config.format.sign_bit)
        steps = _START + (2 - negative) + (1 + a_slices) + (2 - b_slices)
        steps += t.multiply(walk["A_K0"] if a_slices else 1, t.DEPTH).steps
        steps += t.multiply(walk["B_K0"] if b_slices else 1, t.DEPTH).steps
        return steps + walk.lanes * (_COLUMN + 3 - b_slices) + _BEGIN

    def _told(self) -> int:
        """Steps that find out which row of the stream is the last."""
        walk = self._walk
        if walk.destination == Destination.MEMORY:
            return 0
        rows = walk.rows * walk.tiles
        return walk["G"] * rows * _TOLD_G + rows * _TOLD_T + walk.rows * _TOLD_M + _TOLD

    def _tile(self, rows: int, columns: int) -> int:
        """Cycles of a tile up to its drain, and after it."""
        outer = self._walk["K2"]
        steps = _TILE + outer * (_K2 + _K_END) + self._runs * (_K1 + _K_END) + _TILE_END
        later = [self._chunk(start, length, rows, columns, False) for start, length in self._chunks]
        first = [self._chunk(start, length, rows, columns, True) for start, length in self._chunks]
        chunks = outer * sum(first) + (self._runs - outer) * sum(later)
        return t.STEP * steps + chunks + self._sending()

    def _chunk(self, start: int, length: int, rows: int, columns: int, first: bool) -> int:
        """Cycles of a chunk but for waiting after GO; ``first``: in the first run of k1."""
        steps = _CHUNK + _length_steps(length) + rows * _LANE_A + _TO_B + _GO + _AFTER_GO
        waits = (rows - 1) * t.load_wait(length, _A_TO_A)
        if self._walk.b_mode == BMode.IDENTITY:
            ones = max(0, min(columns, start + length) - start)
            steps += _AROUND_I + 1 + first + columns * (_LANE_I + (_WORD_I + 2) * length) - ones
            return t.STEP * steps + waits + t.load_wait(length, _A_TO_I + 1 + first)
        steps += columns * _LANE_B + _AROUND_B
        waits += t.load_wait(length, _A_TO_B) + (columns - 1) * t.load_wait(length, _B_TO_B)
        return t.STEP * steps + waits + t.load_wait(length, _B_TO_GO)

    def _sending(self) -> int:
        """Cycles that a tile's orders wait while slices go to the array."""
        lengths = [length for _, length in self._chunks]
        outer, last = self._walk["K2"], lengths[-1]
        to_chunk = _AFTER_GO + _TO_ORDER
        to_run = to_chunk + _K_END + _K1 + _length_steps(lengths[0])
        waits = self._runs * sum(
            t.go_wait(length, to_chunk + _length_steps(following))
            for length, following in pairwise(lengths)
        )
        waits += (self._runs - outer) * t.go_wait(last, to_run)
        waits += (outer - 1) * t.go_wait(last, to_run + _K_END + _K2)
        return waits + t.go_wait(last, _AFTER_GO + 2 * _K_END + self._entry + _TO_DRAIN)

    def _drain(self, rows: int, columns: int) -> int:
        """Cycles from a tile's sums to its words."""
        walk, config = self._walk, self._config
        word = _WORD_OUT + t.ACTIVATION[walk.function] + _PLACE[walk.destination]
        if walk.has(Flag.COLUMN):
            word += _WIDE_ENTRY if config.wide_bias else _COLUMN_ENTRY
        row = _ROW_OUT + _ROW_SHIFT[walk.has(Flag.ROW)] + columns * word
        if walk.destination != Destination.MEMORY:
            row += _STREAMED + _UNUSED * (walk.lanes - columns)
        steps = self._entry + _TO_ROWS + rows * row
        return t.STEP * steps + t.drain_wait(config, rows, columns)


def _length_steps(length: int) -> int:
    """Steps that a chunk's length takes: whole, or what is left."""
    return 1 if length == t.DEPTH else 2
