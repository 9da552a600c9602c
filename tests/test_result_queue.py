"""Rows put together from skewed lanes: none lost, repeated or reordered, credits kept."""

from __future__ import annotations

import random

import pytest
from amaranth.sim import Simulator

from hw.activation_buffer import ActivationBuffer
from hw.deskew import Deskew
from hw.parameter_memory import ParameterMemory
from hw.result_queue import ResultQueue
from sw.config import MachineConfig

SEED = 20261122


def simulate(unit, testbench) -> None:
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("ready", [0.05, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (1, 1), (4, 8)])
def test_every_promised_row_leaves_once_and_in_order(rows: int, columns: int, ready: float) -> None:
    config = MachineConfig(bits=3, rows=rows, columns=columns, max_terms=max(2, min(rows, columns)))
    unit = ResultQueue(config)
    rng = random.Random(SEED)
    bits = config.result_bits
    sent: list[tuple[int, list[int]]] = []
    got: list[tuple[int, list[int]]] = []
    lowest = [unit.depth]

    async def testbench(context) -> None:
        promised, begun = 0, []  # begun: (row, cycle of its lane 0)
        for cycle in range(600):
            context.set(unit.promise.enable, 0)
            credits = context.get(unit.credits)
            lowest[0] = min(lowest[0], credits)
            assert credits == unit.depth - promised - len(sent) + len(got) + held(context)
            count = rng.randint(1, rows)
            tile = cycle < 500 and credits >= count and promised == 0
            if tile:
                context.set(unit.promise, {"enable": 1, "rows": count})
                promised = count
            row_starts = promised > 0 and not tile and rng.random() < 0.9
            context.set(unit.note.enable, row_starts)
            if row_starts:
                lanes = [rng.getrandbits(bits) for _ in range(columns)]
                note = rng.randint(1, columns)
                context.set(unit.note.data, {"kind": 1, "count": note, "last": note & 1})
                sent.append((note, lanes))
                begun.append((lanes, cycle + 1))
                promised -= 1
            for j, lane in enumerate(unit.lanes):
                due = [lanes[j] for lanes, start in begun if start + j == cycle]
                context.set(lane, {"enable": len(due), "data": due[0] if due else 7})
            context.set(unit.results.ready, cycle >= 500 or rng.random() < ready)
            take(context)
            await context.tick()

    def held(context) -> int:
        return int(context.get(unit.results.valid))

    def take(context) -> None:
        if context.get(unit.results.valid) and context.get(unit.results.ready):
            payload = unit.results.payload
            lanes = context.get(payload.data)
            assert context.get(payload.kind) == 1
            count = context.get(payload.count)
            assert context.get(payload.last) == count & 1
            got.append((count, [lanes >> j * bits & (1 << bits) - 1 for j in range(columns)]))

    simulate(unit, testbench)
    assert len(sent) > (unit.depth if ready < 0.1 else 100)
    assert got == sent, f"seed {SEED}"
    if ready < 0.1:
        assert lowest[0] < rows, "the queue must have been full"


def test_the_payload_stays_while_the_host_waits() -> None:
    config = MachineConfig(bits=4, rows=2, columns=2)
    unit = ResultQueue(config)

    async def testbench(context) -> None:
        context.set(unit.promise, {"enable": 1, "rows": 2})
        seen = set()
        for cycle in range(20):
            context.set(unit.note, {"enable": cycle in (1, 2), "data": {"count": cycle % 4}})
            for j, lane in enumerate(unit.lanes):
                context.set(lane, {"enable": cycle - j in (3, 4), "data": 10 * cycle + j})
            if context.get(unit.results.valid):
                seen.add((cycle, context.get(unit.results.payload.data)))
            await context.tick()
            context.set(unit.promise.enable, 0)
        assert seen == {(c, 30 | 41 << config.result_bits) for c in range(6, 20)}

    simulate(unit, testbench)


def test_a_deskew_that_is_too_small_is_refused() -> None:
    for depth in (8, 12, 4):
        with pytest.raises(ValueError, match=f"depth must be a power of two above 8, not {depth}"):
            Deskew(4, 8, 4, depth)


def test_a_parameter_is_read_a_cycle_later_and_stays() -> None:
    unit = ParameterMemory(8, 4)

    async def testbench(context) -> None:
        for entry in range(4):
            context.set(unit.write, {"enable": 1, "entry": entry, "data": 50 + entry})
            await context.tick()
        context.set(unit.write, {"enable": 0, "entry": 2, "data": 1})
        for entry in (2, 0, 3):
            context.set(unit.read, {"enable": 1, "entry": entry})
            await context.tick()
            for _ in range(3):
                context.set(unit.read, {"enable": 0, "entry": 1})
                assert context.get(unit.data) == 50 + entry
                await context.tick()

    simulate(unit, testbench)


def test_the_activation_buffer_gives_rows_back_until_they_are_replaced() -> None:
    config = MachineConfig(bits=5, rows=3, columns=4)
    unit = ActivationBuffer(config)
    rng = random.Random(SEED)
    rows = [[0] * 4 for _ in range(3)]

    async def testbench(context) -> None:
        for _ in range(60):
            write, row, read = rng.getrandbits(1), rng.randrange(3), rng.randrange(3)
            words = [rng.getrandbits(5) for _ in range(4)]
            context.set(unit.write, {"enable": write, "row": row, "words": words})
            context.set(unit.read, {"enable": 1, "row": read})
            want = list(rows[read])
            if write:
                rows[row] = words
            await context.tick()
            if not (write and row == read):
                assert [context.get(w) for w in unit.words] == want

    simulate(unit, testbench)
