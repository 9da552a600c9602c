"""ECP5's block RAM has registers of its own behind its outputs; yosys leaves them out.

They are late by a tenth of what the memory is late by (nextpnr's figures for the slowest grade: 0.6
and 5.8 ns), and take no register of the fabric.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

#: Widest port that has all of its outputs, and their register, on its own side.
_WIDEST: Final = 18
_BLOCK_RAM, _REGISTER = "DP16KD", "TRELLIS_FF"


def merge_output_registers(module: dict[str, Any]) -> int:
    """Move registers that do nothing but follow a block RAM's outputs into it.

    All outputs of a port that anything reads must end in such registers, and those in nothing else:
    on the port's clock, loaded in every cycle, never set nor cleared, 0 at power-up.

    Parameters
    ----------
    module : dict
        An ECP5 netlist as yosys' JSON has it, changed in place.

    Returns
    -------
    int
        Registers that are gone.
    """
    cells = module["cells"]
    readers: dict[int | str, list[str]] = defaultdict(list)
    for name, cell in cells.items():
        for pin, bits in cell["connections"].items():
            if cell["port_directions"][pin] != "output":
                for bit in bits:
                    readers[bit].append(name)
    for port in module["ports"].values():
        for bit in port["bits"]:
            readers[bit].append("")
    merged = 0
    for cell in [cell for cell in cells.values() if cell["type"] == _BLOCK_RAM]:
        for port in "AB":
            followers = _followers(cell, port, cells, readers)
            for pin, name in followers.items():
                cell["connections"][pin] = cells.pop(name)["connections"]["Q"]
            if followers:
                cell["parameters"][f"REGMODE_{port}"] = "OUTREG"
            merged += len(followers)
    return merged


def merge_in_file(path: Path, top: str) -> int:
    """As :func:`merge_output_registers`, in a file of yosys' JSON that has the netlist as ``top``.

    The file is written anew only if that changes anything.
    """
    netlist = json.loads(path.read_text(encoding="utf-8"))
    if merged := merge_output_registers(netlist["modules"][top]):
        path.write_text(json.dumps(netlist), encoding="utf-8")
    return merged


def _followers(
    cell: dict[str, Any],
    port: str,
    cells: dict[str, Any],
    readers: dict[int | str, list[str]],
) -> dict[str, str]:
    """The register behind each output of a port; none unless behind all that are read."""
    pins, parameters = cell["connections"], cell["parameters"]
    # A port of 36 bits has half of its outputs on the other side.
    widths = [int(parameters[f"DATA_WIDTH_{side}"], 2) for side in "AB"]
    free = pins[f"RST{port}"] == ["0"] and pins[f"OCE{port}"] == ["1"]
    if max(widths) > _WIDEST or parameters[f"REGMODE_{port}"] != "NOREG" or not free:
        return {}
    found = {}
    for number in range(_WIDEST):
        pin = f"DO{port}{number}"
        if not pins.get(pin) or not readers[pins[pin][0]]:
            continue
        names = readers[pins[pin][0]]
        if len(names) != 1 or not _follows(cells.get(names[0]), pins[f"CLK{port}"]):
            return {}
        found[pin] = names[0]
    return found


def _follows(cell: dict[str, Any] | None, clock: list[int | str]) -> bool:
    """Whether a cell is a register that shows in every cycle what was at its input before."""
    if cell is None or cell["type"] != _REGISTER:
        return False
    pins, parameters = cell["connections"], cell["parameters"]
    return (
        pins["CLK"] == clock
        and parameters["CLKMUX"] == "CLK"
        and parameters["REGSET"] == "RESET"
        and (parameters["CEMUX"].strip() == "1" or pins.get("CE") == ["1"])
        and pins.get("LSR", ["0"]) == ["0"]
        and "M" not in pins
    )
