"""Programs as text: what they assemble to, and where mistakes are found."""

from __future__ import annotations

import pytest

from sw.assembler import AssemblyError, assemble, disassemble, parse_hexadecimal
from sw.config import MachineConfig

CONFIG = MachineConfig(rows=8, columns=8)
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
    program = assemble(HELLO, check=False)
    words = [0x2088, 0x3188, 0x4000, 0x6000, 0x1388, 0, 5, 0xFFFF]
    assert program.hexadecimal() == "".join(f"{word:04x}\n" for word in words)
    assert program.lines == (3, 4, 5, 6, 7, 8, 8, 8)


def test_listing_shows_address_word_and_line() -> None:
    listing = assemble(HELLO, check=False).listing().splitlines()
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
        ("LDR 0, 8 8, 1", "p.s:1:10: expected +, -, | or a comma, found '8'"),
        ("LDR 0,, 8", "p.s:1:7: expected a number or a name, found 'nothing'"),
        ("FOO", "p.s:1:1: instruction must be one of NOP, STR, LDR, LDC, MATMUL, RELU, LIN, SET"),
        ("A = 1\nA = 2", "p.s:2:1: name must be defined once, not again: 'A'"),
        ("NOP: NOP", "p.s:1:1: name must not be an instruction, not 'NOP'"),
        (".word 65536", "p.s:1:7: word must be 0 to 65535, not 65536"),
        (".word", "p.s:1:1: .word takes at least 1 value, not 0"),
        ("NOP\nMATMUL", "p.s:2:1: MATMUL with an empty buffer (4000)"),
        ("LDR 0, 9, 8", "p.s:1:1: size larger than the array (2098)"),
        ("LDR 0, 8, 8\nLDC 1, 7, 8\nMATMUL", "p.s:3:1: inner sizes differ (4000)"),
        (".word 0xe000", "p.s:1:1: undefined encoding (e000)"),
        ("NOP\n.equ", "p.s:2:1: .equ takes a name, a comma and a value"),
        ("K0 = 3", "p.s:1:1: name must not be one of an operand's, not 'K0'"),
        (".equ NOP, 3", "p.s:1:6: name must not be an instruction, not 'NOP'"),
        ("SET K9, 3", "p.s:1:5: name 'K9' is not defined; register is one of MX, MY, K0"),
        ("SET 18, 3", "p.s:1:1: undefined encoding: there is no register 18"),
        ("SET K0", "p.s:1:1: SET takes 2 operands (register, value), not 1"),
        ("SET K0, 1 << 3", "p.s:1:11: expected +, -, | or a comma, found '<< 3'"),
        ("SET K0, 65536", "p.s:1:1: value that its register cannot hold: K0 must be 0 to 65535"),
        ("SET K0, 0 - 1", "p.s:1:9: value must be 0 to 4294967295, not -1"),
        ("SET A_BASE, 1024", "p.s:1:1: value that its register cannot hold: A_BASE must be 0 to"),
        ("GEMM", "p.s:1:1: GEMM takes 1 to 3 operands (dest, act, flags), not 0"),
        ("GEMM exact, relu", "p.s:1:1: undefined encoding: exact results take no activation"),
        ("GEMM stream, 0, block|row", "p.s:1:1: undefined encoding: block needs row and column"),
        ("ADD stream, 0, skip", "p.s:1:1: undefined encoding: ADD has no flag skip"),
        ("GEMM stream, table", "p.s:1:1: undefined encoding (8130)"),
        ("GEMM disk", "p.s:1:6: name 'disk' is not defined; dest is one of memory, stream, exact"),
        ("SET K0, 0\nGEMM stream", "p.s:2:1: size larger than the array: counts must be"),
        ("GEMM memory", "p.s:1:1: result that overlaps an operand (8000)"),
        ("SET A_BASE, 1023\nSET K0, 2\nGEMM stream", "p.s:3:1: address beyond the tile memory"),
        ("SET TILE_BASE, 9\nLDR 7, 8, 8", "p.s:2:1: address beyond the tile memory: tile slot"),
        (".word 0x7000, 1", "p.s:1:1: program that ends within an instruction (7000)"),
    ],
)
def test_mistakes_are_named_with_file_line_and_column(text: str, message: str) -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(text, "p.s", config=CONFIG)
    assert str(caught.value).startswith(message)


def test_extensions_become_words() -> None:
    text = """.equ SIZE, 8 + 0x10000
    SET o_base, SIZE
    GEMM memory, relu, skip|COLUMN
    add stream, clamp
    GEMM exact
    FENCE
    HALT
    """
    program = assemble(text, check=False)
    words = (0x7018, 8, 1, 0x8013, 0x9120, 0x8200, 0xC000, 0xD000)
    assert program.words == words
    assert program.lines == (2, 2, 2, 3, 4, 5, 6, 7)
    assert disassemble(words) == (
        "SET O_BASE, 65544\nGEMM memory, relu, skip|column\nADD stream, clamp\nGEMM exact\n"
        "FENCE\nHALT\n"
    )


def test_words_after_halt_are_never_refused() -> None:
    assert assemble("HALT\nMATMUL\n.word 0xffff", config=CONFIG).words == (0xD000, 0x4000, 0xFFFF)


def test_disassembly_keeps_a_program_that_ends_within_an_instruction() -> None:
    for words in [(0x7000,), (0x7000, 5), (0x0000, 0x7002, 0x7002)]:
        assert assemble(disassemble(words), check=False).words == words


def test_hexadecimal_file_is_one_word_per_line() -> None:
    assert parse_hexadecimal("2088\n3188\n\nFFff\n") == (0x2088, 0x3188, 0xFFFF)
    with pytest.raises(AssemblyError, match=r"^p.hex:2: line must be one four-digit"):
        parse_hexadecimal("2088\n188", "p.hex")
