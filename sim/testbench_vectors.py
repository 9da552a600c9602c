"""The testbench of combinational units and of clocked units without handshake.

Vectors in, words out, all lanes per step. As a cocotb test module it reads the plan from the file
that the environment variable ``SIM_PLAN`` names and leaves a scoreboard in ``SIM_REPORT``.
"""

from __future__ import annotations

import os
from pathlib import Path

import cocotb

from sim.bus import Bus, CocotbBus
from sim.plan import Plan, load, rows_of
from sim.scoreboard import Scoreboard, show_inputs, show_outputs


async def run(bus: Bus, plan: Plan, simulator: str) -> Scoreboard:
    """Drive every step of a vector plan and compare every output.

    Parameters
    ----------
    bus : Bus
    plan : Plan
        Of :class:`sim.plan.VectorLane`.
    simulator : str
        For messages.
    """
    board = Scoreboard(simulator, plan.seed)
    rows = rows_of(plan)
    resets = frozenset(plan.resets)
    active = (1 << (8 * sum(lane.layout.output_bytes for lane in plan.lanes))) - 1
    for step, (inputs, want, mask) in enumerate(
        zip(rows.inputs, rows.expected, rows.mask, strict=True)
    ):
        bus.write(inputs)
        if plan.clocked:
            bus.reset(step in resets)
        await bus.settle()
        got, unknown = bus.read()
        if ((got ^ want) | unknown) & mask & active:
            active &= ~_record(board, plan, step, inputs, got, unknown, want, mask & active)
        if plan.clocked:
            await bus.tick()
    board.cycles = len(rows.inputs)
    board.compared = sum(len(lane.inputs) for lane in plan.lanes)
    return board


def _record(
    board: Scoreboard,
    plan: Plan,
    step: int,
    inputs: int,
    got: int,
    unknown: int,
    want: int,
    mask: int,
) -> int:
    """Note each lane that differs; returns the mask of lanes that need no further comparison."""
    finished = 0
    start_in = start_out = 0
    for number, lane in enumerate(plan.lanes):
        layout = lane.layout
        whole = (1 << (8 * layout.output_bytes)) - 1
        bits = [value >> start_out & whole for value in (got, unknown, want, mask)]
        if ((bits[0] ^ bits[2]) | bits[1]) & bits[3]:
            driven = inputs >> start_in & ((1 << (8 * layout.input_bytes)) - 1)
            if board.record(
                number,
                lane.label,
                step,
                show_inputs(layout, driven),
                show_outputs(layout, bits[0], bits[1]),
                show_outputs(layout, bits[2]),
            ):
                finished |= whole << start_out
        start_in += 8 * layout.input_bytes
        start_out += 8 * layout.output_bytes
    return finished


@cocotb.test()
async def compare_vectors(dut: object) -> None:
    """Run the plan and leave the scoreboard, whatever it says."""
    plan = load(Path(os.environ["SIM_PLAN"]))
    board = await run(CocotbBus(dut, plan.clocked), plan, cocotb.SIM_NAME)
    board.save(Path(os.environ["SIM_REPORT"]))
