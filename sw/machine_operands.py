"""Where the words of a GEMM lie: matrices gathered from tile memory by address arithmetic.

Every address is inside the memory: :meth:`sw.checks.Gemm.fault` has seen to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from sw.checks import IDENTITY_SHIFT_BITS
from sw.format import SFx
from sw.machine_gemm import Walk
from sw.registers import AMode, BMode

#: Words as memory holds them: uint8 up to 8 bits, else uint16.
Words = NDArray[Any]


def a_words(memory: Words, walk: Walk, batches: range, tile: int) -> Words:
    """A of some batches and a column tile, words ``[batches, M, K]``."""
    base = walk["A_BASE"] + batches.start * walk["A_G"] + tile * walk["A_N"]
    outer = len(batches), walk["A_G"]
    terms = (walk["K2"], walk["A_K2"]), (walk["K1"], walk["A_K1"])
    if walk.a_mode == AMode.LANES:
        lanes = (walk["MY"], walk["A_Y"]), (walk["MX"], walk["A_X"])
        words = _gather(memory, base, outer, *lanes, *terms, (walk["K0"], 1))
    else:
        words = _gather(memory, base, outer, (walk.rows, 1), *terms, (walk["K0"], walk["A_K0"]))
    return words.reshape(len(batches), walk.rows, walk.terms)


def b_words(memory: Words, walk: Walk, format: SFx, batches: range, tiles: range) -> Words:
    """B of some batches and of neighbouring column tiles, words ``[batches, K, lanes]``."""
    count = len(tiles)
    used = (count - 1) * walk.lanes + walk.tile_columns(tiles[-1])
    if walk.b_mode == BMode.IDENTITY:
        tile = identity_words(walk, format).astype(memory.dtype)
        return np.tile(tile, (len(batches), 1, count))[..., :used]
    base = walk["B_BASE"] + batches.start * walk["B_G"] + tiles.start * walk["B_N"]
    outer = len(batches), walk["B_G"]
    lanes = walk.lanes if count > 1 else used
    terms = (walk["K2"], walk["B_K2"]), (walk["K1"], walk["B_K1"])
    k0, j = (walk["B_K0"], 1) if walk.b_mode == BMode.SLICES else (1, walk["B_X"])
    # Of the last tile, lanes that are not used are gathered too: RANGE counts them as used.
    loops = (outer, *terms, (walk["K0"], k0), (count, walk["B_N"]), (lanes, j))
    words = _gather(memory, base, *loops)
    return words.reshape(len(batches), walk.terms, count * lanes)[..., :used]


def identity_words(walk: Walk, format: SFx) -> NDArray[np.int64]:
    """One tile of the identity that no memory holds, words ``[K, columns]``."""
    words = np.zeros((walk["K2"], walk["K1"], walk["K0"], walk.lanes), dtype=np.int64)
    diagonal = np.arange(min(walk["K0"], walk.lanes))
    for k1 in range(min(walk["K1"], 2)):
        which = slice(k1, None) if k1 else slice(0, 1)
        words[:, which, diagonal, diagonal] = power_word(walk["B_K1" if k1 else "B_K0"], format)
    return words.reshape(walk.terms, walk.lanes)


def power_word(register: int, format: SFx) -> int:
    """The word ``2**-S``, S the low four bits of a register; zero where the format has none."""
    shift = register % (1 << IDENTITY_SHIFT_BITS)
    if shift == 0:
        return format.max_code
    return 1 << format.fraction_bits >> shift


@dataclass(frozen=True, slots=True)
class ResultRows:
    """Rows of a GEMM's result in the order in which the machine makes them.

    Parameters
    ----------
    words : NDArray
        ``[R, columns]``: words or exact sums; what lies beyond a row's count is 0.
    counts : NDArray of int64
        ``[R]``, lanes that a row uses.
    addresses : NDArray of int64
        ``[R]``, of a row's first word if the result goes to memory.
    """

    words: NDArray[Any]
    counts: NDArray[np.int64]
    addresses: NDArray[np.int64]


def order_rows(result: NDArray[Any], walk: Walk, batches: range) -> ResultRows:
    """Results ``[batches, M, N]`` as rows of tiles: row tile by row tile, column tile in it."""
    count, side, tiles, lanes = len(batches), walk.side, walk.tiles, walk.lanes
    high = walk.row_tiles * side
    words: NDArray[Any] = np.zeros((count, high, tiles * lanes), dtype=result.dtype)
    words[:, : walk.rows, : walk.columns] = result
    m = np.arange(high)
    counts = np.full((high, tiles), lanes, dtype=np.int64)
    counts[:, -1] = walk["NL"]
    counts[walk.rows :] = 0
    offsets = (m % walk["MX"]) * walk["O_X"] + (m // walk["MX"]) * walk["O_Y"]
    base = walk["O_BASE"] + np.arange(batches.start, batches.stop) * walk["O_G"]
    addresses = base[:, None] + _by_tile((offsets[:, None] + np.arange(tiles) * walk["O_N"]), walk)
    made = _by_tile(counts, walk)
    there = np.flatnonzero(made)  # the last row tile may be ragged
    rows = words.reshape(count, walk.row_tiles, side, tiles, lanes).swapaxes(2, 3)
    rows = rows.reshape(count, high * tiles, lanes)
    if len(there) < len(made):
        made, addresses, rows = made[there], addresses[:, there], rows[:, there]
    return ResultRows(rows.reshape(-1, lanes), np.tile(made, count), addresses.reshape(-1))


def _by_tile(table: NDArray[np.int64], walk: Walk) -> NDArray[np.int64]:
    """What belongs to rows and column tiles ``[rows, tiles]``, in the order of the machine."""
    return table.reshape(walk.row_tiles, walk.side, walk.tiles).swapaxes(1, 2).reshape(-1)


def _gather(memory: Words, base: int, *loops: tuple[int, int]) -> Words:
    """Words at ``base`` plus strides times counters; ``loops`` are (count, stride), outer first."""
    size = memory.itemsize
    shape = [count for count, _ in loops]
    strides = [stride * size for _, stride in loops]
    return np.array(as_strided(memory[base:], shape, strides, writeable=False))
