"""Netlists of the machine and of units in the form that simulators are quick with."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from amaranth.back import verilog
from amaranth.lib import wiring

from hw.synthesis import LIBERTY, run_passes
from sim.gates import UNSET, cell_models
from sim.lanes import HARNESS, Lanes
from sim.machine_design import TOP, Design
from sim.netlist import from_json
from sim.netlist_cells import INSTANCES, Tables, plain_verilog
from sim.netlist_synthesis import cells_of, check_netlist, emitted, mapped
from sw.config import MachineConfig


def plain_design(config: MachineConfig, netlist: str) -> Design:
    """The machine's netlist as expressions and registers, block RAM as instances of its model.

    Parameters
    ----------
    config : MachineConfig
        ``auto`` takes the multiplier that is best for the target.
    netlist : {"ecp5", "ice40", "osu018"}

    Raises
    ------
    ValueError
        For another netlist.
    SynthesisError
        If a tool or a library is missing or fails, or a cell has no meaning here.
    """
    check_netlist(netlist)
    text, ports = emitted(config, netlist)
    return Design(_plain(mapped(text, netlist).module, TOP, netlist), ports, quick=True)


def plain_units(components: Sequence[wiring.Component], netlist: str) -> str:
    """As ``sim.gates.unit_netlist``, but expressions and registers in place of cells.

    Icarus takes a hundredth of the time for them: wide ports that thousands of cells take single
    bits of are split once.

    Raises
    ------
    ValueError, SynthesisError
        As :func:`plain_design`.
    """
    check_netlist(netlist)
    text = verilog.convert(Lanes(components), name=HARNESS, emit_src=False)
    return _plain(cells_of(text, netlist, HARNESS), HARNESS, netlist)


def _plain(module: Mapping[str, Any], top: str, netlist: str) -> str:
    gates = gate_tables() if netlist == "osu018" else {}
    plain = plain_verilog(module, top, gates, unset=netlist in UNSET)
    kinds = {cell["type"] for cell in module["cells"].values()}
    return plain + cell_models(netlist, " ".join(sorted(kinds & set(INSTANCES))))


@cache
def gate_tables() -> Tables:
    """Truth tables of osu018's gates, from what the Liberty file says that they compute."""
    with tempfile.TemporaryDirectory(prefix="atreides-cells-") as directory:
        result = Path(directory, "cells.json")
        run_passes([f"read_liberty -ignore_miss_func {LIBERTY}", f"write_json {result}"])
        modules = json.loads(result.read_text(encoding="utf-8"))["modules"]
    found: dict[str, dict[str, tuple[tuple[str, ...], int]]] = {}
    for name, module in modules.items():
        try:
            gate = from_json(module)
        except ValueError:  # a register, a latch or a driver of a bus: no function of its inputs
            continue
        if gate.registers:
            continue
        inputs = tuple(gate.inputs)
        rows = list(product((0, 1), repeat=len(inputs)))  # the last one changes fastest
        columns = {pin: [row[-1 - n] for row in rows] for n, pin in enumerate(inputs)}
        found[name] = {
            pin: (inputs, sum(bit << row for row, bit in enumerate(bits)))
            for pin, bits in gate.evaluate(columns).items()
        }
    return found
