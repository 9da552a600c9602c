"""The page of the instruction set, from its tables: ``python -m sw.isa_page > docs/isa.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sw import riscv
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import (
    FAULT_MEANINGS,
    FIELD_BITS,
    INSTRUCTIONS,
    WORD_BITS,
    Definition,
    Fault,
    Opcode,
    Operand,
)
from sw.registers import COUNTER_BITS, COUNTER_MEANINGS, REGISTERS, Kind, ResultKind, Space

_WIDTHS = {
    Kind.ADDRESS: "address",
    Kind.WORD: "word",
    Kind.A_MODE: "1",
    Kind.B_MODE: "2",
}
_INTRODUCTION = """\
# The instruction set

Made by `python -m sw.isa_page` from the tables that decoder, assembler and models use too; do not \
edit it.

A program is a sequence of 16-bit words, most significant nibble first: opcode and three fields. \
Instructions take effect one at a time, in order. The first seven are Superfloat's published base \
set; programs of these alone run as published. What a program finds: tile memory, parameters and \
table as they were left; registers at their defaults; both shift buffers, the array's output and \
the activation buffer empty.
"""
_FIELDS = """\
Sizes (`row`, `col`) are 1 to 16, 16 encoded as 0. Fields marked - must be 0. `SET` is followed by \
two words, the low and the high half of its value. Everything else is undefined, \
and so is what breaks a rule: {}.
"""
_GEMM = """\
## GEMM and ADD

One GEMM computes, for all batches g, rows m and columns n, the sum over k of A[g, m, k] * B[g, k, \
n], exactly, then drains it: `act(sum * 2**-(row shift + column shift) + bias)`, rounded once. \
Rows are m = y * MX + x, columns n = t * columns + j with j a lane of column tile t, terms \
k = (k2 * K1 + k1) * K0 + k0. Every count may be anything: tiles need not fill the array.

Word addresses, all strides counted in words:

| operand | address |
|---|---|
| A, A_MODE 0 (lanes) | A_BASE + g A_G + t A_N + x A_X + y A_Y + k0 + k1 A_K1 + k2 A_K2 |
| A, A_MODE 1 (slices) | A_BASE + g A_G + t A_N + m + k0 A_K0 + k1 A_K1 + k2 A_K2 |
| B, B_MODE 0 (slices) | B_BASE + g B_G + t B_N + j + k0 B_K0 + k1 B_K1 + k2 B_K2 |
| B, B_MODE 1 (lanes) | B_BASE + g B_G + t B_N + j B_X + k0 + k1 B_K1 + k2 B_K2 |
| B, B_MODE 2 (identity) | none: `2**-S` where k0 = j, else 0; S is B_K0 mod 16 where k1 = 0, else \
B_K1 mod 16 |
| output | O_BASE + g O_G + t O_N + x O_X + y O_Y + j |

So a convolution without a copy of its patches has K2 kernel rows and K0 kernel columns times \
channels, and x and y walk over the output's pixels; Q K^T has B in lanes; heads are batches. ADD \
is a GEMM with B_MODE taken as 2: with K0 = columns, K1 = 2 and A_K1 the distance of two tensors \
it adds them, each divided by its power of two.

- `dest`: `memory` takes words of the machine's format, `stream` sends words of the output format, \
`exact` the sums themselves, without activation. The stream has a row of a tile per beat: for each \
batch, each {rows} rows, each column tile, the rows in order.
- `act`: `linear`; `relu`; `clamp` to 0 .. CLAMP; `table`, the piecewise-linear function of 32 \
segments that the host wrote.
- `column`: column j of tile t has the bias and shift of entry P_COLUMN + g P_COLUMN_G + t; \
without it both are 0. `row`: row m has the shift of entry P_ROW + g P_ROW_G + m; without it 0. \
Entries are counted modulo the memory's depth.
- `block`: a scale per 32 terms. Entries are counted per block: P_COLUMN + g P_COLUMN_G + \
t blocks + b, P_ROW + g P_ROW_G + m blocks + b. Block b's sum is multiplied by two to the power of \
the sum of both lifts; shift and bias are those of the last block's entries. K1 and K2 must be 1.
- `skip`: slices of B that are all zero cost no cycle, if B_MODE is 0, B_K0 = columns, a power of \
two, and B_BASE, B_K1, B_K2, B_N, B_G are multiples of it; else, and on a machine built without \
skipping, it has no effect. The result is the same.

A GEMM or ADD empties both shift buffers and the array's output, and keeps the activation buffer.
"""
_CHECKS = """\
## Faults

An instruction that faults changes nothing; the program ends, what it stored before stays, and the \
status has the fault and the index of the instruction's first word. Of several that apply, the one \
with the lowest code counts. A program that ends without one has status `NONE` and the number of \
words up to its end.
"""
_GEMM_CHECKS = """\
GEMM and ADD check, in this order:

1. ENCODING: B_MODE 3; `block` with K1 or K2 other than 1; an identity with a shift of 0 in a \
format without unity (B_K1's counts if K1 > 1).
2. SIZE: a count of 0, NL > columns, M, N or K beyond {largest}, K beyond K_max.
3. RANGE: the extent of A, B (not the identity) or the output (`memory` only) ends beyond the \
memory. An extent goes from the base to the base plus each stride times its count less one, with \
`columns` lanes if NT > 1 or with `skip`, else NL.
4. OVERLAP: `memory`, and the output's extent meets that of A or B.
"""
_HOST = """\
## Host

Requests `{{space, write, count - 1, address, data}}` are taken between programs.

| space | address | data |
|---|---|---|
{spaces}

Column parameters: bias in bits 0 to 15, shift in 16 to 23, lift in 24 to 27. Row parameters: \
shift in bits 0 to 7, lift in 8 to 11. Table: segment i's start, 17 bits in units of 2**-15, at \
2i, its slope, 16 bits in units of 2**-11, at 2i + 1. Tiles: up to `columns` words side by side. \
Tiles and counters can be read; the reply is a beat of the result stream, word j at j times the \
bits of a lane.

Beats of the result stream have kind {kinds}, the number of words, `last` in the last row of an \
instruction, and a lane per column: words, or sums in two's complement.
"""
_SPACES = {
    Space.TILES: ("word", "words"),
    Space.COLUMN_PARAMETERS: ("entry * columns + column", "bias, shift, lift"),
    Space.ROW_PARAMETERS: ("entry", "shift, lift"),
    Space.TABLE: ("2 * segment, + 1", "start, slope"),
    Space.COUNTERS: ("number", f"{COUNTER_BITS} bits, read only"),
}
_ASSEMBLER = """\
## Text

One instruction per line: `label: LDR 0, 8, 8 ; comment`. Comments start with `;`, `#` or `//`. \
Numbers are decimal, `0x` or `0b`; `+` and `-` join terms, `|` flags. `NAME = 3` or `.equ NAME, 3` \
defines a constant; a label is the index of its word; `.word 0x2088, 3` puts words as they are. \
Registers, destinations, activations and flags have their names from the tables above, in either \
case; `act` and `flags` may be left out:

```
SET K0, 64
GEMM memory, relu, skip|column
```
"""

_RISCV = f"""\
## From a RISC-V core

`python -m hw.build coprocessor` puts the machine behind RV32 custom instructions, on PicoRV32's \
coprocessor interface. They are R-type with the major opcode custom-0 ({riscv.OPCODE:#04x}); \
`programs/riscv/atreides.h` issues them from C with `.insn`. INSTRUCTION has the operand fields of \
its 16-bit word as numbers in the places of registers: `LDR 0, 8, 8` is \
`.insn r {riscv.OPCODE:#04x}, 0, 2, x0, x8, x8`. A program is what lies between one END and the \
next; WRITE and READ within one, and fields that the table does not name, are illegal \
instructions. The rows that a GEMM sends on the result stream must be taken before the next \
instruction; END drops what was not.
"""


def page() -> str:
    """The page, in Markdown."""
    exclusions = dict.fromkeys(
        undefined.reason
        for opcode in (Opcode.GEMM, Opcode.ADD)
        for undefined in INSTRUCTIONS[opcode].undefined
    )
    parts = [
        _INTRODUCTION,
        "## Instructions\n",
        _table(("instruction", "opcode", "op1", "op2", "op3", "effect"), _instructions()),
        _FIELDS.format("; ".join(exclusions)),
        _table(("operand", "values"), _choices()),
        "## Registers\n",
        f"Counts and indices have {COUNT_BITS} bits, addresses and strides as many as a word "
        "address has. A value that does not fit is a fault.\n",
        _table(("number", "register", "bits", "default", "meaning"), _registers()),
        _GEMM.format(rows="`rows`"),
        _CHECKS,
        _table(("code", "fault", "meaning"), _faults()),
        _GEMM_CHECKS.format(largest=(1 << COUNT_BITS) - 1),
        "## Counters\n",
        f"{COUNTER_BITS} bits each, zero as a program starts. A machine may be built with CYCLES "
        "alone, or with none; those that it lacks read 0.\n",
        _table(("number", "counter", "counts"), _counters()),
        _HOST.format(
            spaces="\n".join(_row((f"{s.value} {s.name}", *_SPACES[s])) for s in Space),
            kinds=", ".join(f"{k.value} {k.name}" for k in ResultKind),
        ),
        _ASSEMBLER,
        _RISCV,
        _table(("instruction", "funct3", "funct7", "rd", "rs1", "rs2", "effect"), riscv.rows()),
    ]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(head), "|" + "---|" * len(head), *map(_row, rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _instructions() -> Iterable[Sequence[str]]:
    for opcode, definition in INSTRUCTIONS.items():
        fields = [_field(definition, i) for i in range(3)]
        yield opcode.name, f"{opcode:0{FIELD_BITS}b}", *fields, definition.effect


def _field(definition: Definition, index: int) -> str:
    """What stands in one of the three fields of an instruction."""
    low = WORD_BITS - (index + 2) * FIELD_BITS
    nibble = (1 << FIELD_BITS) - 1 << low
    return next((o.name for o in definition.operands if o.mask & nibble), "-")


def _choices() -> Iterable[Sequence[str]]:
    operands: dict[str, Operand] = {
        o.name: o for o in INSTRUCTIONS[Opcode.GEMM].operands if o.names is not None
    }
    for name, operand in operands.items():
        joined = " or the sum of " if operand.joined else ""
        values = ", ".join(f"{code} `{text}`" for text, code in (operand.names or {}).items())
        yield f"`{name}`", f"{'0' if operand.joined else ''}{joined}{values}"


def _registers() -> Iterable[Sequence[str]]:
    config = MachineConfig()
    for register, definition in REGISTERS.items():
        kind = definition.kind
        default = "columns" if kind == Kind.LAST_COLUMNS else str(kind.default(config))
        width = _WIDTHS.get(kind, str(COUNT_BITS))
        yield str(register.value), register.name, width, default, definition.meaning


def _faults() -> Iterable[Sequence[str]]:
    for fault in Fault:
        yield str(fault.value), fault.name, FAULT_MEANINGS[fault]


def _counters() -> Iterable[Sequence[str]]:
    for counter, meaning in COUNTER_MEANINGS.items():
        yield str(counter.value), counter.name, meaning


if __name__ == "__main__":
    print(page(), end="")
