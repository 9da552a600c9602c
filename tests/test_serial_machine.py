"""The machine with serial control: its processor and memory, what it refuses, what it computes."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pytest

from hw.core import Atreides
from hw.machine import make_machine
from hw.operand_feed import DEPTH
from hw.serial_assembly import DataMap, Operation, Output, assemble
from hw.serial_core import SerialAtreides
from hw.serial_processor import SerialProcessor
from sim.machine_backends import execute
from sim.machine_job import Job
from sim.machine_random import run
from sim.machine_stimulus import Stimulus
from sw import assembler
from sw.config import MachineConfig
from sw.isa import Fault
from sw.machine_state import Parameters
from tests.simulation import simulate

SERIAL = {"skipping": False, "wide": False, "counters": "cycles", "control": "serial"}
SMALL = {"bits": 4, "rows": 2, "columns": 2, "slots": 8, "parameters": 2, "row_parameters": 2}
SEED = 20261123


def interpret(words: list[int], data: list[int], found: int) -> list[tuple[int, int]] | None:
    """The ports and values of all OUT up to that of BUSY; None if the code goes astray."""
    a = carry = counter = pointer = 0
    written: list[tuple[int, int]] = []
    for _ in range(len(words)):
        if written and written[-1][0] == Output.BUSY:
            return written
        if counter >= len(words):
            return None
        operation, operand = words[counter] >> 12, words[counter] & 0xFFF
        place = pointer if operand == 0xFFF else operand
        m = data[place] if place < len(data) else None
        counter += 1
        jumps = False
        if operation in (*range(5), 6, 15) and m is None:
            return None
        if operation == 0:
            a = m
        elif operation == 1:
            a, carry = (a + m) & 0xFFFF, a + m >> 16
        elif operation == 2:
            a, carry = (a - m) & 0xFFFF, int(a >= m)
        elif operation == 3:
            a &= m
        elif operation == 4:
            a |= m
        elif operation == 5:
            a, carry = a >> 1, a & 1
        elif operation == 6:
            data[place] = a
        elif operation == 7:
            a = found
        elif operation == 8:
            written.append((operand, a))
            pointer = a & 0xFFF if operand == 0 else pointer
        elif operation == 15:
            counter = m
        else:
            jumps = [True, a == 0, a != 0, carry == 1, carry == 0, True][operation - 9]
        if jumps:
            a = counter if operation == 14 else a
            counter = operand
    return None


def random_code(generator: random.Random) -> tuple[list[int], list[int]]:
    """Code that goes forward and ends with OUT BUSY, and the data that it works on."""
    length, variables = 200, 16
    data = [
        generator.choice((0, 1, 2, 0x7FFF, 0xFFFF, generator.getrandbits(16)))
        for _ in range(variables)
    ]
    words: list[int] = []
    for address in range(length):
        operation, operand = generator.choice(list(Operation)), generator.randrange(variables)
        if operation in (Operation.IN, Operation.OUT):
            operand = generator.randrange(9)
        elif Operation.JUMP <= operation <= Operation.CALL:
            operand = address + generator.randrange(1, 4)
        elif operation == Operation.RETURN:
            data.append(address + generator.randrange(1, 4))
            operand = len(data) - 1
        elif generator.random() < 0.3:
            operand = 0xFFF
        words.append(operation << 12 | operand)
    data += [generator.getrandbits(16) for _ in range(0xFFF - len(data))]
    return words + [Operation.OUT << 12 | Output.BUSY] * 4, data


@pytest.mark.parametrize("stalled", [0.0, 0.4])
def test_the_processor_does_what_its_instructions_say(stalled):
    generator = random.Random(SEED)
    seen: set[int] = set()
    for _ in range(6):
        want = None
        while want is None:
            (words, data), found = random_code(generator), generator.getrandbits(16)
            want = interpret(words, list(data), found)
        seen |= {word >> 12 for word in words}
        unit = SerialProcessor(words, data)
        got: list[tuple[int, int]] = []

        async def testbench(context, unit=unit, got=got, found=found):
            context.set(unit.found, found)
            cycles = 0
            while not got or got[-1][0] != Output.BUSY:
                stalls = generator.random() < stalled
                context.set(unit.stall, int(stalls))
                if context.get(unit.writes) and not stalls:
                    got.append((context.get(unit.port), context.get(unit.value)))
                await context.tick()
                cycles += 1
                assert cycles < 4000, got

        simulate(unit, testbench)
        assert got == want
    assert seen == set(Operation)


def test_an_instruction_takes_two_cycles_and_one_more_for_each_stall():
    words = [Operation.OUT << 12 | Output.BIAS] * 8
    unit = SerialProcessor(words, [0])

    async def testbench(context):
        cycles = []
        for cycle in range(20):
            context.set(unit.stall, int(cycle in (5, 6, 7)))
            if context.get(unit.writes) and not context.get(unit.stall):
                cycles.append(cycle)
            await context.tick()
        assert cycles[:6] == [2, 4, 8, 10, 12, 14]

    simulate(unit, testbench)


def test_the_assembler_knows_labels_constants_and_data():
    data = DataMap()
    data.allocate("x", [5])
    words, labels = assemble("start: ld x | add #7 | add #x ; text\nshr 2\njmp start", data, {})
    assert labels == {"start": 0}
    assert data.init == [5, 7, 0]
    assert words == [0x0000, 0x1001, 0x1002, 0x5000, 0x5000, 0x9000]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mul x", "mnemonic must be one of ld, add, .*, not 'mul x'"),
        ("ld y", "operand must name data, not 'y'"),
        ("jmp there", "label must be defined, not 'there'"),
        ("a: ld #1\na: ld #2", "label a must be defined once"),
        ("var x x", "x must be allocated once"),
    ],
)
def test_wrong_microcode_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        assemble(text, DataMap(), {})


# The machine


def test_control_chooses_the_machine():
    config = MachineConfig(**SMALL | SERIAL)
    assert isinstance(make_machine(config), SerialAtreides)
    assert isinstance(make_machine(MachineConfig(**SMALL)), Atreides)
    parallel, serial = Atreides(config), SerialAtreides(config)
    assert parallel.signature.members == serial.signature.members


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"control": "none"}, "control must be parallel or serial, not 'none'"),
        ({"blocks": True}, "blocks must be False where control is serial, not True"),
        ({"table": True}, "table must be False where control is serial, not True"),
        ({"hold": True}, "hold must be False where control is serial, not True"),
        ({"skipping": True}, "skipping must be False where control is serial, not True"),
        ({"wide": True}, "wide must be False where control is serial, not True"),
        ({"counters": "all"}, "counters must be cycles or none where control is serial, not 'all'"),
        ({"bits": 9}, "bits must be at most 8 where control is serial, not 9"),
        ({"output_bits": 8}, "output_bits must be 4 where control is serial, not 8"),
        ({"slots": 32768}, "tile memory must be at most 65536 where .*, not 131072"),
        ({"rows": 32, "columns": 16}, r"rows \* columns must be at most 256 where .*, not 512"),
        (
            {"parameters": 2048},
            "parameters .* must be at most 3072 where .*, not 4098: .* 1024 fit",
        ),
        (
            {"parameters": 1024, "bias_bits": 9},
            r"2 \* parameters .* not 4098: .* 512 fit",
        ),
        ({"row_parameters": 4096}, "parameters .* at most 3072 .*, not 4100"),
    ],
)
def test_what_serial_control_lacks_is_refused_in_a_sentence(sizes, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        MachineConfig(**SMALL | SERIAL | sizes)


def small_jobs() -> list[Job]:
    """Base programs, a product and a fault on a machine that a slow simulator can run."""
    config = MachineConfig(**SMALL | SERIAL | {"bias_bits": 13})
    texts = (
        "SET MX, 3\nSET K0, 3\nSET A_X, 3\nSET B_BASE, 9\nSET B_K0, 2\nSET O_BASE, 20\n"
        "SET O_X, 2\nGEMM memory, relu, column|row\nGEMM exact\n",
        "LDR 0, 2, 2\nLDC 1, 2, 1\nMATMUL\nRELU\nSTR 2, 2, 1\nLIN\nSTR 3, 2, 1\nSTR 4, 1, 2\nNOP\n",
    )
    stimulus = Stimulus(config, SEED)
    return [
        Job(
            config,
            assembler.assemble(text, config=config, check=False).words,
            stimulus.memory(),
            stimulus.parameters(),
        )
        for text in texts
    ]


def test_programs_run_as_on_the_model():
    jobs = small_jobs()
    wanted = execute(jobs, "model")
    assert [want.report.fault for want in wanted] == [Fault.NONE, Fault.STORE_SHAPE]
    for got, want in zip(execute(jobs, "amaranth", limit=40_000), wanted, strict=True):
        assert not got.differences(want)


def test_the_assembler_leaves_out_what_a_number_does_not_ask_for():
    text = "if YES ld #1\nunless YES ld #2\nif NO ld #3\nunless NO ld #start\nstart: ld #start"
    data = DataMap()
    words, _ = assemble(text, data, {"YES": 5, "NO": 0})
    assert (words, data.init) == ([0, 1, 1], [1, 2])


def long_job(config: MachineConfig, terms: int, mode: int) -> Job:
    """A product with more terms than the lanes hold, A read in lanes or in slices."""
    generator = np.random.default_rng(SEED)
    strides = f"SET A_X, {terms}\n" if mode == 0 else "SET A_K0, 3\nSET A_MODE, 1\n"
    text = (
        f"SET MX, 3\nSET K0, {terms}\nSET NT, 2\nSET NL, 1\nSET B_BASE, {3 * terms}\n{strides}"
        f"SET B_K0, 3\nSET B_N, 2\nSET O_BASE, {7 * terms}\nSET O_X, 3\nSET O_N, 2\n"
        "GEMM exact\nGEMM memory, linear\n"
    )
    memory = generator.integers(0, 1 << config.bits, config.memory_words).astype(np.uint16)
    return Job(config, assembler.assemble(text, config=config).words, memory, Parameters(config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "stalls"),
    [
        (
            {"bits": 4, "rows": 4, "columns": 4, "slots": 64, "max_terms": 256}
            | {"bias_bits": 16, "parameters": 16, "row_parameters": 16},
            False,
        ),
        (
            {"bits": 8, "rows": 3, "columns": 5, "unity": False, "multiplier": "dsp", "slots": 20}
            | {"max_terms": 100, "parameters": 8, "row_parameters": 16},
            True,
        ),
    ],
    ids=str,
)
def test_random_programs_run_as_on_the_model(sizes, stalls):
    coverage, mismatches = run(MachineConfig(**SMALL | SERIAL | sizes), 2000, 1, stalls=stalls)
    assert not mismatches, str(mismatches[0])
    assert coverage.instructions >= 2000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
def test_the_netlist_of_ice40_runs_programs_as_on_the_model():
    config = MachineConfig(**SMALL | SERIAL | {"max_terms": 64})
    jobs = [Stimulus(config, seed).job(12) for seed in range(2)]
    wanted = execute(jobs, "model")
    found = execute(jobs, "icarus", netlist="ice40", limit=3_000_000)
    for got, want in zip(found, wanted, strict=True):
        assert not got.differences(want)


@pytest.mark.slow
def test_sums_of_more_terms_than_the_lanes_hold_are_exact():
    config = MachineConfig(**SMALL | SERIAL | {"slots": 2000, "multiplier": "operator"})
    jobs = [long_job(config, terms, mode) for terms in (DEPTH, 2 * DEPTH + 9) for mode in (0, 1)]
    wanted = execute(jobs, "model")
    assert all(want.report.fault == Fault.NONE for want in wanted)
    for got, want in zip(execute(jobs, "verilator", limit=10_000_000), wanted, strict=True):
        assert not got.differences(want)
