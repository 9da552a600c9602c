"""What a machine takes in an FPGA, told before it is built.

Look-up tables and registers are a measured cost per cell times the cells, a measured cost of each
kind of operation times what the rest of the machine has of it, and the memories that become look-up
tables. Operations and memories are counted in the design itself (``hw.fit_census``), and memories
become block RAM where Yosys' cost of it is less. ``python -m bench.fit`` measures the coefficients
and tries them on machines that they were not learned from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from hw.board_tools import MEMORIES, MULTIPLIERS, TABLES
from hw.boards import Board, target_of
from hw.fit_census import Census, census
from hw.fit_memory import (
    LUT_RAM_REGISTERS,
    blocks,
    kept_bits,
    memory_luts,
    memory_registers,
    multipliers,
    port_bits,
    product_bits,
)
from hw.fit_placer import LOGIC_CELLS, LUT_RAM
from hw.multiplier import AUTO, DSP
from hw.packed_multiplier import packing
from sw.config import MachineConfig
from sw.format import MAX_TERMS, SFx

TABLE_PATH: Final = Path(__file__).with_name("fit_table.json")
#: The resources of a need, as they are called in sentences.
RESOURCES: Final = {
    "luts": "look-up tables",
    "registers": "registers",
    "block_rams": "block RAMs",
    "dsps": "multipliers",
}
#: How registers are named in netlists.
_REGISTERS: Final = {"ecp5": "TRELLIS_FF", "ice40": "SB_DFF", "gowin": "DFF"}
#: The name of cells whose words have no unity, in the table.
NO_UNITY: Final = "no unity"
#: Share of a figure that the model may be off where a family's table says nothing.
ERROR: Final = 0.1


@dataclass(frozen=True, slots=True)
class Need:
    """What a machine takes.

    Parameters
    ----------
    luts : int
        Look-up tables as nextpnr counts them when it has packed: on ECP5 with the ends of carry
        chains and what addresses LUT RAM (TRELLIS_COMB), on iCE40 logic cells, on Gowin with the
        ends of carry chains, and eight per LUT RAM (LUT4).
    block_rams, dsps, registers : int
    """

    luts: int
    block_rams: int
    dsps: int = 0
    registers: int = 0

    @classmethod
    def of(cls, family: str, cells: Mapping[str, int]) -> Need:
        """What a netlist takes, from its primitives by type."""
        luts = sum(cells.get(name, 0) * count for name, count in TABLES[family].items())
        return cls(
            luts=cells.get(LOGIC_CELLS, luts),
            block_rams=sum(cells.get(name, 0) for name in MEMORIES[family]),
            dsps=sum(cells.get(name, 0) for name in MULTIPLIERS[family]),
            registers=sum(n for name, n in cells.items() if name.startswith(_REGISTERS[family]))
            + sum(LUT_RAM_REGISTERS[f] * cells.get(LUT_RAM[f][0], 0) for f in LUT_RAM_REGISTERS),
        )


@dataclass(frozen=True, slots=True)
class CellCost:
    """What a cell of the array takes without its part of the bus.

    Parameters
    ----------
    luts, registers, dsps : float
    """

    luts: float
    registers: float
    dsps: float = 0.0

    def __add__(self, other: CellCost) -> CellCost:
        return CellCost(
            self.luts + other.luts, self.registers + other.registers, self.dsps + other.dsps
        )

    def __mul__(self, number: float) -> CellCost:
        return CellCost(number * self.luts, number * self.registers, number * self.dsps)


def need(config: MachineConfig, family: str, sprams: int = 0) -> Need:
    """What a board's machine takes: its line and self-test included.

    Parameters
    ----------
    config : MachineConfig
    family : {"ecp5", "ice40", "gowin"}
    sprams : int
        As in ``hw.fit_memory.blocks``.

    Raises
    ------
    ValueError
        For a family that was not measured.
    """
    table, found = family_table(family), census(config, target_of(family))
    array = array_cost(config, family, table["cells"])
    block_rams, dsps = rest_blocks(found, family, sprams)
    return Need(
        luts=round(array.luts + rest_luts(found, family, table["rest"])),
        block_rams=block_rams,
        dsps=round(array.dsps) + dsps,
        registers=round(array.registers + rest_registers(found, family, table["registers"])),
    )


def rest_blocks(found: Census, family: str, sprams: int = 0) -> tuple[int, int]:
    """Block RAMs and multiplier blocks of all but the array: named by units, or Yosys' choice."""
    memories, products = (
        sum(found.instances[name] for name in names[family]) for names in (MEMORIES, MULTIPLIERS)
    )
    return memories + blocks(family, found, sprams), products + multipliers(family, found)


def rest_luts(found: Census, family: str, known: Mapping[str, float]) -> float:
    """Look-up tables of all but the array: a cost per operation, and those of memories."""
    logic = sum(known.get(name, 0.0) * bits for name, bits in operations(found, family).items())
    return logic + memory_luts(family, found)


def operations(found: Census, family: str) -> dict[str, float]:
    """What look-up tables and registers grow with, by name."""
    return {
        **found.operations,
        "add": float(found.operations["add"] + product_bits(family, found)),
        "registers": float(found.registers),
        "ports": float(port_bits(family, found)),
        "kept": float(kept_bits(family, found)),
    }


def rest_registers(found: Census, family: str, known: Mapping[str, float]) -> float:
    """Registers of all but the array: of those that are written down, some are not needed."""
    grown = operations(found, family)
    return sum(share * grown[name] for name, share in known.items()) + memory_registers(
        family, found
    )


def array_cost(
    config: MachineConfig, family: str, cells: Mapping[str, Mapping[str, list[float]]]
) -> CellCost:
    """What an array takes: its cells, and the buses that join them."""
    number = config.rows * config.columns
    total = cell_cost(config, cells) * number + bus_cost(config)
    if config.control == "serial" and family == "ice40":
        # Sums are cleared apart from the first product: no table that masks each of their bits.
        total = total + CellCost(-number * config.accumulator_bits, 0)
    if config.multiplier != DSP or family not in ("ecp5", "ice40"):
        return total
    group = packing(config.format.fraction_bits, family)
    blocks = -(-config.rows // group.rows) * -(-config.columns // group.columns)
    return CellCost(total.luts, total.registers, blocks)


def bus_cost(config: MachineConfig) -> CellCost:
    """Of all columns' buses: tables that join the rows, and the registers at the foot."""
    bits = config.columns * config.accumulator_bits
    return CellCost(bits * bus_luts(config.rows), bits * (1 + 2 * (config.rows > _BUS_ROWS)))


#: Rows above which a bus has two parts with a register each.
_BUS_ROWS: Final = 16


def bus_luts(rows: int) -> int:
    """Tables per bit of a column's bus: an AND of two bits per row, and an OR over the rows."""
    count = -(-rows // 2)  # two rows per table of four inputs
    total = count
    while count > 1:
        count = -(-count // 4)
        total += count
    return total


def cell_cost(config: MachineConfig, cells: Mapping[str, Mapping[str, list[float]]]) -> CellCost:
    """Of a cell; an accumulator's further bit takes a table of its own, and a register."""
    found = _interpolated(cells[AUTO], config.bits)
    kinds = [config.multiplier if config.multiplier in cells else AUTO]
    kinds += [] if config.unity else [NO_UNITY]
    for kind in kinds:
        if kind in cells and kind != AUTO:
            found = found + _difference(cells, kind, config.bits)
    usual = SFx(config.bits, config.unity).accumulator_bits(MAX_TERMS)
    more = config.accumulator_bits - usual
    return found + CellCost(more, more)


def _difference(cells: Mapping[str, Mapping[str, list[float]]], kind: str, bits: int) -> CellCost:
    """Of a kind of cell from the usual one; between measured widths, a straight line."""
    usual = cells[AUTO]
    return _interpolated(
        {
            width: [a - b for a, b in zip(costs, usual[width], strict=True)]
            for width, costs in cells[kind].items()
        },
        bits,
    )


def _interpolated(known: Mapping[str, list[float]], bits: int) -> CellCost:
    """A cost by width, on a straight line between those known; beyond them that of the nearest."""
    widths = sorted(map(int, known))
    below = max((b for b in widths if b <= bits), default=widths[0])
    above = min((b for b in widths if b >= bits), default=widths[-1])
    share = (bits - below) / (above - below) if above > below else 0.0
    low, high = CellCost(*known[str(below)]), CellCost(*known[str(above)])
    return low * (1 - share) + high * share


@cache
def _tables() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE_PATH.read_text(encoding="utf-8"))
    return found


def use(table: dict[str, Any]) -> None:
    """Let a table that is not written yet be the one that is asked."""
    _tables().clear()
    _tables().update(table)


def family_table(family: str) -> dict[str, Any]:
    """The coefficients of a family; ValueError if it was not measured."""
    if family not in _tables():
        raise ValueError(f"family must be one of {', '.join(_tables())}, not {family!r}")
    return _tables()[family]  # type: ignore[no-any-return]


def is_known(board: Board) -> bool:
    """Whether the model was measured for a board's device."""
    return board.device.family in _tables()


def error(family: str, resource: str) -> float:
    """The largest error of a resource on machines that the model has not learned from, as a share.

    Parameters
    ----------
    family : str
    resource : {"luts", "registers", "block_rams", "dsps"}
    """
    found: float = family_table(family).get("errors", {}).get(resource, ERROR)
    return found
