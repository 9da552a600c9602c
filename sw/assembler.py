"""Assembler and disassembler: text to instruction words and back.

One instruction per line: ``label: LDR 0, 8, 8 ; comment``. Numbers are decimal, ``0x`` hexadecimal
or ``0b`` binary; ``NAME = 3`` defines a constant, a label is the index of its word, ``.word 5000``
puts words as they are, ``+`` and ``-`` join terms. Comments start with ``;``, ``#`` or ``//``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sw.isa import (
    FAULT_MEANINGS,
    INSTRUCTIONS,
    WORD_BITS,
    Fault,
    Instruction,
    Opcode,
    Shapes,
    decode,
    encode,
)

_COMMENT = re.compile(r"(;|#|//).*")
_LABEL = re.compile(r"\s*([A-Za-z_]\w*)\s*:")
_CONSTANT = re.compile(r"\s*([A-Za-z_]\w*)\s*=")
_TOKEN = re.compile(r"\s*(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+|[A-Za-z_]\w*|[+-])")
_HEX_WORD = re.compile(r"[0-9a-fA-F]{4}")


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
                address += len(statement.operands) if statement.mnemonic == ".WORD" else 1

    def define(self, line: int, match: re.Match[str], value: int) -> None:
        name = match.group(1)
        if name.upper() in Opcode.__members__:
            raise self.error(line, match.start(1), f"name must not be an instruction, not {name!r}")
        if name in self.names:
            raise self.error(
                line, match.start(1), f"name must be defined once, not again: {name!r}"
            )
        self.names[name] = value

    def statement(self, number: int, line: str, start: int, address: int) -> Statement | None:
        body = line[start:]
        if not body.strip():
            return None
        column = start + len(body) - len(body.lstrip())
        mnemonic = body.split()[0]
        known = (*Opcode.__members__, ".WORD")
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

    def value(self, line: int, column: int, text: str) -> int:
        """The value of an expression of numbers and names."""
        total, sign, position, want_term = 0, 1, 0, True
        text = text.rstrip()
        while position < len(text) or want_term:
            match = _TOKEN.match(text, position)
            at = column + position
            if match is None or (match.group(1) in "+-") != (not want_term):
                found = text[position:].strip() or "nothing"
                raise self.error(line, at, f"expected a number or a name, found {found!r}")
            token, position = match.group(1), match.end()
            if not want_term:
                sign, want_term = (1 if token == "+" else -1), True
                continue
            if token[0].isdigit():
                base = {"0x": 16, "0b": 2}.get(token[:2].lower(), 10)
                term = int(token, base)
            elif token in self.names:
                term = self.names[token]
            else:
                raise self.error(line, column + match.start(1), f"name {token!r} is not defined")
            total, want_term = total + sign * term, False
        return total

    def words(self, statement: Statement) -> list[int]:
        """Second pass: the words of one statement."""
        line = statement.line
        values = [self.value(line, column, text.strip()) for column, text in statement.operands]
        if statement.mnemonic == ".WORD":
            for (column, _), value in zip(statement.operands, values, strict=True):
                if not 0 <= value < 1 << WORD_BITS:
                    raise self.error(line, column, f"word must be 0 to 65535, not {value}")
            if not values:
                raise self.error(line, statement.column, ".word takes at least 1 value, not 0")
            return values
        opcode = Opcode[statement.mnemonic]
        kinds = INSTRUCTIONS[opcode].operands
        if len(values) != len(kinds):
            expected = f" ({', '.join(k.name for k in kinds)})" if kinds else ""
            raise self.error(
                line,
                statement.column,
                f"{opcode.name} takes {len(kinds)} operands{expected}, not {len(values)}",
            )
        for kind, value, (column, _) in zip(kinds, values, statement.operands, strict=True):
            try:
                kind.encode(value)
            except ValueError as error:
                raise self.error(line, column, str(error)) from None
        return [encode(Instruction(opcode, tuple(values)))]


def assemble(
    text: str, file: str = "program", *, rows: int = 16, columns: int = 16, check: bool = True
) -> Program:
    """Assemble a program and refuse what is sure to fault.

    Parameters
    ----------
    text : str
        The program.
    file : str
        Its name, for messages.
    rows, columns : int
        Size of the array that it is for.
    check : bool
        Whether to refuse a program whose instructions would fault.

    Raises
    ------
    AssemblyError
        With file, line, column and reason.
    """
    assembler = _Assembler(text, file)
    assembler.read()
    words: list[int] = []
    lines: list[int] = []
    shapes = Shapes()
    for statement in assembler.statements:
        made = assembler.words(statement)
        for word in made if check else ():
            after = shapes.after(decode(word), rows, columns)
            if isinstance(after, Fault):
                reason = FAULT_MEANINGS[after]
                raise assembler.error(statement.line, statement.column, f"{reason} ({word:04x})")
            shapes = after
        words += made
        lines += [statement.line] * len(made)
    return Program(tuple(words), tuple(lines), assembler.text)


def disassemble(words: Sequence[int]) -> str:
    """Text that assembles to exactly these words; ``.word`` where no instruction is defined."""
    out = []
    for word in words:
        instruction = decode(word)
        out.append(f".word 0x{word:04x}" if instruction is None else str(instruction))
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
