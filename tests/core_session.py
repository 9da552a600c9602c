"""Programs on the machine's RTL, with what the host writes before and reads after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from sim import machine_verilator
from sim.bus import AmaranthBus
from sim.lanes import Lanes
from sim.machine_design import design
from sim.machine_design import machine as simulated
from sim.machine_ports import Ports
from sim.machine_pump import Pump
from sim.machine_session import Phase, Recording, Stalls
from sw.config import MachineConfig
from sw.isa import Fault
from sw.registers import Counter, ResultKind, Space
from tests.product_reference import Beat, Parameters

LIMIT = 1_000_000


@dataclass(slots=True)
class Run:
    """A program and all that it finds.

    Parameters
    ----------
    words : sequence of int
        The program.
    memory : list of int
        Words from address 0 on.
    parameters : Parameters
    reset : bool
        Whether the machine is reset before.
    """

    words: Sequence[int]
    memory: list[int] = field(default_factory=list)
    parameters: Parameters = field(default_factory=Parameters)
    reset: bool = True


@dataclass(slots=True)
class Outcome:
    """What a run left."""

    fault: Fault
    counter: int
    memory: list[int]
    beats: list[Beat]
    counters: dict[Counter, int]


class Session:
    """Runs one after the other on one machine of a configuration."""

    def __init__(self, config: MachineConfig, ports: Ports) -> None:
        self.config, self.ports = config, ports

    def phases(self, runs: Sequence[Run]) -> Iterator[Phase]:
        for run in runs:
            yield Phase(reset=run.reset, host=tuple(self.writes(run)))
            last = len(run.words) - 1
            words = [
                self.ports.pack("instructions", word=word, last=int(i == last))
                for i, word in enumerate(run.words)
            ]
            yield Phase(instructions=tuple(words), statuses=1)
            reads = tuple(self.reads())
            yield Phase(host=reads, reads=len(reads))

    def write(self, space: Space, address: int, data: int, count: int = 1) -> int:
        fields = {"space": space, "write": 1, "address": address, "data": data}
        return self.ports.pack("host", count=count - 1, **fields)

    def writes(self, run: Run) -> Iterator[int]:
        config, parameters = self.config, run.parameters
        for start in range(0, len(run.memory), config.columns):
            words = run.memory[start : start + config.columns]
            data = sum(word << config.bits * i for i, word in enumerate(words))
            yield self.write(Space.TILES, start, data, len(words))
        for (entry, column), scale in parameters.columns.items():
            data = scale.bias | (scale.shift & 0xFF) << 16 | scale.lift << 24
            yield self.write(Space.COLUMN_PARAMETERS, entry * config.columns + column, data)
        for entry, scale in parameters.rows.items():
            yield self.write(Space.ROW_PARAMETERS, entry, scale.shift & 0xFF | scale.lift << 8)
        if parameters.table is not None:
            for i, start in enumerate(parameters.table.starts):
                yield self.write(Space.TABLE, 2 * i, start & (1 << 17) - 1)
            for i, slope in enumerate(parameters.table.slopes):
                yield self.write(Space.TABLE, 2 * i + 1, slope & (1 << 16) - 1)

    def reads(self) -> Iterator[int]:
        for number in Counter:
            yield self.ports.pack("host", space=Space.COUNTERS, address=number)
        for start in range(0, self.config.memory_words, self.config.columns):
            yield self.ports.pack(
                "host", space=Space.TILES, address=start, count=self.config.columns - 1
            )

    def outcomes(self, recording: Recording) -> list[Outcome]:
        beats = iter(recording.results)
        reads = len(list(self.reads()))
        found = []
        for status in recording.statuses:
            rows: list[Beat] = []
            replies: list[int] = []
            while len(replies) < reads:
                self.take(next(beats), rows, replies)
            counters = dict(zip(Counter, replies, strict=False))
            lanes = [
                reply >> self.config.result_bits * j & (1 << self.config.bits) - 1
                for reply in replies[len(Counter) :]
                for j in range(self.config.columns)
            ]
            fault = Fault(self.ports.field("status", "fault").extract(status))
            counter = self.ports.field("status", "counter").extract(status)
            memory = lanes[: self.config.memory_words]
            found.append(Outcome(fault, counter, memory, rows, counters))
        return found

    def take(self, beat: int, rows: list[Beat], replies: list[int]) -> None:
        fields = {f.name: f.extract(beat) for f in self.ports.payloads["results"]}
        if fields["kind"] == ResultKind.READ:
            replies.append(fields["data"])
            return
        bits = self.config.result_bits
        lanes = [fields["data"] >> bits * j & (1 << bits) - 1 for j in range(fields["count"])]
        if fields["kind"] == ResultKind.EXACT:
            lanes = [lane - (lane >> bits - 1 << bits) for lane in lanes]
        rows.append(Beat(fields["kind"], bool(fields["last"]), tuple(lanes)))


def verilator(
    config: MachineConfig, runs: Sequence[Run], stalls: Stalls | None = None
) -> list[Outcome]:
    """The runs' outcomes on the emitted Verilog, compiled once per configuration."""
    made = design(config)
    session = Session(config, made.ports)
    driver = machine_verilator.build(made)
    phases = list(session.phases(runs))
    return session.outcomes(machine_verilator.run(driver, made.ports, phases, stalls, LIMIT))


def amaranth(
    config: MachineConfig, runs: Sequence[Run], stalls: Stalls | None = None
) -> list[Outcome]:
    """The runs' outcomes in Amaranth's simulator."""
    machine = simulated(config)
    ports = Ports.of(machine)
    session = Session(config, ports)
    lanes = Lanes([machine])
    top = Module()
    top.submodules.lanes = lanes
    domain = ClockDomain("sync")
    top.domains += domain
    found = []

    async def testbench(context: object) -> None:
        bus = AmaranthBus(context, lanes, domain.rst)
        pump = Pump(ports, stalls, LIMIT)
        found.append(await pump.run(bus, list(session.phases(runs))))

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return session.outcomes(found[0])
