"""A machine with a serial line in Verilator as a port of bytes, and a line that spoils them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from amaranth.lib import wiring

from hw.emit import emit
from hw.linked_machine import LinkedMachine
from hw.multiplier import AUTO, OPERATOR
from sim import machine_verilator
from sim.machine_design import TOP, Design
from sim.machine_ports import Ports
from sim.verilated_driver import VerilatedDriver
from sw.config import MachineConfig
from sw.link import DEFAULT_LIMIT, DEFAULT_PATIENCE, identity
from sw.runtime.link import BytePort

DRIVER: Final = Path(__file__).with_name("link_driver.cpp")
#: Of the simulated clock, in Hz; a bit of the line takes the fewest cycles there can be.
CLOCK: Final = 1_000_000
DIVISOR: Final = 4


class SimulatedPort:
    """The line of a :class:`hw.linked_machine.LinkedMachine` that runs in Verilator.

    Time is the simulated clock's: it passes while somebody reads.

    Parameters
    ----------
    config : MachineConfig
    limit, patience
        See hw.link.Link.
    divisor : int
        Cycles per bit.
    top : wiring.Component, optional
        What to simulate instead, with the same line: something around a machine.

    Raises
    ------
    MissingSimulator, SimulationFailed
        From the simulator.
    """

    def __init__(
        self,
        config: MachineConfig,
        *,
        limit: int = DEFAULT_LIMIT,
        patience: int = DEFAULT_PATIENCE,
        divisor: int = DIVISOR,
        top: wiring.Component | None = None,
    ) -> None:
        self.name = "the simulated line"
        self.cycles = 0
        if config.multiplier == AUTO:  # as sim.machine_design has it
            config = replace(config, multiplier=OPERATOR)
        if top is None:
            sizes = {"limit": limit, "patience": patience}
            top = LinkedMachine(config, divisor, clock=CLOCK, build=identity(config), **sizes)
        design = Design(emit(top, TOP), Ports(None, {}))  # type: ignore[arg-type]
        self._driver = VerilatedDriver([str(machine_verilator.build(design, driver=DRIVER))])
        self._driver.send(divisor.to_bytes(8, "little"))

    def write(self, content: bytes) -> None:
        """Send bytes, as soon as time passes."""
        self._driver.send(len(content).to_bytes(8, "little"), content, bytes(8))

    def read(self, seconds: float) -> bytes:
        """What comes until the line is silent; b"" after some simulated seconds of silence."""
        silence = max(1, int(seconds * CLOCK))
        self._driver.send(bytes(8), silence.to_bytes(8, "little"))
        head = self._driver.receive(16)
        self.cycles = int.from_bytes(head[:8], "little")
        return self._driver.receive(int.from_bytes(head[8:], "little"))

    def close(self) -> None:
        """End the simulator."""
        self._driver.end()


@dataclass(frozen=True, slots=True)
class Faults:
    """What a line does to bytes: chances per byte, and per request to send all of it twice.

    Parameters
    ----------
    seed : int
    drop, repeat, spoil, insert : float
        Lose a byte, send it twice, flip one of its bits, put a random one before it.
    again : float
        Send what is written at once a second time.
    """

    seed: int
    drop: float = 0.0
    repeat: float = 0.0
    spoil: float = 0.0
    insert: float = 0.0
    again: float = 0.0


class FaultyPort:
    """A line that loses, repeats, spoils and invents bytes, both ways.

    Parameters
    ----------
    port : BytePort
    faults : Faults

    Attributes
    ----------
    done : dict of str to int
        How often each fault was done.
    """

    def __init__(self, port: BytePort, faults: Faults) -> None:
        self.port, self.faults, self.name = port, faults, port.name
        self.done = dict.fromkeys(("drop", "repeat", "spoil", "insert", "again"), 0)
        self._random = random.Random(faults.seed)

    def write(self, content: bytes) -> None:
        """Send what is left of the bytes."""
        for _ in range(1 + self._happens("again")):
            self.port.write(self._spoiled(content))

    def read(self, seconds: float) -> bytes:
        """What is left of the bytes that have come."""
        while received := self.port.read(seconds):
            if left := self._spoiled(received):
                return left
        return b""

    def close(self) -> None:
        """Close the line."""
        self.port.close()

    def _spoiled(self, content: bytes) -> bytes:
        found = bytearray()
        for byte in content:
            if self._happens("insert"):
                found.append(self._random.randrange(256))
            if self._happens("drop"):
                continue
            spoiled = byte ^ (1 << self._random.randrange(8)) if self._happens("spoil") else byte
            found += bytes((spoiled,)) * (1 + self._happens("repeat"))
        return bytes(found)

    def _happens(self, name: str) -> bool:
        happens = self._random.random() < getattr(self.faults, name)
        self.done[name] += happens
        return happens
