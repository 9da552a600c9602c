"""Machines that leave something out: skipping, half of the vector, counters."""

from __future__ import annotations

import random

import pytest
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from hw.chunk_walker import ChunkWalker
from hw.counters import Counters
from sim.machine_random import run
from sw.assembler import assemble
from sw.config import COUNTERS, MachineConfig
from sw.machine import Machine
from sw.registers import COUNTED, BMode, Counter

SMALL = {"bits": 4, "rows": 4, "columns": 4, "slots": 16, "parameters": 4, "row_parameters": 4}
PROGRAM = """
SET MX, 4
SET K0, 4
SET O_BASE, 64
SET O_X, 4
GEMM memory
HALT
"""


def simulate(unit, testbench) -> None:
    m = Module()
    m.domains.sync = ClockDomain()  # a unit that does nothing has none
    m.submodules.unit = unit
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_a_vector_is_once_or_twice_the_longer_side():
    for rows, columns, side in ((4, 4, 4), (5, 3, 8), (1, 2, 2)):
        sides = {"rows": rows, "columns": columns, "max_terms": 64}
        assert MachineConfig(**sides).vector == 2 * side
        assert MachineConfig(**sides, wide=False).vector == side
    assert MachineConfig(rows=1, columns=1, wide=False).vector == 2


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"counters": "some"}, "counters must be all, cycles or none, not 'some'"),
        ({"skipping": 1}, "skipping must be True or False, not 1"),
        ({"wide": "no"}, "wide must be True or False, not 'no'"),
        (
            {"rows": 1, "columns": 4, "slots": 1, "wide": False},
            "slots must be at least 2 where wide is False, not 1",
        ),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(sizes, sentence):
    with pytest.raises((TypeError, ValueError)) as raised:
        MachineConfig(**sizes)
    assert str(raised.value) == sentence


@pytest.mark.parametrize("counters", COUNTERS)
def test_the_model_counts_what_the_machine_has_counters_for(counters):
    everything = Machine(MachineConfig(**SMALL))
    words = assemble(PROGRAM).words
    everything.run(words)
    machine = Machine(MachineConfig(**SMALL, counters=counters))
    machine.run(words)
    has = COUNTED[counters]
    assert {"all": 15, "cycles": 1, "none": 0}[counters] == len(has)
    assert everything.counters[Counter.CYCLES]
    assert everything.counters[Counter.MACS]
    assert machine.counters == {
        counter: count if counter in has else 0 for counter, count in everything.counters.items()
    }


@pytest.mark.parametrize("counters", ["cycles", "none"])
def test_counters_that_are_left_out_read_zero(counters):
    unit = Counters(MachineConfig(**SMALL, counters=counters))

    async def testbench(context):
        for programs in range(2):
            context.set(unit.clear, 1)
            await context.tick()
            context.set(unit.clear, 0)
            for name in unit.amounts.shape().members:
                context.set(unit.amounts[name], 1)
            for _ in range(37 + programs):
                await context.tick()
            for name in unit.amounts.shape().members:
                context.set(unit.amounts[name], 0)
            context.set(unit.read, 1)
            for number in (*range(16), 0):
                context.set(unit.number, number)
                await context.tick()
                want = 37 + programs if counters == "cycles" and number == Counter.CYCLES else 0
                assert context.get(unit.value) == want, f"counter {number}"
            context.set(unit.read, 0)

    simulate(unit, testbench)


def test_counters_show_what_came_from_the_cycle_of_the_last_clear_on():
    unit = Counters(MachineConfig(**SMALL))
    rng = random.Random(20261123)
    names = list(unit.amounts.shape().members)
    none = dict.fromkeys(names, 0)

    async def testbench(context):
        for cycles in (0, 1, 17):
            totals, matmul = none, 0
            for cycle in range(-37, cycles + 1):  # the last clear is in cycle 0
                clear = cycle == 0 or (cycle < 0 and rng.random() < 0.1)
                amounts = {name: rng.randint(0, unit._most[name]) for name in names}
                sets, number = rng.random() < 0.2, rng.randrange(64)
                if clear:
                    totals, matmul = none, 0
                elif sets:
                    matmul = number
                totals = {name: total + amounts[name] for name, total in totals.items()}
                context.set(unit.clear, clear)
                context.set(unit.amounts, amounts)
                context.set(unit.matmul, {"enable": sets, "cycles": number})
                await context.tick()
            context.set(unit.amounts, none)
            context.set(unit.matmul.enable, 0)
            context.set(unit.clear, 0)
            for _ in range(unit.latency):
                await context.tick()
            context.set(unit.read, 1)
            for counter in Counter:
                context.set(unit.number, counter)
                await context.tick()
                want = totals.get(counter.name.lower(), matmul)
                assert context.get(unit.value) == want, f"{counter.name} after {cycles} cycles"
            context.set(unit.read, 0)

    simulate(unit, testbench)


@pytest.mark.parametrize("columns", [1, 3, 4])
@pytest.mark.parametrize("wide", [True, False])
def test_an_identity_is_zero_beyond_its_columns_whatever_the_vector(columns, wide):
    config = MachineConfig(**{**SMALL, "columns": columns}, wide=wide)
    unit = ChunkWalker(config)

    async def testbench(context):
        context.set(unit.registers, {name: 1 for name in ("k1", "k2", "nt", "g", "mx", "my")})
        context.set(unit.registers.b_mode, BMode.IDENTITY)
        context.set(unit.registers.k1, 2)
        context.set(unit.rows, 1)
        for terms in range(1, 4 * config.vector + 1):
            context.set(unit.registers.k0, terms)
            context.set(unit.start, 1)
            await context.tick()
            context.set(unit.start, 0)
            context.set(unit.step, 1)
            for _ in range(2):
                k0 = 0
                while k0 < terms:
                    assert context.get(unit.valid)
                    address, length = (
                        context.get(unit.chunk[name]) for name in ("b_address", "length")
                    )
                    for i in range(length):
                        lane = address + i if address + i < columns else None
                        assert lane == (k0 + i if k0 + i < columns else None), (terms, k0, i)
                    k0 += length
                    await context.tick()
                assert k0 == terms
            assert not context.get(unit.valid)
            context.set(unit.step, 0)

    simulate(unit, testbench)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [
        {"wide": False, "skipping": False, "counters": "cycles"},
        {"wide": False, "rows": 2, "columns": 3, "max_terms": 64},
    ],
    ids=str,
)
def test_random_programs_run_on_smaller_machines_as_on_the_model(sizes):
    _, mismatches = run(MachineConfig(**SMALL | sizes), 2000, 1)
    assert not mismatches, str(mismatches[0])
