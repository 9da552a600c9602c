"""What carries a device's phases to a simulator that keeps running, and its answers back."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import tempfile
import threading
import weakref
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from sim import machine_design, machine_device_testbench, machine_verilator
from sim.bus import AmaranthBus
from sim.lanes import Lanes, wrap
from sim.machine_design import TOP, Design, design
from sim.machine_device_codec import Payloads
from sim.machine_job import MachineFailed
from sim.machine_ports import SINKS, Ports
from sim.machine_session import Phase, Stalls
from sim.machine_trace import Trace, write_views
from sim.runner import SimulationFailed, compile_design, end_group, log_tail, start_tests
from sim.verilated_driver import END, VerilatedDriver
from sw.config import MachineConfig

#: Seconds in which a simulator must have started.
_START: Final = 60.0


@dataclass(slots=True, eq=False)
class BytePhase:
    """A :class:`Phase` whose payloads are arrays of bytes."""

    host: list[Payloads] = field(default_factory=list)
    instructions: list[Payloads] = field(default_factory=list)
    reads: int = 0
    statuses: int = 0
    reset: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.reset or self.host or self.instructions)

    def plain(self) -> Phase:
        """The phase with integers."""
        sent = (self.host, self.instructions)
        host, instructions = (tuple(i for part in parts for i in _integers(part)) for parts in sent)
        return Phase(self.reset, host, instructions, self.reads, self.statuses)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the machine sent in some phases, and the cycles since the simulator's start."""

    results: Payloads
    statuses: Payloads
    cycles: int


class Link(Protocol):
    """A simulator with one machine."""

    def exchange(self, phases: list[BytePhase]) -> Answer:
        """Run phases to their end.

        Raises
        ------
        MachineFailed
            If the machine is stuck or breaks a stream's rules.
        SimulationFailed
            If the simulator dies.
        """

    def close(self) -> None:
        """End the simulator."""


class VerilatorLink:
    """The driver as a process: bytes through pipes."""

    def __init__(
        self, config: MachineConfig, stalls: Stalls | None, limit: int, trace: Trace | None
    ) -> None:
        made = design(config, hierarchy=trace is not None)
        self.ports, self.trace = made.ports, trace
        self.cycles = 0
        self._clean = True
        suffix = trace.path.suffix if trace else ""
        command = [str(machine_verilator.build(made, suffix)), "--serve"]
        if trace is not None:
            self._scratch = trace.path.with_name(f".{os.getpid()}.{trace.path.name}")
            command += [str(self._scratch), str(trace.first), str(trace.end)]
        self._driver = VerilatedDriver(command)
        self.process = self._driver.process
        self._send([machine_verilator.header(self.ports, stalls, limit)])

    def exchange(self, phases: list[BytePhase]) -> Answer:
        try:
            self._send(self._block(phases))
            (size,) = np.frombuffer(self._driver.receive(8), "<u8")
            content = self._driver.receive(int(size))
        except BaseException:
            self._clean = False
            self._driver.kill()
            raise
        return self._answer(content)

    def _block(self, phases: list[BytePhase]) -> list[bytes]:
        parts = [np.array([len(phases)], "<u8").tobytes()]
        for phase in phases:
            counts = [sum(map(len, part)) for part in (phase.host, phase.instructions)]
            numbers = [phase.reset, *counts, phase.reads, phase.statuses]
            parts.append(np.array(numbers, "<u8").tobytes())
            parts += [part.tobytes() for part in (*phase.host, *phase.instructions)]
        return parts

    def _send(self, parts: list[bytes]) -> None:
        self._driver.send(np.array([sum(map(len, parts))], "<u8").tobytes(), *parts)

    def _answer(self, content: bytes) -> Answer:
        numbers = np.frombuffer(content, "<u8", 3).tolist()
        self.cycles = numbers[0]
        position, found = 24, []
        for name, count in zip(SINKS, numbers[1:], strict=True):
            size = self.ports.bytes(name)
            part = np.frombuffer(content, np.uint8, count * size, position)
            found.append(part.reshape(count, size))
            position += count * size
        return Answer(found[0], found[1], self.cycles)

    def close(self) -> None:
        self._driver.end()
        if self.trace is None:
            return
        if not self._clean:
            self._scratch.unlink(missing_ok=True)  # it has no end
        elif self._scratch.exists():
            os.replace(self._scratch, self.trace.path)
            write_views(self.trace.path, f"TOP.{TOP}", self.ports.layout)
        else:
            first = self.trace.first
            raise ValueError(f"trace-from must be below {self.cycles} cycles, not {first}")


class CocotbLink:
    """A testbench in a simulator's process: lines of JSON through a socket."""

    def __init__(
        self, config: MachineConfig, simulator: str, stalls: Stalls | None, limit: int
    ) -> None:
        made = design(config)
        self.ports = made.ports
        self._folder = tempfile.TemporaryDirectory(prefix="atreides-device-")
        self._log = Path(self._folder.name, "log.txt")
        try:
            self._start(made, simulator)
            first = {"ports": self.ports.to_json(), "limit": limit}
            self._send({**first, "stalls": stalls and asdict(stalls)})
        except BaseException:
            self.close()
            raise

    def _start(self, made: Design, simulator: str) -> None:
        verilog = made.verilog + wrap([TOP], made.ports.layout, clocked=True)
        visible = ("i", "o", "clk", "rst")
        build = compile_design(verilog, simulator, visible=visible)
        path = str(Path(self._folder.name, "socket"))
        with socket.socket(socket.AF_UNIX) as server, self._log.open("w") as log:
            server.bind(path)
            server.listen(1)
            self.process = start_tests(
                build,
                machine_device_testbench.__name__,
                simulator,
                Path(self._folder.name),
                log,
                {machine_device_testbench.SOCKET: path},
            )
            self._finalizer = weakref.finalize(self, end_group, self.process)
            server.settimeout(0.2)
            for _ in range(int(_START / 0.2)):
                with contextlib.suppress(TimeoutError):
                    self._stream = server.accept()[0].makefile("rwb")
                    return
                if self.process.poll() is not None:
                    break
        self._died()

    def _send(self, content: object) -> None:
        try:
            self._stream.write(json.dumps(content).encode() + b"\n")
            self._stream.flush()
        except OSError:
            self._died()

    def _died(self) -> None:
        self._finalizer()
        raise SimulationFailed(f"the simulator died:\n{log_tail(self._log)}")

    def exchange(self, phases: list[BytePhase]) -> Answer:
        try:
            self._send([asdict(phase.plain()) for phase in phases])
            line = b""
            with contextlib.suppress(OSError):
                line = self._stream.readline()
            if not line:
                self._died()
        except BaseException:
            self._finalizer()
            raise
        return _answer(self.ports, json.loads(line))

    def close(self) -> None:
        if hasattr(self, "_stream"):
            with contextlib.suppress(OSError):
                self._stream.close()
        if hasattr(self, "process"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END)
            self._finalizer()
        self._folder.cleanup()


class AmaranthLink:
    """Amaranth's simulator in a thread of its own."""

    def __init__(self, config: MachineConfig, stalls: Stalls | None, limit: int) -> None:
        machine = machine_design.machine(config)
        self.ports = Ports.of(machine)
        self._asked: queue.Queue[list[Phase] | None] = queue.Queue()
        self._answered: queue.Queue[dict[str, object]] = queue.Queue()
        self._ended = threading.Event()
        lanes = Lanes([machine])
        top = Module()
        top.submodules.lanes = lanes
        domain = ClockDomain("sync")
        top.domains += domain

        async def testbench(context: object) -> None:
            bus = AmaranthBus(context, lanes, domain.rst)
            pump = machine_device_testbench.Server(self.ports, stalls, limit, self._watch)
            await pump.serve(bus, self._asked.get, self._answered.put)

        simulator = Simulator(top)
        simulator.add_clock(1e-6)
        simulator.add_testbench(testbench)

        def run() -> None:
            try:
                simulator.run()
            except Exception as error:  # the device waits for an answer
                self._answered.put({"failed": f"the simulation died: {error!r}"})

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        if self._ended.is_set():
            raise MachineFailed("device must be open")

    def exchange(self, phases: list[BytePhase]) -> Answer:
        self._asked.put([phase.plain() for phase in phases])
        return _answer(self.ports, self._answered.get())

    def close(self) -> None:
        self._ended.set()
        self._asked.put(None)
        self._thread.join(END)


def _answer(ports: Ports, content: dict[str, object]) -> Answer:
    if "failed" in content:
        raise MachineFailed(str(content["failed"]))
    results, statuses, cycles = (content[name] for name in ("results", "statuses", "cycles"))
    sizes = [ports.bytes(name) for name in SINKS]
    found = [_bytes(part, size) for part, size in zip((results, statuses), sizes, strict=True)]
    return Answer(found[0], found[1], cycles)


def _integers(payloads: Payloads) -> list[int]:
    return [int.from_bytes(payload.tobytes(), "little") for payload in payloads]


def _bytes(values: list[int], size: int) -> Payloads:
    joined = b"".join(value.to_bytes(size, "little") for value in values)
    return np.frombuffer(joined, np.uint8).reshape(len(values), size)
