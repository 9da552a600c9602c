"""Programs as text: what they assemble to, and where mistakes are found."""

from __future__ import annotations

import pytest

from sw.assembler import AssemblyError, assemble, disassemble, parse_hexadecimal

HELLO = """\
; one product
SIZE = 4 + 4
start: LDR 0, SIZE, 8
       LDC 1, 0x8, SIZE   // the other side
MATMUL
lin
STR 3, 0b1000, SIZE - 1 + 1
data: .word start, data, 0xffff # not run
"""


def test_program_becomes_words_with_constants_labels_and_data() -> None:
    program = assemble(HELLO, rows=8, columns=8, check=False)
    words = [0x2088, 0x3188, 0x4000, 0x6000, 0x1388, 0, 5, 0xFFFF]
    assert program.hexadecimal() == "".join(f"{word:04x}\n" for word in words)
    assert program.lines == (3, 4, 5, 6, 7, 8, 8, 8)


def test_listing_shows_address_word_and_line() -> None:
    listing = assemble(HELLO, rows=8, columns=8, check=False).listing().splitlines()
    assert listing[0].split() == ["1", ";", "one", "product"]
    assert listing[2] == "0000  2088      3  start: LDR 0, SIZE, 8"
    assert listing[-1] == "0007  ffff"


def test_disassembly_of_every_word_assembles_to_that_word() -> None:
    words = tuple(range(1 << 16))
    assert assemble(disassemble(words), check=False).words == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NOP\n STR 1", "p.s:2:2: STR takes 3 operands (addr, row, col), not 1"),
        ("NOP 1", "p.s:1:1: NOP takes 0 operands, not 1"),
        ("LDR 16, 1, 1", "p.s:1:5: addr must be 0 to 15, not 16"),
        ("LDR 0, 1, 0", "p.s:1:11: col must be 1 to 16, not 0"),
        ("LDR 0, x, 8", "p.s:1:8: name 'x' is not defined"),
        ("LDR 0, 8 8", "p.s:1:9: expected a number or a name, found '8'"),
        ("LDR 0,, 8", "p.s:1:7: expected a number or a name, found 'nothing'"),
        ("FOO", "p.s:1:1: instruction must be one of NOP, STR, LDR, LDC, MATMUL, RELU, LIN, .WORD"),
        ("A = 1\nA = 2", "p.s:2:1: name must be defined once, not again: 'A'"),
        ("NOP: NOP", "p.s:1:1: name must not be an instruction, not 'NOP'"),
        (".word 65536", "p.s:1:7: word must be 0 to 65535, not 65536"),
        (".word", "p.s:1:1: .word takes at least 1 value, not 0"),
        ("NOP\nMATMUL", "p.s:2:1: MATMUL with an empty buffer (4000)"),
        ("LDR 0, 9, 8", "p.s:1:1: size larger than the array (2098)"),
        ("LDR 0, 8, 8\nLDC 1, 7, 8\nMATMUL", "p.s:3:1: inner sizes differ (4000)"),
        (".word 0x7000", "p.s:1:1: undefined encoding (7000)"),
    ],
)
def test_mistakes_are_named_with_file_line_and_column(text: str, message: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text, "p.s", rows=8, columns=8)
    assert str(caught.value).startswith(message)


def test_hexadecimal_file_is_one_word_per_line() -> None:
    assert parse_hexadecimal("2088\n3188\n\nFFff\n") == (0x2088, 0x3188, 0xFFFF)
    with pytest.raises(AssemblyError, match=r"^p.hex:2: line must be one four-digit"):
        parse_hexadecimal("2088\n188", "p.hex")
