"""The testbench of units with streams: one driver, random stalls on both ends, one scoreboard.

As a cocotb test module it reads the plan from the file that the environment variable ``SIM_PLAN``
names and leaves a scoreboard in ``SIM_REPORT``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import cocotb

from sim.bus import Bus, CocotbBus
from sim.layout import Field
from sim.plan import Plan, StreamLane, load
from sim.scoreboard import Scoreboard

#: Cycles without any transfer in a lane after which it counts as stuck.
PATIENCE = 200


class StreamDriver:
    """Offers one lane's tokens and takes its results, each with its chance per cycle.

    Parameters
    ----------
    number : int
        Of the lane.
    lane : StreamLane
    board : Scoreboard
    seed : int
    """

    def __init__(self, number: int, lane: StreamLane, board: Scoreboard, seed: int) -> None:
        self.number, self.lane, self.board = number, lane, board
        self.random = random.Random(f"{seed} {number}")
        self.sent = dict.fromkeys(lane.sent, 0)
        self.received = dict.fromkeys(lane.expected, 0)
        self.offering = dict.fromkeys(lane.sent, False)
        self.held: dict[str, int | None] = dict.fromkeys(lane.expected)
        self.outputs: dict[str, Field] = {f.name: f for f in lane.layout.outputs}
        self.idle = 0
        self.stopped = False

    @property
    def done(self) -> bool:
        """Whether everything was sent and received, or the lane was given up."""
        return self.stopped or (
            all(self.sent[s] == len(t) for s, t in self.lane.sent.items())
            and all(self.received[s] == len(t) for s, t in self.lane.expected.items())
        )

    def drive(self) -> int:
        """This cycle's inputs. A token once offered stays until it is taken."""
        offer, take = self.lane.stall
        ports = {}
        for name, tokens in self.lane.sent.items():
            index = self.sent[name]
            if not self.offering[name] and index < len(tokens) and not self.stopped:
                self.offering[name] = self.random.randrange(100) < offer
            ports[f"{name}_valid"] = int(self.offering[name])
            # an idle payload is noise: a unit must not look at it
            idle = tokens[self.random.randrange(len(tokens))]
            ports[f"{name}_payload"] = tokens[index] if self.offering[name] else idle
        for name in self.lane.expected:
            ports[f"{name}_ready"] = int(self.random.randrange(100) < take)
        self.ready = {name: ports[f"{name}_ready"] for name in self.lane.expected}
        return self.lane.layout.pack_inputs(ports)

    def observe(self, cycle: int, outputs: int, unknown: int) -> None:
        """What the unit answered in this cycle."""
        if self.stopped:
            return
        self.idle += 1
        for name in self.lane.sent:
            if self.offering[name] and self._flag(cycle, f"{name}_ready", outputs, unknown):
                self.offering[name] = False
                self.sent[name] += 1
                self.idle = 0
        for name in self.lane.expected:
            self._receive(cycle, name, outputs, unknown)
        if self.idle > PATIENCE and not self.done:
            self._fail(cycle, "no transfer", f"{PATIENCE} idle cycles", "a transfer")
            self.stopped = True

    def _receive(self, cycle: int, name: str, outputs: int, unknown: int) -> None:
        valid = self._flag(cycle, f"{name}_valid", outputs, unknown)
        payload = self.outputs[f"{name}_payload"].extract(outputs)
        held = self.held[name]
        if held is not None and (not valid or payload != held):
            got = f"{name}={payload:#x}" if valid else f"{name} withdrawn"
            self._fail(cycle, f"{name} stalled", got, f"{name}={held:#x} held")
        if not valid:
            self.held[name] = None
            return
        index = self.received[name]
        tokens = self.lane.expected[name]
        missing = self.outputs[f"{name}_payload"].extract(unknown)
        if index >= len(tokens):
            self._fail(cycle, f"token {index}", f"{name}={payload:#x}", "no further token")
        elif payload != tokens[index] or missing:
            known = ((s, t[index]) for s, t in self.lane.sent.items() if index < len(t))
            sent = " ".join(f"{stream}={token:#x}" for stream, token in known)
            got = f"{name}={payload:#x}" + (f" unknown {missing:#x}" if missing else "")
            self._fail(cycle, f"token {index} {sent}", got, f"{name}={tokens[index]:#x}")
        self.held[name] = None if self.ready[name] else payload
        if self.ready[name]:
            self.board.compared += 1
            self.received[name] += 1
            self.idle = 0

    def _flag(self, cycle: int, name: str, outputs: int, unknown: int) -> int:
        if self.outputs[name].extract(unknown):
            self._fail(cycle, name, "unknown", "0 or 1")
        return self.outputs[name].extract(outputs)

    def _fail(self, cycle: int, inputs: str, got: str, want: str) -> None:
        inputs = f"{inputs} (offer, take {self.lane.stall} %)"
        if self.board.record(self.number, self.lane.label, cycle, inputs, got, want):
            self.stopped = True


async def run(bus: Bus, plan: Plan, simulator: str) -> Scoreboard:
    """Drive every token of a stream plan, then some idle cycles in which nothing may come out.

    Parameters
    ----------
    bus : Bus
    plan : Plan
        Of :class:`sim.plan.StreamLane`.
    simulator : str
        For messages.
    """
    board = Scoreboard(simulator, plan.seed)
    drivers = [StreamDriver(n, lane, board, plan.seed) for n, lane in enumerate(plan.lanes)]
    cycle = 0
    extra = 16
    while extra:
        row = start = 0
        for driver in drivers:
            row |= driver.drive() << start
            start += 8 * driver.lane.layout.input_bytes
        bus.write(row)
        await bus.settle()
        got, unknown = bus.read()
        start = 0
        for driver in drivers:
            driver.observe(cycle, got >> start, unknown >> start)
            start += 8 * driver.lane.layout.output_bytes
        await bus.tick()
        cycle += 1
        if all(driver.done for driver in drivers):
            extra -= 1
        else:
            board.cycles = cycle + 1
    return board


@cocotb.test()
async def compare_streams(dut: object) -> None:
    """Run the plan and leave the scoreboard, whatever it says."""
    plan = load(Path(os.environ["SIM_PLAN"]))
    board = await run(CocotbBus(dut, True), plan, cocotb.SIM_NAME)
    board.save(Path(os.environ["SIM_REPORT"]))
