"""Rows of results against the integer model: every word, its place, and its cycle."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hw.column_tail import BUFFER
from hw.result_rows import LEAST_ARRAY_LATENCY, ResultRows
from sw.config import MachineConfig
from sw.isa import Destination
from tests.result_stimulus import Instruction, Stimulus, random_table

SEED = 20261122
SMALL = {"parameters": 32, "row_parameters": 128, "slots": 3}
CONFIGS = [
    MachineConfig(bits=8, rows=4, columns=4, **SMALL),
    MachineConfig(bits=8, unity=False, rows=2, columns=3, **SMALL),
    MachineConfig(bits=16, rows=3, columns=2, blocks=True, table=True, output_bits=7, **SMALL),
    MachineConfig(
        bits=4, rows=4, columns=2, blocks=True, bias_bits=16, output_bits=9, max_spread=5, **SMALL
    ),
    MachineConfig(
        bits=5, unity=False, rows=1, columns=1, table=True, output_bits=3, bias_bits=3,
        max_terms=2, **SMALL,
    ),
    MachineConfig(bits=3, rows=2, columns=5, blocks=True, output_bits=16, **SMALL),
]  # fmt: skip


def name(config: MachineConfig) -> str:
    table, blocks = "-table" * config.table, "-blocks" * config.blocks
    return f"{config.format}-{config.rows}x{config.columns}{table}{blocks}".replace(" ", "-")


class Bench:
    """Runs instructions on result rows, cycle by cycle, and compares what leaves."""

    def __init__(self, config: MachineConfig, seed: int, extra: int, ready: float) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.unit = ResultRows(config, LEAST_ARRAY_LATENCY + extra)
        self.ready = ready
        self.table = random_table(self.rng) if config.table else None
        self.stimulus = Stimulus(config, self.rng, self.table)
        self.cycle = 0
        self.bus: dict[int, dict[int, int]] = defaultdict(dict)
        self.want_writes: dict[int, tuple] = {}
        self.want_results: list[tuple] = []
        self.want_done: set[int] = set()
        self.seen = 0
        self.label = f"{name(config)} seed={seed}"
        self.early_offer: list[int] = []

    async def tick(self, context) -> None:
        """Drive the bus and the stream's ready for this cycle, check what leaves, and go on."""
        unit, config, rng = self.unit, self.config, self.rng
        width = config.accumulator_bits
        values = self.bus.pop(self.cycle, {})
        for j in range(config.columns):
            value = values.get(j)
            if value is None:
                value = rng.getrandbits(width) - (1 << width - 1)
            context.set(unit.bus[j], value)
        context.set(unit.results.ready, rng.random() < self.ready)
        self.check_writes(context)
        self.check_results(context)
        done = context.get(unit.done)
        assert done == (self.cycle in self.want_done), f"{self.label} cycle {self.cycle} done"
        await context.tick()
        self.cycle += 1

    def check_writes(self, context) -> None:
        unit = self.unit
        got = None
        if context.get(unit.write.enable):
            count = context.get(unit.write.count)
            words = [context.get(unit.write.words[j]) for j in range(count)]
            got = ("memory", context.get(unit.write.address), count, words)
        if context.get(unit.buffer_write.enable):
            assert got is None, f"{self.label} cycle {self.cycle}: both written"
            row = context.get(unit.buffer_write.row)
            count = len(self.want_writes.get(self.cycle, ("", 0, 0, []))[3])
            words = [context.get(unit.buffer_write.words[j]) for j in range(count)]
            got = ("buffer", row, count, words)
        want = self.want_writes.pop(self.cycle, None)
        assert got == want, f"{self.label} cycle {self.cycle}: got {got}, want {want}"

    def check_results(self, context) -> None:
        unit = self.unit
        if not (context.get(unit.results.valid) and context.get(unit.results.ready)):
            return
        payload = unit.results.payload
        got_head = tuple(context.get(payload[key]) for key in ("kind", "count", "last"))
        bits = self.config.result_bits
        lanes = context.get(payload.data)
        cycle, want_head, want_lanes = self.want_results[self.seen]
        got = [lanes >> j * bits & (1 << bits) - 1 for j in range(len(want_lanes))]
        assert (got_head, got) == (want_head, want_lanes), (
            f"{self.label} row {self.seen}: got {got_head} {got}, want {want_head} {want_lanes}"
        )
        assert self.cycle >= cycle, f"{self.label} row {self.seen} before its time"
        self.early_offer.append(self.cycle - cycle)
        self.seen += 1

    async def write_parameters(self, context, instruction: Instruction) -> None:
        unit = self.unit
        columns, rows = instruction.column_writes, instruction.row_writes
        for index in range(max(len(columns), len(rows))):
            if index < len(columns):
                column, entry, values = columns[index]
                context.set(unit.column_write, {
                    "enable": 1, "column": column, "entry": entry, "data": values
                })  # fmt: skip
            else:
                context.set(unit.column_write.enable, 0)
            if index < len(rows):
                entry, values = rows[index]
                context.set(unit.row_parameter_write, {"enable": 1, "entry": entry, "data": values})
            else:
                context.set(unit.row_parameter_write.enable, 0)
            await self.tick(context)
        context.set(unit.column_write.enable, 0)
        context.set(unit.row_parameter_write.enable, 0)

    async def write_table(self, context) -> None:
        for segment, pair in enumerate(zip(self.table.starts, self.table.slopes, strict=True)):
            for odd, value in enumerate(pair):
                context.set(
                    self.unit.table_write,
                    {"enable": 1, "index": 2 * segment + odd, "data": value},
                )
                await self.tick(context)
        context.set(self.unit.table_write.enable, 0)

    def expect(self, instruction: Instruction, event) -> None:
        """Note what leaves, and when, if the event is in this cycle."""
        destination = instruction.settings["destination"]
        exact = destination == Destination.EXACT
        latency = self.unit.exact_latency if exact else self.unit.latency
        for r, sums in enumerate(event.sums):
            for j, value in enumerate(sums):
                self.bus[self.cycle + self.unit.array_latency + r + j][j] = value
        for r, (address, row, count, lanes, last) in enumerate(event.rows):
            cycle = self.cycle + latency + r
            if last:
                self.want_done.add(cycle)
            if destination in (Destination.STREAM, Destination.EXACT):
                self.want_results.append((cycle, (int(exact), count, last), lanes))
            elif destination == BUFFER:
                self.want_writes[cycle] = ("buffer", row, count, lanes)
            else:
                self.want_writes[cycle] = ("memory", address, count, lanes)

    async def run_instruction(self, context, instruction: Instruction, gaps: bool) -> None:
        unit = self.unit
        await self.write_parameters(context, instruction)
        context.set(unit.settings, instruction.settings)
        streams = instruction.settings["destination"] in (Destination.STREAM, Destination.EXACT)
        for event in instruction.events:
            waits = event.tile["last_block"] and streams
            while waits and context.get(unit.credits) < event.tile["rows"]:
                await self.tick(context)
            context.set(unit.event, {"valid": 1, "tile": event.tile})
            self.expect(instruction, event)
            await self.tick(context)
            context.set(unit.event.valid, 0)
            spacing = event.tile["rows"] - 1
            if gaps and self.rng.random() < 0.3:
                spacing += self.rng.randint(1, 9)
            for _ in range(spacing):
                context.set(unit.event.tile, {"rows": self.rng.randint(1, self.config.rows)})
                await self.tick(context)
        last = max(self.want_done)
        while self.cycle <= last:
            await self.tick(context)

    def run(self, count: int, gaps: bool = True, destination: int | None = None) -> None:
        async def testbench(context) -> None:
            if self.table is not None:
                await self.write_table(context)
            for _ in range(count):
                instruction = self.stimulus.instruction(destination)
                await self.run_instruction(context, instruction, gaps)
            self.ready = 1
            for _ in range(self.unit.queue.depth + 3):
                await self.tick(context)
            assert self.seen == len(self.want_results), f"{self.label} rows lost"
            assert not self.want_writes, f"{self.label} writes lost"
            assert context.get(self.unit.credits) == self.unit.queue.depth

        top = Module()
        top.submodules.unit = self.unit
        simulator = Simulator(top)
        simulator.add_clock(1e-6)
        simulator.add_testbench(testbench)
        simulator.run()


@pytest.mark.parametrize("ready", [0.2, 1.0])
@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_rows_equal_the_model_in_word_place_and_cycle(config: MachineConfig, ready: float) -> None:
    bench = Bench(config, SEED, extra=int(2 * ready), ready=ready)
    bench.run(16, gaps=ready < 1)
    assert bench.seen


def test_a_host_that_takes_every_row_gets_it_in_the_cycle_in_which_it_is_queued() -> None:
    for destination in (Destination.STREAM, Destination.EXACT):
        bench = Bench(CONFIGS[0], SEED + 1, extra=1, ready=1.0)
        bench.run(6, gaps=False, destination=destination)
        assert set(bench.early_offer) == {0}


def test_credits_never_hold_up_events_at_the_least_spacing_while_the_host_takes_rows() -> None:
    """A tile every `rows` cycles: the queue is deep enough for its own latency."""
    config = MachineConfig(bits=3, rows=8, columns=8, blocks=True, table=True, **SMALL)
    bench = Bench(config, SEED, extra=1, ready=1.0)
    events = 6

    async def testbench(context) -> None:
        unit = bench.unit
        context.set(unit.settings, {"destination": Destination.STREAM, "x_count": 1})
        context.set(unit.results.ready, 1)
        for _ in range(events):
            tile = {"rows": 8, "columns": 8, "first_block": 1, "last_block": 1}
            assert context.get(unit.credits) >= 8
            context.set(unit.event, {"valid": 1, "tile": tile})
            await context.tick()
            context.set(unit.event.valid, 0)
            for _ in range(7):
                await context.tick()

    simulator = Simulator(bench.unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_an_array_that_is_too_fast_is_refused() -> None:
    with pytest.raises(ValueError, match="array_latency must be at least 5, not 4"):
        ResultRows(MachineConfig(), 4)
