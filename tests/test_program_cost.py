"""Programs are timed as the machine model counts them, without a value being multiplied."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from sim.machine_job import Job
from sim.machine_model import machine_of
from sim.machine_stimulus import Stimulus
from sw.checks import first_fault
from sw.compiler.program_cost import ProgramCost, ProgramTimer, ZeroFlags
from sw.config import MachineConfig
from sw.isa import Flag, Instruction, Opcode, decode_at, encode
from sw.machine import Machine
from sw.machine_state import TileMemory
from sw.registers import Counter, Register

CONFIGS = [
    MachineConfig(bits=8, rows=8, columns=8, slots=64),
    MachineConfig(bits=4, rows=4, columns=8, slots=48),
    MachineConfig(bits=8, rows=3, columns=5, slots=40, blocks=True),
    MachineConfig(bits=6, rows=4, columns=2, slots=64, blocks=True),
    MachineConfig(bits=8, rows=16, columns=16, slots=24),
]
#: What follows from sizes and zero flags alone.
KNOWN = (
    *(Counter.CYCLES, Counter.COMPUTE_CYCLES, Counter.MACS, Counter.SLICES),
    *(Counter.SKIPPED_SLICES, Counter.STALL_A, Counter.STALL_B, Counter.STALL_DRAIN),
    *(Counter.STALL_RESULTS, Counter.INSTRUCTIONS, Counter.WORDS_WRITTEN),
)


def products(config: MachineConfig, seed: int) -> Job:
    """A random job of instructions that a compiler emits, up to its first fault."""
    job = Stimulus(config, seed).job(60)
    words: list[int] = []
    counter = 0
    while counter < len(job.words):
        instruction, length = decode_at(job.words, counter, config)
        if instruction is not None and (
            instruction.opcode in (Opcode.SET, Opcode.GEMM, Opcode.ADD, Opcode.NOP, Opcode.FENCE)
        ):
            words += job.words[counter : counter + length]
        counter += length
    fault = first_fault(words, config)
    kept = tuple(words if fault is None else words[: fault[0]])
    return Job(config, kept or (0,), job.memory, job.parameters)


def stepped(machine: Machine) -> Iterator[tuple[int, dict[Counter, int]]]:
    """The end of each instruction, and what it adds to the counters."""
    before = dict(machine.report().counters)
    going = True
    while going:
        going = machine.step()
        after = dict(machine.report().counters)
        yield machine.program_counter, {c: after[c] - before[c] for c in Counter}
        before = after


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.rows}x{c.columns}")
def test_every_instruction_costs_what_the_machine_model_counts(config: MachineConfig) -> None:
    products_seen = skipped = 0
    for seed in range(8):
        job = products(config, seed)
        want = list(stepped(machine_of(job)))
        timer = ProgramTimer(config)
        timer.flags.host_write(0, job.memory, len(job.memory))
        found = list(timer.run(job.words, [end for end, _ in want]))
        for (end, counters), section in zip(want, found, strict=True):
            cost = section.total
            if cost.guesses:
                continue
            got = {c: getattr(cost, c.name.lower()) for c in KNOWN}
            assert got == {c: counters[c] for c in KNOWN}, f"seed {seed}, up to word {end}"
            products_seen += cost.slices > 0
            skipped += cost.skipped_slices > 0
    assert products_seen > 30
    assert not config.skips or skipped > 0


@pytest.mark.parametrize("seed", range(10))
def test_every_cycle_of_every_cell_is_accounted_for(seed: int) -> None:
    config = CONFIGS[seed % len(CONFIGS)]
    job = products(config, 1000 + seed)
    timer = ProgramTimer(config)
    (section,) = timer.run(job.words, [len(job.words)])
    cost = section.total
    stalls = cost.stall_a + cost.stall_b + cost.stall_drain + cost.stall_results
    assert cost.timed_cycles == cost.slices + stalls + cost.drain
    cells = config.rows * config.columns
    assert cells * cost.slices == cost.macs + cost.idle_rows + cost.idle_columns
    assert 0 <= cost.fill <= cost.stall_a + cost.stall_b
    assert cost.cycles > cost.timed_cycles


def test_a_product_that_skips_what_another_wrote_is_called_a_guess() -> None:
    config = CONFIGS[0]
    guesses = 0
    for seed in range(8):
        job = products(config, seed)
        timer = ProgramTimer(config)
        guesses += sum(cost.total.guesses for cost in timer.run(job.words, [len(job.words)]))
    assert guesses > 0


@pytest.mark.parametrize("columns", [4, 8])
def test_zero_flags_of_host_writes_are_those_of_accesses_within_segments(columns: int) -> None:
    config = MachineConfig(bits=8, rows=4, columns=columns, slots=20)
    chance = np.random.default_rng(columns)
    flags, memory = ZeroFlags(config), TileMemory(config)
    for _ in range(200):
        count = int(chance.integers(1, 3 * columns + 2))
        address = int(chance.integers(0, config.memory_words - count))
        words = chance.choice(np.array([0, 0, 0, 0x80, 5], np.uint8), count)
        if chance.random() < 0.5:
            words &= 0x80
        flags.host_write(address, words, count)
        start = address
        while start < address + count:  # an access ends at a multiple of the columns
            end = min(address + count, (start // columns + 1) * columns)
            memory.write(start, words[start - address : end - address].tolist())
            start = end
        assert (flags.zero_segments == memory.zero_segments).all()


def test_zeros_in_rows_are_as_many_writes() -> None:
    config = MachineConfig(bits=8, rows=4, columns=4, slots=20)
    one, other = ZeroFlags(config), ZeroFlags(config)
    for flags in (one, other):
        flags.host_write(0, np.full(300, 3, np.uint8), 300)
    one.host_zeros(5, 9, 11, 13)
    for row in range(9):
        other.host_write(5 + 13 * row, np.zeros(11, np.uint8), 11)
    assert (one.zero_segments == other.zero_segments).all()
    assert one.zero_segments.any()


def test_costs_add_field_by_field() -> None:
    assert ProgramCost(cycles=2, drain=3) + ProgramCost(cycles=5, fill=1) == ProgramCost(
        cycles=7, drain=3, fill=1
    )


def test_products_that_only_write_zeros_are_listed_apart() -> None:
    def product(b: int) -> list[int]:
        registers = {Register.NT: 3, Register.A_BASE: 64, Register.B_BASE: b, Register.O_BASE: 256}
        sets = (encode(Instruction(Opcode.SET, pair)) for pair in registers.items())
        return [*itertools.chain(*sets), *encode(Instruction(Opcode.GEMM, (0, 0, 0)))]

    timer = ProgramTimer(CONFIGS[0])
    words = [*product(64), *product(128)]
    (section,) = timer.run(words, [len(words)])
    assert section.total.cycles == 2 * section.clearing.cycles
    assert section.work == section.clearing
    assert section.total.instructions == 10


def test_programs_that_fault_or_move_tiles_are_refused() -> None:
    timer = ProgramTimer(CONFIGS[0])
    with pytest.raises(ValueError, match="program must run without a fault"):
        list(timer.run([0xF000], [1]))
    with pytest.raises(ValueError, match="program must have no LDR"):
        list(timer.run([0x2011], [1]))


def test_flags_are_part_of_the_stimulus() -> None:
    """The tests above are about skipping only if programs ask for it."""
    job = products(CONFIGS[0], 3)
    counter, skips = 0, 0
    while counter < len(job.words):
        instruction, length = decode_at(job.words, counter, job.config)
        assert instruction is not None
        if instruction.opcode == Opcode.GEMM:
            skips += instruction.operands[2] & Flag.SKIP
        counter += length
    assert skips
