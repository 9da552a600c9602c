"""The machine model: published semantics, every fault, and random programs against definitions."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from sw.checks import first_fault
from sw.config import MachineConfig
from sw.isa import FAULT_MEANINGS, Destination, Fault, Flag, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_clock import clock_gemm
from sw.machine_definition import define_rows
from sw.machine_dump import dump_buffers, dump_registers, dump_tile
from sw.registers import Counter, Register, ResultKind
from tests.machine_programs import CONFIGS, ProgramMaker, fill


def words(*instructions: tuple[Opcode, tuple[int, ...]] | Opcode) -> list[int]:
    """The words of instructions given as opcodes, with their operands if they have any."""
    program: list[int] = []
    for item in instructions:
        opcode, operands = (item, ()) if isinstance(item, Opcode) else item
        program += encode(Instruction(opcode, operands))
    return program


def sets(**registers: int) -> list[int]:
    """SETs of registers by name."""
    return words(*((Opcode.SET, (Register[name], value)) for name, value in registers.items()))


def filled(config: MachineConfig = CONFIGS["base"], seed: int = 1) -> Machine:
    machine = Machine(config)
    fill(machine, random.Random(seed))
    return machine


LOADS = (Opcode.LDR, (0, 3, 5)), (Opcode.LDC, (1, 5, 4))
PRODUCT = (*LOADS, Opcode.MATMUL, Opcode.RELU)


def expected_product(machine: Machine, relu: bool) -> list[list[int]]:
    """What PRODUCT leaves in the activation buffer, by the integer model."""
    f = machine.config.format
    a, b = machine.tiles[0, :3, :5].tolist(), machine.tiles[1, :5, :4].tolist()
    columns = list(zip(*b, strict=True))
    return [
        [f.drain(f.dot(row, column), activation="relu" if relu else "linear") for column in columns]
        for row in a
    ]


@pytest.mark.parametrize("relu", [True, False])
def test_a_base_program_runs_as_published(relu: bool) -> None:
    machine = filled()
    before = machine.tiles.copy()
    drain = Opcode.RELU if relu else Opcode.LIN
    report = machine.run(words(*LOADS, Opcode.MATMUL, drain, (Opcode.STR, (2, 3, 4))))
    assert report.fault == Fault.NONE
    assert machine.tiles[2, :3, :4].tolist() == expected_product(filled(), relu)
    before[2, :3, :4] = machine.tiles[2, :3, :4]  # nothing else has changed
    assert (machine.tiles == before).all()
    assert report[Counter.MATMUL_CYCLES] == 3 + 5 + 4 - 2
    assert report[Counter.MACS] == 3 * 5 * 4
    assert report[Counter.WORDS_WRITTEN] == 12
    assert report[Counter.INSTRUCTIONS] == 5


def test_a_load_copies_its_tile() -> None:
    machine = filled()
    program = words(*PRODUCT, *LOADS, (Opcode.STR, (0, 3, 4)), (Opcode.STR, (1, 3, 4)))
    machine.run([*program, *words(Opcode.MATMUL, Opcode.RELU, (Opcode.STR, (5, 3, 4)))])
    assert machine.tiles[5, :3, :4].tolist() == expected_product(filled(), True)
    assert machine.tiles[0, :3, :4].tolist() == expected_product(filled(), True)


def test_a_second_load_replaces_the_first() -> None:
    machine = filled()
    machine.run(words((Opcode.LDR, (7, 2, 2)), *PRODUCT, (Opcode.STR, (2, 3, 4))))
    assert machine.tiles[2, :3, :4].tolist() == expected_product(filled(), True)


def test_drains_keep_the_sums_and_stores_the_activation_buffer() -> None:
    machine = filled()
    program = words(*PRODUCT, Opcode.LIN, (Opcode.STR, (2, 3, 4)), Opcode.RELU)
    program += words(*LOADS, Opcode.MATMUL, (Opcode.STR, (3, 3, 4)), (Opcode.STR, (4, 3, 4)))
    assert machine.run(program).fault == Fault.NONE
    assert machine.tiles[2, :3, :4].tolist() == expected_product(filled(), False)
    for slot in (3, 4):
        assert machine.tiles[slot, :3, :4].tolist() == expected_product(filled(), True)


GEMM = Opcode.GEMM, (int(Destination.MEMORY), 0, 0)
FAULTS: dict[str, tuple[list[int], int, Fault]] = {
    "an unknown opcode": ([0xF000], 0, Fault.ENCODING),
    "a field that must be zero": ([0x0001], 0, Fault.ENCODING),
    "an unknown register": ([0x7012, 0, 0], 0, Fault.ENCODING),
    "a table that is not there": ([0x8030], 0, Fault.ENCODING),
    "an exact activation": ([0x8210], 0, Fault.ENCODING),
    "an unknown mode": (sets(B_MODE=3) + words(GEMM), 3, Fault.ENCODING),
    "a tile too large": (words((Opcode.LDR, (0, 9, 1))), 0, Fault.SIZE),
    "a count of zero": (sets(MX=0) + words(GEMM), 3, Fault.SIZE),
    "a last tile too wide": (sets(NL=9) + words(GEMM), 3, Fault.SIZE),
    "too many terms": (sets(K0=256, K1=256) + words(GEMM), 6, Fault.SIZE),
    "an empty buffer": (words(Opcode.NOP, Opcode.MATMUL), 1, Fault.EMPTY_BUFFER),
    "a buffer emptied before": (words(*PRODUCT, Opcode.MATMUL), 4, Fault.EMPTY_BUFFER),
    "a buffer emptied by a GEMM": (
        words(*LOADS) + sets(O_BASE=8) + words(GEMM, Opcode.MATMUL),
        6,
        Fault.EMPTY_BUFFER,
    ),
    "inner sizes that differ": (
        words((Opcode.LDR, (0, 3, 4)), (Opcode.LDC, (1, 5, 4)), Opcode.MATMUL),
        2,
        Fault.INNER_SIZE,
    ),
    "no result": (words(Opcode.LIN), 0, Fault.NO_RESULT),
    "a shape not computed": (words(*PRODUCT, (Opcode.STR, (0, 4, 3))), 4, Fault.STORE_SHAPE),
    "a value too large": (sets(MX=1, K0=1 << 16), 3, Fault.VALUE),
    "an address too large": (sets(A_BASE=1 << 10), 0, Fault.VALUE),
    "a slot beyond the memory": (
        sets(TILE_BASE=15) + words((Opcode.LDR, (1, 1, 1))),
        3,
        Fault.RANGE,
    ),
    "an operand beyond the memory": (sets(K0=9, A_BASE=1016) + words(GEMM), 6, Fault.RANGE),
    "a result beyond the memory": (sets(O_BASE=1020) + words(GEMM), 3, Fault.RANGE),
    "a result on an operand": (sets(O_BASE=3, K0=4) + words(GEMM), 6, Fault.OVERLAP),
    "a SET cut short": ([*words(Opcode.NOP), 0x7000, 1], 1, Fault.TRUNCATED),
    "a SET without data": ([0x7000], 0, Fault.TRUNCATED),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_stops_the_program_and_changes_nothing(name: str) -> None:
    program, counter, fault = FAULTS[name]
    if fault != Fault.TRUNCATED:
        program = [*program, *words(*PRODUCT, (Opcode.STR, (0, 3, 4)))]
    machine, before = filled(), filled()
    if counter:
        assert before.run(program[:counter]).fault == Fault.NONE
    report = machine.run(program)
    assert (report.fault, report.counter) == (fault, counter)
    assert (machine.memory.words == before.memory.words).all()
    assert (machine.memory.zero_segments == before.memory.zero_segments).all()
    described = json.loads(report.to_json())["fault"]
    assert described["meaning"] == FAULT_MEANINGS[fault]
    assert described["program_counter"] == counter


def test_every_fault_is_among_the_tests() -> None:
    assert {fault for _, _, fault in FAULTS.values()} == set(Fault) - {Fault.NONE}


def test_stores_before_a_fault_stay() -> None:
    machine = filled()
    report = machine.run(words(*PRODUCT, (Opcode.STR, (2, 3, 4)), Opcode.MATMUL))
    assert report.fault == Fault.EMPTY_BUFFER
    assert machine.tiles[2, :3, :4].tolist() == expected_product(filled(), True)


def test_halt_ends_the_program_and_the_rest_is_not_looked_at() -> None:
    report = filled().run([*words(Opcode.NOP, Opcode.FENCE, Opcode.HALT), 0xFFFF])
    assert (report.fault, report.counter, report[Counter.INSTRUCTIONS]) == (Fault.NONE, 3, 3)


def test_programs_share_memory_but_no_registers_and_buffers() -> None:
    machine = filled()
    machine.run(sets(TILE_BASE=1, O_BASE=512) + words(*LOADS))
    assert machine.run(words(Opcode.MATMUL)).fault == Fault.EMPTY_BUFFER
    machine.run(words(*PRODUCT, (Opcode.STR, (2, 3, 4))))
    assert machine.tiles[2, :3, :4].tolist() == expected_product(filled(), True)


@pytest.mark.parametrize("name", CONFIGS)
def test_random_programs_equal_the_definitions(name: str) -> None:
    config = CONFIGS[name]
    for seed in range(8):
        chance = random.Random(seed)
        fast, slow = Machine(config), Machine(config, define_rows, clock_gemm)
        fill(fast, chance)
        slow.load(fast.memory.words)
        slow.parameters = fast.parameters
        program = ProgramMaker(config, chance).program(4)
        got, want = fast.run(program), slow.run(program)
        place = f"config {name}, seed {seed}"
        assert got == want, place
        assert (fast.memory.words == slow.memory.words).all(), place
        assert (fast.memory.zero_segments == slow.memory.zero_segments).all(), place
        stopped = first_fault(program, config)
        assert (got.fault, got.counter) == (
            (Fault.NONE, got.counter) if stopped is None else (stopped[1], stopped[0])
        ), place


def test_steps_and_breakpoints_run_the_same_program() -> None:
    program = words(*PRODUCT, (Opcode.STR, (2, 3, 4)))
    whole, broken, stepped = filled(), filled(), filled()
    want = whole.run(program)
    first = broken.run(program, breakpoints=[2, 4])
    assert (broken.program_counter, first[Counter.INSTRUCTIONS]) == (2, 2)
    assert broken.state.row_buffer == (3, 5)
    broken.resume([2, 4])
    assert broken.program_counter == 4
    assert broken.resume() == want
    stepped.start(program)
    steps = 1
    while stepped.step():
        steps += 1
    assert (steps, stepped.step(), stepped.report()) == (5, False, want)


def test_dumps_show_what_the_machine_holds() -> None:
    machine = filled()
    machine.run(sets(MX=77, A_BASE=255) + words(*PRODUCT, *LOADS[:1]))
    registers = dump_registers(machine).splitlines()
    assert any(line.split()[:2] == ["MX", "77"] for line in registers)
    assert any(line.split()[:3] == ["A_BASE", "255", "(0xff)"] for line in registers)
    tile = dump_tile(machine, 3).split()[2:]
    assert [int(word, 16) for word in tile] == machine.tiles[3].ravel().tolist()
    buffers = dump_buffers(machine)
    assert "row buffer: 3 x 5" in buffers
    assert "column buffer: empty" in buffers
    rows = [line.split() for line in buffers.splitlines()]
    assert [str(s) for s in machine.sums[0]] in rows
    assert [f"{word:04x}" for word in machine.activation[2]] in rows
    with pytest.raises(ValueError, match="slot must be 0 to 15, not 16"):
        dump_tile(machine, 16)


def test_a_report_says_everything_as_json() -> None:
    machine = filled()
    stream = Opcode.GEMM, (int(Destination.EXACT), 0, int(Flag.SKIP))
    report = machine.run(sets(MX=9, K0=2, NL=3) + words(stream))
    found = json.loads(report.to_json())
    assert found["fault"] == {
        "code": 0,
        "name": "NONE",
        "meaning": "no fault",
        "program_counter": None,
    }
    assert (found["words"], found["cycles"]) == (10, report.cycles)
    assert found["counters"] == {c.name.lower(): report[c] for c in Counter}
    assert [row["data"] for row in found["results"]] == [list(r.data) for r in report.results]
    assert {row["kind"] for row in found["results"]} == {"exact"}
    assert [row.last for row in report.results] == [False] * 8 + [True]
    assert report.results[0].kind == ResultKind.EXACT
    assert report.results[0].count == 3


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([], "program must have at least one word, not 0"),
        ([0, 1 << 16], "word 1 must be 0 to 65535, not 65536"),
    ],
)
def test_what_is_no_program_is_refused(program: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine(CONFIGS["small"]).run(program)


def test_memory_refuses_what_it_cannot_hold() -> None:
    machine = Machine(CONFIGS["small"])
    with pytest.raises(ValueError, match="memory must have at most 256 words, not 257"):
        machine.load(np.zeros(257, dtype=np.int64))
    with pytest.raises(ValueError, match="words from 0 to 15 for SF4, not 2 others"):
        machine.load([3, 16, -1])
    assert not machine.memory.words.any()


def test_parameters_refuse_what_they_cannot_hold() -> None:
    parameters = Machine(CONFIGS["small"]).parameters
    with pytest.raises(ValueError, match="bias must be 0 to 15, not 16"):
        parameters.write_column(0, 0, bias=16)
    with pytest.raises(ValueError, match="shift must be -128 to 127, not 128"):
        parameters.write_row(0, shift=128)
    with pytest.raises(ValueError, match="entry must be 0 to 15, not 16"):
        parameters.write_column(16, 0)
    assert not parameters.biases.any()
    assert not parameters.row_shifts.any()
