"""``atreides fit``: the largest array per width that a board holds, before anything is built."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from atreides.machine_options import (
    BiasBits,
    Blocks,
    Control,
    CountersOf,
    MaxTerms,
    Multiplier,
    Parameters,
    RowParameters,
    Skipping,
    Slots,
    Unity,
    Wide,
    WithTable,
)
from hw import fit as model
from hw import fit_search as limits
from hw.board_tools import DoesNotFit, Excess
from hw.boards import BOARDS, Board, find_board
from hw.multiplier import check_multiplier
from sw.config import MachineConfig
from sw.format import MAX_BITS, MAX_TERMS, MIN_BITS

DEFAULT: Final = MachineConfig(bits=8)
ALL: Final = f"{MIN_BITS}-{MAX_BITS}"


@dataclass(frozen=True, slots=True)
class Row:
    """The largest machine of a width on a board.

    Parameters
    ----------
    bits : int
    config : MachineConfig or None
        None: not even 1 x 1 fits.
    need : Need
        Of that machine, or of 1 x 1.
    """

    bits: int
    config: MachineConfig | None
    need: model.Need

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        sides = {"rows": None, "columns": None}
        if self.config is not None:
            sides = {"rows": self.config.rows, "columns": self.config.columns}
        return {"bits": self.bits, "fits": self.config is not None, **sides, **asdict(self.need)}


def fit(
    board: Annotated[str, typer.Option(help=f"One of {', '.join(BOARDS)}.")],
    bits: Annotated[
        str, typer.Option(metavar="3-16|4,8", help="Widths of words, as numbers and ranges.")
    ] = ALL,
    rows: Annotated[
        int | None, typer.Option(metavar="N", help="With --columns: ask about this array alone.")
    ] = None,
    columns: Annotated[int | None, typer.Option(metavar="N", help="Of this array.")] = None,
    slots: Slots = DEFAULT.slots,
    max_terms: MaxTerms = MAX_TERMS,
    bias_bits: BiasBits = None,
    parameters: Parameters = DEFAULT.parameters,
    row_parameters: RowParameters = DEFAULT.row_parameters,
    unity: Unity = True,
    blocks: Blocks = False,
    table: WithTable = False,
    skipping: Skipping = DEFAULT.skipping,
    wide: Wide = DEFAULT.wide,
    counters: CountersOf = DEFAULT.counters,
    control: Control = DEFAULT.control,
    multiplier: Multiplier = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the largest array of each width that a board holds, and what it takes.

    `atreides fit --board ulx3s-85f` asks about all widths, with the line and the self-test that
    `atreides build` puts around the machine;

    `atreides fit --board ulx3s-12f --bits 8 --rows 8 --columns 8` asks about one array: exit status
    2 if it does not fit, with what is missing and the nearest array that does;

    `--narrow --no-skipping --counters none --slots 16` asks about smaller machines, with
    `--control serial` about the smallest.

    Nothing is built: look-up tables come from a model that was checked against synthesis
    (`python -m bench.fit`), block RAM from the memories themselves. Of the look-up tables 5 % are
    left free, for a fuller device may not be routed. Multiplier blocks are used with
    `--multiplier dsp` alone.
    """
    try:
        chosen = find_board(board)
        widths = parse_widths(bits)
        check_multiplier(multiplier)
        if not model.is_known(chosen):
            known = ", ".join(name for name, b in BOARDS.items() if model.is_known(b))
            raise ValueError(f"board must be one whose devices were measured, {known}, not {board}")
        base = MachineConfig(
            **{"bits": widths[0], "slots": slots, "max_terms": max_terms, "bias_bits": bias_bits},
            **{"parameters": parameters, "row_parameters": row_parameters, "unity": unity},
            **{"blocks": blocks, "table": table, "multiplier": multiplier},
            **{"skipping": skipping, "wide": wide, "counters": counters, "control": control},
            **{"rows": rows or DEFAULT.rows, "columns": columns or DEFAULT.columns},
        )
        if (rows is None) != (columns is None):
            raise ValueError("--rows must come with --columns")
        found = (
            ask(chosen, base, widths)
            if rows is not None
            else search(chosen, base, widths, Console(stderr=True))
        )
    except (TypeError, ValueError, DoesNotFit) as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        told = {"board": board, "device": chosen.device.name, "machines": []}
        typer.echo(json.dumps({**told, "machines": [row.to_dict() for row in found]}, indent=2))
    else:
        show(chosen, found, Console())


def parse_widths(text: str) -> list[int]:
    """``3-5,8`` as numbers.

    Raises
    ------
    ValueError
        If one is no width of a word.
    """
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise ValueError(f"bits must be as in 3-16 or 4,8, not {text!r}")
        found += range(int(low), int(high or low) + 1)
    if not found or not all(MIN_BITS <= width <= MAX_BITS for width in found):
        raise ValueError(f"bits must be {MIN_BITS} to {MAX_BITS}, not {text!r}")
    return list(dict.fromkeys(found))


def ask(board: Board, base: MachineConfig, widths: Sequence[int]) -> list[Row]:
    """One array at each width; DoesNotFit if it does not fit at one."""
    found = []
    for config in (_at(base, width) for width in widths):
        taken = limits.check(board, config)
        assert taken is not None
        found.append(Row(config.bits, config, taken))
    return found


def search(board: Board, base: MachineConfig, widths: Sequence[int], console: Console) -> list[Row]:
    """The largest array at each width."""
    found = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"fitting {board.name}", total=len(widths))
        for config in (_at(base, width) for width in widths):
            largest = limits.largest(board, config)
            smallest = _at(config, config.bits, rows=1, columns=1)
            taken = model.need(largest or smallest, board.device.family, board.device.sprams)
            found.append(Row(config.bits, largest, taken))
            progress.advance(task)
    return found


def _at(base: MachineConfig, bits: int, **sizes: int) -> MachineConfig:
    return replace(base, bits=bits, **sizes)


def show(board: Board, rows: Sequence[Row], console: Console) -> None:
    """The table."""
    device = board.device
    table = Table(title=f"{board.title}: {device.name}, {device.lut4:,} look-up tables")
    for name in ("words", "array", "cells", "LUTs", "% of LUTs", "registers", "DSPs", "block RAM"):
        table.add_column(name, justify="right")
    for row in rows:
        taken, config = row.need, row.config
        share = 100 * taken.luts / device.lut4
        array = "none" if config is None else f"{config.rows} x {config.columns}"
        table.add_row(
            *(f"SF{row.bits}", array),
            "" if config is None else f"{config.rows * config.columns:,}",
            *(f"{taken.luts:,}", f"{share:.0f}", f"{taken.registers:,}"),
            *(
                f"{taken.dsps} of {device.multipliers}",
                f"{taken.block_rams} of {device.block_rams}",
            ),
        )
    console.print(table)
    for row in rows:
        if row.config is None:
            lacking = ", ".join(map(str, _lacking(board, row.need)))
            console.print(f"SF{row.bits}: not even 1 x 1 fits: {lacking}")
    console.print("DSPs are used with --multiplier dsp alone.")


def _lacking(board: Board, taken: model.Need) -> tuple[Excess, ...]:
    return limits.excesses(board.device, taken, limits.FILL)
