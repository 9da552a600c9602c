"""What placers count of netlists, and builds that the fit model has not learned from."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from amaranth.back import rtlil

from bench import fit_synthesis
from bench.fit_synthesis import component, synthesise
from hw import fit
from hw.board_tools import constraints, find_tool, run_tool
from hw.board_tools import synthesise as board_synthesise
from hw.boards import find_board
from hw.fit_placer import LOGIC_CELLS, logic_cells, placed_tables
from tests.test_fit import machine


def test_logic_cells_share_a_table_with_its_register_and_its_carry() -> None:
    def cell(kind: str, outputs: str = "O", **pins: object) -> dict[str, object]:
        directions = {p: "output" if p == outputs else "input" for p in pins}
        connections = {pin: [bit] for pin, bit in pins.items()}
        return {"type": kind, "connections": connections, "port_directions": directions}

    cells = {
        "packed": cell("SB_DFF", "Q", D=10, Q=11),
        "table": cell("SB_LUT4", I0="0", I1=2, I2=3, I3=4, O=10),
        "carry": cell("SB_CARRY", "CO", I0=2, I1=3, CI=4, CO=5),
        "alone": cell("SB_CARRY", "CO", I0=6, I1=7, CI=5, CO=8),
        "read twice": cell("SB_LUT4", I0=11, I1="0", I2="0", I3="0", O=12),
        "apart": cell("SB_DFFE", "Q", D=12, Q=13),
        "bare": cell("SB_DFF", "Q", D=13, Q=14),
    }
    module = {"cells": cells, "ports": {"o": {"bits": [12, 14]}}}
    assert logic_cells(module) == 2 + 3 + 1  # and a signal enters the chain


def carries(*names: str, kind: str) -> dict[str, dict[str, object]]:
    """Cells with a carry from each of some signals to the next."""
    directions = {"CIN": "input", "COUT": "output"}
    return {
        f"{left} to {right}": {
            "type": kind,
            "connections": {"CIN": [left], "COUT": [right]},
            "port_directions": directions,
        }
        for left, right in pairwise(names)
    }


def reader(signal: str) -> dict[str, object]:
    pins = {"I0": [signal], "F": ["o"]}
    return {"type": "LUT4", "connections": pins, "port_directions": {"I0": "input", "F": "output"}}


@pytest.mark.parametrize(
    ("family", "kind", "alone", "read", "tapped"),
    # two tables per carry, in pairs that begin and end a chain; with an even number of them
    [("ecp5", "CCU2C", 8, 8, 10), ("gowin", "ALU", 4, 4, 4)],
)
def test_the_ends_of_carry_chains_take_tables(
    family: str, kind: str, alone: int, read: int, tapped: int
) -> None:
    cells = carries("0", "a", "b", kind=kind)
    for lut, want in ((None, alone), ("b", read + 1), ("a", tapped + 1)):
        more = {} if lut is None else {"lut": reader(lut)}
        assert placed_tables(family, {"cells": {**cells, **more}, "ports": {}}) == want


@pytest.mark.slow
def test_cells_of_a_synthesised_array_are_as_the_table_has_them() -> None:
    config = machine(5, 2, 3)
    text = rtlil.convert(component("array", config, "ecp5"), name="unit", emit_src=False)
    found = fit.Need.of("ecp5", synthesise(text, "ecp5", "array"))
    told = fit.array_cost(config, "ecp5", fit.family_table("ecp5")["cells"])
    assert abs(told.luts / found.luts - 1) <= 0.1, (told, found)
    assert abs(told.registers / found.registers - 1) <= 0.1, (told, found)


#: What nextpnr calls look-up tables, and what it needs beside the netlist.
PLACERS = {
    "ecp5": ("nextpnr-ecp5", "TRELLIS_COMB", ["--85k", "--package", "CABGA381", "--lpf", "pins"]),
    "ice40": ("nextpnr-ice40", "ICESTORM_LC", ["--hx8k", "--package", "ct256", "--pcf", "pins"]),
    "gowin": (
        *("nextpnr-himbaechel-gowin", "LUT4"),
        ["--device", "GW2A-LV18PG256C8/I7", "--vopt", "family=GW2A-18C", "--vopt", "cst=pins"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", PLACERS)
def test_a_build_it_has_not_learned_from_is_told_within_10_per_cent(
    family: str, tmp_path: Path
) -> None:
    small = {"parameters": 4, "row_parameters": 4, "max_terms": 256, "counters": "none"}
    config = machine(5, 2, 2, 48, **small, wide=False)
    board = find_board(fit_synthesis.BOARD[family])
    text = rtlil.convert(component("whole", config, family), name="top", emit_src=False)
    cells = board_synthesise(board, text, tmp_path, tmp_path / "synthesis.log")
    tool, name, options = PLACERS[family]
    (tmp_path / "pins").write_text(constraints(board))
    command = [find_tool(tool), *options, "--json", "netlist.json", "--pack-only"]
    run_tool(command, tmp_path, tmp_path / "pack.log")
    counted = re.search(rf"\b{name}: +(\d+)/", (tmp_path / "pack.log").read_text())
    assert counted is not None
    packed = int(counted[1])
    assert cells[LOGIC_CELLS] == pytest.approx(packed, rel=0.01)
    found = fit.Need.of(family, {**cells, LOGIC_CELLS: packed})
    told = fit.need(config, family)
    print(f"told {told}, found {found}")
    for resource in ("luts", "registers", "block_rams", "dsps"):
        want = getattr(found, resource)
        exact = resource == "dsps" or (resource == "block_rams" and family != "ice40")
        assert abs(getattr(told, resource) - want) <= (0 if exact else 0.1 * want), (resource, told)
