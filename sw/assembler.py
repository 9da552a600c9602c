"""Assembler and disassembler: text to instruction words and back.

One instruction per line: ``label: LDR 0, 8, 8 ; comment``. Numbers are decimal, ``0x`` hexadecimal
or ``0b`` binary; ``NAME = 3`` or ``.equ NAME, 3`` defines a constant, a label is the index of its
word, ``.word 5000`` puts words as they are, ``+`` and ``-`` join terms, ``|`` joins flags:
``SET K0, 64``, ``GEMM memory, relu, skip|column``. Comments start with ``;``, ``#`` or ``//``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sw.checks import State, initial_state
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import (
    FAULT_MEANINGS,
    INSTRUCTIONS,
    MAX_SIZE,
    WORD_BITS,
    Fault,
    Instruction,
    Opcode,
    Operand,
    decode_at,
    encode,
)
from sw.registers import REGISTERS, Register

_COMMENT = re.compile(r"(;|#|//).*")
_LABEL = re.compile(r"\s*([A-Za-z_]\w*)\s*:")
_CONSTANT = re.compile(r"\s*([A-Za-z_]\w*)\s*=|\s*\.[eE][qQ][uU]\s+([A-Za-z_]\w*)\s*,")
_TOKEN = re.compile(r"\s*(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+|[A-Za-z_]\w*|[+-])")
_HEX_WORD = re.compile(r"[0-9a-fA-F]{4}")
_DIRECTIVES: Final = (".WORD", ".EQU")
#: Names that operands have a meaning for; a program cannot define them.
_OPERAND_NAMES: Final = {
    name.upper()
    for definition in INSTRUCTIONS.values()
    for operand in definition.operands
    for name in operand.names or ()
}
#: The machine that a program is for if nothing else is said: whatever a field can name fits.
_LARGEST: Final = MachineConfig(rows=MAX_SIZE, columns=MAX_SIZE, blocks=True, table=True)


class AssemblyError(ValueError):
    """A mistake in a program's text, with its place: ``matmul.s:12:5: STR takes 3 operands``.

    Parameters
    ----------
    place : str
        File, line and column.
    message : str
        What was found and what was expected.
    """

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}")


@dataclass(frozen=True, slots=True)
class Statement:
    """A line that makes words: where it stands and what it makes them of."""

    line: int
    column: int
    mnemonic: str
    operands: tuple[tuple[int, str], ...]  # column and text of each
    address: int


@dataclass(frozen=True, slots=True)
class Program:
    """An assembled program.

    Parameters
    ----------
    words : tuple of int
        16 bits each.
    lines : tuple of int
        The line of the text that each word comes from, from 1.
    text : tuple of str
        The lines.
    """

    words: tuple[int, ...]
    lines: tuple[int, ...]
    text: tuple[str, ...]

    def hexadecimal(self) -> str:
        """One four-digit word per line."""
        return "".join(f"{word:04x}\n" for word in self.words)

    def listing(self) -> str:
        """Address, word and line of the text, line by line."""
        made: dict[int, list[int]] = {}
        for address, line in enumerate(self.lines):
            made.setdefault(line, []).append(address)
        out = []
        for number, text in enumerate(self.text, 1):
            first, *more = made.get(number, [-1])
            left = f"{first:04x}  {self.words[first]:04x}" if first >= 0 else " " * 10
            out.append(f"{left}  {number:5}  {text}".rstrip())
            out += [f"{address:04x}  {self.words[address]:04x}" for address in more]
        return "\n".join(out) + "\n"


class _Assembler:
    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.text = tuple(text.splitlines())
        self.names: dict[str, int] = {}
        self.statements: list[Statement] = []

    def error(self, line: int, column: int, message: str) -> AssemblyError:
        return AssemblyError(f"{self.file}:{line}:{column + 1}", message)

    def read(self) -> None:
        """First pass: labels, constants and where every statement's words go."""
        address = 0
        for number, raw in enumerate(self.text, 1):
            line = _COMMENT.sub("", raw)
            start = 0
            while match := _LABEL.match(line, start):
                self.define(number, match, address)
                start = match.end()
            if match := _CONSTANT.match(line, start):
                self.define(number, match, self.value(number, match.end(), line[match.end() :]))
                continue
            statement = self.statement(number, line, start, address)
            if statement is not None:
                self.statements.append(statement)
                address += self.length(statement)

    @staticmethod
    def length(statement: Statement) -> int:
        if statement.mnemonic == ".WORD":
            return len(statement.operands)
        return INSTRUCTIONS[Opcode[statement.mnemonic]].words

    def define(self, line: int, match: re.Match[str], value: int) -> None:
        name = next(found for found in match.groups() if found)
        column = match.start(match.lastindex or 1)
        if name.upper() in Opcode.__members__:
            raise self.error(line, column, f"name must not be an instruction, not {name!r}")
        if name.upper() in _OPERAND_NAMES:
            raise self.error(line, column, f"name must not be one of an operand's, not {name!r}")
        if name in self.names:
            raise self.error(line, column, f"name must be defined once, not again: {name!r}")
        self.names[name] = value

    def statement(self, number: int, line: str, start: int, address: int) -> Statement | None:
        body = line[start:]
        if not body.strip():
            return None
        column = start + len(body) - len(body.lstrip())
        mnemonic = body.split()[0]
        known = (*Opcode.__members__, *_DIRECTIVES)
        if mnemonic.upper() == ".EQU":
            raise self.error(number, column, ".equ takes a name, a comma and a value")
        if mnemonic.upper() not in known:
            raise self.error(
                number, column, f"instruction must be one of {', '.join(known)}, not {mnemonic!r}"
            )
        rest = column + len(mnemonic)
        operands = []
        if line[rest:].strip():
            for part in line[rest:].split(","):
                operands.append((rest + len(part) - len(part.lstrip()), part))
                rest += len(part) + 1
        return Statement(number, column, mnemonic.upper(), tuple(operands), address)

    def value(self, line: int, column: int, text: str, operand: Operand | None = None) -> int:
        """The value of sums of numbers and names joined by ``|``."""
        value, position = 0, 0
        for part in text.split("|"):
            value |= self.sum(line, column + position, part, operand)
            position += len(part) + 1
        return value

    def sum(self, line: int, column: int, text: str, operand: Operand | None) -> int:
        total, sign, position, want_term = 0, 1, 0, True
        text = text.rstrip()
        while position < len(text) or want_term:
            match = _TOKEN.match(text, position)
            if match is None or (match.group(1) in "+-") != (not want_term):
                found = text[position:].strip() or "nothing"
                expected = "a number or a name" if want_term else "+, -, | or a comma"
                at = column + position + len(text[position:]) - len(text[position:].lstrip())
                raise self.error(line, at, f"expected {expected}, found {found!r}")
            token, position = match.group(1), match.end()
            if not want_term:
                sign, want_term = (1 if token == "+" else -1), True
                continue
            total += sign * self.term(line, column + match.start(1), token, operand)
            want_term = False
        return total

    def term(self, line: int, column: int, token: str, operand: Operand | None) -> int:
        if token[0].isdigit():
            return int(token, {"0x": 16, "0b": 2}.get(token[:2].lower(), 10))
        names = {} if operand is None or operand.names is None else operand.names
        for name, code in names.items():
            if name.upper() == token.upper():
                return code
        if token in self.names:
            return self.names[token]
        choices = f"; {operand.name} is one of {', '.join(names)}" if operand and names else ""
        raise self.error(line, column, f"name {token!r} is not defined{choices}")

    def words(self, statement: Statement) -> tuple[int, ...]:
        """Second pass: the words of one statement."""
        line = statement.line
        if statement.mnemonic == ".WORD":
            return self.data(statement)
        opcode = Opcode[statement.mnemonic]
        kinds = INSTRUCTIONS[opcode].operands
        least = sum(not kind.optional for kind in kinds)
        count = len(statement.operands)
        if not least <= count <= len(kinds):
            expected = f" ({', '.join(k.name for k in kinds)})" if kinds else ""
            number = str(least) if least == len(kinds) else f"{least} to {len(kinds)}"
            message = f"{opcode.name} takes {number} operands{expected}, not {count}"
            raise self.error(line, statement.column, message)
        values = []
        for kind, (column, text) in zip(kinds, statement.operands, strict=False):
            values.append(self.value(line, column, text.strip(), kind))
            try:
                kind.encode(values[-1])
            except ValueError as error:
                raise self.error(line, column, str(error)) from None
        values += [0] * (len(kinds) - count)
        try:
            return encode(Instruction(opcode, tuple(values)))
        except ValueError as error:
            raise self.error(
                line, statement.column, f"{FAULT_MEANINGS[Fault.ENCODING]}: {error}"
            ) from None

    def data(self, statement: Statement) -> tuple[int, ...]:
        if not statement.operands:
            message = ".word takes at least 1 value, not 0"
            raise self.error(statement.line, statement.column, message)
        values = []
        for column, text in statement.operands:
            value = self.value(statement.line, column, text.strip())
            if not 0 <= value < 1 << WORD_BITS:
                message = f"word must be 0 to 65535, not {value}"
                raise self.error(statement.line, column, message)
            values.append(value)
        return tuple(values)

    def check(self, program: Program, config: MachineConfig) -> None:
        """Refuse a program that stops at a fault, with the place of the instruction."""
        words = program.words
        state = initial_state(config)
        counter = 0
        while counter < len(words):
            instruction, length = decode_at(words, counter, config)
            whole = counter + length <= len(words)
            after = state.after(instruction, config) if whole else Fault.TRUNCATED
            if isinstance(after, Fault):
                line = program.lines[counter]
                column = next(s.column for s in self.statements if s.line == line)
                reason = f"{FAULT_MEANINGS[after]}{_detail(after, instruction, state, config)}"
                raise self.error(line, column, f"{reason} ({words[counter]:04x})")
            if instruction is not None and instruction.opcode == Opcode.HALT:
                return
            state, counter = after, counter + length


def _detail(
    fault: Fault, instruction: Instruction | None, state: State, config: MachineConfig
) -> str:
    """What the registers of a faulting instruction would have to hold."""
    product = instruction is not None and instruction.opcode in (Opcode.GEMM, Opcode.ADD)
    if product and fault == Fault.SIZE:
        return (
            f": counts must be at least 1, NL at most {config.columns}, M, N and K at most "
            f"{(1 << COUNT_BITS) - 1} and K at most {config.max_terms}"
        )
    if instruction is None or fault not in (Fault.VALUE, Fault.RANGE):
        return ""
    if fault == Fault.VALUE:
        register = Register(instruction.operands[0])
        largest = (1 << REGISTERS[register].kind.width(config)) - 1
        return f": {register.name} must be 0 to {largest}, not {instruction.operands[1]}"
    if not product:
        slot = instruction.operands[0] + state.registers[Register.TILE_BASE]
        return f": tile slot must be 0 to {config.slots - 1}, not {slot}"
    return f": the memory has {config.memory_words} words"


def assemble(
    text: str,
    file: str = "program",
    *,
    config: MachineConfig = _LARGEST,
    check: bool = True,
) -> Program:
    """Assemble a program and refuse what is sure to fault.

    Parameters
    ----------
    text : str
        The program.
    file : str
        Its name, for messages.
    config : MachineConfig
        The machine that it is for.
    check : bool
        Whether to refuse a program that would stop at a fault.

    Raises
    ------
    AssemblyError
        With file, line, column and reason.
    """
    assembler = _Assembler(text, file)
    assembler.read()
    words: list[int] = []
    lines: list[int] = []
    for statement in assembler.statements:
        made = assembler.words(statement)
        words += made
        lines += [statement.line] * len(made)
    program = Program(tuple(words), tuple(lines), assembler.text)
    if check:
        assembler.check(program, config)
    return program


def disassemble(words: Sequence[int]) -> str:
    """Text that assembles to exactly these words; ``.word`` where no instruction is defined."""
    out = []
    counter = 0
    while counter < len(words):
        instruction, length = decode_at(words, counter)
        whole = counter + length <= len(words)
        if instruction is None or not whole:
            out.append(f".word 0x{words[counter]:04x}")
            length = 1
        else:
            out.append(str(instruction))
        counter += length
    return "".join(f"{line}\n" for line in out)


def parse_hexadecimal(text: str, file: str = "program") -> tuple[int, ...]:
    """The words of a ``.hex`` file, one four-digit word per line; AssemblyError otherwise."""
    words = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped:
            continue
        if not _HEX_WORD.fullmatch(stripped):
            raise AssemblyError(
                f"{file}:{number}", f"line must be one four-digit hexadecimal word, not {line!r}"
            )
        words.append(int(stripped, 16))
    return tuple(words)
