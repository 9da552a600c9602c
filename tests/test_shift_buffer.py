"""The shift buffer is a queue of slices; the lane walker walks over rows of pixels."""

from __future__ import annotations

import random
from collections import deque

import pytest
from amaranth.sim import Simulator, SimulatorContext

from hw.lane_walker import LaneWalker
from hw.shift_buffer import ROUND_TRIP, ShiftBuffer
from sw.config import MachineConfig

SEED = 20261122
CONFIGS = [
    MachineConfig(bits=3, rows=1, columns=1, slots=4),
    MachineConfig(bits=4, rows=4, columns=8, slots=4),
    MachineConfig(bits=8, rows=32, columns=5, slots=4),
]


def simulate(unit, testbench) -> None:
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize(
    ("lanes", "target"), [(1, "generic"), (5, "ice40"), (8, "generic")], ids=str
)
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_slices_leave_in_order_from_the_cycle_after_their_arrival(config, lanes, target):
    buffer = ShiftBuffer(config, lanes, target)
    assert buffer.depth >= max(config.rows, config.columns) + ROUND_TRIP
    generator = random.Random(SEED)
    held: deque[int] = deque()
    seen = set()

    async def testbench(context: SimulatorContext) -> None:
        for cycle in range(1500):
            place = f"cycle {cycle} seed {SEED}"
            busy = (0.2, 0.8, 1.0)[cycle // 100 % 3], (1.0, 0.2, 0.8)[cycle // 150 % 3]
            offered, wanted = (int(generator.random() < share) for share in busy)
            flush = int(generator.random() < 0.01)
            payload = generator.getrandbits(buffer.layout.size)
            context.set(buffer.i.valid, offered)
            context.set(buffer.i.payload.as_value(), payload)
            context.set(buffer.o.ready, wanted)
            context.set(buffer.flush, flush)
            assert context.get(buffer.level) == len(held), place
            assert context.get(buffer.i.ready) == (len(held) < buffer.depth), place
            assert context.get(buffer.o.valid) == bool(held), place
            seen.add(len(held))
            taken = offered and len(held) < buffer.depth
            if held:
                got = context.get(buffer.o.payload.as_value())
                assert got == held[0], f"{place} got {got:#x}, want {held[0]:#x}"
                if wanted:
                    held.popleft()
            if taken:
                held.append(payload)
            if flush:
                held.clear()
            await context.tick()

    simulate(buffer, testbench)
    assert {0, buffer.depth} <= seen


def position(index: int, x_count: int, x_stride: int, y_stride: int) -> int:
    return index % x_count * x_stride + index // x_count * y_stride


@pytest.mark.parametrize("x_count", [1, 2, 3, 7, 65535])
def test_walker_goes_over_every_pixel_in_order_and_again_from_a_tiles_start(x_count):
    config = MachineConfig(bits=4, rows=4, columns=4, slots=64)
    walker = LaneWalker(config)
    generator = random.Random(SEED + x_count)
    mask = (1 << config.address_bits) - 1
    pulses = ("step", "rewind", "advance", "reset")
    used = set()

    async def testbench(context: SimulatorContext) -> None:
        index = start = 0
        strides = tuple(generator.getrandbits(config.address_bits) for _ in range(2))
        context.set(walker.x_count, x_count)
        context.set(walker.x_stride, strides[0])
        context.set(walker.y_stride, strides[1])
        context.set(walker.reset, 1)
        await context.tick()
        for cycle in range(2000):
            got, want = context.get(walker.offset), position(index, x_count, *strides) & mask
            assert got == want, f"cycle {cycle} index {index}: {got} not {want}, seed {SEED}"
            shares = (0.8, 0.1, 0.1, 0.02)
            step, rewind, advance, reset = now = tuple(generator.random() < s for s in shares)
            used.add(now)
            for name, value in zip(pulses, now, strict=True):
                context.set(getattr(walker, name), value)
            if reset:
                index = start = 0
            elif advance:
                index = start = index + step
            elif rewind:
                index = start
            else:
                index += step
            await context.tick()

    simulate(walker, testbench)
    assert {(True, True, False, False), (True, False, True, False)} <= used
