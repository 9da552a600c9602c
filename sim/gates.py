"""Units and the machine as netlists: cells of ECP5 or iCE40, or osu018 gates, not RTL.

The netlist is simulated cell by cell, so that synthesis is on trial together with the RTL. The
cells' behaviour is yosys' own library's, for osu018 the Liberty file's; ECP5's block RAM, of which
yosys has only the ports, is ``cells/ecp5_block_ram.v``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.lib import wiring

from hw.core import Atreides
from hw.emit import emit
from hw.synthesis import DELAY_GOAL, LIBERTY, check_standard_cells, run_passes
from sim.lanes import HARNESS, Lanes
from sim.machine_design import TOP, Design, sources
from sim.machine_ports import Ports
from sim.runner import CACHE
from sw.config import MachineConfig

#: What the machine can be mapped to.
NETLISTS: Final = ("ecp5", "ice40", "osu018")
#: Those whose registers and memories hold anything at power-up: no bitstream sets them.
UNSET: Final = ("osu018",)
_BLOCK_RAM: Final = Path(__file__).with_name("cells") / "ecp5_block_ram.v"
#: Yosys' models of cells, in its share directory.
_MODELS: Final = {"ecp5": "lattice/cells_sim_ecp5.v", "ice40": "ice40/cells_sim.v"}
#: Yosys' models of iCE40 give inputs a default, in a way that no other tool reads; registers of
#: both families start as the bitstream says.
_DEFINES: Final = """`define SB_DFF_INIT initial Q = 0;
`define SB_DFF_INIT_1 initial Q = 1;
`define ICE40_DEFAULT_ASSIGNMENT_V(v)
`define ICE40_DEFAULT_ASSIGNMENT_0
`define ICE40_DEFAULT_ASSIGNMENT_1
"""
_MODULE: Final = re.compile(
    r"^(?P<attributes>\(\*[^*]*\*\)\s*)?"
    r"(?P<text>module\s+(?P<name>\w+)\s*[(;#].*?\bendmodule\b)",
    re.MULTILINE | re.DOTALL,
)
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
#: The flip-flop of osu018 with something in it at power-up, a different bit in each.
_FLIP_FLOP: Final = """
module DFFPOSX1(input D, input CLK, output reg Q);
  initial Q = $random;
  always @(posedge CLK) Q <= D;
endmodule
"""


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


def netlist_design(config: MachineConfig, netlist: str) -> Design:
    """The machine's netlist with its cells' behaviour, made unless it lies in the cache.

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
        If a tool or a library is missing or fails.
    """
    check_netlist(netlist)
    folder, key = CACHE / "netlists", _key(config, netlist)
    text, ports = folder / f"{key}.v", folder / f"{key}.json"
    if not (text.exists() and ports.exists()):
        component = Atreides(config, netlist)
        found = Ports.of(component).to_json()
        cells = synthesise(emit(component, TOP), netlist)
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in ((text, cells + cell_models(netlist, cells)), (ports, found)):
            scratch = path.with_name(f".{path.name}.{os.getpid()}")
            scratch.write_text(content, encoding="utf-8")
            os.replace(scratch, path)
    return Design(text.read_text(encoding="utf-8"), Ports.from_json(ports.read_text()))


def unit_netlist(components: Sequence[wiring.Component], netlist: str) -> str:
    """Components side by side as one netlist with its cells' behaviour.

    Parameters
    ----------
    components : sequence of Component
    netlist : {"ecp5", "ice40", "osu018"}

    Returns
    -------
    str
        Verilog for ``sim.runner.compare``, with a plan that has the layouts of ``Lanes``.
    """
    check_netlist(netlist)
    text = verilog.convert(Lanes(components), name=HARNESS, emit_src=False)
    cells = synthesise(text, netlist, HARNESS)
    return cells + cell_models(netlist, cells)


def synthesise(text: str, netlist: str, top: str = TOP) -> str:
    """The netlist of Verilog: Verilog of nothing but cells.

    Raises
    ------
    SynthesisError
        If a tool fails, or leaves logic that is no cell.
    """
    library = [f"read_liberty -lib -ignore_miss_func {LIBERTY}"] if netlist == "osu018" else []
    with tempfile.TemporaryDirectory(prefix="atreides-netlist-") as directory:
        source, result = Path(directory, "source.v"), Path(directory, "netlist.v")
        source.write_text(text, encoding="utf-8")
        run_passes(
            [
                *library,
                f"read_verilog {source}",
                *(line.format(top=top) for line in PASSES[netlist]),
                "delete t:$scopeinfo",
                "check -mapped -assert",
                f"write_verilog -noattr {result}",
            ]
        )
        return result.read_text(encoding="utf-8")


def cell_models(netlist: str, cells: str) -> str:
    """Verilog of the cells that a netlist has.

    Parameters
    ----------
    netlist : {"ecp5", "ice40", "osu018"}
    cells : str
        Its Verilog.
    """
    if netlist == "osu018":
        own, text = _FLIP_FLOP, _liberty_models()
    else:
        own = _BLOCK_RAM.read_text(encoding="utf-8") if netlist == "ecp5" else ""
        text = _inlined(share() / _MODELS[netlist])
    models = _modules(text) | _modules(own)
    found: set[str] = set()
    pending = [cells]
    while pending:  # a model may be made of other cells
        new = (set(re.findall(r"\w+", pending.pop())) & models.keys()) - found
        found |= new
        pending += [models[name] for name in new]
    return "\n".join([_DEFINES, *(models[name] for name in sorted(found)), ""])


def share() -> Path:
    """Where yosys keeps its models of cells."""
    found = find_spec("pyosys")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "share"


def _modules(text: str) -> dict[str, str]:
    """The modules of Verilog by name, without their delays; of two, the first.

    One that is only ports is left out, so that a simulator misses it rather than leaves it undone.
    """
    found: dict[str, str] = {}
    for module in _MODULE.finditer(text):
        if "blackbox" not in (module["attributes"] or ""):
            body = re.sub(r"\bspecify\b.*?\bendspecify\b", "", module["text"], flags=re.DOTALL)
            # the wire it is set from has no value yet when a simulator starts
            body = body.replace("initial Q = srval;", 'initial Q = REGSET == "SET";')
            found.setdefault(module["name"], body)
    return found


def _liberty_models() -> str:
    """What the Liberty file says that each cell computes."""
    with tempfile.TemporaryDirectory(prefix="atreides-cells-") as directory:
        result = Path(directory, "cells.v")
        run_passes(
            [
                f"read_liberty -ignore_miss_func {LIBERTY}",
                f"write_verilog -noattr {result}",
            ]
        )
        return result.read_text(encoding="utf-8")


def _inlined(path: Path) -> str:
    """A file with those it includes."""
    return re.sub(
        r'^\s*`include "([^"]+)"',
        lambda found: _inlined(path.parent / found[1]),
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )


def _key(config: MachineConfig, netlist: str) -> str:
    own = [_BLOCK_RAM.read_text(), _FLIP_FLOP, json.dumps(PASSES)]
    own += [LIBERTY.read_text()] if netlist == "osu018" else []
    return hashlib.sha256(repr((config, netlist, sources(), own)).encode()).hexdigest()[:24]
