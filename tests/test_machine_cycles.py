"""The cycles of the machine model: recurrences against the clock, and what a person can count."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from sw.checks import Gemm
from sw.config import MachineConfig
from sw.isa import Destination, Fault, Flag, Function, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_clock import clock_gemm
from sw.machine_gemm import Walk
from sw.machine_load import Load
from sw.machine_recurrence import recur_gemm
from sw.registers import Counter, Register
from sw.timing import Timing
from tests.machine_programs import CONFIGS, ProgramMaker, fill
from tests.test_machine_gemm import gemm, run

#: Sides that change the number of pages, the depth of buffers and of the bus.
SIDES = {
    **CONFIGS,
    "one": MachineConfig(bits=4, rows=1, columns=1, slots=2000),
    "tall": MachineConfig(bits=4, rows=17, columns=2, slots=64),
    "flat": MachineConfig(bits=4, rows=1, columns=8, slots=200),
    "big": MachineConfig(bits=3, rows=32, columns=32, slots=8),
}


def random_load(config: MachineConfig, seed: int) -> Load:
    """A GEMM without a fault, on words of which few or many are zero; A and B as seed says."""
    chance = random.Random(seed)
    machine = Machine(config)
    fill(machine, chance, zeros=chance.choice((0.1, 0.5, 0.9, 0.98)))
    maker = ProgramMaker(config, chance)
    while True:
        gemm = Gemm(*maker.random_gemm(), config)
        if gemm.fault() != Fault.NONE or gemm.rows * gemm.inner * gemm[Register.G] > 20000:
            continue
        load = Load.of(Walk(gemm), machine.memory)
        if (load.a_in_lanes, load.b_in_lanes) == (bool(seed & 1), bool(seed & 2)):
            return load


@pytest.mark.parametrize("name", SIDES)
def test_recurrences_equal_the_clock(name: str) -> None:
    for seed in range(24):
        load = random_load(SIDES[name], seed)
        want = clock_gemm(load)
        assert recur_gemm(load) == want, f"seed {seed}: {load.walk.gemm}"
        assert want.first_read > 0


class ShortQueue(Timing):
    """A machine whose result queue holds one tile of rows and a little more."""

    @property
    def result_depth(self) -> int:
        return self.config.rows + 2


@pytest.mark.parametrize("name", ["base", "blocks", "one", "tall"])
def test_recurrences_equal_the_clock_where_results_lack_room(name: str) -> None:
    config = SIDES[name]
    stalls = 0
    for seed in range(30):
        load = random_load(config, seed)
        load = replace(load, timing=ShortQueue(config))
        want = clock_gemm(load)
        assert recur_gemm(load) == want, f"seed {seed}: {load.walk.gemm}"
        stalls += want.stall_results
    assert stalls > 0


def base(*items: tuple[Opcode, tuple[int, ...]] | Opcode) -> list[int]:
    program: list[int] = []
    for item in items:
        program += encode(Instruction(*((item,) if isinstance(item, Opcode) else item)))
    return program


def test_base_instructions_take_the_cycles_that_their_units_state() -> None:
    machine = Machine(CONFIGS["base"])
    program = base(
        Opcode.NOP,
        (Opcode.SET, (Register.MX, 3)),
        (Opcode.LDR, (0, 3, 5)),
        (Opcode.LDC, (1, 5, 4)),
        Opcode.MATMUL,
        Opcode.LIN,
        (Opcode.STR, (2, 3, 4)),
        Opcode.HALT,
    )
    machine.start(program)
    totals = [0]
    going = True
    while going:
        going = machine.step()
        totals.append(machine.report().cycles)
    taken = [after - before for before, after in pairwise(totals)]
    # fetch, look, decode, start, notice; then lanes and slices; slices; slices; rows behind 18
    # stages; rows
    assert taken == [3, 5, 5 + 3 + 5 + 6, 5 + 5 + 5, 5 + 5, 5 + 3 + 18, 5 + 3 + 1, 3]


@pytest.mark.parametrize(
    ("program", "cycles"),
    [
        ([0xFFFF], 3),
        ([0x7000], 3),
        ([0x7000, 0], 4),
        ([0x7000, 0, 1], 5),
        ([0x7000, 0, 0, 0x8000], 5 + 3 + 2),
        ([0x700E, 0, 0, 0x8000], 5 + 3 + 2 + 8 + 3),  # overlaps: 1, 3 bits of NL = 8
    ],
)
def test_a_fault_takes_the_cycles_up_to_where_it_is_found(program: list[int], cycles: int) -> None:
    report = Machine(CONFIGS["base"]).run(program)
    assert report.fault != Fault.NONE
    assert report.cycles == cycles


@pytest.mark.parametrize(("side", "size"), [(8, 64), (16, 128)])
@pytest.mark.parametrize("destination", Destination)
def test_a_large_product_keeps_the_array_busy(
    side: int, size: int, destination: Destination
) -> None:
    config = MachineConfig(rows=side, columns=side, slots=3 * size * size // side**2)
    machine = Machine(config)
    where = {"MX": size, "K0": size, "NT": size // side, "A_X": size, "B_BASE": size * size}
    where |= {"B_K0": side, "B_N": side * size, "O_BASE": 2 * size * size, "O_X": size}
    report = run(machine, gemm(destination, O_N=side, **where))
    busy = size**3 // side**2
    assert busy / report[Counter.COMPUTE_CYCLES] >= 0.99
    assert report[Counter.SLICES] == busy
    assert report[Counter.STALL_DRAIN] == report[Counter.STALL_RESULTS] == 0


def test_compute_cycles_are_part_of_all_and_add_up() -> None:
    machine = Machine(CONFIGS["base"])
    fill(machine, random.Random(3))
    one = gemm(Destination.STREAM, Function.RELU, int(Flag.COLUMN), MX=20, K0=9, A_X=9)
    first = run(machine, one)
    both = run(machine, one + one[-1:])
    assert both[Counter.COMPUTE_CYCLES] == 2 * first[Counter.COMPUTE_CYCLES]
    assert 0 < first[Counter.COMPUTE_CYCLES] < first.cycles
