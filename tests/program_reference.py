"""What programs leave in memory and on the result stream, by integers; machines to run them on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sw.checks import Gemm, State, first_fault, initial_state
from sw.config import MachineConfig
from sw.isa import Fault, Instruction, Opcode, decode_at, encode
from sw.registers import Register
from tests.core_session import Outcome, Run
from tests.product_reference import Beat, Product

SEED = 20261122
#: Emitted and compiled once each, then kept under build/.
SQUARE = MachineConfig(bits=8, rows=4, columns=4, slots=64, output_bits=12, bias_bits=10)
WIDE = MachineConfig(bits=4, unity=False, rows=2, columns=5, slots=80, blocks=True, table=True)
TINY = MachineConfig(bits=3, rows=2, columns=2, slots=16, max_terms=64)
CONFIGS = {"4x4 SF8": SQUARE, "2x5 SF4": WIDE}


def reference(config: MachineConfig, run: Run) -> tuple[list[int], list[Beat]]:
    """Memory and result stream after a program, up to its fault if it has one, by integers."""
    memory = run.memory + [0] * (config.memory_words - len(run.memory))
    beats: list[Beat] = []
    state, counter = initial_state(config), 0
    matrices: dict[str, list[list[int]]] = {}
    end, _ = ending(config, run.words)
    while counter < end:
        instruction, length = decode_at(run.words, counter, config)
        if instruction.opcode in (Opcode.GEMM, Opcode.ADD):
            product = Product(Gemm(instruction, state.registers, config), memory, run.parameters)
            memory, rows = product.run()
            beats += rows
        else:
            base(config, instruction, state, memory, matrices)
        state, counter = state.after(instruction, config), counter + length
    return memory, beats


def ending(config: MachineConfig, words: Sequence[int]) -> tuple[int, Fault]:
    """The counter and the fault of a program's status."""
    fault = first_fault(words, config)
    if fault is not None:
        return fault
    counter = 0
    while counter < len(words):
        instruction, length = decode_at(words, counter, config)
        counter += length
        if instruction.opcode == Opcode.HALT:
            break
    return counter, Fault.NONE


def base(
    config: MachineConfig,
    instruction: Instruction,
    state: State,
    memory: list[int],
    matrices: dict[str, list[list[int]]],
) -> None:
    """A base instruction on memory and buffers."""
    format = config.format
    match instruction.opcode:
        case Opcode.LDR | Opcode.LDC | Opcode.STR as opcode:
            slot, rows, columns = instruction.operands
            start = (slot + state.registers[Register.TILE_BASE]) * config.slot_words
            if opcode != Opcode.STR:
                matrices[opcode.name] = []
            for i in range(rows):
                at = slice(start + i * config.columns, start + i * config.columns + columns)
                if opcode == Opcode.STR:
                    memory[at] = matrices["activation"][i]
                else:
                    matrices[opcode.name].append(memory[at])
        case Opcode.MATMUL:
            a, b = matrices.pop("LDR"), matrices.pop("LDC")
            by_column = list(zip(*b, strict=True))
            matrices["output"] = [[format.dot(x, y) for y in by_column] for x in a]
        case Opcode.RELU | Opcode.LIN as opcode:
            kind = "relu" if opcode == Opcode.RELU else "linear"
            matrices["activation"] = [
                [format.drain(x, activation=kind) for x in row] for row in matrices["output"]
            ]


def product(
    config: MachineConfig,
    flags: int = 0,
    dest: int = 0,
    act: int = 0,
    add: bool = False,
    **sizes: int,
) -> list[int]:
    """The words of SETs and a GEMM or ADD, which must have no fault."""
    words: list[int] = []
    for name, value in sizes.items():
        words += encode(Instruction(Opcode.SET, (Register[name], value)))
    words += encode(Instruction(Opcode.ADD if add else Opcode.GEMM, (dest, act, flags)))
    assert first_fault(words, config) is None
    return words


def random_memory(config: MachineConfig, generator: random.Random, zeros: float = 0.1) -> list[int]:
    return [
        0 if generator.random() < zeros else generator.randrange(1 << config.bits)
        for _ in range(config.memory_words)
    ]


def assert_as_reference(config: MachineConfig, runs: list[Run], outcomes: list[Outcome]) -> None:
    assert len(outcomes) == len(runs)
    for run, outcome in zip(runs, outcomes, strict=True):
        memory, beats = reference(config, run)
        words = [f"{word:04x}" for word in run.words]
        assert (outcome.counter, outcome.fault) == ending(config, run.words), words
        wrong = [
            (address, got, want)
            for address, (got, want) in enumerate(zip(outcome.memory, memory, strict=True))
            if got != want
        ]
        assert not wrong, f"seed {SEED}, {words}: (address, got, want) {wrong[:8]}"
        assert outcome.beats == beats, f"seed {SEED}, {words}"
