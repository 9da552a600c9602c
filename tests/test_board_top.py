"""A bitstream's contents: the self-test passes, finds a broken cell, and opens the link."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

import hw.array
from hw.board_test import SelfTest
from hw.board_top import BoardTop, CheckedMachine
from hw.cell import Cell
from hw.pll import Clock
from sim.link_port import SimulatedPort
from sw.config import MachineConfig
from sw.link import DEFAULT_LIMIT, Greeting
from sw.runtime.board_device import BoardDevice, WrongBoard
from sw.runtime.link import frame
from sw.runtime.self_test import stored_test

CONFIG = MachineConfig(
    bits=3,
    rows=1,
    columns=2,
    slots=16,
    parameters=4,
    row_parameters=4,
    max_terms=256,
    multiplier="operator",
)
BUILD = "c0ffee"
CLOCK = 1_000_000
GREETING = Greeting(CONFIG, CLOCK, DEFAULT_LIMIT, BUILD)


class BrokenCell(wiring.Component):
    """A cell whose ``a`` is never negative."""

    latency = Cell.latency

    def __init__(self, *arguments: object, **options: object) -> None:
        self.cell = Cell(*arguments, **options)  # type: ignore[arg-type]
        super().__init__(dict(self.cell.signature.members))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cell = cell = self.cell
        for name, member in self.signature.members.items():
            ours, theirs = getattr(self, name), getattr(cell, name)
            m.d.comb += theirs.eq(ours) if member.flow == In else ours.eq(theirs)
        m.d.comb += cell.a.sign.eq(0)
        return m


@pytest.fixture
def broken_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last cell of every array is broken."""
    made = iter(range(CONFIG.rows * CONFIG.columns))

    def make(*arguments: object, **options: object) -> wiring.Component:
        last = next(made) == CONFIG.rows * CONFIG.columns - 1
        return (BrokenCell if last else Cell)(*arguments, **options)  # type: ignore[arg-type]

    make.latency = Cell.latency  # type: ignore[attr-defined]
    monkeypatch.setattr(hw.array, "Cell", make)


def checked_machine() -> CheckedMachine:
    test = stored_test(GREETING)
    return CheckedMachine(GREETING, 4, test.requests, test.replies)


def result(machine: CheckedMachine, limit: int = 20_000) -> tuple[int, int, int]:
    """Passed, failed and the cycles that the test took."""
    found = []

    async def bench(context) -> None:
        assert context.get(machine.running)
        for cycle in range(limit):
            await context.tick()
            assert context.get(machine.tx)
            if not context.get(machine.running):
                found.append((context.get(machine.passed), context.get(machine.failed), cycle))
                return

    simulator = Simulator(machine)
    simulator.add_clock(1 / CLOCK)
    simulator.add_testbench(bench)
    simulator.run()
    return found[0]


def test_the_self_test_passes_on_a_whole_machine() -> None:
    passed, failed, cycles = result(checked_machine())
    assert (passed, failed) == (1, 0)
    assert cycles < 8000


@pytest.mark.slow
def test_the_self_test_passes_on_a_machine_with_serial_control() -> None:
    leaves_out = {"skipping": False, "wide": False, "counters": "none", "control": "serial"}
    greeting = replace(GREETING, config=replace(CONFIG, **leaves_out))
    test = stored_test(greeting)
    machine = CheckedMachine(greeting, 4, test.requests, test.replies)
    assert result(machine, 100_000)[:2] == (1, 0)


def test_the_self_test_finds_a_broken_cell(broken_cell: None) -> None:
    assert result(checked_machine())[:2] == (0, 1)


class Answers:
    """A self-test before a link of a few lines, which answers as it is told."""

    def __init__(self, test: SelfTest, replies: list[bytes]) -> None:
        self.test, self.replies = test, replies
        self.heard = bytearray()

    def run(self, cycles: int) -> tuple[int, int, int]:
        """Passed, failed, running."""
        simulator = Simulator(self.test)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self._bench(cycles))
        simulator.run()
        return self.found

    def _bench(self, cycles: int):
        async def bench(context) -> None:
            test, waiting = self.test, bytearray()
            for _ in range(cycles):
                context.set(test.link.valid, bool(waiting))
                context.set(test.link.payload, waiting[0] if waiting else 0)
                sent, byte = context.get(test.to_link.valid), context.get(test.to_link.payload)
                ready = context.get(test.link.ready)
                if sent:
                    self.heard.append(byte)
                    if self.heard.count(0x7E) % 2 == 0 and self.replies and byte == 0x7E:
                        waiting += self.replies.pop(0)
                if ready and waiting and context.get(test.link.valid):
                    del waiting[0]
                await context.tick()
            names = (test.passed, test.failed, test.running)
            self.found = tuple(context.get(signal) for signal in names)

        return bench


REQUESTS = [frame(b"\x01\x00"), frame(b"\x02\x01abc~")]
REPLIES = [frame(b"\x81\x00\x00hello"), frame(b"\x82\x01\x00\x7d\x7e")]


@pytest.mark.parametrize(
    ("replies", "cycles", "expected"),
    [
        (REPLIES, 2000, (1, 0, 0)),
        (REPLIES, 100, (0, 0, 1)),
        ([REPLIES[0], frame(b"\x82\x01\x00\x7d\x7f")], 2000, (0, 1, 0)),
        ([frame(b"\x81\x00\x00hallo"), REPLIES[1]], 2000, (0, 1, 0)),
        (REPLIES[:1], 2000, (0, 1, 0)),
        ([], 2000, (0, 1, 0)),
    ],
)
def test_only_the_expected_bytes_pass(replies, cycles: int, expected: tuple[int, ...]) -> None:
    answers = Answers(SelfTest(REQUESTS, REPLIES, silence_bits=8), list(replies))
    assert answers.run(cycles) == expected
    if expected[0]:
        assert bytes(answers.heard) == b"".join(REQUESTS)


def test_frames_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="frame must be one from flag to flag, not b'abc'"):
        SelfTest([b"abc"], REPLIES[:1])
    with pytest.raises(ValueError, match="replies must be one per request, not 2"):
        SelfTest(REQUESTS[:1], REPLIES)


@pytest.mark.parametrize(
    "config",
    [
        MachineConfig(bits=16, rows=32, columns=32),
        MachineConfig(bits=3, rows=1, columns=1, slots=3, parameters=1, row_parameters=1),
        MachineConfig(bits=6, rows=2, columns=3, blocks=True, table=True),
    ],
)
def test_requests_and_replies_of_any_machine_fit_the_link(config: MachineConfig) -> None:
    greeting = Greeting(config, CLOCK, DEFAULT_LIMIT, BUILD)
    test = stored_test(greeting)
    assert len(test.requests) == len(test.replies)
    for whole in (*test.requests, *test.replies):
        assert len(whole.replace(b"\x7d", b"")) <= DEFAULT_LIMIT + 9


def test_a_memory_too_small_for_the_self_test_is_told() -> None:
    config = MachineConfig(bits=8, rows=8, columns=8, slots=1)
    with pytest.raises(ValueError, match="slots must be at least 2 for the self-test, not 1"):
        stored_test(Greeting(config, CLOCK, DEFAULT_LIMIT, BUILD))


class LateLoop(Clock):
    """A stand-in for a loop: it passes the clock on, and locks after some cycles."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        left = Signal(6, init=63)
        with m.If(left != 0):
            m.d.board += left.eq(left - 1)
        m.d.comb += [self.output.eq(self.input), self.locked.eq(left == 0)]
        return m


class OnABench(wiring.Component):
    """A board's top whose line is heard only while one of its LEDs is lit."""

    unread_fields = True
    latency = None

    def __init__(self, board: BoardTop, led: str) -> None:
        self.board, self.led = board, led
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.board = board = self.board
        m.domains.board = domain = ClockDomain()
        m.d.comb += [
            domain.clk.eq(ClockSignal("sync")),
            domain.rst.eq(ResetSignal("sync")),
            board.clk.eq(ClockSignal("sync")),
            board.rx.eq(self.rx),
            self.tx.eq(board.tx | ~getattr(board, self.led)),
        ]
        return m


def board_port(led: str) -> SimulatedPort:
    top = OnABench(BoardTop(checked_machine(), LateLoop()), led)
    return SimulatedPort(CONFIG, top=top)


@pytest.mark.slow
def test_after_the_self_test_a_host_finds_the_machine_and_its_bitstream() -> None:
    with BoardDevice(CONFIG, board_port("passed"), silence=0.04, build=BUILD) as board:
        words = np.arange(CONFIG.memory_words) % 8
        board.write(0, words)
        assert (board.read(0, len(words)) == words).all()
        assert board.greeting == GREETING
    with pytest.raises(WrongBoard, match=f"must hold bitstream 00, not {BUILD}"):
        BoardDevice(CONFIG, board_port("passed"), silence=0.04, build="00")


@pytest.mark.slow
def test_a_failed_self_test_is_shown_and_the_link_opens_all_the_same(broken_cell: None) -> None:
    with BoardDevice(CONFIG, board_port("failed"), silence=0.04) as board:
        assert board.greeting == GREETING
