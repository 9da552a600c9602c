"""Assembler of the serial control's microcode, and the map of its data memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

#: Bits of a word of microcode and of data.
WORD_BITS: Final = 16
#: Bits of an operand: an address of data or microcode, or a port.
OPERAND_BITS: Final = 12
#: The operand that stands for the address in the pointer.
INDIRECT: Final = (1 << OPERAND_BITS) - 1


class Operation(IntEnum):
    """What an instruction of the microcode does; m is the data word that its operand names."""

    LOAD = 0  # A = m
    ADD = 1  # A, C = A + m
    SUBTRACT = 2  # A = A - m, C = A >= m
    AND = 3
    OR = 4
    SHIFT = 5  # A, C = A >> 1, the bit that left
    STORE = 6  # m = A
    IN = 7  # A = the port that the operand names
    OUT = 8
    JUMP = 9
    IF_ZERO = 10  # jump if A = 0
    IF_NOT_ZERO = 11
    IF_CARRY = 12
    IF_NO_CARRY = 13
    CALL = 14  # A = the address behind this instruction, then jump
    RETURN = 15  # jump to m


class Input(IntEnum):
    """Ports of IN."""

    FLAGS = 0  # Flags
    INSTRUCTION = 1  # the word offered; waits for one
    HOST_CONTROL = 2  # space, write at bit 3, count - 1 from bit 4 on
    HOST_LOW = 3  # address
    HOST_HIGH = 4
    HOST_WORD = 5  # word of the lane
    HOST_PARAMETER = 6  # bits 0 to 7 and 16 to 23 of the data; with wide biases 0 to 15
    TILE_WORD = 7  # tile memory at TILE
    DRAINED = 8  # the word that the drain made of the last sum
    HOST_SHIFT = 9  # bits 16 to 23 of the data in bits 8 to 15


class Output(IntEnum):
    """Ports of OUT."""

    POINTER = 0
    TILE = 1  # address in tile memory
    STRIDE = 2  # added to it by LOAD and TILE_WRITE
    LANE = 3  # lane, side B at bit 5; its position becomes 0
    LOAD = 4  # so many words of tile memory go to the lane
    GO = 5  # so many slices go to the array; at bit 15: the sum starts over
    DRAIN = 6  # the row of the lane gives its sums; after so many cycles the drain has a word
    TILE_WRITE = 7
    LANE_WRITE = 8
    SHIFTS = 9  # row shift, column shift from bit 8 on
    BIAS = 10
    ROW_WORD = 11  # the next lane of the row of results
    ROW_SUM = 12  # the same, with the last sum
    BEAT = 13  # offer the row: kind, last at bit 2, count from bit 3 on
    HOST_TAKE = 14
    INSTRUCTION_TAKE = 15
    STATUS_LOW = 16  # counter
    STATUS_HIGH = 17
    STATUS = 18  # fault; offers it
    BUSY = 19  # 1: the counter of cycles starts over with the next word taken, until STATUS
    ROW_CYCLES = 20  # the row of results is that counter


class Flags(IntEnum):
    """Bits of the port FLAGS."""

    HOST = 1  # a request is offered
    INSTRUCTION = 2  # a word is offered
    LAST = 4  # it ends the program
    STATUS = 8  # the status has not been taken


_MNEMONICS: Final = {
    "ld": Operation.LOAD,
    "add": Operation.ADD,
    "sub": Operation.SUBTRACT,
    "and": Operation.AND,
    "or": Operation.OR,
    "shr": Operation.SHIFT,
    "st": Operation.STORE,
    "in": Operation.IN,
    "out": Operation.OUT,
    "jmp": Operation.JUMP,
    "jz": Operation.IF_ZERO,
    "jnz": Operation.IF_NOT_ZERO,
    "jc": Operation.IF_CARRY,
    "jnc": Operation.IF_NO_CARRY,
    "call": Operation.CALL,
    "ret": Operation.RETURN,
}
_TO_LABEL: Final = (
    *(Operation.JUMP, Operation.IF_ZERO, Operation.IF_NOT_ZERO),
    *(Operation.IF_CARRY, Operation.IF_NO_CARRY, Operation.CALL),
)
_LABEL: Final = re.compile(r"(\w+):\s*")
_CONDITION: Final = re.compile(r"(if|unless) (\w+) (.*)")


class DataMap:
    """Where data lie, and what the memory holds at power-up.

    Attributes
    ----------
    addresses : dict of str to int
    init : list of int
        As many words as are allocated.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.init: list[int] = []
        self._constants: dict[int, int] = {}

    def allocate(self, name: str, words: list[int] | int = 1) -> int:
        """Give a name to words, with what they hold or zeros; their first address."""
        if name in self.addresses:
            raise ValueError(f"{name} must be allocated once")
        found = [0] * words if isinstance(words, int) else words
        self.addresses[name] = len(self.init)
        self.init += [word % (1 << WORD_BITS) for word in found]
        return self.addresses[name]

    def constant(self, value: int) -> int:
        """The address of a word that holds ``value``."""
        value %= 1 << WORD_BITS
        if value not in self._constants:
            self._constants[value] = len(self.init)
            self.init.append(value)
        return self._constants[value]


def assemble(
    text: str, data: DataMap, numbers: Mapping[str, int]
) -> tuple[list[int], dict[str, int]]:
    """Microcode as words, and where its labels are.

    Instructions are separated by ends of lines or ``|``; ``name:`` at the start of a line is a
    label, ``;`` starts a comment. An operand is a label, a port, a name of data, ``#`` and a
    number, a name of one, of data or a label for its address (a constant in data memory), or
    ``*``: what the pointer points to. The operand of ``shr`` is how often. A line that starts with
    ``if NAME`` counts where that number is not 0, one with ``unless NAME`` where it is.

    Parameters
    ----------
    text : str
    data : DataMap
        Gets the constants, and each name in a line ``var name ...``.
    numbers : mapping of str to int
        What ``#`` may name.

    Raises
    ------
    ValueError
        For what is not known.
    """
    labels: dict[str, int] = {}
    found: list[tuple[Operation, str]] = []
    for line in text.splitlines():
        content = _chosen(line.partition(";")[0].strip(), numbers)
        while match := _LABEL.match(content):
            if labels.setdefault(match[1], len(found)) != len(found):
                raise ValueError(f"label {match[1]} must be defined once")
            content = content[match.end() :]
        if content.startswith("var "):
            for name in content.split()[1:]:
                data.allocate(name)
            continue
        for part in filter(None, map(str.strip, content.split("|"))):
            mnemonic, _, operand = part.partition(" ")
            if mnemonic not in _MNEMONICS:
                raise ValueError(f"mnemonic must be one of {', '.join(_MNEMONICS)}, not {part!r}")
            operation = _MNEMONICS[mnemonic]
            times = int(operand or 1) if operation == Operation.SHIFT else 1
            found += [(operation, operand)] * times
    words = [
        operation << OPERAND_BITS | _operand(operation, operand, data, labels, numbers)
        for operation, operand in found
    ]
    return words, labels


def _chosen(content: str, numbers: Mapping[str, int]) -> str:
    """What a line says, nothing if its condition does not hold."""
    if match := _CONDITION.match(content):
        return match[3] if (numbers[match[2]] != 0) == (match[1] == "if") else ""
    return content


def _operand(
    operation: Operation,
    operand: str,
    data: DataMap,
    labels: Mapping[str, int],
    numbers: Mapping[str, int],
) -> int:
    if operation == Operation.SHIFT:
        return 0
    if operation == Operation.IN:
        return Input[operand]
    if operation == Operation.OUT:
        return Output[operand]
    if operation in _TO_LABEL:
        if operand not in labels:
            raise ValueError(f"label must be defined, not {operand!r}")
        return labels[operand]
    if operand == "*":
        return INDIRECT
    if operand.startswith("#"):
        name = operand[1:]
        known = {**labels, **data.addresses, **numbers}
        return data.constant(known[name] if name in known else int(name, 0))
    if operand not in data.addresses:
        raise ValueError(f"operand must name data, not {operand!r}")
    return data.addresses[operand]
