"""What a machine takes in an FPGA, told before it is built, and the largest that a board holds.

Look-up tables are a measured cost per cell times the cells, a measured polynomial of the rest, and
the memories that become look-up tables. Memories are those of the design itself, and become block
RAM where Yosys' cost of it is less than that of the alternative. ``python -m bench.fit`` measures
the coefficients and tries them on machines that they were not learned from.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from hw.board_tools import DoesNotFit, Excess
from hw.boards import Board, Device
from hw.fit_memory import block_rams, memories, memory_luts, tile_banks
from hw.multiplier import AUTO, DSP
from hw.packed_multiplier import packing
from sw.config import MAX_SIDE, MachineConfig
from sw.format import MAX_TERMS, SFx

TABLE_PATH: Final = Path(__file__).with_name("fit_table.json")
#: Share of the look-up tables that :func:`largest` fills: a fuller device may not be routed.
FILL: Final = 0.95
#: Share of estimated memories below which :func:`largest` looks no closer.
SLACK: Final = 0.9
#: How long the longer side of :func:`largest` may be, compared with the shorter one.
ASPECT: Final = 2
#: Rows and columns of the arrays whose cells were measured.
MEASURED: Final = (4, 2)


@dataclass(frozen=True, slots=True)
class Need:
    """What a machine takes.

    Parameters
    ----------
    luts : int
        Look-up tables as placers count them: on ECP5 two per carry primitive and four per LUT RAM;
        on iCE40 logic cells.
    block_rams, dsps, sprams : int
    """

    luts: int
    block_rams: int
    dsps: int = 0
    sprams: int = 0

    @classmethod
    def of(cls, target: str, cells: Mapping[str, int]) -> Need:
        """What a netlist takes, from its primitives by type."""
        number = Counter(cells)
        if target == "ecp5":
            luts = number["LUT4"] + 2 * number["CCU2C"] + 4 * number["TRELLIS_DPR16X4"]
            return cls(luts, number["DP16KD"] + number["PDPW16KD"], number["MULT18X18D"])
        return cls(
            number["LOGIC_CELLS"] or number["SB_LUT4"],
            *(number["SB_RAM40_4K"], number["SB_MAC16"], number["SB_SPRAM256KA"]),
        )


def need(config: MachineConfig, target: str) -> Need:
    """What a board's machine takes: its line and self-test included.

    Parameters
    ----------
    config : MachineConfig
    target : {"ecp5", "ice40"}

    Raises
    ------
    ValueError
        For a target that was not measured.
    """
    table = target_table(target)
    found = memories(config)
    blocks = sum(n * block_rams(target, *size) for size, n in found.items())
    luts = logic(config, target, table) + memory_luts(target, found)
    return Need(round(luts), blocks, array_dsps(config, target))


def logic(config: MachineConfig, target: str, table: Mapping[str, Any]) -> float:
    """Look-up tables of the array and of all around it but its memories."""
    known = table["rest"]
    rest = sum(known.get(name, 0.0) * value for name, value in features(config).items())
    return array_luts(config, table["cells"]) + rest


def features(config: MachineConfig) -> dict[str, float]:
    """What the rest of a machine grows with, by name."""
    word, vector = config.bits + 2, config.vector  # a word is kept with two flags
    tail = config.columns * config.accumulator_bits
    return {
        "machine": 1.0,
        "lanes": float(vector * word),
        "rotators": float(vector * word * (vector.bit_length() - 1)),
        "tails": float(tail),
        "columns": float(config.columns),
        "edges": float((config.rows + config.columns) * word),
        "blocks": float(config.blocks * config.columns * config.aligned_bits),
        "table": float(config.table * config.columns),
    }


def array_luts(config: MachineConfig, cells: Mapping[str, Mapping[str, float]]) -> float:
    """Look-up tables of an array: its cells, and the buses that join them."""
    rows, columns, bits = config.rows, config.columns, config.accumulator_bits
    return rows * columns * _cell_luts(config, cells) + columns * bits * bus_luts(rows)


def bus_luts(rows: int) -> int:
    """Tables per bit of a column's bus: an AND of two bits per row, and an OR over the rows."""
    count = -(-rows // 2)  # two rows per table of four inputs
    total = count
    while count > 1:
        count = -(-count // 4)
        total += count
    return total


def _cell_luts(config: MachineConfig, cells: Mapping[str, Mapping[str, float]]) -> float:
    """Of a cell without its part of the bus; an accumulator's further bit takes two tables."""
    auto = _interpolated(cells[AUTO], config.bits)
    if config.multiplier != AUTO and config.multiplier in cells:
        auto *= _ratio(cells, config.multiplier, config.bits)
    if not config.unity:
        auto *= _ratio(cells, NO_UNITY, config.bits)
    usual = SFx(config.bits, config.unity).accumulator_bits(MAX_TERMS)
    return auto + config.accumulator_bits - usual


#: The name of cells whose words have no unity, in the table.
NO_UNITY: Final = "no unity"


def _ratio(cells: Mapping[str, Mapping[str, float]], name: str, bits: int) -> float:
    """Of a kind of cell to the usual one; between measured widths, a straight line."""
    usual = cells[AUTO]
    return _interpolated({b: v / usual[b] for b, v in cells[name].items() if b in usual}, bits)


def _interpolated(known: Mapping[str, float], bits: int) -> float:
    """A value by width, on a straight line between those known; beyond them that of the nearest."""
    if str(bits) in known:
        return known[str(bits)]
    widths = sorted(map(int, known))
    below = max((b for b in widths if b < bits), default=None)
    above = min((b for b in widths if b > bits), default=None)
    if below is None or above is None:
        return known[str(above if below is None else below)]
    share = (bits - below) / (above - below)
    return (1 - share) * known[str(below)] + share * known[str(above)]


def array_dsps(config: MachineConfig, target: str) -> int:
    """Multiplier blocks of the array: none unless they are asked for."""
    if config.multiplier != DSP:
        return 0
    group = packing(config.format.fraction_bits, target)
    return -(-config.rows // group.rows) * -(-config.columns // group.columns)


@cache
def _tables() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    return found


def target_table(target: str) -> dict[str, Any]:
    """The coefficients of a target; ValueError if it was not measured."""
    if target not in _tables():
        raise ValueError(f"target must be one of {', '.join(_tables())}, not {target!r}")
    return _tables()[target]  # type: ignore[no-any-return]


def is_known(board: Board) -> bool:
    """Whether the model was measured for a board's device."""
    return board.device.family in _tables()


def excesses(device: Device, found: Need, fill: float = 1.0) -> tuple[Excess, ...]:
    """What a device has too little of."""
    rows = (
        Excess("look-up tables", found.luts, math.floor(device.lut4 * fill)),
        Excess("block RAMs", found.block_rams, device.block_rams),
        Excess("multipliers", found.dsps, device.multipliers),
        Excess("SPRAMs", found.sprams, device.sprams),
    )
    return tuple(row for row in rows if row.needed > row.available)


def check(board: Board, config: MachineConfig) -> None:
    """Refuse a machine that a board cannot hold; one of another family is not judged.

    Raises
    ------
    DoesNotFit
        By how much, and the largest of its width that fits.
    """
    if not is_known(board):
        return
    found = excesses(board.device, need(config, board.device.family))
    if found:
        raise Refusal(board, found, nearest(board, config))


class Refusal(DoesNotFit):
    """A machine that does not fit, as far as the model can tell.

    Attributes
    ----------
    nearest : MachineConfig or None
        The largest array of its width that fits.
    """

    def __init__(
        self, board: Board, found: tuple[Excess, ...], nearest: MachineConfig | None
    ) -> None:
        super().__init__(board, found)
        self.nearest = nearest
        told = ", ".join(
            f"{e.needed:,} {e.resource} of {e.available:,}, {_too_many(e)} too many" for e in found
        )
        fits = "nothing of this width fits"
        if nearest is not None:
            fits = f"{nearest.rows} x {nearest.columns} fits"
        self.args = (f"machine needs {told} on {board.name}; {fits}",)


def _too_many(excess: Excess) -> str:
    """In per cent, or as a number where there are none."""
    if not excess.available:
        return str(excess.needed)
    return f"{math.ceil(100 * excess.needed / excess.available - 100)} %"


def nearest(board: Board, config: MachineConfig) -> MachineConfig | None:
    """The largest array of a machine's width, no larger in rows and columns, that a board holds."""
    return largest(board, config, (config.rows, config.columns)) if is_known(board) else None


def largest(
    board: Board, config: MachineConfig, limit: tuple[int, int] = (MAX_SIDE, MAX_SIDE)
) -> MachineConfig | None:
    """The machine with the most cells that fits a board, of neither too long nor too wide an array.

    Parameters
    ----------
    board : Board
        Of a measured family.
    config : MachineConfig
        All but rows and columns.
    limit : tuple of int
        Most rows and columns.

    Returns
    -------
    MachineConfig or None
        None if not even 1 x 1 fits.
    """
    target = board.device.family
    for candidate in _shapes(config, limit):
        if _may_fit(board.device, candidate, target) and not excesses(
            board.device, need(candidate, target), FILL
        ):
            return candidate
    return None


def _may_fit(device: Device, config: MachineConfig, target: str) -> bool:
    """Whether a closer look is worth its second: its memories are estimated, on the low side."""
    luts, blocks = estimated_memories(config, target)
    needed = logic(config, target, target_table(target)) + SLACK * luts
    return needed <= device.lut4 * FILL and SLACK * blocks <= device.block_rams


def estimated_memories(config: MachineConfig, target: str) -> tuple[float, float]:
    """Look-up tables and block RAMs of memories: the tile memory's words, and an estimate."""
    size, banks = tile_banks(config)
    found, grown = target_table(target)["memories"], features(config)
    luts = sum(known * grown[name] for name, known in found["luts"].items())
    blocks = sum(known * grown[name] for name, known in found["blocks"].items())
    return luts + memory_luts(target, {size: banks}), blocks + banks * block_rams(target, *size)


def _shapes(config: MachineConfig, limit: tuple[int, int]) -> Iterator[MachineConfig]:
    """Arrays with the most cells first, of these the squarest, of these that with more columns."""
    rows, columns = limit
    stretch = max(ASPECT, max(limit) / min(limit))
    shapes = [
        (r, c)
        for r in range(1, rows + 1)
        for c in range(1, columns + 1)
        if max(r, c) <= stretch * min(r, c) and config.max_terms >= min(r, c)
    ]
    shapes.sort(key=lambda shape: (-shape[0] * shape[1], abs(shape[0] - shape[1]), shape[0]))
    for r, c in shapes:
        yield replace(config, rows=r, columns=c)
