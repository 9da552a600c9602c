"""A serial port of the system, played by a pseudo-terminal with a board's replies behind it."""

from __future__ import annotations

import contextlib
import os
import threading
import tty
from collections.abc import Iterator

import pytest

from sw.config import MachineConfig
from sw.link import DEFAULT_LIMIT, REPLY, FrameKind, Greeting, ReplyStatus, identity
from sw.runtime.board_device import WrongBoard
from sw.runtime.link import Deframer, HostLink, LinkFailed, frame
from sw.runtime.link_serial import SerialPort, open_board

serial = pytest.importorskip("serial", reason="only who has a board needs pyserial")
CONFIG = MachineConfig(bits=4, rows=2, columns=2, slots=4)


@pytest.fixture
def line() -> Iterator[tuple[int, str]]:
    """The far end of a line, and the name of the near one."""
    far, near = os.openpty()
    tty.setraw(near)
    yield far, os.ttyname(near)
    for end in (far, near):
        with contextlib.suppress(OSError):
            os.close(end)


def test_bytes_pass_both_ways_and_silence_is_empty(line: tuple[int, str]) -> None:
    far, name = line
    port = SerialPort(name)
    every = bytes(range(256))
    port.write(every)
    assert os.read(far, 1000) == every
    os.write(far, every)
    found = b""
    while len(found) < len(every):
        found += port.read(1.0)
    assert found == every
    assert port.read(0.01) == b""
    port.close()


def test_a_board_is_greeted_over_it(line: tuple[int, str]) -> None:
    far, name = line
    greeting = Greeting(CONFIG, 1_000_000, DEFAULT_LIMIT, identity(CONFIG))

    def answer() -> None:
        deframer, found = Deframer(), list[bytes]()
        while not found:
            found = deframer.feed(os.read(far, 1000))
        head = bytes((FrameKind.GREET | REPLY, found[0][1], ReplyStatus.OK))
        os.write(far, frame(head + greeting.to_bytes()))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    port = SerialPort(name)
    assert HostLink(port, silence=5.0).greet() == greeting
    thread.join(5.0)
    port.close()


def test_a_line_that_goes_away_is_one_sentence(line: tuple[int, str]) -> None:
    far, name = line
    port = SerialPort(name)
    os.close(far)
    with pytest.raises(LinkFailed, match="must stay connected"):
        port.read(0.01)


@pytest.mark.parametrize(
    ("name", "baud", "sentence"),
    [
        ("/dev/null/port", 9600, "port must be a serial port, not '/dev/null/port': Not a"),
        ("/dev/null", 9600, "port must be a serial port, not '/dev/null'"),
        ("nosuch://port", 9600, "port must be a serial port, not 'nosuch://port'"),
        ("/dev/null", 0, "baud must be at least 1, not 0"),
    ],
)
def test_what_is_no_serial_port_is_refused(name: str, baud: int, sentence: str) -> None:
    with pytest.raises(WrongBoard, match=sentence):
        SerialPort(name, baud)


def test_a_board_needs_a_port() -> None:
    with pytest.raises(WrongBoard, match="--port must be given"):
        open_board(CONFIG, None)
