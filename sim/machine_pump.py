"""Moves a session's payloads through a machine in a Python simulation: Amaranth's or cocotb's."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from sim.bus import Bus
from sim.layout import Field
from sim.machine_job import MachineFailed
from sim.machine_ports import SINKS, SOURCES, Ports
from sim.machine_session import Phase, Recording, Stalls
from sw.registers import ResultKind

#: Cycles that reset is held.
RESET_CYCLES = 2
#: Cycles between two looks whether anybody waits for the end.
_WATCHED = 1024


class Pump:
    """Offers what is to be sent and takes what comes, a phase at a time.

    Parameters
    ----------
    ports : Ports
    stalls : Stalls or None
        None: every source offers and every sink takes in every cycle.
    limit : int
        Cycles that one phase may last.
    watch : callable, optional
        Called now and then in a phase; what it raises ends the run.
    """

    def __init__(
        self,
        ports: Ports,
        stalls: Stalls | None,
        limit: int,
        watch: Callable[[], None] | None = None,
    ) -> None:
        self.ports, self.stalls, self.limit, self.watch = ports, stalls, limit, watch
        self.random = random.Random(stalls.seed if stalls else 0)
        self.outputs: dict[str, Field] = {f.name: f for f in ports.layout.outputs}
        self.kind = ports.field("results", "kind")
        self.recording = Recording([], [])
        self.held: dict[str, int | None] = dict.fromkeys(SINKS)

    async def run(self, bus: Bus, phases: Sequence[Phase]) -> Recording:
        """Run all phases; MachineFailed if the machine is stuck or breaks a stream's rules."""
        for phase in phases:
            if phase.reset:
                bus.write(0)
                bus.reset(True)
                for _ in range(RESET_CYCLES):
                    await bus.settle()
                    await bus.tick()
                bus.reset(False)
                self.recording.cycles += RESET_CYCLES
            await self._run(bus, phase)
        return self.recording

    async def _run(self, bus: Bus, phase: Phase) -> None:
        self.queues = {"host": phase.host, "instructions": phase.instructions}
        self.sent = dict.fromkeys(SOURCES, 0)
        self.offering = dict.fromkeys(SOURCES, False)
        self.reads, self.statuses = phase.reads, phase.statuses
        started = self.recording.cycles
        while (
            self.reads > 0
            or self.statuses > 0
            or any(self.sent[name] < len(queue) for name, queue in self.queues.items())
        ):
            if self.recording.cycles - started >= self.limit:
                raise MachineFailed(f"machine must be done within {self.limit} cycles")
            if self.watch is not None and self.recording.cycles % _WATCHED == 0:
                self.watch()
            bus.write(self._drive())
            await bus.settle()
            self._observe(*bus.read())
            await bus.tick()
            self.recording.cycles += 1

    def _chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def _drive(self) -> int:
        """The inputs of a cycle. A payload once offered stays; an idle one is noise."""
        values: dict[str, int] = {}
        for name, queue in self.queues.items():
            index = self.sent[name]
            if index < len(queue) and not self.offering[name]:
                self.offering[name] = not self.stalls or self._chance(self.stalls.offer)
            payload = queue[index] if self.offering[name] else 0
            if self.stalls and not self.offering[name]:
                payload = self.random.getrandbits(self.ports.width(name))
            values[f"{name}_payload"] = payload
            values[f"{name}_valid"] = int(self.offering[name])
        for name in SINKS:
            values[f"{name}_ready"] = int(not self.stalls or self._chance(self.stalls.take))
        self.ready = {name: values[f"{name}_ready"] for name in SINKS}
        return self.ports.layout.pack_inputs(values)

    def _observe(self, outputs: int, unknown: int) -> None:
        for name in SOURCES:
            if self.offering[name] and self._flag(f"{name}_ready", outputs, unknown):
                self.offering[name] = False
                self.sent[name] += 1
        for name in SINKS:
            self._receive(name, outputs, unknown)

    def _receive(self, name: str, outputs: int, unknown: int) -> None:
        valid = self._flag(f"{name}_valid", outputs, unknown)
        field = self.outputs[f"{name}_payload"]
        payload, held = field.extract(outputs), self.held[name]
        if held is not None and (not valid or payload != held):
            raise self._wrong(f"{name} must hold {held:#x} until it is taken")
        self.held[name] = None
        if not valid:
            return
        if field.extract(unknown):
            raise self._wrong(f"{name} must be known, not {field.extract(unknown):#x} unknown")
        if not self.ready[name]:
            self.held[name] = payload
        elif name == "status":
            self.recording.statuses.append(payload)
            self.statuses -= 1
        else:
            self.recording.results.append(payload)
            self.reads -= self.kind.extract(payload) == ResultKind.READ

    def _flag(self, name: str, outputs: int, unknown: int) -> int:
        field = self.outputs[name]
        if field.extract(unknown):
            raise self._wrong(f"{name} must be 0 or 1, not unknown")
        return field.extract(outputs)

    def _wrong(self, sentence: str) -> MachineFailed:
        return MachineFailed(f"{sentence} (cycle {self.recording.cycles})")
