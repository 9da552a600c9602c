"""The look-up tables that nextpnr counts of a netlist, from the netlist alone.

Its ``--pack-only`` gives the same number of Gowin (LUT4), two more of ECP5 (TRELLIS_COMB: tables
that are constant) and, as it merges some tables, up to 1 % less of iCE40 (ICESTORM_LC).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: The primitive of LUT RAM by family, and how many look-up tables it takes: of its words, and those
#: whose place its address takes.
LUT_RAM: Final = {"ecp5": ("TRELLIS_DPR16X4", 4 + 2), "gowin": ("RAM16SDP4", 6 + 2)}
#: The number of :func:`placed_tables`, where it is kept with a netlist's primitives by type.
LOGIC_CELLS: Final = "LOGIC_CELLS"
#: Names of a family's carries: the type, and the pins of the carry.
_CARRIES: Final = {
    "ecp5": ("CCU2C", "CIN", "COUT"),
    "ice40": ("SB_CARRY", "CI", "CO"),
    "gowin": ("ALU", "CIN", "COUT"),
}
#: The reader of what leaves a chain that has it at hand: the table in the next cell of iCE40.
_NEXT: Final = (("SB_LUT4", "I3"),)
_TABLES: Final = {"ecp5": ("LUT4",), "gowin": ("LUT1", "LUT2", "LUT3", "LUT4")}


@dataclass(frozen=True, slots=True)
class Chain:
    """Carries in a row.

    Parameters
    ----------
    length : int
    taps : int
        Carries within it that are read outside too.
    first, last : str or int
        What enters it, a constant or a signal, and what leaves it.
    reads : tuple of (str, str)
        Types and pins that read what leaves it.
    """

    length: int
    taps: int
    first: str | int
    last: str | int
    reads: tuple[tuple[str, str], ...]


def placed_tables(family: str, module: Mapping[str, Any]) -> int:
    """Look-up tables of a netlist as its placer counts them.

    Parameters
    ----------
    family : {"ecp5", "ice40", "gowin"}
    module : mapping
        Of Yosys' JSON.
    """
    if family == "ice40":
        return logic_cells(module)
    kinds = Counter(cell["type"] for cell in module["cells"].values())
    memory, each = LUT_RAM[family]
    tables = sum(kinds[name] for name in _TABLES[family]) + each * kinds[memory]
    found = chains(family, module)
    if family == "ecp5":  # two per carry; one more to enter, to leave, and at every tap
        return tables + 2 * sum(chain.length + 2 + chain.taps for chain in found)
    # one more to enter, one to be read, and an even number
    return tables + sum(
        -(-(chain.length + 1 + chain.taps + bool(chain.reads)) // 2) * 2 for chain in found
    )


def chains(family: str, module: Mapping[str, Any]) -> list[Chain]:
    """The carry chains of a netlist."""
    kind, enter, leave = _CARRIES[family]
    carries = [cell["connections"] for cell in module["cells"].values() if cell["type"] == kind]
    following = {carry[enter][0]: carry for carry in carries}
    made = {carry[leave][0] for carry in carries if carry.get(leave)}
    reads = defaultdict(list)
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            if cell["port_directions"][port] == "input" and (cell["type"], port) != (kind, enter):
                for bit in bits:
                    reads[bit].append((cell["type"], port))
    found = []
    for carry in carries:
        if carry[enter][0] in made:
            continue
        first, length, taps = carry[enter][0], 1, 0
        while (left := carry.get(leave, ["x"])[0]) in following and left in made:
            taps += left in reads
            carry, length = following[left], length + 1
        found.append(Chain(length, taps, first, left, tuple(reads[left])))
    return found


def logic_cells(module: Mapping[str, Any]) -> int:
    """Logic cells of an iCE40 netlist as its placer packs them.

    A register shares a cell with the table that drives it and nothing else; a carry is in the cell
    of the table that takes the same operands, or in one of its own. A signal that enters a chain
    takes one, and one that leaves it, unless a single table's last pin is all that it goes to.
    """
    cells = list(module["cells"].values())
    readers = Counter(
        bit
        for cell in cells
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "input"
        for bit in bits
    )
    for port in module["ports"].values():
        readers.update(port["bits"])
    tables = [cell["connections"] for cell in cells if cell["type"] == "SB_LUT4"]
    driven = {table["O"][0] for table in tables}
    sums = {(table["I1"][0], table["I2"][0], table["I3"][0]) for table in tables}
    alone = 0
    for cell in cells:
        pins = cell["connections"]
        if cell["type"].startswith("SB_DFF"):
            source = pins["D"][0]
            alone += source not in driven or readers[source] > 1
        elif cell["type"] == "SB_CARRY":
            alone += (pins["I0"][0], pins["I1"][0], pins["CI"][0]) not in sums
    ends = [
        (not isinstance(c.first, str), c.reads not in ((), _NEXT)) for c in chains("ice40", module)
    ]
    return len(tables) + alone + sum(map(sum, ends))
