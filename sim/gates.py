"""Units and the machine as netlists: cells of ECP5 or iCE40, or osu018 gates, not RTL.

The netlist is simulated cell by cell, so that synthesis is on trial together with the RTL. The
cells' behaviour is yosys' own library's, for osu018 the Liberty file's; ECP5's block RAM, of which
yosys has only the ports, is ``cells/ecp5_block_ram.v``.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.lib import wiring

from hw.synthesis import LIBERTY, run_passes
from sim.lanes import HARNESS, Lanes
from sim.machine_design import Design
from sim.netlist_synthesis import NETLISTS as NETLISTS
from sim.netlist_synthesis import check_netlist, emitted, mapped, synthesise
from sw.config import MachineConfig

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
#: The flip-flop of osu018 with something in it at power-up, a different bit in each.
_FLIP_FLOP: Final = """
module DFFPOSX1(input D, input CLK, output reg Q);
  initial Q = $random;
  always @(posedge CLK) Q <= D;
endmodule
"""


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
    text, ports = emitted(config, netlist)
    cells = mapped(text, netlist).verilog
    return Design(cells + cell_models(netlist, cells), ports)


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
