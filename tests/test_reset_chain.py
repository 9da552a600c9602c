"""A machine whose units are reset one after the other, in the middle of whatever it does."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.sim import Simulator

from hw.core import Atreides
from hw.reset_chain import RESET_CYCLES
from sim.bus import AmaranthBus
from sim.lanes import Lanes
from sim.machine_ports import Ports
from sim.machine_pump import MachineFailed, Pump
from sw.assembler import assemble
from tests.core_session import LIMIT, Run, Session, amaranth
from tests.program_reference import SEED, TINY, random_memory

PROGRAM = """
LDR 0, 2, 2
LDC 1, 2, 2
MATMUL
RELU
STR 2, 2, 2
SET K0, 7
SET B_BASE, 9
SET B_K0, 2
GEMM exact
LDR 3, 2, 1
"""
#: Longer than the chain.
CHAIN_CYCLES = 32


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [7, 23, 61, 90])
def test_a_machine_that_was_interrupted_is_as_it_was_at_the_start(interrupted: int) -> None:
    run = Run(
        assemble(PROGRAM, config=TINY).words, random_memory(TINY, random.Random(SEED)), reset=False
    )
    reset, found = Signal(), []
    lanes = Lanes([Atreides(TINY, reset=reset)])
    top = Module()
    top.submodules.lanes = lanes
    top.domains.sync = ClockDomain(reset_less=True)
    ports = Ports.of(Atreides(TINY))
    session = Session(TINY, ports)
    write, execute, _ = session.phases([run])

    async def testbench(context: object) -> None:
        bus = AmaranthBus(context, lanes, reset)
        await Pump(ports, None, LIMIT).run(bus, [write])
        with pytest.raises(MachineFailed, match=f"done within {interrupted} cycles"):
            await Pump(ports, None, interrupted).run(bus, [execute])
        bus.write(0)
        for active, cycles in ((True, RESET_CYCLES), (False, CHAIN_CYCLES)):
            bus.reset(active)
            for _ in range(cycles):
                await bus.tick()
        # Nothing is written before this run, nor read but what it leaves.
        blank = Run(run.words, [], reset=False)
        for following in (blank, run):
            phases = list(session.phases([following]))
            found.extend(session.outcomes(await Pump(ports, None, LIMIT).run(bus, phases)))

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert found == amaranth(TINY, [Run(run.words, []), Run(run.words, run.memory, reset=False)])
