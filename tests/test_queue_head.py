"""The head of a queue is one register behind a queue, cycle by cycle."""

from __future__ import annotations

import random
from collections import deque

from amaranth.sim import Simulator

from hw.queue_head import QueueHead

SEED = 20260423
WIDTH = 7
CYCLES = 900


def test_a_head_is_one_register_behind_a_queue():
    head = QueueHead(WIDTH)
    generator = random.Random(SEED)
    seen = set()

    async def testbench(context):
        waiting, register = deque(), None  # of the reference
        given = deque()  # what the head has not taken yet
        for cycle in range(CYCLES):
            come, take = (
                generator.random() < share
                for share in ((0.9, 0.3), (0.3, 0.9), (1.0, 1.0), (0.5, 0.5))[cycle // 60 % 4]
            )
            ready = context.get(head.i.ready)
            context.set(head.i.valid, bool(given))
            context.set(head.i.payload, given[0] if given else generator.getrandbits(WIDTH))
            context.set(head.o.ready, take)
            place = f"cycle {cycle} seed {SEED}"
            assert context.get(head.i.ready) == ready, place  # a register
            assert context.get(head.o.valid) == (register is not None), place
            if register is not None:
                assert context.get(head.o.payload) == register, place
            seen.add((ready, register is not None, take, bool(given)))
            if take or register is None:
                register = waiting.popleft() if waiting else None
            if given and ready:
                given.popleft()
            if come:  # written in this cycle, at the queue's head in the next
                word = generator.getrandbits(WIDTH)
                given.append(word)
                waiting.append(word)
            await context.tick()

    simulator = Simulator(head)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    # A second entry is there only behind a first.
    whole = {(r, v, t, g) for r in (0, 1) for v in (0, 1) for t in (0, 1) for g in (0, 1) if r or v}
    assert seen == whole
