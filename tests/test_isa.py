"""Instruction words, what they decode to, and what faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sw.checks import State, first_fault, initial_state
from sw.config import MachineConfig
from sw.isa import Fault, Instruction, Opcode, decode, encode

CONFIG = MachineConfig(rows=8, columns=8)

PUBLISHED = {
    0x0000: Instruction(Opcode.NOP),
    0x1388: Instruction(Opcode.STR, (3, 8, 8)),
    0x2012: Instruction(Opcode.LDR, (0, 1, 2)),
    0x3F00: Instruction(Opcode.LDC, (15, 16, 16)),
    0x4000: Instruction(Opcode.MATMUL),
    0x5000: Instruction(Opcode.RELU),
    0x6000: Instruction(Opcode.LIN),
}
LOADS = [0x2088, 0x3188]


def test_published_words_are_the_instructions_of_the_table() -> None:
    for word, instruction in PUBLISHED.items():
        assert decode(word) == instruction
        assert encode(instruction)[0] == word


def test_encode_inverts_decode_and_every_other_word_is_undefined() -> None:
    defined = 0
    for word in range(1 << 16):
        instruction = decode(word)
        if instruction is None:
            continue
        defined += 1
        assert encode(instruction)[0] == word
    # Three with tiles, six without operands, 36 registers, and GEMM and ADD: 4 activations for
    # words and 1 for exact, times the flags that go together.
    assert defined == 3 * 4096 + 6 + 36 + 9 * 10 + 9 * 4


@pytest.mark.parametrize("operands", [(16, 1, 1), (-1, 1, 1), (0, 0, 1), (0, 1, 17), (0, 1)])
def test_encode_refuses_operands_outside_their_fields(operands: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be|takes 3 operands"):
        encode(Instruction(Opcode.LDR, operands))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*LOADS, 0x4000, 0x6000, 0x1388], None),
        ([*LOADS, 0x4000, 0x6000, 0x1388, 0x1488, 0x5000], None),
        ([0xE000], (0, Fault.ENCODING)),
        ([0x4001], (0, Fault.ENCODING)),
        ([0x2098], (0, Fault.SIZE)),
        ([0x1009], (0, Fault.SIZE)),  # before the shape that was not computed
        ([0x4000], (0, Fault.EMPTY_BUFFER)),
        ([0x2088, 0x4000], (1, Fault.EMPTY_BUFFER)),
        ([*LOADS, 0x4000, 0x4000], (3, Fault.EMPTY_BUFFER)),
        ([0x2088, 0x3178, 0x4000], (2, Fault.INNER_SIZE)),
        ([0x5000], (0, Fault.NO_RESULT)),
        ([*LOADS, 0x4000, 0x1388], (3, Fault.STORE_SHAPE)),
        ([*LOADS, 0x4000, 0x6000, 0x1378], (4, Fault.STORE_SHAPE)),
    ],
)
def test_first_fault_is_the_published_one(
    words: list[int], expected: tuple[int, Fault] | None
) -> None:
    assert first_fault(words, CONFIG) == expected


def test_store_keeps_what_the_last_activation_produced() -> None:
    words = [0x2024, 0x3143, 0x4000, 0x5000, 0x2088, 0x3188, 0x4000, 0x1323]
    assert first_fault(words, CONFIG) is None
    assert first_fault([*words, 0x1388], CONFIG) == (8, Fault.STORE_SHAPE)


def test_second_load_replaces_the_first() -> None:
    shapes = replace(initial_state(CONFIG), row_buffer=(8, 8))
    after = shapes.after(decode(0x2024), CONFIG)
    assert isinstance(after, State)
    assert after.row_buffer == (2, 4)
