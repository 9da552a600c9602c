"""The link's units one by one: frames in and out of memories, against the host's own framing."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from hw.link_bytes import ByteReader, ByteWriter
from hw.link_frames import FrameReceiver, FrameSender
from sw.link import ESCAPE, FLAG
from sw.runtime.link import Deframer, frame

LIMIT = 24
SEEDS = (1, 2, 3)


def content(generator: random.Random, length: int) -> bytes:
    """Bytes of which every third must be escaped."""
    special = (FLAG, ESCAPE, 0x20, 0)
    return bytes(
        generator.choice(special) if generator.random() < 0.4 else generator.randrange(256)
        for _ in range(length)
    )


def simulate(top: Module, testbench: Callable) -> None:
    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def with_memory(unit: wiring.Component, depth: int, init: bytes | None) -> tuple[Module, Memory]:
    """A unit and its memory, which holds ``init`` if the unit reads it."""
    m = Module()
    m.submodules.unit = unit
    m.submodules.memory = memory = Memory(shape=8, depth=depth, init=init or [])
    if init is None:
        wiring.connect(m, unit.write, memory.write_port())
    else:
        wiring.connect(m, unit.read, memory.read_port())
    return m, memory


def received(line: list[bytes], done_after: int = 1) -> list[tuple[int, bytes]]:
    """The cycle and content of what a receiver finds; each is done with some cycles later."""
    unit = FrameReceiver(LIMIT)
    m, memory = with_memory(unit, unit.depth, None)
    found: list[tuple[int, bytes]] = []

    async def testbench(context) -> None:
        held = 0
        for cycle, byte in enumerate([*b"".join(line), *[-1] * 8]):
            context.set(unit.i.valid, byte >= 0)
            context.set(unit.i.payload, byte & 0xFF)
            if context.get(unit.valid):
                held += 1
                if held == 1:
                    length = context.get(unit.length)
                    head = (context.get(unit.kind), context.get(unit.sequence))
                    payload = (context.get(memory.data[place]) for place in range(length))
                    found.append((cycle, bytes((*head, *payload))))
            ready = held == done_after
            held = 0 if ready else held
            context.set(unit.ready, ready)
            await context.tick()

    simulate(m, testbench)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_a_receiver_finds_what_the_host_framed_and_nothing_else(seed: int) -> None:
    generator = random.Random(seed)
    line, want = [], []
    for number in range(24):
        told = content(generator, 2 + (0, LIMIT, generator.randrange(LIMIT))[number % 3])
        sent = frame(told)
        match generator.randrange(5):
            case 0:  # a bit is wrong
                place = generator.randrange(1, len(sent) - 1)
                sent = sent[:place] + bytes([sent[place] ^ 4]) + sent[place + 1 :]
                told = None if frame(told) != sent else told
            case 1:  # cut short
                sent, told = sent[: len(sent) // 2] + bytes([FLAG]), None
            case 2:  # too long
                sent, told = frame(content(generator, 2 + LIMIT + 1)), None
        line += [sent, content(generator, 3).replace(b"\x7e", b"")]
        want += [told] if told is not None else []
    assert [told for _, told in received(line)] == want


def test_a_receiver_holds_a_frame_behind_its_flag_and_passes_over_the_next() -> None:
    first, second, third = (frame(bytes((1, number, 7))) for number in range(3))
    (flag, line) = (len(first) - 1, [first, second, third])
    assert received([first]) == [(flag + 1, bytes((1, 0, 7)))]
    found = received(line, done_after=len(second))  # as the second one ends
    assert [told[1] for _, told in found] == [0, 2]
    apart = [first, b"x", second, b"x", third]
    assert [told[1] for _, told in received(apart)] == [0, 1, 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sender_sends_what_the_host_finds_whatever_the_line_does(seed: int) -> None:
    generator = random.Random(seed)
    payload = content(generator, (0, 1, LIMIT)[seed % 3])
    head = content(generator, 3)
    unit = FrameSender(LIMIT)
    m, _ = with_memory(unit, LIMIT, payload)
    sent = bytearray()

    async def testbench(context) -> None:
        values = dict(zip(("kind", "sequence", "status"), head, strict=True))
        for name, value in {**values, "length": len(payload), "start": 1}.items():
            context.set(getattr(unit, name), value)
        await context.tick()
        context.set(unit.start, 0)
        while context.get(unit.busy):
            ready = generator.random() < 0.6
            context.set(unit.o.ready, ready)
            if ready and context.get(unit.o.valid):
                sent.append(context.get(unit.o.payload))
            await context.tick()

    simulate(m, testbench)
    assert bytes(sent) == frame(head + payload)
    assert Deframer().feed(bytes(sent)) == [head + payload]


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_reader_gives_a_byte_every_third_cycle_and_starts_anew(length: int) -> None:
    stored = bytes(range(40, 40 + LIMIT))
    unit = ByteReader(LIMIT, LIMIT)
    m, _ = with_memory(unit, LIMIT, stored)

    async def testbench(context) -> None:
        context.set(unit.length, length)
        context.set(unit.o.ready, 1)
        for _ in range(2):
            context.set(unit.start, 1)
            await context.tick()
            context.set(unit.start, 0)
            found, cycles = [], 0
            while not context.get(unit.end):
                if context.get(unit.o.valid):
                    found.append(context.get(unit.o.payload))
                await context.tick()
                cycles += 1
            assert bytes(found) == stored[:length]
            assert cycles == 3 * length + 1

    simulate(m, testbench)


def test_a_writer_drops_what_does_not_fit_and_tells() -> None:
    unit, reserve = ByteWriter(LIMIT, 4), 4
    m, memory = with_memory(unit, LIMIT, None)

    async def testbench(context) -> None:
        for count in range(LIMIT + 3):
            kept = min(count, LIMIT)
            assert context.get(unit.length) == kept
            assert context.get(unit.room) == (kept + reserve <= LIMIT)
            assert context.get(unit.full) == (count > LIMIT)
            context.set(unit.i.valid, 1)
            context.set(unit.i.payload, 100 + count)
            await context.tick()
            context.set(unit.i.valid, 0)
            await context.tick()
        assert [context.get(memory.data[i]) for i in range(LIMIT)] == [*range(100, 100 + LIMIT)]
        context.set(unit.start, 1)
        await context.tick()
        assert (context.get(unit.length), context.get(unit.full)) == (0, 0)

    simulate(m, testbench)
