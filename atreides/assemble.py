"""``atreides assemble`` and ``atreides disassemble``: programs as text and as words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atreides.machine_options import (
    Bits,
    Blocks,
    Columns,
    MaxTerms,
    Rows,
    Slots,
    Unity,
    WithTable,
    machine,
    read_text,
    write_text,
)
from sw.assembler import AssemblyError, parse_hexadecimal
from sw.assembler import assemble as assemble_text
from sw.assembler import disassemble as disassemble_words
from sw.config import MachineConfig

_DEFAULTS = MachineConfig()
Program = Annotated[Path, typer.Argument(metavar="PROGRAM.s", help="The program's text.")]
Words = Annotated[Path, typer.Argument(metavar="PROGRAM.hex", help="One word per line.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Instead of the terminal.")
]
Listing = Annotated[
    Path | None,
    typer.Option("--listing", metavar="FILE", help="Also write addresses, words and lines."),
]
Check = Annotated[
    bool,
    typer.Option("--check/--no-check", help="Refuse a program that would stop at a fault."),
]


def assemble(
    program: Program,
    output: Output = None,
    listing: Listing = None,
    check: Check = True,
    bits: Bits = _DEFAULTS.bits,
    unity: Unity = _DEFAULTS.unity,
    rows: Rows = _DEFAULTS.rows,
    columns: Columns = _DEFAULTS.columns,
    slots: Slots = _DEFAULTS.slots,
    max_terms: MaxTerms = _DEFAULTS.max_terms,
    blocks: Blocks = _DEFAULTS.blocks,
    table: WithTable = _DEFAULTS.table,
) -> None:
    """Write a program's words, four hexadecimal digits per line."""
    config = machine(
        bits=bits,
        unity=unity,
        rows=rows,
        columns=columns,
        slots=slots,
        max_terms=max_terms,
        blocks=blocks,
        table=table,
    )
    try:
        made = assemble_text(read_text(program), str(program), config=config, check=check)
    except AssemblyError as error:
        raise typer.BadParameter(str(error)) from None
    if listing is not None:
        write_text(listing, made.listing())
    _deliver(output, made.hexadecimal())


def disassemble(program: Words, output: Output = None) -> None:
    """Write a program's text, which assembles to the same words."""
    try:
        words = parse_hexadecimal(read_text(program), str(program))
    except AssemblyError as error:
        raise typer.BadParameter(str(error)) from None
    _deliver(output, disassemble_words(words))


def _deliver(output: Path | None, text: str) -> None:
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
