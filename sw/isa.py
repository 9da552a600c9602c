"""The instruction set: the tables that decoder, assembler, models and the ISA page derive from.

Registers and counters are in ``sw.registers``; what an instruction checks before it takes effect
is in ``sw.checks``.

Source: the published Superfloat Chip-1 table (base set, frozen); the rest is Atreides' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sw.config import MachineConfig
from sw.registers import REGISTERS, Register

WORD_BITS: Final = 16
FIELD_BITS: Final = 4
#: Bits of the value that a SET carries in two more words, the low one first.
VALUE_BITS: Final = 2 * WORD_BITS
#: Tile slots that a base program can name.
BASE_SLOTS: Final = 16
#: The largest row or column size that a field can name; 0 encodes it.
MAX_SIZE: Final = 16


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand field of an instruction word.

    Parameters
    ----------
    name : str
        As in the tables: ``addr``, ``row`` or ``col``.
    offset : int
        The lowest bit of the field.
    low, high : int
        Values that the field names; ``high`` of a size is encoded as 0.
    width : int
        Bits of the field.
    names : mapping of str to int
        Names of values, or of single bits if ``joined``.
    joined : bool
        Whether names are joined by ``|``.
    optional : bool
        Whether the assembler takes 0 where the operand and all after it are left out.
    """

    name: str
    offset: int
    low: int
    high: int
    width: int = FIELD_BITS
    names: Mapping[str, int] | None = None
    joined: bool = False
    optional: bool = False

    @property
    def mask(self) -> int:
        """The field's bits in the instruction word."""
        return (1 << self.width) - 1 << self.offset

    def encode(self, value: int) -> int:
        """The instruction word with only this field; ValueError if the value is out of range."""
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must be {self.low} to {self.high}, not {value}")
        return value << self.offset & self.mask

    def decode(self, word: int) -> int | None:
        """The value that the field of an instruction word names, or None if it names none."""
        field = (word & self.mask) >> self.offset
        value = field or self.high if self.low else field
        return value if self.low <= value <= self.high else None

    def text(self, value: int) -> str:
        """The value as the assembler reads it."""
        found = [name for name, code in (self.names or {}).items() if code == value]
        if self.joined:
            found = ["|".join(n for n, code in (self.names or {}).items() if code & value)]
        return found[0] if found and found[0] else str(value)


class Opcode(IntEnum):
    """The most significant nibble of an instruction word."""

    NOP = 0b0000
    STR = 0b0001
    LDR = 0b0010
    LDC = 0b0011
    MATMUL = 0b0100
    RELU = 0b0101
    LIN = 0b0110
    SET = 0b0111
    GEMM = 0b1000
    ADD = 0b1001
    FENCE = 0b1100
    HALT = 0b1101


class Destination(IntEnum):
    """Where the result of a GEMM goes."""

    MEMORY = 0
    STREAM = 1
    EXACT = 2


class Function(IntEnum):
    """The activation of a GEMM."""

    LINEAR = 0
    RELU = 1
    CLAMP = 2
    TABLE = 3


class Flag(IntEnum):
    """The bits of a GEMM's flags."""

    SKIP = 1
    COLUMN = 2
    ROW = 4
    BLOCK = 8


@dataclass(frozen=True, slots=True)
class Undefined:
    """Instruction words that are undefined although each field is.

    Parameters
    ----------
    mask, match : int
        The words with ``word & mask == match``.
    reason : str
        What holds for a defined word.
    unless : str
        The attribute of MachineConfig that makes these words defined, "" for none.
    """

    mask: int
    match: int
    reason: str
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Definition:
    """What an opcode means: its operands, in the assembler's order, and its effect in words."""

    opcode: Opcode
    operands: tuple[Operand, ...]
    effect: str
    undefined: tuple[Undefined, ...] = ()
    data_words: int = 0

    @property
    def words(self) -> int:
        """Words of the instruction with its data."""
        return 1 + self.data_words

    @property
    def used_mask(self) -> int:
        """Bits of the instruction word that are not required to be zero."""
        return (WORD_MASK >> FIELD_BITS ^ WORD_MASK) | sum(o.mask for o in self.operands)


WORD_MASK: Final = (1 << WORD_BITS) - 1
VALUE_LIMIT: Final = 1 << VALUE_BITS


_ADDR = Operand("addr", 8, 0, BASE_SLOTS - 1)
_ROW = Operand("row", 4, 1, MAX_SIZE)
_COL = Operand("col", 0, 1, MAX_SIZE)
_TILE = (_ADDR, _ROW, _COL)
_REGISTER = Operand(
    "register", 0, 0, max(Register), 2 * FIELD_BITS, {r.name: int(r) for r in Register}
)
_VALUE = Operand("value", 0, 0, VALUE_LIMIT - 1, 0)  # in the data words, no bits of the first
_FLAG_NAMES = {f.name.lower(): int(f) for f in Flag}
_GEMM = (
    Operand("dest", 8, 0, 2, names={d.name.lower(): int(d) for d in Destination}),
    Operand("act", 4, 0, 3, names={f.name.lower(): int(f) for f in Function}, optional=True),
    Operand(
        "flags", 0, 0, 15, names={f.name.lower(): int(f) for f in Flag}, joined=True, optional=True
    ),
)
_EXACT = "exact results take no activation"
_SCALED = "block needs row and column"
_COMMON_UNDEFINED = (
    Undefined(0xF10, 0x210, _EXACT),
    Undefined(0xF20, 0x220, _EXACT),
    Undefined(0x0F0, 0x030, "the machine has no activation table", "table"),
)
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
        Definition(
            Opcode.SET,
            (_REGISTER, _VALUE),
            "register := value, which follows as two words, the low half first",
            tuple(
                Undefined(_REGISTER.mask, number, f"there is no register {number}")
                for number in range(1 << _REGISTER.width)
                if number not in REGISTERS
            ),
            data_words=2,
        ),
        Definition(
            Opcode.GEMM,
            _GEMM,
            "the tiled product that the registers describe",
            (
                *_COMMON_UNDEFINED,
                Undefined(0x00C, 0x008, _SCALED),
                Undefined(0x00A, 0x008, _SCALED),
                Undefined(0x008, 0x008, "the machine has no block scales", "blocks"),
            ),
        ),
        Definition(
            Opcode.ADD,
            _GEMM,
            "as GEMM, with B the identity: sums of tiles of A",
            (
                *_COMMON_UNDEFINED,
                Undefined(0x001, 0x001, "ADD has no flag skip"),
                Undefined(0x008, 0x008, "ADD has no flag block"),
            ),
        ),
        Definition(Opcode.FENCE, (), "wait until everything before is done"),
        Definition(Opcode.HALT, (), "end the program; what follows is discarded"),
    )
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """A decoded instruction: an opcode and the values of its operands, sizes as 1 to 16.

    The operands of SET are the register and its value; of GEMM and ADD destination, activation and
    flags.
    """

    opcode: Opcode
    operands: tuple[int, ...] = ()

    def __str__(self) -> str:
        kinds = INSTRUCTIONS[self.opcode].operands
        values = list(zip(kinds, self.operands, strict=True))
        while values and values[-1][0].optional and values[-1][1] == 0:
            values.pop()
        return f"{self.opcode.name} {', '.join(k.text(v) for k, v in values)}".strip()


def encode(instruction: Instruction) -> tuple[int, ...]:
    """The 16-bit words of an instruction; ValueError if an operand is missing or out of range."""
    definition = INSTRUCTIONS[instruction.opcode]
    if len(instruction.operands) != len(definition.operands):
        raise ValueError(
            f"{instruction.opcode.name} takes {len(definition.operands)} operands, "
            f"not {len(instruction.operands)}"
        )
    word = int(instruction.opcode) << WORD_BITS - FIELD_BITS
    for operand, value in zip(definition.operands, instruction.operands, strict=True):
        word |= operand.encode(value)
    for undefined in definition.undefined:
        if not undefined.unless and word & undefined.mask == undefined.match:
            raise ValueError(undefined.reason)
    if not definition.data_words:
        return (word,)
    value = instruction.operands[-1]
    return word, value & WORD_MASK, value >> WORD_BITS


def decode(word: int, value: int = 0, config: MachineConfig | None = None) -> Instruction | None:
    """The instruction of a word, or None where the encoding is undefined.

    Parameters
    ----------
    word : int
        The first word, 16 bits.
    value : int
        What the data words of a SET hold.
    config : MachineConfig, optional
        The machine; if omitted, one that has every extension.
    """
    if not 0 <= word <= WORD_MASK:
        raise ValueError(f"word must be 0 to {WORD_MASK}, not {word!r}")
    if word >> WORD_BITS - FIELD_BITS not in INSTRUCTIONS:
        return None
    definition = INSTRUCTIONS[Opcode(word >> WORD_BITS - FIELD_BITS)]
    if word & ~definition.used_mask:
        return None
    for undefined in definition.undefined:
        supported = undefined.unless and (config is None or getattr(config, undefined.unless))
        if word & undefined.mask == undefined.match and not supported:
            return None
    operands = []
    for operand in definition.operands:
        found = value if operand is _VALUE else operand.decode(word)
        if found is None:
            return None
        operands.append(found)
    return Instruction(definition.opcode, tuple(operands))


def decode_at(
    words: Sequence[int], counter: int, config: MachineConfig | None = None
) -> tuple[Instruction | None, int]:
    """The instruction at a word of a program and the words that it takes.

    The instruction is None where the encoding is undefined. Where the program ends within it, the
    number of words is larger than what is left.
    """
    word = words[counter]
    instruction = decode(word, 0, config)
    if instruction is None:
        return None, 1
    length = INSTRUCTIONS[instruction.opcode].words
    data = words[counter + 1 : counter + length]
    if len(data) == 2:
        instruction = decode(word, data[0] | data[1] << WORD_BITS, config)
    return instruction, length


class Fault(IntEnum):
    """Why the machine stopped; the lowest code that applies is reported."""

    NONE = 0
    ENCODING = 1
    SIZE = 2
    EMPTY_BUFFER = 3
    INNER_SIZE = 4
    NO_RESULT = 5
    STORE_SHAPE = 6
    VALUE = 7
    RANGE = 8
    OVERLAP = 9
    TRUNCATED = 10


FAULT_MEANINGS: Final[dict[Fault, str]] = {
    Fault.NONE: "no fault",
    Fault.ENCODING: "undefined encoding",
    Fault.SIZE: "size larger than the array",
    Fault.EMPTY_BUFFER: "MATMUL with an empty buffer",
    Fault.INNER_SIZE: "inner sizes differ",
    Fault.NO_RESULT: "RELU or LIN before any MATMUL",
    Fault.STORE_SHAPE: "store of a shape that was not computed",
    Fault.VALUE: "value that its register cannot hold",
    Fault.RANGE: "address beyond the tile memory",
    Fault.OVERLAP: "result that overlaps an operand",
    Fault.TRUNCATED: "program that ends within an instruction",
}
