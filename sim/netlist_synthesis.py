"""From Verilog to cells of ECP5 or iCE40, or to osu018 gates, with what was made kept.

What synthesis is given is told from what it makes of it: a change of a source that leaves the
emitted Verilog as it was costs no synthesis.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import inspect
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hw import block_ram
from hw.emit import emit
from hw.machine import make_machine
from hw.synthesis import DELAY_GOAL, LIBERTY, check_standard_cells, run_passes
from sim.machine_design import TOP, sources
from sim.machine_ports import Ports
from sim.runner import CACHE
from sw.config import MachineConfig

#: What the machine can be mapped to.
NETLISTS: Final = ("ecp5", "ice40", "osu018")
#: From Verilog to cells; no pass sees what the machine should compute.
PASSES: Final = {
    "ecp5": ("synth_ecp5 -nodsp -top {top}",),
    "ice40": ("synth_ice40 -top {top}",),
    "osu018": (
        "synth -flatten -top {top}",
        f"dfflibmap -liberty {LIBERTY}",
        f"abc -D {DELAY_GOAL} -liberty {LIBERTY}",
        "opt_clean",
    ),
}
#: Where netlists are kept.
FOLDER: Final = CACHE / "netlists"


@dataclass(frozen=True, slots=True)
class Mapped:
    """A netlist.

    Parameters
    ----------
    key : str
        Of what it was made from.
    verilog : str
        Nothing but cells.
    module : mapping
        The same as yosys' JSON has it: ``ports`` and ``cells``.
    """

    key: str
    verilog: str
    module: Mapping[str, Any]

    @property
    def kinds(self) -> Counter[str]:
        """How many cells there are of each kind."""
        return Counter(cell["type"] for cell in self.module["cells"].values())


def check_netlist(netlist: str) -> None:
    """See that the machine can be mapped to it.

    Raises
    ------
    ValueError
        If it is none of :data:`NETLISTS`.
    SynthesisError
        If its cell library is not installed.
    """
    if netlist not in NETLISTS:
        raise ValueError(f"netlist must be one of {', '.join(NETLISTS)}, not {netlist!r}")
    if netlist == "osu018":
        check_standard_cells()


def emitted(config: MachineConfig, netlist: str) -> tuple[str, Ports]:
    """The machine's Verilog for a target, and its ports, made unless they lie in the cache.

    Parameters
    ----------
    config : MachineConfig
        ``auto`` takes the multiplier that is best for the target.
    netlist : {"ecp5", "ice40", "osu018"}
    """
    key = emission_key(config, netlist)
    text, ports = FOLDER / f"{key}.source.v", FOLDER / f"{key}.ports.json"
    if not (text.exists() and ports.exists()):
        with timed(key, "emission"):
            component = make_machine(config, netlist)
            keep(ports, Ports.of(component).to_json().encode())
            keep(text, emit(component, TOP).encode())
    return text.read_text(encoding="utf-8"), Ports.from_json(ports.read_text(encoding="utf-8"))


def emission_key(config: MachineConfig, netlist: str) -> str:
    """What the machine's Verilog is kept under."""
    return _key(config, netlist, sources())


def mapped(text: str, netlist: str) -> Mapped:
    """The netlist of the machine's Verilog, made unless it lies in the cache.

    Raises
    ------
    SynthesisError
        If a tool fails, or leaves logic that is no cell.
    """
    library = LIBERTY.read_text(encoding="utf-8") if netlist == "osu018" else ""
    merging = inspect.getsource(block_ram) if netlist == "ecp5" else ""
    key = _key(text, PASSES[netlist], library, merging, importlib.metadata.version("pyosys"))
    verilog, cells = FOLDER / f"{key}.v", FOLDER / f"{key}.cells.json.gz"
    if not (verilog.exists() and cells.exists()):
        with timed(key, "synthesis"):
            made, module = _synthesised(text, netlist, TOP)
            kept = {name: module[name] for name in ("ports", "cells")}
            keep(cells, gzip.compress(json.dumps(kept).encode(), 3))
            keep(verilog, made.encode())
    module = json.loads(gzip.decompress(cells.read_bytes()))
    return Mapped(key, verilog.read_text(encoding="utf-8"), module)


def synthesise(text: str, netlist: str, top: str = TOP) -> str:
    """The netlist of Verilog: Verilog of nothing but cells.

    Raises
    ------
    SynthesisError
        If a tool fails, or leaves logic that is no cell.
    """
    return _synthesised(text, netlist, top)[0]


def cells_of(text: str, netlist: str, top: str) -> Mapping[str, Any]:
    """The netlist of Verilog as yosys' JSON has it: ``ports`` and ``cells`` of the top.

    Raises
    ------
    SynthesisError
        If a tool fails, or leaves logic that is no cell.
    """
    return _synthesised(text, netlist, top)[1]


def _synthesised(text: str, netlist: str, top: str) -> tuple[str, dict[str, Any]]:
    library = [f"read_liberty -lib -ignore_miss_func {LIBERTY}"] if netlist == "osu018" else []
    with tempfile.TemporaryDirectory(prefix="atreides-netlist-") as directory:
        source, result = Path(directory, "source.v"), Path(directory, "netlist.v")
        cells = Path(directory, "netlist.json")
        source.write_text(text, encoding="utf-8")
        run_passes(
            [
                *library,
                f"read_verilog {source}",
                *(line.format(top=top) for line in PASSES[netlist]),
                "delete t:$scopeinfo",
                "check -mapped -assert",
                f"write_verilog -noattr {result}",
                f"write_json {cells}",
            ]
        )
        found = json.loads(cells.read_text(encoding="utf-8"))
        module = found["modules"][top]
        if netlist == "ecp5" and block_ram.merge_output_registers(module):
            cells.write_text(json.dumps(found), encoding="utf-8")
            run_passes([f"read_json {cells}", f"write_verilog -noattr -selected {result}"])
        return result.read_text(encoding="utf-8"), module


@contextmanager
def timed(key: str, stage: str) -> Iterator[None]:
    """Note how long a stage took beside what it made, so that a later run can tell."""
    started = time.monotonic()
    yield
    noted = seconds(key) | {stage: round(time.monotonic() - started, 1)}
    keep(FOLDER / f"{key}.seconds.json", json.dumps(noted).encode())


def seconds(key: str) -> dict[str, float]:
    """How long the stages of something that is kept took."""
    path = FOLDER / f"{key}.seconds.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def keep(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
