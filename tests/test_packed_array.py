"""Cells that share multiplier blocks: every sum at its cell's place and time, and nothing else."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hw.carry_chain import BEHAVIOURAL
from hw.cell import Cell
from hw.packed_array import PackedCells
from sw.format import SFx
from tests.operands import SEED, operand, random_word

ROWS, COLUMNS, SLICES = 3, 5, 14


@pytest.mark.parametrize(
    ("bits", "unity", "target"),
    [(3, True, "ecp5"), (4, True, "ice40"), (4, False, "ecp5"), (9, True, "ice40")],
)
def test_each_sum_is_exact_and_in_its_cycle(bits: int, unity: bool, target: str) -> None:
    """Every slice is a tile of its own or ends one, and reaches row i and column j late by it."""
    format = SFx(bits, unity)
    generator = random.Random(SEED)
    unit = PackedCells(format, ROWS, COLUMNS, 64, target)
    words = [[random_word(format, generator) for _ in range(ROWS + COLUMNS)] for _ in range(SLICES)]
    first = [True, *(generator.random() < 0.5 for _ in range(SLICES - 1))]
    want: dict[tuple[int, int, int], int] = {}
    sums = [[0] * COLUMNS for _ in range(ROWS)]
    for t, slice_words in enumerate(words):
        for i in range(ROWS):
            for j in range(COLUMNS):
                product = format.multiply(slice_words[i], slice_words[ROWS + j])
                sums[i][j] = product + (0 if first[t] else sums[i][j])
                late = Cell.latency + unit.skew + i + j - unit.foot_delay(j)
                want[t + late, i, j] = sums[i][j]

    async def testbench(context) -> None:
        def lane(t: int, number: int) -> dict[str, int]:
            return operand(format, words[t][number] if 0 <= t < SLICES else 0)

        for cycle in range(SLICES + 20):
            for i in range(ROWS):
                there = 0 <= cycle - i < SLICES
                start = there and first[cycle - i]
                context.set(unit.a[i], lane(cycle - i, i))
                context.set(unit.control[i], {"valid": there, "first": start, "last": there})
            for j in range(COLUMNS):
                context.set(unit.b[j], lane(cycle - j, ROWS + j))
            for i in range(ROWS):
                for j in range(COLUMNS):
                    got = context.get(unit.bus[i * COLUMNS + j])
                    assert got == want.get((cycle, i, j), 0), (format, target, cycle, i, j, SEED)
            await context.tick()

    simulator = Simulator(Fragment.get(unit, BEHAVIOURAL))
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
