"""The instruction set's page."""

from __future__ import annotations

from pathlib import Path

from sw.isa import Fault, Opcode
from sw.isa_page import page
from sw.registers import Counter, Register

PAGE = Path(__file__).parent.parent / "docs" / "isa.md"


def test_committed_page_is_made_from_the_tables() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_page_names_every_instruction_register_fault_and_counter() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| ")]
    named = {cell.strip("| ") for row in rows for cell in row[:2]}
    for table in (Opcode, Register, Fault, Counter):
        assert {member.name for member in table} <= named
