"""The serial line: bytes at every divisor, off-speed senders, noise."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hw.uart import UartReceiver, UartTransmitter

BYTES = (0x00, 0xFF, 0x55, 0xAA, 0x01, 0x80, 0x7E, 0x3C)


def line_of(content: tuple[int, ...], bit: float, gap: float = 0.0) -> list[int]:
    """The level of the line in every cycle, for bits of so many cycles."""
    levels = [level for byte in content for level in (0, *(byte >> i & 1 for i in range(8)), 1)]
    ends: list[int] = [1] * 3
    time = 0.0
    for number, level in enumerate(levels):
        if number % 10 == 0:
            time += gap * bit
            ends += [1] * (round(time) + 3 - len(ends))
        time += bit
        ends += [level] * (round(time) + 3 - len(ends))
    return [*ends, *[1] * int(3 * bit + 10)]


def received(divisor: int, line: list[int]) -> list[tuple[int, int]]:
    """The bytes that a receiver finds, and when."""
    unit = UartReceiver(divisor)
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    found = []

    async def bench(context: Any) -> None:
        for cycle, level in enumerate(line):
            context.set(unit.rx, level)
            _, _, valid, byte = await context.tick().sample(unit.o.valid, unit.o.payload)
            if valid:
                found.append((byte, cycle))

    simulator.add_testbench(bench)
    simulator.run()
    return found


@pytest.mark.parametrize("divisor", [4, 5, 7, 16])
def test_a_receiver_finds_every_byte_in_time(divisor: int) -> None:
    found = received(divisor, line_of(BYTES, divisor))
    assert tuple(byte for byte, _ in found) == BYTES
    assert found[0][1] - 3 == UartReceiver(divisor).latency


@pytest.mark.parametrize("divisor", [16, 31])
@pytest.mark.parametrize("speed", [0.96, 1.04])
def test_senders_may_be_off_by_four_percent(divisor: int, speed: float) -> None:
    found = received(divisor, line_of(BYTES, divisor * speed))
    assert tuple(byte for byte, _ in found) == BYTES


@pytest.mark.parametrize("place", range(12))
def test_a_disturbed_sample_is_outvoted(place: int) -> None:
    divisor = 16
    line = line_of((0x35,), divisor)
    line[3 + divisor // 2 + place * divisor - divisor] ^= 1
    found = [byte for byte, _ in received(divisor, line)]
    assert found == [0x35]


def test_a_byte_without_a_stop_bit_is_dropped() -> None:
    line = [1] * 3 + [0] * 130 + [1] * 30 + line_of((0x42,), 10)
    assert [byte for byte, _ in received(10, line)] == [0x42]


@pytest.mark.parametrize("divisor", [4, 9])
def test_a_transmitter_sends_bytes_back_to_back(divisor: int) -> None:
    m = Module()
    m.submodules.unit = unit = UartTransmitter(divisor)
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    levels: list[int] = []

    async def bench(context: Any) -> None:
        waiting = list(BYTES)
        assert context.get(unit.tx) == 1
        context.set(unit.i.valid, 1)
        context.set(unit.i.payload, waiting[0])
        while len(levels) < 10 * divisor * len(BYTES) + 5:
            *_, ready, level = await context.tick().sample(unit.i.ready, unit.tx)
            levels.append(level)
            if ready and waiting:
                waiting.pop(0)
                context.set(unit.i.valid, bool(waiting))
                context.set(unit.i.payload, waiting[0] if waiting else 0)

    simulator.add_testbench(bench)
    simulator.run()
    expected = line_of(BYTES, divisor)[3:]
    assert levels[1:] == expected[: len(levels) - 1]


@pytest.mark.parametrize("unit", [UartReceiver, UartTransmitter])
def test_divisors_that_leave_no_middle_are_refused(unit: type) -> None:
    with pytest.raises(ValueError, match="divisor must be at least 4, not 3"):
        unit(3)
    with pytest.raises(TypeError, match=r"divisor must be an integer, not 8\.5"):
        unit(8.5)
