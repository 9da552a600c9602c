"""The parts that do a request's operations: accesses, programs and results, each by itself."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from hw.link_access import AccessSize, AccessWords
from hw.link_program import QUIET_CYCLES, ProgramEnd, ProgramWords
from hw.link_results import ResultBytes
from sw.config import MachineConfig
from sw.link import COUNTER_BYTES, Sizes
from sw.registers import ResultKind

CONFIGS = (
    MachineConfig(bits=4, rows=2, columns=2, slots=4),
    MachineConfig(bits=9, rows=4, columns=3, slots=4, blocks=True),
)


def simulate(unit: wiring.Component, testbench: Callable) -> None:
    top = Module()
    top.submodules.unit = unit
    simulator = Simulator(top)
    simulator.add_clock(1e-6, if_exists=True)
    simulator.add_testbench(testbench)
    simulator.run()


def accesses(count: int, first: int, columns: int, tiles: bool) -> list[int]:
    """Words of each access, from what ``docs/link.md`` says of them."""
    found = []
    while count:
        most = (min(max(first, 1), columns) if not found else columns) if tiles else 1
        found.append(min(count, most))
        count -= found[-1]
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"SF{config.bits}")
def test_accesses_cover_all_words_as_far_as_the_array_is_wide(config: MachineConfig) -> None:
    unit = AccessSize(config)

    async def testbench(context) -> None:
        for tiles in (True, False):
            for count in range(1, 3 * config.columns):
                for first in (*range(config.columns + 2), 255):
                    left, found = count, []
                    while left:
                        context.set(unit.tiles, tiles)
                        context.set(unit.first, first)
                        context.set(unit.left, left)
                        context.set(unit.later, bool(found))
                        found.append(context.get(unit.size))
                        left -= found[-1]
                        assert context.get(unit.last) == (left == 0)
                    assert found == accesses(count, first, config.columns, tiles)

    simulate(unit, testbench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"SF{config.bits}")
def test_words_are_put_together_lane_by_lane(config: MachineConfig) -> None:
    unit, size = AccessWords(config), Sizes.of(config).word
    generator = random.Random(1)
    words = [generator.getrandbits(config.bits) for _ in range(config.columns)]

    async def testbench(context) -> None:
        async def send(content: bytes, lane: int) -> None:
            for byte, value in enumerate(content):
                for port, told in (("take", 1), ("lane", lane), ("byte", byte), ("value", value)):
                    context.set(getattr(unit, port), told)
                assert context.get(unit.last_byte) == (byte == len(content) - 1)
                await context.tick()
            context.set(unit.take, 0)

        context.set(unit.tiles, 1)
        for lane, word in enumerate(words):
            await send(word.to_bytes(size, "little"), lane)
        want = sum(word << lane * config.bits for lane, word in enumerate(words))
        assert context.get(unit.data) == want
        context.set(unit.clear, 1)
        await context.tick()
        context.set(unit.clear, 0)
        assert context.get(unit.data) == 0
        context.set(unit.tiles, 0)
        await send((0x89ABCDEF).to_bytes(4, "little"), 0)
        assert context.get(unit.data) & 0xFFFFFFFF == 0x89ABCDEF & (1 << len(unit.data)) - 1

    simulate(unit, testbench)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"SF{config.bits}")
def test_results_leave_in_whole_bytes_lane_by_lane(config: MachineConfig) -> None:
    unit, sizes = ResultBytes(config), Sizes.of(config)
    generator = random.Random(2)

    async def read(context) -> bytes:
        found = bytearray()
        for lane in range(config.columns):
            context.set(unit.lane, lane)
            context.set(unit.take, 1)
            await context.tick()
            context.set(unit.take, 0)
            for byte in range(8):
                context.set(unit.byte, byte)
                found.append(context.get(unit.data))
                if context.get(unit.last_byte):
                    break
            if context.get(unit.last_lane):
                return bytes(found)
        raise AssertionError("no lane is the last")

    async def testbench(context) -> None:
        for kind, size in (
            (ResultKind.EXACT, sizes.exact),
            (ResultKind.READ, sizes.word),
            (ResultKind.READ, None),
        ):
            for count in range(1, config.columns + 1):
                data = generator.getrandbits(len(unit.beat.as_value()) - 32)
                context.set(unit.beat.kind, kind)
                context.set(unit.beat.count, count)
                context.set(unit.beat.data, data)
                context.set(unit.tiles, size is not None)
                if size is None:
                    want = (data & (1 << 8 * COUNTER_BYTES) - 1).to_bytes(COUNTER_BYTES, "little")
                else:
                    lanes = [data >> i * config.result_bits for i in range(count)]
                    whole = [lane & (1 << config.result_bits) - 1 for lane in lanes]
                    want = b"".join(x.to_bytes(8, "little")[:size] for x in whole)
                assert await read(context) == want, (kind, count)

    simulate(unit, testbench)


def test_two_bytes_make_a_word_and_the_first_of_a_program_is_told() -> None:
    unit = ProgramWords()
    programs = ([0x1234], [0xFF00, 0x00FF, 0xABCD], [1, 2])

    async def testbench(context) -> None:
        taken = 0
        for program in programs:
            for number, word in enumerate(program):
                last = number == len(program) - 1
                for half, value in enumerate(word.to_bytes(2, "little")):
                    assert not context.get(unit.o.valid)
                    for port, told in (("take", 1), ("value", value), ("last", last)):
                        context.set(getattr(unit, port), told)
                    assert context.get(unit.whole) == half
                    assert context.get(unit.first) == (half and number == 0)
                    await context.tick()
                context.set(unit.take, 0)
                taken += 1
                assert context.get(unit.taken) == taken
                assert context.get(unit.o.valid)
                assert context.get(unit.o.payload.word) == word
                assert context.get(unit.o.payload.last) == last
                context.set(unit.o.ready, 1)
                await context.tick()
                context.set(unit.o.ready, 0)

    simulate(unit, testbench)


def test_a_program_is_over_when_no_row_came_for_a_while() -> None:
    unit = ProgramEnd()

    async def testbench(context) -> None:
        for fault, rows in ((0, 0), (3, 2)):
            context.set(unit.restart, 1)
            await context.tick()
            context.set(unit.restart, 0)
            assert not context.get(unit.ended)
            await context.tick().repeat(3)
            assert not context.get(unit.quiet)
            context.set(unit.status.valid, 1)
            context.set(unit.status.payload, {"fault": fault, "counter": 77 + fault})
            await context.tick()
            context.set(unit.status.valid, 0)
            for _ in range(rows):
                await context.tick().repeat(QUIET_CYCLES - 1)
                context.set(unit.row, 1)
                await context.tick()
                context.set(unit.row, 0)
            waited = 0
            while not context.get(unit.quiet):
                await context.tick()
                waited += 1
            assert waited == QUIET_CYCLES
            found = [context.get(part) for part in (unit.ended, unit.fault, unit.counter)]
            assert found == [1, fault, 77 + fault]

    simulate(unit, testbench)
