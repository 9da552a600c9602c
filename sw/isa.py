"""The instruction set: one table that decoder, assembler, disassembler and models derive from.

Source: the published Superfloat Chip-1 table (base set, frozen).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

WORD_BITS: Final = 16
FIELD_BITS: Final = 4
#: Tile slots that a base program can name.
BASE_SLOTS: Final = 16
#: The largest row or column size that a field can name; 0 encodes it.
MAX_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Operand:
    """One four-bit operand field.

    Parameters
    ----------
    name : str
        As in the published table: ``addr``, ``row`` or ``col``.
    low, high : int
        Values that the field names; ``high`` of a size is encoded as 0.
    """

    name: str
    low: int
    high: int

    def encode(self, value: int) -> int:
        """The field for a value, ``0 .. 15``; ValueError if out of range."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must be {self.low} to {self.high}, not {value}")
        return value & 0xF

    def decode(self, field: int) -> int:
        """The value of a field, ``0 .. 15``."""
        return field or self.high if self.low else field


ADDRESS: Final = Operand("addr", 0, BASE_SLOTS - 1)
ROWS: Final = Operand("row", 1, MAX_SIZE)
COLUMNS: Final = Operand("col", 1, MAX_SIZE)


class Opcode(IntEnum):
    """The most significant nibble of an instruction word."""

    NOP = 0b0000
    STR = 0b0001
    LDR = 0b0010
    LDC = 0b0011
    MATMUL = 0b0100
    RELU = 0b0101
    LIN = 0b0110


@dataclass(frozen=True, slots=True)
class Definition:
    """What an opcode means: its operands, in field order, and its effect in words."""

    opcode: Opcode
    operands: tuple[Operand, ...]
    effect: str


_TILE = (ADDRESS, ROWS, COLUMNS)
INSTRUCTIONS: Final[dict[Opcode, Definition]] = {
    d.opcode: d
    for d in (
        Definition(Opcode.NOP, (), "nothing"),
        Definition(
            Opcode.STR, _TILE, "store the row x col matrix in the activation buffer to tile addr"
        ),
        Definition(Opcode.LDR, _TILE, "load tile addr (A, row x col) into the row shift buffer"),
        Definition(Opcode.LDC, _TILE, "load tile addr (B, row x col) into the column shift buffer"),
        Definition(Opcode.MATMUL, (), "multiply the two buffers in the systolic array"),
        Definition(Opcode.RELU, (), "ReLU on the array's output into the activation buffer"),
        Definition(Opcode.LIN, (), "identity on the array's output into the activation buffer"),
    )
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """A decoded instruction: an opcode and the values of its operands, sizes as 1 to 16."""

    opcode: Opcode
    operands: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.opcode.name} {', '.join(map(str, self.operands))}".strip()


def encode(instruction: Instruction) -> int:
    """The 16-bit word of an instruction; ValueError if an operand is missing or out of range."""
    definition = INSTRUCTIONS[instruction.opcode]
    if len(instruction.operands) != len(definition.operands):
        raise ValueError(
            f"{instruction.opcode.name} takes {len(definition.operands)} operands, "
            f"not {len(instruction.operands)}"
        )
    word = int(instruction.opcode)
    for i in range(3):
        field = 0
        if i < len(definition.operands):
            field = definition.operands[i].encode(instruction.operands[i])
        word = word << FIELD_BITS | field
    return word


def decode(word: int) -> Instruction | None:
    """The instruction of a 16-bit word, or None where the encoding is undefined."""
    if not 0 <= word < 1 << WORD_BITS:
        raise ValueError(f"word must be 0 to {(1 << WORD_BITS) - 1}, not {word!r}")
    if word >> 12 not in INSTRUCTIONS:
        return None
    opcode = Opcode(word >> 12)
    fields = [word >> 8 & 0xF, word >> 4 & 0xF, word & 0xF]
    operands = INSTRUCTIONS[opcode].operands
    if any(fields[len(operands) :]):
        return None
    return Instruction(opcode, tuple(o.decode(f) for o, f in zip(operands, fields, strict=False)))


class Fault(IntEnum):
    """Why the machine stopped; the lowest code that applies is reported."""

    NONE = 0
    ENCODING = 1
    SIZE = 2
    EMPTY_BUFFER = 3
    INNER_SIZE = 4
    NO_RESULT = 5
    STORE_SHAPE = 6


FAULT_MEANINGS: Final[dict[Fault, str]] = {
    Fault.NONE: "no fault",
    Fault.ENCODING: "undefined encoding",
    Fault.SIZE: "size larger than the array",
    Fault.EMPTY_BUFFER: "MATMUL with an empty buffer",
    Fault.INNER_SIZE: "inner sizes differ",
    Fault.NO_RESULT: "RELU or LIN before any MATMUL",
    Fault.STORE_SHAPE: "store of a shape that was not computed",
}

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the buffers hold, as (rows, columns), None where empty: all that decides a fault."""

    row_buffer: Shape | None = None
    column_buffer: Shape | None = None
    output: Shape | None = None
    activation: Shape | None = None

    def after(self, instruction: Instruction | None, rows: int, columns: int) -> Shapes | Fault:
        """The shapes after an instruction on a ``rows`` x ``columns`` array, or its fault."""
        if instruction is None:
            return Fault.ENCODING
        match instruction.opcode:
            case Opcode.LDR | Opcode.LDC | Opcode.STR:
                return self._after_tile(instruction, rows, columns)
            case Opcode.MATMUL:
                if self.row_buffer is None or self.column_buffer is None:
                    return Fault.EMPTY_BUFFER
                if self.row_buffer[1] != self.column_buffer[0]:
                    return Fault.INNER_SIZE
                output = (self.row_buffer[0], self.column_buffer[1])
                return replace(self, row_buffer=None, column_buffer=None, output=output)
            case Opcode.RELU | Opcode.LIN:
                if self.output is None:
                    return Fault.NO_RESULT
                return replace(self, activation=self.output)
            case _:
                return self

    def _after_tile(self, instruction: Instruction, rows: int, columns: int) -> Shapes | Fault:
        shape = instruction.operands[1], instruction.operands[2]
        if shape[0] > rows or shape[1] > columns:
            return Fault.SIZE
        if instruction.opcode == Opcode.LDR:
            return replace(self, row_buffer=shape)
        if instruction.opcode == Opcode.LDC:
            return replace(self, column_buffer=shape)
        return self if shape == self.activation else Fault.STORE_SHAPE


def first_fault(words: Sequence[int], rows: int, columns: int) -> tuple[int, Fault] | None:
    """The program counter and fault that a program stops at, or None if it runs to its end."""
    shapes = Shapes()
    for counter, word in enumerate(words):
        after = shapes.after(decode(word), rows, columns)
        if isinstance(after, Fault):
            return counter, after
        shapes = after
    return None
