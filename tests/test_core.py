"""The machine's RTL: published programs, products of every kind, and faults."""

from __future__ import annotations

import random

import pytest

from hw.array import SystolicArray
from hw.edge import ArrayEdge
from hw.result_rows import ResultRows
from sim.machine_session import Stalls
from sw import activation
from sw.assembler import assemble
from sw.config import MachineConfig
from sw.isa import Fault, Opcode
from sw.registers import Counter, Register
from tests.core_session import Run, amaranth, verilator
from tests.product_reference import Parameters
from tests.program_reference import (
    CONFIGS,
    SEED,
    SQUARE,
    TINY,
    WIDE,
    assert_as_reference,
    ending,
    random_memory,
)

HELLO = "LDR 0, {m}, {k}\nLDC 1, {k}, {n}\nMATMUL\n{act}\nSTR 2, {m}, {n}\n"


def hello_runs(config: MachineConfig) -> list[Run]:
    generator = random.Random(SEED)
    side = min(config.rows, config.columns)
    shapes = [(config.rows, side, config.columns), (1, 1, 1), (side, 1, side), (1, side, 1)]
    texts = [HELLO.format(m=m, k=k, n=n, act=act) for m, k, n in shapes for act in ("LIN", "RELU")]
    m, n = config.rows, config.columns
    # An output is drained and stored twice; loads are replaced; buffers keep what they copied.
    texts.append(
        f"LDR 3, 1, 1\nLDR 0, {m}, {side}\nLDC 4, {side}, {n}\nMATMUL\nRELU\nSTR 0, {m}, {n}\n"
        f"STR 5, {m}, {n}\nLIN\nSTR 6, {m}, {n}\nLDR 6, {m}, {side}\nLDC 6, {side}, {n}\n"
        f"STR 6, {m}, {n}\nMATMUL\nNOP\nFENCE\nLIN\nSET TILE_BASE, 1\nSTR 6, {m}, {n}\nHALT\n"
    )
    return [
        Run(assemble(text, config=config).words, random_memory(config, generator)) for text in texts
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_published_programs_run_and_count_their_cycles(name: str) -> None:
    config = CONFIGS[name]
    runs = hello_runs(config)
    outcomes = verilator(config, runs)
    assert_as_reference(config, runs, outcomes)
    side = min(config.rows, config.columns)
    cycles = [outcome.counters[Counter.MATMUL_CYCLES] for outcome in outcomes]
    assert cycles[0] == config.rows + side + config.columns - 2
    assert cycles[2] == 1
    assert cycles[6] == side


def test_program_in_amaranth_is_that_of_the_emitted_verilog() -> None:
    generator = random.Random(SEED)
    text = HELLO.format(m=2, k=2, n=2, act="LIN") + "SET K0, 3\nSET B_BASE, 9\nSET B_K0, 2\n"
    words = assemble(text + "GEMM exact\n", config=TINY).words
    runs = [Run(words, random_memory(TINY, generator))]
    outcomes = amaranth(TINY, runs)
    assert_as_reference(TINY, runs, outcomes)
    assert outcomes == verilator(TINY, runs)


def test_cycles_are_those_of_the_docstrings() -> None:
    m, k, n = 4, 3, 2
    text = HELLO.format(m=m, k=k, n=n, act="LIN")
    outcome = verilator(SQUARE, [Run(assemble(text, config=SQUARE).words)])[0]
    array = SystolicArray(SQUARE.format, SQUARE.rows, SQUARE.columns)
    latency = ResultRows(SQUARE, ArrayEdge.latency + array.latency).latency
    units = (m + k + 7, k + 6, k + 1, latency + m + 1, m + 2)
    assert outcome.counters[Counter.CYCLES] == sum(4 + unit for unit in units)
    text = "NOP\nFENCE\nSET K0, 3\nHALT\nMATMUL\nMATMUL\n"
    outcome = verilator(SQUARE, [Run(assemble(text, config=SQUARE).words)])[0]
    assert outcome.counters[Counter.CYCLES] == 3 + 3 + 5 + 3
    assert (outcome.fault, outcome.counter) == (Fault.NONE, 6)
    assert outcome.counters[Counter.INSTRUCTIONS] == 4


STORED = "LDR 0, 2, 2\nLDC 1, 2, 2\nMATMUL\nLIN\nSTR 2, 2, 2\n"
#: Programs that fault after a store; what follows must not run.
FAULTY = {
    Fault.ENCODING: (".word 0xe000", ".word 0x4001", ".word 0x70ff", "SET B_MODE, 3\nGEMM stream"),
    Fault.SIZE: ("LDR 0, 9, 1", "STR 2, 1, 9", "SET G, 0\nGEMM stream", "SET NL, 9\nGEMM stream"),
    Fault.EMPTY_BUFFER: ("LDR 0, 1, 1\nMATMUL",),
    Fault.INNER_SIZE: ("LDR 0, 1, 2\nLDC 0, 1, 1\nMATMUL",),
    Fault.NO_RESULT: ("GEMM stream\nRELU",),
    Fault.STORE_SHAPE: ("STR 3, 2, 1",),
    Fault.VALUE: ("SET A_BASE, 0x10000", "SET A_MODE, 2", "SET K0, 65536"),
    Fault.RANGE: (
        "SET TILE_BASE, 60000\nLDR 0, 1, 1",
        "SET TILE_BASE, 65535\nSTR 15, 2, 2",
        "SET A_X, 500\nSET MX, 40\nGEMM stream",
        "SET O_BASE, 700\nSET O_X, 200\nSET MX, 3\nGEMM memory",
    ),
    Fault.OVERLAP: ("GEMM memory", "SET B_BASE, 100\nSET O_BASE, 100\nGEMM memory"),
    Fault.TRUNCATED: (".word 0x7000", ".word 0x7000, 1"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_faults_leave_memory_as_it_was_and_the_next_program_runs(name: str) -> None:
    config, generator = CONFIGS[name], random.Random(SEED)
    runs = []
    for fault, texts in FAULTY.items():
        for text in texts:
            rest = "" if fault == Fault.TRUNCATED else "\nNOP\nSTR 4, 2, 2\n.word 0xffff, 0x7000"
            words = assemble(STORED + text + rest, config=config, check=False).words
            assert ending(config, words)[1] == fault, text
            runs.append(Run(words, random_memory(config, generator), reset=not runs))
            again = assemble(STORED, config=config).words
            runs.append(Run(again, random_memory(config, generator), reset=False))
    assert_as_reference(config, runs, verilator(config, runs))
    assert_as_reference(config, runs, verilator(config, runs, Stalls(SEED)))


def test_encodings_that_depend_on_registers_are_refused() -> None:
    config, generator = WIDE, random.Random(SEED)
    texts = {
        "ADD stream": Fault.ENCODING,
        "SET B_MODE, 2\nGEMM stream": Fault.ENCODING,
        "SET B_K0, 16\nADD stream": Fault.ENCODING,
        "SET B_K0, 17\nADD stream": Fault.NONE,
        "SET B_K0, 1\nSET K1, 2\nADD stream": Fault.ENCODING,
        "SET B_K0, 1\nSET K1, 2\nSET B_K1, 3\nADD stream": Fault.NONE,
        "GEMM stream, 0, block|row|column": Fault.NONE,
        "SET K1, 2\nGEMM stream, 0, block|row|column": Fault.ENCODING,
        "SET K2, 0\nGEMM stream, 0, block|row|column": Fault.ENCODING,
        "SET K2, 0\nGEMM stream, table": Fault.SIZE,
    }
    runs = [
        Run(
            assemble(text, config=config, check=False).words,
            random_memory(config, generator),
            Parameters(table=activation.fit(activation.sigmoid, 2, 0, 64)),
        )
        for text in texts
    ]
    outcomes = verilator(config, runs)
    assert [outcome.fault for outcome in outcomes] == list(texts.values())
    assert_as_reference(config, runs, outcomes)


def test_random_words_end_with_the_fault_that_checks_find() -> None:
    config, generator = SQUARE, random.Random(SEED)
    opcodes = [opcode for opcode in Opcode if opcode != Opcode.HALT]
    runs = []
    for _ in range(150):
        words: list[int] = []
        for _ in range(generator.randint(1, 12)):
            opcode = generator.choice(opcodes)
            if opcode == Opcode.SET:
                register = generator.choice(list(Register))
                words += [0x7000 | register, generator.choice((0, 1, 2, 3, 0xFFFF)), 0]
            elif opcode in (Opcode.LDR, Opcode.LDC, Opcode.STR):
                shape = generator.choice((0x22, 0x22, 0x22, 0x44, 0x12, 0x91))
                words.append(opcode << 12 | generator.randrange(16) << 8 | shape)
            elif opcode in (Opcode.GEMM, Opcode.ADD):
                words.append(opcode << 12 | generator.randrange(1 << 12) & 0x317)
            else:
                words.append(opcode << 12 | (generator.random() < 0.05))
        runs.append(Run(words, random_memory(config, generator), reset=not runs))
    assert len({ending(config, run.words)[1] for run in runs}) > 6
    assert_as_reference(config, runs, verilator(config, runs))


def test_memory_is_zero_after_reset() -> None:
    memory = [1] * TINY.memory_words
    outcomes = verilator(TINY, [Run([0x0000], memory), Run([0x0000])])
    assert outcomes[0].memory == memory
    assert outcomes[1].memory == [0] * TINY.memory_words
