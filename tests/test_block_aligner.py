"""The block aligner against the alignment of block sums, rows in any order and back to back."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from hw.block_aligner import BlockAligner
from sw.scale import align_blocks

SEED = 20261122
Step = tuple[int, int, int, int]  # accumulator, lift, row, first


def tiles(rng: random.Random, width: int, rows: int, spread: int, count: int):
    """Steps of tiles with a few blocks, and what each row's last block must give."""
    steps: list[Step] = []
    want: list[int | None] = []
    for _ in range(count):
        used, blocks = rng.randint(1, rows), rng.randint(1, 4)
        column = [rng.randint(-spread, 0) for _ in range(blocks)]
        row_parts = [[rng.randint(-spread, 0) for _ in range(blocks)] for _ in range(used)]
        limit = 1 << width - 1 - (blocks - 1).bit_length()
        sums = [
            [rng.choice([-limit, limit - 1, rng.randint(-limit, limit - 1)]) for _ in range(blocks)]
            for _ in range(used)
        ]
        for block in range(blocks):
            for row in range(used):
                parts = row_parts[row]
                lift = max(parts) - parts[block] + max(column) - column[block]
                steps.append((sums[row][block], lift, row, int(block == 0)))
                final = block == blocks - 1
                want.append(align_blocks(sums[row], parts, column)[0] if final else None)
    return steps, want


@pytest.mark.parametrize(("width", "rows", "spread"), [(16, 4, 15), (33, 1, 15), (9, 3, 2)])
@pytest.mark.parametrize("idle", [0.0, 0.4])
def test_aligned_sums_equal_the_model(width: int, rows: int, spread: int, idle: float) -> None:
    rng = random.Random(SEED + rows)
    unit = BlockAligner(width, width + 2 * spread, rows, (2 * spread).bit_length())
    steps, want = tiles(rng, width, rows, spread, 60)
    got: list[int] = []

    async def testbench(context) -> None:
        waiting: list[int] = []  # cycles in which a result is due
        cycle, left = 0, list(steps)
        while left or waiting:
            valid = bool(left) and rng.random() >= idle
            step = left.pop(0) if valid else (rng.getrandbits(width - 1), 1, rng.randrange(rows), 1)
            for port, value in zip(
                (unit.accumulator, unit.lift, unit.row, unit.first), step, strict=True
            ):
                context.set(port, value)
            context.set(unit.valid, valid)
            if waiting and waiting[0] == cycle:
                got.append(context.get(unit.aligned))
                waiting.pop(0)
            if valid:
                waiting.append(cycle + unit.latency)
            await context.tick()
            cycle += 1

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert len(got) == len(want)
    for index, (found, expected) in enumerate(zip(got, want, strict=True)):
        if expected is not None:
            assert found == expected, (
                f"step {index} {steps[index]}: got {found}, want {expected}, seed {SEED}"
            )


def test_a_result_narrower_than_its_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="aligned_bits must be at least 20, not 19"):
        BlockAligner(20, 19, 4, 5)
