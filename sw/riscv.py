"""The machine's instructions as RV32 custom instructions, so that a RISC-V core drives the array.

One table gives the encodings to the coprocessor (``hw.custom_instructions``), to the page of the
instruction set and to the C header: ``python -m sw.riscv > programs/riscv/atreides.h``.

All are R-type in the space custom-0, which the RISC-V manual (volume I, table of the base opcode
map) leaves to extensions of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sw.isa import FAULT_MEANINGS, FIELD_BITS, INSTRUCTIONS, Destination, Fault, Flag, Opcode
from sw.isa import Function as Activation
from sw.registers import Counter, Register, ResultKind, Space

#: The major opcode custom-0.
OPCODE: Final = 0b0001011
#: Lowest bit of each field of an R-type instruction.
RD, FUNCT3, RS1, RS2, FUNCT7 = 7, 12, 15, 20, 25
#: Bits of a register's number, and of ``funct7``.
REGISTER_BITS, FUNCT7_BITS = 5, 7
#: Where TAKE puts the kind of a beat and whether it is the last, above the number of its lanes.
KIND_OFFSET, LAST_OFFSET = 8, 10
#: Added to READ's space for the upper half of what is read.
UPPER: Final = 8
#: The longest bias, of a column parameter's word.
_BIAS_BITS: Final = 16


class Custom(IntEnum):
    """``funct3`` of a custom instruction."""

    INSTRUCTION = 0
    SET = 1
    END = 2
    WRITE = 3
    READ = 4
    TAKE = 5
    LANE = 6


@dataclass(frozen=True, slots=True)
class Meaning:
    """What stands in the fields of a custom instruction, and what it does; ``-`` must be 0."""

    funct7: str
    rd: str
    rs1: str
    rs2: str
    effect: str


MEANINGS: Final = {
    Custom.INSTRUCTION: Meaning(
        "opcode",
        "op1, a number",
        "op2, a number",
        "op3, a number",
        "give the machine an instruction of one word; the first starts a program",
    ),
    Custom.SET: Meaning("register", "-", "value", "-", "give it SET"),
    Custom.END: Meaning(
        "0, or 1", "result", "-", "-", "give it HALT and wait: the fault; 1: the counter last read"
    ),
    Custom.WRITE: Meaning("space", "-", "address", "data", "write one word or parameter"),
    Custom.READ: Meaning(
        "space, + 8", "result", "address", "-", "read one word or counter; + 8: its upper half"
    ),
    Custom.TAKE: Meaning(
        "-", "result", "-", "-", "take a row from the result stream: lanes, kind << 8, last << 10"
    ),
    Custom.LANE: Meaning("0, or 1", "result", "lane", "-", "a lane of that row; 1: its upper half"),
}


def encode(kind: Custom, funct7: int = 0, rd: int = 0, rs1: int = 0, rs2: int = 0) -> int:
    """An RV32 instruction.

    Parameters
    ----------
    kind : Custom
    funct7, rd, rs1, rs2 : int
        Fields: registers' numbers, or plain numbers where the table says so.

    Raises
    ------
    ValueError
        If a field does not fit.
    """
    if not 0 <= funct7 < 1 << FUNCT7_BITS:
        raise ValueError(f"funct7 must be 0 to {(1 << FUNCT7_BITS) - 1}, not {funct7!r}")
    for name, value in (("rd", rd), ("rs1", rs1), ("rs2", rs2)):
        if not 0 <= value < 1 << REGISTER_BITS:
            raise ValueError(f"{name} must be 0 to {(1 << REGISTER_BITS) - 1}, not {value!r}")
    return OPCODE | rd << RD | kind << FUNCT3 | rs1 << RS1 | rs2 << RS2 | funct7 << FUNCT7


def encode_word(word: int) -> int:
    """The RV32 instruction that gives the machine a 16-bit instruction word; ValueError for SET,
    whose value does not fit.
    """
    nibbles = [word >> FIELD_BITS * i & (1 << FIELD_BITS) - 1 for i in (3, 2, 1, 0)]
    if nibbles[0] == Opcode.SET:
        raise ValueError("SET must be given its value in a register, by its own instruction")
    return encode(Custom.INSTRUCTION, *nibbles)


_HEADER: Final = """\
/* The machine's instructions as RV32 custom instructions.
 * Made by `python -m sw.riscv`; do not edit.
 *
 * A program is what lies between one atreides_end() and the next. Tile memory, parameters and table
 * are written and read between programs: within one, that is an illegal instruction. The rows that
 * a GEMM sends to the stream must be taken before the next instruction is given; atreides_end()
 * drops what was not taken.
 */
#ifndef ATREIDES_H
#define ATREIDES_H

#include <stdint.h>

{enums}
/* Instructions of one word. Operands are constants; a size of 16 is 0. */
#define ATREIDES_INSTRUCTION(opcode, op1, op2, op3) \\
  __asm__ volatile(".insn r {opcode:#04x}, {INSTRUCTION}, %0, x%1, x%2, x%3" \\
                   : : "i"(opcode), "i"(op1), "i"(op2), "i"(op3) : "memory")
{macros}
/* SET: the register is a constant. */
#define ATREIDES_SET(register_number, value) \\
  __asm__ volatile(".insn r {opcode:#04x}, {SET}, %0, x0, %1, x0" \\
                   : : "i"(register_number), "r"((uint32_t)(value)) : "memory")

/* Ends the program and waits: the fault, 0 for none. */
static inline uint32_t atreides_end(void) {{
  uint32_t fault;
  __asm__ volatile(".insn r {opcode:#04x}, {END}, 0, %0, x0, x0" : "=r"(fault) : : "memory");
  return fault;
}}

/* Words that the program before took, or the index of the instruction that faulted. */
static inline uint32_t atreides_counter(void) {{
  uint32_t counter;
  __asm__ volatile(".insn r {opcode:#04x}, {END}, 1, %0, x0, x0" : "=r"(counter) : : "memory");
  return counter;
}}

#define ATREIDES_WRITE(space, address, data) \\
  __asm__ volatile(".insn r {opcode:#04x}, {WRITE}, %0, x0, %1, %2" \\
                   : : "i"(space), "r"((uint32_t)(address)), "r"((uint32_t)(data)) : "memory")

#define ATREIDES_READ(result, space, address) \\
  __asm__ volatile(".insn r {opcode:#04x}, {READ}, %1, %0, %2, x0" \\
                   : "=r"(result) : "i"(space), "r"((uint32_t)(address)) : "memory")

/* One word of tile memory. */
static inline void atreides_write_word(uint32_t address, uint32_t word) {{
  ATREIDES_WRITE(ATREIDES_TILES, address, word);
}}

static inline uint32_t atreides_read_word(uint32_t address) {{
  uint32_t word;
  ATREIDES_READ(word, ATREIDES_TILES, address);
  return word;
}}

static inline uint64_t atreides_read_counter(uint32_t number) {{
  uint32_t low, high;
  ATREIDES_READ(low, ATREIDES_COUNTERS, number);
  ATREIDES_READ(high, ATREIDES_COUNTERS + {upper}, number);
  return (uint64_t)high << 32 | low;
}}

/* Bias and shift of a column; address is entry * columns + column. */
static inline void atreides_write_column(uint32_t address, uint32_t bias, int8_t shift) {{
  ATREIDES_WRITE(ATREIDES_COLUMN_PARAMETERS, address, bias | (uint32_t)(uint8_t)shift << {bias});
}}

/* The next row of the result stream: how many lanes it has. */
static inline uint32_t atreides_take(void) {{
  uint32_t row;
  __asm__ volatile(".insn r {opcode:#04x}, {TAKE}, 0, %0, x0, x0" : "=r"(row) : : "memory");
  return row & {lanes:#x};
}}

/* A lane of that row, a word or an exact sum. */
static inline int64_t atreides_lane(uint32_t lane) {{
  uint32_t low, high;
  __asm__ volatile(".insn r {opcode:#04x}, {LANE}, 0, %0, %1, x0" : "=r"(low) : "r"(lane));
  __asm__ volatile(".insn r {opcode:#04x}, {LANE}, 1, %0, %1, x0" : "=r"(high) : "r"(lane));
  return (int64_t)((uint64_t)high << 32 | low);
}}

#endif
"""


def header() -> str:
    """The C header."""
    return _HEADER.format(
        enums="\n".join(_enums()),
        macros="\n".join(_macros()),
        opcode=OPCODE,
        upper=UPPER,
        bias=_BIAS_BITS,
        lanes=(1 << KIND_OFFSET) - 1,
        **{kind.name: kind.value for kind in Custom},
    )


def rows() -> Iterator[tuple[str, ...]]:
    """The table for the page: instruction, funct3, funct7, rd, rs1, rs2, effect."""
    for kind, m in MEANINGS.items():
        yield kind.name, f"{kind.value}", m.funct7, m.rd, m.rs1, m.rs2, m.effect


def _enums() -> Iterator[str]:
    for table, prefix in (
        (Register, "REGISTER_"),
        (Destination, "TO_"),
        (Activation, "ACTIVATION_"),
        (Flag, "FLAG_"),
        (Fault, "FAULT_"),
        (Counter, "COUNTER_"),
        (Space, ""),
        (ResultKind, "KIND_"),
    ):
        yield "enum {"
        for member in table:
            meaning = f"  /* {FAULT_MEANINGS[member]} */" if isinstance(member, Fault) else ""
            yield f"  ATREIDES_{prefix}{member.name} = {member.value},{meaning}"
        yield "};"
    yield ""


def _macros() -> Iterator[str]:
    for opcode, definition in INSTRUCTIONS.items():
        if opcode in (Opcode.SET, Opcode.HALT):
            continue
        count = 3 if definition.operands else 0
        names = ("op1", "op2", "op3")[:count]
        parameters = f"({', '.join(names)})" if names else "()"
        given = ", ".join([*names, *["0"] * (3 - count)])
        yield (
            f"#define ATREIDES_{opcode.name}{parameters} "
            f"ATREIDES_INSTRUCTION({opcode.value}, {given})"
        )
    yield ""


if __name__ == "__main__":
    print(header(), end="")
