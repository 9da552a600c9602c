"""Reduction of columns of bits to two rows with full and half adders, after Dadda."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Cat, Instance, Module, Signal, Value

from hw.carry_chain import BEHAVIOURAL


@dataclass(frozen=True, slots=True)
class Compressor:
    """A full adder (three inputs) or half adder (two) of a column.

    Attributes
    ----------
    level : int
        Adders in a row before this one: all of a level can be evaluated together.
    column : int
        The weight of the inputs and of ``sum`` is ``2**column``, of ``carry`` twice that.
    inputs : tuple of int
        Numbers of the bits added.
    sum, carry : int
        Numbers of the bits produced.
    """

    level: int
    column: int
    inputs: tuple[int, ...]
    sum: int
    carry: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """Compressors in order of level, and the columns of at most two bit numbers they leave."""

    compressors: tuple[Compressor, ...]
    columns: tuple[tuple[int, ...], ...]


def dadda_heights(highest: int) -> list[int]:
    """The heights 2, 3, 4, 6, 9, 13, ... below ``highest``, falling (L. Dadda, 1965)."""
    heights = [2]
    while heights[-1] * 3 // 2 < highest:
        heights.append(heights[-1] * 3 // 2)
    return [height for height in reversed(heights) if height < highest]


#: Exclusive-or delays from the inputs of an adder to its outputs: the last input arrives latest.
_SLOW, _FAST = 2, 1


class _Columns:
    """Columns of bits under reduction, each bit with its arrival and its level."""

    def __init__(self, heights: Sequence[int]) -> None:
        self.columns: list[list[int]] = []
        self.arrival: list[int] = []
        self.level: list[int] = []
        self.compressors: list[Compressor] = []
        for height in heights:
            self.columns.append([self._bit(0, 0) for _ in range(height)])

    def _bit(self, arrival: int, level: int) -> int:
        self.arrival.append(arrival)
        self.level.append(level)
        return len(self.arrival) - 1

    def compress(self, column: int, count: int, pool: list[int], carries: list[int]) -> None:
        """Add the ``count`` earliest bits of the pool; the sum and the carry join the others."""
        pool.sort(key=lambda bit: (self.arrival[bit], bit))
        inputs = tuple(pool[:count])
        del pool[:count]
        level = max(self.level[bit] for bit in inputs)
        if count == 3:
            pair = max(self.arrival[bit] for bit in inputs[:2])
            arrival = max(pair + _SLOW, self.arrival[inputs[2]] + _FAST)
        else:
            arrival = self.arrival[inputs[1]] + _FAST
        total, carry = self._bit(arrival, level + 1), self._bit(arrival, level + 1)
        self.compressors.append(Compressor(level, column, inputs, total, carry))
        self.columns[column].append(total)
        carries.append(carry)

    def reduction(self) -> Reduction:
        order = sorted(self.compressors, key=lambda c: (c.level, c.column, c.inputs))
        return Reduction(tuple(order), tuple(tuple(column) for column in self.columns))


def reduce_by_stages(heights: Sequence[int]) -> Reduction:
    """Dadda's reduction: stage by stage, no adder more than the next of Dadda's heights needs.

    Parameters
    ----------
    heights : sequence of int
        Bits per column, least significant first; bits are numbered in this order.

    Returns
    -------
    Reduction
        Carries out of the last column are kept in further columns only if they can occur in the
        column count given: they cannot for a product, whose last column is given height 0.
    """
    state = _Columns(heights)
    for limit in dadda_heights(max(heights)):
        arriving: list[int] = []  # carries of this stage into the column at hand
        for column in range(len(heights)):
            pool = state.columns[column]
            state.columns[column] = done = list(arriving)
            arriving = []
            while (excess := len(pool) + len(state.columns[column]) - limit) > 0:
                state.compress(column, 3 if excess > 1 else 2, pool, arriving)
            done = state.columns[column]
            done.extend(pool)
        if arriving:
            raise AssertionError("carry out of the last column")
    return state.reduction()


def reduce_by_arrival(heights: Sequence[int], ripple: int = 0) -> Reduction:
    """Column by column, always adding the earliest bits (after Oklobdzija, Villeger and Liu, 1996).

    Parameters
    ----------
    heights : sequence of int
        Bits per column, least significant first; bits are numbered in this order.
    ripple : int
        Low columns that are reduced to a single bit and leave nothing to the final adder.
    """
    state = _Columns(heights)
    for column in range(len(heights)):
        pool = state.columns[column]
        carries = state.columns[column + 1] if column + 1 < len(heights) else []
        limit = 1 if column < ripple else 2
        while len(pool) > limit:
            state.columns[column] = pool
            excess = len(pool) - limit
            state.compress(column, 2 if excess % 2 else 3, pool, carries)
    return state.reduction()


REDUCTIONS: Final[dict[str, Callable[..., Reduction]]] = {
    "stages": reduce_by_stages,
    "arrival": reduce_by_arrival,
}
#: The full adder of the osu018 library, which logic synthesis does not find by itself.
LIBRARY_CELL: Final = "FAX1"
CELLS: Final = ("majority", "shared", "select", LIBRARY_CELL)


def build_reduction(
    m: Module,
    columns: Sequence[Sequence[Value]],
    reduction: Reduction,
    cell: str,
    platform: object = None,
) -> list[list[Value]]:
    """Add the statements of a reduction to a module, a vector of adders per level.

    Parameters
    ----------
    m : Module
    columns : sequence of sequences of Value
        One-bit values, the heights that the reduction was made for.
    reduction : Reduction
    cell : {"majority", "shared", "select"}
        How an adder is written: three products; reusing ``x ^ y``; the same as a multiplexer.
        Synthesisers restructure logic but start from what they are given.

    Returns
    -------
    list of list of Value
        The columns left, at most two bits each.
    """
    bits: dict[int, Value] = dict(enumerate(bit for column in columns for bit in column))
    levels = 1 + max((c.level for c in reduction.compressors), default=-1)
    for level in range(levels):
        for size in (2, 3):
            group = [c for c in reduction.compressors if (c.level, len(c.inputs)) == (level, size)]
            if group:
                operands = [Cat(bits[c.inputs[i]] for c in group) for i in range(size)]
                name = f"level_{level}_{'full' if size == 3 else 'half'}"
                total, carry = _adders(m, name, operands, cell, platform)
                for i, compressor in enumerate(group):
                    bits[compressor.sum], bits[compressor.carry] = total[i], carry[i]
    return [[bits[number] for number in column] for column in reduction.columns]


def _adders(
    m: Module, name: str, operands: list[Value], cell: str, platform: object
) -> tuple[Signal, Signal]:
    """A vector of independent half or full adders."""
    width = len(operands[0])
    vectors = []
    for letter, operand in zip("xyz", operands, strict=False):
        vectors.append(Signal(width, name=f"{name}_{letter}"))
        m.d.comb += vectors[-1].eq(operand)
    total = Signal(width, name=f"{name}_sum")
    carry = Signal(width, name=f"{name}_carry")
    if len(operands) == 2:
        x, y = vectors
        m.d.comb += [total.eq(x ^ y), carry.eq(x & y)]
        return total, carry
    if cell == LIBRARY_CELL and platform is not BEHAVIOURAL:
        for i in range(width):
            ports = {f"i_{pin}": v[i] for pin, v in zip("ABC", vectors, strict=True)}
            m.submodules[f"{name}_{i}"] = Instance(
                LIBRARY_CELL, o_YS=total[i], o_YC=carry[i], **ports
            )
        return total, carry
    x, y, z = vectors
    half = Signal(width, name=f"{name}_half_sum")
    m.d.comb += [half.eq(x ^ y), total.eq(half ^ z)]
    if cell == "majority":
        m.d.comb += carry.eq(x & y | x & z | y & z)
    elif cell == "select":
        m.d.comb += carry.eq(half & z | ~half & x)
    else:
        m.d.comb += carry.eq(x & y | half & z)
    return total, carry
