"""The queue in block RAM is SyncFIFO cycle by cycle."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import fifo
from amaranth.sim import Simulator

from hw.block_queue import BlockQueue, make_queue

SEED = 20260422
WIDTH = 9


@pytest.mark.parametrize("depth", [2, 4, 8])
def test_a_block_queue_is_a_fifo_cycle_by_cycle(depth):
    m = Module()
    m.submodules.queue = queue = BlockQueue(WIDTH, depth)
    m.submodules.want = want = fifo.SyncFIFO(width=WIDTH, depth=depth)
    generator = random.Random(SEED)
    seen = set()

    async def testbench(context):
        level = 0
        for cycle in range(600):
            write, read = (
                int(generator.random() < share)
                for share in ((0.9, 0.3), (0.3, 0.9), (1.0, 1.0))[cycle // 40 % 3]
            )
            word = generator.getrandbits(WIDTH)
            for unit in (queue, want):
                context.set(unit.w_data, word)
                context.set(unit.w_en, write)
                context.set(unit.r_en, read)
            place = f"cycle {cycle} seed {SEED}"
            rdy = context.get(want.w_rdy), context.get(want.r_rdy)
            assert (context.get(queue.w_rdy), context.get(queue.r_rdy)) == rdy, place
            if rdy[1]:
                assert context.get(queue.r_data) == context.get(want.r_data), place
            seen.add(level)
            level += (write & rdy[0]) - (read & rdy[1])
            await context.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert seen == set(range(depth + 1))


def test_only_a_target_without_reads_in_no_time_has_block_queues():
    assert isinstance(make_queue(WIDTH, 8, "ice40"), BlockQueue)
    for depth, target in ((2, "ice40"), (8, "ecp5"), (8, "generic")):
        assert isinstance(make_queue(WIDTH, depth, target), fifo.SyncFIFO)


@pytest.mark.parametrize("depth", [0, 1, 6])
def test_a_depth_that_is_no_power_of_two_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth must be a power of two from 2 on, not {depth}"):
        BlockQueue(WIDTH, depth)
