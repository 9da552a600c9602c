"""A serial port of the system as the line to a board."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sw.config import MachineConfig
from sw.link import BAUD
from sw.runtime.board_device import BoardDevice, WrongBoard
from sw.runtime.link import LinkFailed


class SerialPort:
    """A serial port, 8 data bits, no parity, 1 stop bit.

    Parameters
    ----------
    name : str
        As the system calls it, ``/dev/ttyUSB0`` for one; or what pyserial takes besides.
    baud : int
        Bits per second.

    Raises
    ------
    WrongBoard
        If the port is not there, in use, or cannot have this rate.
    """

    def __init__(self, name: str, baud: int = BAUD) -> None:
        import serial  # type: ignore[import-untyped]  # only who has a board needs it

        self.name = name
        if baud <= 0:
            raise WrongBoard(f"baud must be at least 1, not {baud!r}")
        self._failures = (OSError, serial.SerialException)
        try:
            self._serial: Any = serial.serial_for_url(name, baud, exclusive=True)
        except (*self._failures, ValueError) as error:
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error).split(": ")[-1]
            raise WrongBoard(f"port must be a serial port, not {name!r}: {reason}") from error
        self._serial.reset_input_buffer()

    def write(self, content: bytes) -> None:
        """Send bytes."""
        with self._connected():
            self._serial.write(content)

    def read(self, seconds: float) -> bytes:
        """What has come; if nothing, what comes next within some seconds; b"" for silence."""
        with self._connected():
            self._serial.timeout = seconds
            found: bytes = self._serial.read(1)
            return found + (self._serial.read(self._serial.in_waiting) if found else b"")

    def close(self) -> None:
        """Give the port back."""
        self._serial.close()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            raise LinkFailed(f"{self.name} must stay connected: {error}") from error


def open_board(
    config: MachineConfig, port: str | None, baud: int = BAUD, build: str | None = None
) -> BoardDevice:
    """The board on a serial port.

    Raises
    ------
    WrongBoard
        If no port is named, or it has no board with this machine, or not with the bitstream of this
        build.
    """
    if port is None:
        raise WrongBoard("--port must be given with --backend board, as in --port /dev/ttyUSB0")
    return BoardDevice(config, SerialPort(port, baud), build=build)
