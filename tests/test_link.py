"""The host link: host and board through lines that lose, spoil and repeat, nothing done twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.link import Link
from sim.link_bench import CLOCK, Asked, BenchPort
from sim.link_port import Faults, FaultyPort
from sw.config import MachineConfig
from sw.isa import Fault
from sw.link import (
    ESCAPE,
    FLAG,
    OPERATION_FIELDS,
    REPLY,
    FrameKind,
    Greeting,
    Operation,
    ReplyStatus,
    identity,
    pack_fields,
    unpack_fields,
)
from sw.registers import Counter, Space
from sw.runtime.board_device import BoardDevice, WrongBoard
from sw.runtime.device import Device
from sw.runtime.link import Deframer, HostLink, LinkFailed, frame

#: No power of two, no whole bytes, accesses of three words.
CONFIG = MachineConfig(
    bits=6, rows=2, columns=3, slots=7, parameters=4, row_parameters=4, blocks=True, table=True
)
SILENCE = 0.0012
NOISE = Faults(0, drop=5e-4, repeat=5e-4, spoil=5e-4, insert=5e-4, again=0.1)


def device(port: Any, **more: Any) -> BoardDevice:
    return BoardDevice(CONFIG, port, **{"silence": SILENCE, "seed": 1, "retries": 60, **more})


def session(port: Any) -> list[Any]:
    """A bit of everything that a host does, and all that it finds."""
    chance = np.random.default_rng(5)
    board = device(port)
    found: list[Any] = []
    for _ in range(2):
        address = int(chance.integers(0, 20))
        words = chance.integers(0, 64, int(chance.integers(1, CONFIG.memory_words - address)))
        board.write(address, words)
        board.write_columns(1, chance.integers(0, 64, (2, 3)), chance.integers(-128, 128, (2, 3)))
        found.append(board.read(address, len(words)).tolist() == words.tolist())
        program = tuple(map(int, chance.integers(0, 1 << 16, int(chance.integers(1, 40)))))
        outcome = board.run(program)
        rows = [[w - lane - (1 << 15) for lane in range(1 + n % 3)] for n, w in numbered(program)]
        sent = [
            row[:count] for row, count in zip(outcome.rows.tolist(), outcome.counts, strict=True)
        ]
        found += [sent == rows, outcome.counter == len(program), outcome.fault == Fault.NONE]
        found.append(outcome.counters == {c: 1000 + c for c in Counter})
    return found


def numbered(program: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(enumerate(program, 1))


@pytest.fixture(scope="module")
def on_a_good_line() -> tuple[Asked, list[Any]]:
    """What a machine is asked in a session, and what the host finds."""
    port = BenchPort(CONFIG)
    found = session(port)
    return port.asked, found


def test_a_board_does_what_a_host_asks_and_the_host_finds_all_of_it(on_a_good_line: Any) -> None:
    asked, found = on_a_good_line
    assert all(found)
    assert asked.resets == 1
    assert len(asked.programs) == 2
    written = [a for a in asked.accesses if a[0] == Space.TILES and a[1]]
    for _, _, address, words in written:  # accesses end at multiples of columns
        assert address // CONFIG.columns == (address + len(words) - 1) // CONFIG.columns
    cleared = [a for a in asked.accesses if a[0] == Space.COLUMN_PARAMETERS][: 4 * 3]
    assert cleared == [(Space.COLUMN_PARAMETERS, 1, n, (0,)) for n in range(12)]


@pytest.mark.parametrize("seed", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_on_a_bad_line_nothing_is_lost_and_nothing_done_twice(
    seed: int, on_a_good_line: Any
) -> None:
    bench = BenchPort(CONFIG)
    port = FaultyPort(bench, Faults(**{**vars_of(NOISE), "seed": seed}))
    assert all(session(port))
    assert bench.asked == on_a_good_line[0]
    assert sum(port.done.values()) > 3


def vars_of(faults: Faults) -> dict[str, Any]:
    return {name: getattr(faults, name) for name in faults.__slots__}


def read_frames(port: BenchPort) -> list[bytes]:
    deframer, found = Deframer(), []
    while received := port.read(SILENCE):
        found += deframer.feed(received)
    return found


def operation(kind: Operation, **fields: int) -> bytes:
    return pack_fields(OPERATION_FIELDS, operation=kind, **fields)


def request(sequence: int, *operations: bytes) -> bytes:
    return frame(bytes((FrameKind.OPERATE, sequence)) + b"".join(operations))


def test_a_repeated_request_is_answered_from_what_is_kept() -> None:
    port = BenchPort(CONFIG)
    port.write(frame(bytes((FrameKind.GREET, 255))))
    assert len(read_frames(port)) == 1
    write = operation(Operation.WRITE, first=3, address=0, count=2) + bytes((7, 9))
    read = operation(Operation.READ, first=3, address=0, count=2)
    replies = []
    for _ in range(3):
        port.write(request(0, write, read))
        replies += read_frames(port)
    assert replies == [bytes((FrameKind.OPERATE | REPLY, 0, ReplyStatus.OK, 7, 9))] * 3
    assert [a[1] for a in port.asked.accesses] == [1, 0]


@pytest.mark.parametrize("sequence", [3, 5 + 1, 255])
def test_requests_out_of_order_are_passed_over(sequence: int) -> None:
    port = BenchPort(CONFIG)
    port.write(request(5, operation(Operation.RESET)))
    assert not read_frames(port)  # nobody has greeted
    port.write(frame(bytes((FrameKind.GREET, 4))))
    assert len(read_frames(port)) == 1
    port.write(request(sequence, operation(Operation.RESET)))
    assert not read_frames(port)
    assert port.asked.resets == 0
    port.write(request(5, operation(Operation.RESET)))
    assert len(read_frames(port)) == 1
    assert port.asked.resets == 1


@pytest.mark.parametrize(
    "operations",
    [
        operation(Operation.WRITE, first=3, count=2) + bytes(1),
        operation(Operation.WRITE, first=3, count=1)[:5],
        operation(Operation.RUN, first=1, address=999, count=2) + bytes(3),
        operation(9),  # type: ignore[arg-type]
        operation(Operation.READ, space=7, count=1),
    ],
)
def test_requests_that_end_too_soon_or_make_no_sense_are_told(operations: bytes) -> None:
    link = HostLink(BenchPort(CONFIG), silence=SILENCE)
    link.greet()
    with pytest.raises(LinkFailed, match="must do a request, not end it as malformed"):
        link.operate(operations)
    assert link.operate(b"") == b""  # and the next one is done


def test_a_reply_that_does_not_fit_is_told() -> None:
    link = HostLink(BenchPort(CONFIG), silence=SILENCE)
    link.greet()
    read = operation(Operation.READ, space=Space.COUNTERS, count=180)
    with pytest.raises(LinkFailed, match="as full"):
        link.operate(read)


def test_a_machine_that_takes_nothing_is_told() -> None:
    port = BenchPort(CONFIG, patience=500, deaf=True)
    with pytest.raises(LinkFailed, match="as stuck"):
        device(port)
    link = HostLink(BenchPort(CONFIG, deaf=True), silence=SILENCE)
    link.greet()
    run = operation(Operation.RUN, first=1, address=50, count=2) + bytes(4)
    assert link.operate(run)[0] == 0xFF  # only the trailer, in time


@pytest.mark.slow
def test_programs_longer_than_a_request_and_results_longer_than_a_reply_pass_whole() -> None:
    port = BenchPort(CONFIG, limit=460)
    program = tuple(range(500))
    outcome = device(port).run(program)
    assert len(outcome.rows) == 500
    assert outcome.rows[:, 0].tolist() == [w - (1 << 15) for w in program]
    assert port.asked.programs == [list(program)]


def test_a_fault_is_an_outcome() -> None:
    outcome = device(BenchPort(CONFIG)).run((0xFFFF, 5))
    assert (outcome.fault, outcome.counter) == (Fault.ENCODING, 2)


class Silence:
    """A port with nothing behind it."""

    name = "/dev/nothing"
    closed = False

    def write(self, content: bytes) -> None:
        """Nobody hears it."""

    def read(self, seconds: float) -> bytes:
        return b""

    def close(self) -> None:
        self.closed = True


class Noise(Silence):
    """A port that never is silent."""

    def read(self, seconds: float) -> bytes:
        return bytes(64)


@pytest.mark.parametrize("kind", [Silence, Noise])
def test_a_port_without_a_board_is_refused(kind: type[Silence]) -> None:
    port = kind()
    with pytest.raises(WrongBoard, match=r"^board on /dev/nothing must answer within 0\.0012 s"):
        device(port, retries=2)
    assert port.closed


def test_another_machine_or_bitstream_is_refused() -> None:
    other = MachineConfig(bits=5, rows=2, columns=3, slots=7)
    with pytest.raises(WrongBoard, match="must hold a machine with bits 5, not 6"):
        BoardDevice(other, BenchPort(CONFIG), silence=SILENCE)
    with pytest.raises(WrongBoard, match=f"must hold bitstream 00, not {identity(CONFIG)}"):
        device(BenchPort(CONFIG), build="00")


def test_a_greeting_of_another_protocol_is_refused() -> None:
    greeting = Greeting(CONFIG, CLOCK, 1020, "00")
    assert Greeting.of_bytes(greeting.to_bytes()) == greeting
    future = greeting.to_bytes().replace(b'"protocol":1', b'"protocol":2')
    with pytest.raises(ValueError, match="protocol must be 1, not 2"):
        Greeting.of_bytes(future)
    for content in (b"", b"{}", b"\xff", b'{"protocol":1,"config":{"bits":99}}'):
        with pytest.raises(ValueError, match="must be"):
            Greeting.of_bytes(content)


def test_a_board_is_a_device() -> None:
    board = device(BenchPort(CONFIG))
    assert isinstance(board, Device)
    for wrong in (lambda: board.read(CONFIG.memory_words, 1), lambda: board.run(())):
        with pytest.raises(ValueError, match="must"):
            wrong()


def test_a_link_too_small_for_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least"):
        Link(Greeting(CONFIG, CLOCK, 64, "00"))


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.binary(max_size=5), st.integers(0, 7))
def test_frames_are_found_among_noise_and_only_whole(
    content: bytes, noise: bytes, bit: int
) -> None:
    line = frame(content)
    assert set(line[1:-1]).isdisjoint({FLAG})
    assert Deframer().feed(noise.replace(b"\x7d", b"") + line) == [content]
    deframer = Deframer()
    assert [f for byte in line * 2 for f in deframer.feed(bytes((byte,)))] == [content] * 2
    for place in range(len(line)):
        spoiled = bytes(b ^ (1 << bit) * (i == place) for i, b in enumerate(line))
        assert all(found == content for found in Deframer().feed(spoiled))
    assert ESCAPE not in frame(bytes((1, 2)))


@given(st.tuples(*(st.integers(0, (1 << w) - 1) for w in OPERATION_FIELDS.values())))
def test_fields_unpack_to_what_was_packed(values: tuple[int, ...]) -> None:
    fields = dict(zip(OPERATION_FIELDS, values, strict=True))
    assert unpack_fields(OPERATION_FIELDS, pack_fields(OPERATION_FIELDS, **fields)) == fields
    with pytest.raises(ValueError, match="first must be 0 to 255, not 256"):
        pack_fields(OPERATION_FIELDS, first=256)
