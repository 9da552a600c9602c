"""Synthesis for the fit model: arrays alone, machines without them, machines as they are built."""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from amaranth.back import rtlil
from amaranth.lib import wiring

from bench.hardware_units import write_whole
from hw.array import SystolicArray
from hw.board_top import CheckedMachine
from hw.fit_memory import TEST_BYTES
from hw.multiplier import OPERATOR
from hw.synthesis import run_passes
from sw.config import MachineConfig
from sw.link import BUILD_BYTES, DEFAULT_LIMIT, FLAG, Greeting

#: Yosys' command per target, and what keeps multipliers out of DSP blocks.
COMMANDS: Final = {"ecp5": "synth_ecp5", "ice40": "synth_ice40"}
NO_DSP: Final = {"ecp5": " -nodsp", "ice40": ""}
DSPS: Final = {"ecp5": "", "ice40": " -dsp"}
#: What iCE40's placer counts, kept with the primitives under a name of its own.
LOGIC_CELLS: Final = "LOGIC_CELLS"
KINDS: Final = ("array", "array dsp", "rest", "whole")
_TOP: Final = "unit"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What synthesis found.

    Parameters
    ----------
    kind : {"array", "array dsp", "rest", "whole"}
        An array alone, maybe with DSP blocks; a board's machine without its array, and with it.
    config : MachineConfig
    cells : dict
        Primitives by type.
    """

    kind: str
    config: MachineConfig
    cells: dict[str, int]


class Store:
    """Synthesises what it has not synthesised before.

    Parameters
    ----------
    folder : Path
        One JSON file per synthesis, named by a hash of its source.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all."""
        write_whole(path, text)

    def measure(self, target: str, kind: str, config: MachineConfig) -> Measurement:
        """One measurement, made unless it is there; SynthesisError if a tool fails."""
        text = rtlil.convert(component(kind, config, target), name=_TOP, emit_src=False)
        digest = hashlib.sha256(f"{target} {kind}\n{text}".encode()).hexdigest()[:32]
        path = self.folder / f"{digest}.json"
        if path.exists():
            return Measurement(kind, config, json.loads(path.read_text())["cells"])
        cells = synthesise(text, target, kind)
        told = {"target": target, "kind": kind, "config": asdict(config), "cells": cells}
        write_whole(path, json.dumps(told) + "\n")
        return Measurement(kind, config, cells)


def component(kind: str, config: MachineConfig, target: str) -> wiring.Component:
    """What is synthesised."""
    if kind.startswith("array"):
        return SystolicArray(
            *(config.format, config.rows, config.columns, config.max_terms),
            *(config.multiplier, target),
        )
    if kind == "rest":
        config = replace(config, multiplier=OPERATOR)  # the array is left out
    # The line's speed, the build's name and the test's bytes change next to nothing.
    greeting = Greeting(config, 25_000_000, DEFAULT_LIMIT, "00" * BUILD_BYTES)
    noise = random.Random(1).choices([byte for byte in range(256) if byte != FLAG], k=TEST_BYTES)
    test = bytes([FLAG, *noise, FLAG])
    return CheckedMachine(greeting, 217, [test], [test], target=target)


def synthesise(text: str, target: str, kind: str) -> dict[str, int]:
    """Primitives by type."""
    command = COMMANDS[target] + (DSPS if kind == "array dsp" else NO_DSP)[target]
    left = re.findall(r"^module \\(\S+\.array)$", text, re.MULTILINE) if kind == "rest" else []
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        (folder / "source.il").write_text(text)
        run_passes(
            [
                f"read_rtlil {folder}/source.il",
                f"hierarchy -top {_TOP}",
                *(f"blackbox {module}" for module in left),
                f"{command} -top {_TOP} -json {folder}/netlist.json",
            ]
        )
        module = json.loads((folder / "netlist.json").read_text())["modules"][_TOP]
    types = [cell["type"] for cell in module["cells"].values()]
    found = Counter(name for name in types if re.fullmatch(r"[A-Z0-9_]+", name))
    if target == "ice40":
        found[LOGIC_CELLS] = logic_cells(module)
    return dict(sorted(found.items()))


def logic_cells(module: Mapping[str, Any]) -> int:
    """Logic cells of an iCE40 netlist as its placer packs them.

    A register shares a cell with the table that drives it and nothing else; a carry is in the cell
    of the table that takes the same operands, or in one of its own.
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
    return len(tables) + alone
