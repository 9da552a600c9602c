"""A link in Amaranth's simulator before a machine that writes down all it is asked to do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from amaranth.sim import Simulator

from hw.link import Link
from sw.config import MachineConfig
from sw.isa import Fault
from sw.link import DEFAULT_LIMIT, Greeting, identity
from sw.registers import ResultKind, Space

#: Of the simulated clock, in Hz.
CLOCK: Final = 1_000_000
#: Cycles from one byte of the line to the next, either way.
SPACING: Final = 3


@dataclass(slots=True)
class Asked:
    """What the machine was asked, in order.

    Parameters
    ----------
    accesses : list of (space, write, address, words)
        The words of a write, or as many zeros as a read wants.
    programs : list of list of int
        The words of each program that has ended.
    resets : int
    """

    accesses: list[tuple[int, int, int, tuple[int, ...]]] = field(default_factory=list)
    programs: list[list[int]] = field(default_factory=list)
    resets: int = 0


class BenchPort:
    """The byte streams of a link as a port, and a machine that obeys.

    Reads of tile memory give what was written; reads of counters give ``1000 + number``. A program
    sends, for each of its words w, a row of the exact sums ``w - lane - 2**15``, and ends with the
    fault ENCODING if its first word is 0xFFFF.

    Parameters
    ----------
    config : MachineConfig
    limit, patience : int
        See hw.link.Link.
    deaf : bool
        The machine takes nothing.
    """

    def __init__(
        self,
        config: MachineConfig,
        *,
        limit: int = DEFAULT_LIMIT,
        patience: int = 2000,
        deaf: bool = False,
    ) -> None:
        self.name, self.config, self.deaf = "the bench", config, deaf
        self.asked = Asked()
        self.memory = [0] * config.memory_words
        self.cycles = 0
        self._sent: deque[int] = deque()
        self._received = bytearray()
        greeting = Greeting(config, CLOCK, limit, identity(config))
        self._link = link = Link(greeting, patience)
        self._simulator = Simulator(link)
        self._simulator.add_clock(1 / CLOCK)
        for bench in (self._line, self._serve, self._run):
            self._simulator.add_testbench(bench, background=True)

    # The line

    def write(self, content: bytes) -> None:
        """Send bytes, as soon as time passes."""
        self._sent += content

    def read(self, seconds: float) -> bytes:
        """What has come; if nothing, what comes within some simulated seconds after all is sent."""
        silent, silence = 0, int(seconds * CLOCK)
        while silent < silence and not self._received:
            start = self.cycles
            while self.cycles == start:
                self._simulator.advance()
            silent = 0 if self._sent else silent + 1
        found = bytes(self._received)
        self._received.clear()
        return found

    def close(self) -> None:
        """Nothing is held."""

    async def _line(self, context: Any) -> None:
        link = self._link
        while True:
            due = self.cycles % SPACING == 0
            context.set(link.i.valid, due and bool(self._sent))
            if due and self._sent:
                context.set(link.i.payload, self._sent.popleft())
            context.set(link.o.ready, due)
            _, _, valid, byte = await context.tick().sample(link.o.valid, link.o.payload)
            if due and valid:
                self._received.append(byte)
            self.cycles += 1

    # The machine

    async def _serve(self, context: Any) -> None:
        """Requests of the host."""
        link, config = self._link, self.config
        context.set(link.host.ready, not self.deaf)
        while True:
            _, _, valid, reset_machine, payload = await context.tick().sample(
                link.host.valid, link.reset, link.host.payload
            )
            self.asked.resets += reset_machine
            if not valid or self.deaf:
                continue
            count = payload["count"] + 1
            data, space, address = payload["data"], payload["space"], payload["address"]
            bits = config.bits if space == Space.TILES else 32
            words = [data >> bits * lane & (1 << bits) - 1 for lane in range(count)]
            if not payload["write"]:
                words = [0] * count
            self.asked.accesses.append((int(space), payload["write"], address, tuple(words)))
            if payload["write"]:
                if space == Space.TILES:
                    self.memory[address : address + count] = words
                continue
            found = [1000 + address]
            if space == Space.TILES:
                found = self.memory[address : address + count]
            await self._beat(context, ResultKind.READ, found)

    async def _beat(self, context: Any, kind: ResultKind, lanes: list[int]) -> None:
        """Offer a beat of results until it is taken."""
        results, bits = self._link.results, self.config.result_bits
        data = sum((value & (1 << bits) - 1) << bits * lane for lane, value in enumerate(lanes))
        if kind == ResultKind.READ and len(lanes) == 1:
            data = lanes[0]
        beat = {"kind": kind, "count": len(lanes), "last": 1, "data": data}
        context.set(self._link.host.ready, 0)
        context.set(results.payload, beat)
        context.set(results.valid, 1)
        await _taken(context, results)
        context.set(results.valid, 0)
        context.set(self._link.host.ready, not self.deaf)

    async def _run(self, context: Any) -> None:
        """Programs."""
        instructions, status = self._link.instructions, self._link.status
        words: list[int] = []
        while True:
            context.set(instructions.ready, not self.deaf)
            *_, valid, payload = await context.tick().sample(
                instructions.valid, instructions.payload
            )
            if not valid or self.deaf:
                continue
            context.set(instructions.ready, 0)
            words.append(payload["word"])
            lanes = range(1 + len(words) % self.config.columns)
            sums = [words[-1] - lane - (1 << 15) for lane in lanes]
            await self._beat(context, ResultKind.EXACT, sums)
            if payload["last"]:
                fault = Fault.ENCODING if words[0] == 0xFFFF else Fault.NONE
                context.set(status.payload, {"fault": fault, "counter": len(words)})
                context.set(status.valid, 1)
                await _taken(context, status)
                context.set(status.valid, 0)
                self.asked.programs.append(words)
                words = []


async def _taken(context: Any, stream: Any) -> None:
    """Until what a stream offers is taken."""
    while not (await context.tick().sample(stream.ready))[-1]:
        pass
