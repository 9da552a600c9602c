"""The tools of open FPGA flows: found, run with a log, their failures as one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from hw.block_ram import merge_in_file
from hw.boards import Board
from hw.fit_placer import LOGIC_CELLS, placed_tables
from hw.memory_attributes import LARGE_PASSES, PASSES
from hw.synthesis import beside_python

#: The oldest nextpnr on the path that is preferred to the one beside Python.
OLDEST_NEXTPNR: Final = (0, 7)
#: Lines of a log that a failure shows.
_LINES: Final = 5
#: Passes of yosys by family; no DSP is inferred, those that units name stay.
SYNTHESIS: Final = {
    "ecp5": "synth_ecp5 -nodsp",
    "ice40": "synth_ice40",
    "gowin": "synth_gowin",
}
_RUN_PASSES: Final = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for command in sys.argv[1:]:
    libyosys.run_pass(command, design)
"""
#: Names in netlists of what a device has, and how many look-up tables each takes.
TABLES: Final = {
    "ecp5": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4},
    "ice40": {"SB_LUT4": 1},
    "gowin": {**{f"LUT{n}": 1 for n in range(1, 5)}, "ALU": 1, "RAM16SDP4": 6},
}
MEMORIES: Final = {
    "ecp5": ("DP16KD", "PDPW16KD"),
    "ice40": ("SB_RAM40_4K",),
    "gowin": ("SDPB", "DPB", "SP", "SDPX9B", "DPX9B", "SPX9", "pROM"),
}
MULTIPLIERS: Final = {
    "ecp5": ("MULT18X18D",),
    "ice40": ("SB_MAC16",),
    "gowin": ("MULT9X9", "MULT18X18"),
}


class FlowError(RuntimeError):
    """A tool is missing or failed, or a design does not fit; the message is one sentence."""


#: What nextpnr routes with: one net after the other, or all at once, faster in a full device.
ROUTERS: Final = ("router1", "router2")


@dataclass(frozen=True, slots=True)
class Excess:
    """A resource of which a design needs more than a device has.

    Parameters
    ----------
    resource : str
    needed, available : int
    """

    resource: str
    needed: int
    available: int

    def __str__(self) -> str:
        more = self.needed - self.available
        return f"{self.needed:,} {self.resource} of {self.available:,}, {more:,} too many"


class DoesNotFit(FlowError):
    """A design that a device cannot hold.

    Attributes
    ----------
    excesses : tuple of Excess
    """

    def __init__(self, board: Board, excesses: Sequence[Excess]) -> None:
        self.excesses = tuple(excesses)
        found = " and ".join(map(str, excesses))
        super().__init__(f"machine must fit {board.title} ({board.device.name}), not take {found}")


def run_tool(command: Sequence[str], folder: Path, log: Path) -> None:
    """Run a tool in a folder with all that it says in a log.

    Its temporary files go to the folder. Where an exception ends the wait, Ctrl-C for one, the tool
    and what it started are ended first.

    Raises
    ------
    FlowError
        If it is missing or fails: its last lines, and where the log is.
    """
    name = Path(command[0]).name
    try:
        with log.open("w", encoding="utf-8") as file:
            status = _wait(command, folder, file)
    except FileNotFoundError:
        raise FlowError(f"{name} must be installed") from None
    if status:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        said = " | ".join(lines[-_LINES:]) or "nothing"
        raise FlowError(f"{name} failed with status {status}, saying {said}; see {log}")


def _wait(command: Sequence[str], folder: Path, file: IO[str]) -> int:
    variables = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=file,
        env=variables,
        start_new_session=True,
    ) as tool:
        try:
            return tool.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(tool.pid, signal.SIGKILL)
            raise


def find_tool(name: str) -> str:
    """The native tool on the path if it is new enough, else the one of this Python's packages."""
    native = shutil.which(name)
    if native and (not name.startswith("nextpnr") or _version(native) >= OLDEST_NEXTPNR):
        return native
    return beside_python(name if name == "gowin_pack" else f"yowasp-{name}")


def _version(tool: str) -> tuple[int, ...]:
    """Of a nextpnr; (0,) if it does not say."""
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"nextpnr-(\d+)\.(\d+)", said.stdout + said.stderr)
    return tuple(map(int, found.groups())) if found else (0,)


def synthesise(board: Board, text: str, folder: Path, log: Path) -> dict[str, int]:
    """Turn RTLIL, whose top is ``top``, into ``netlist.json``.

    Returns
    -------
    dict of str to int
        Cells by type, and LOGIC_CELLS: the look-up tables that the placer will count.

    Raises
    ------
    FlowError
        If yosys fails.
    """
    folder.joinpath("top.il").write_text(text, encoding="utf-8")
    family, options = board.device.family, ""
    if board.device.name == "iCE40UP5K":
        options = "-device u -spram"
    if family == "gowin":
        options = f"-family {board.device.name[:4].lower()}"
    commands = [
        "read_rtlil top.il",
        *PASSES,
        *(LARGE_PASSES if board.device.sprams else ()),
        f"{SYNTHESIS[family]} {options} -top top -json netlist.json",
        "tee -q -o cells.json stat -json",
    ]
    run_tool([sys.executable, "-c", _RUN_PASSES, *commands], folder, log)
    cells = json.loads(folder.joinpath("cells.json").read_text())["design"]["num_cells_by_type"]
    found = {name: count for name, count in cells.items() if not name.startswith("$")}
    if family == "ecp5" and (merged := merge_in_file(folder / "netlist.json", "top")):
        found["TRELLIS_FF"] -= merged
    netlist = json.loads(folder.joinpath("netlist.json").read_text())["modules"]["top"]
    return {**found, LOGIC_CELLS: placed_tables(family, netlist)}


def check_fit(board: Board, cells: dict[str, int]) -> None:
    """Refuse what cannot be placed, before minutes are spent on it.

    Raises
    ------
    DoesNotFit
        If the cells need more of anything than the device has.
    """
    device, family = board.device, board.device.family
    tables = sum(cells.get(name, 0) * count for name, count in TABLES[family].items())
    tables = cells.get(LOGIC_CELLS, tables)
    memories = sum(cells.get(name, 0) for name in MEMORIES[family])
    multipliers = sum(cells.get(name, 0) for name in MULTIPLIERS[family])
    found = [
        Excess("look-up tables", tables, device.lut4),
        Excess("block RAMs", memories, device.block_rams),
        Excess("multipliers", multipliers, device.multipliers),
    ]
    excesses = [excess for excess in found if excess.needed > excess.available]
    if excesses:
        raise DoesNotFit(board, excesses)


def constraints(board: Board) -> str:
    """Where the top's ports lie, in the family's own language."""
    lines = []
    for port, pin in board.pins().items():
        attributes = [(k, v) for k, v in pin.attributes if k not in ("GLOBAL", "IO_STANDARD")]
        if board.device.family == "ecp5":
            lines.append(f'LOCATE COMP "{port}" SITE "{pin.location}";')
            texts = " ".join(f"{key}={value}" for key, value in attributes)
            lines.append(f'IOBUF PORT "{port}" {texts};')
        elif board.device.family == "ice40":
            pull = "-pullup yes " if ("PULLUP", "1") in attributes else ""
            lines.append(f"set_io {pull}{port} {pin.location}")
        else:
            lines.append(f'IO_LOC "{port}" {pin.location};')
            texts = " ".join(f"{key}={value}" for key, value in attributes)
            lines.append(f'IO_PORT "{port}" {texts};')
    return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Placement:
    """A placed and routed design.

    Parameters
    ----------
    megahertz : float
        The slowest clock's highest frequency.
    utilisation : dict of str to (int, int)
        Used and available, by what the placer calls it.
    """

    megahertz: float
    utilisation: dict[str, tuple[int, int]]


def place(
    board: Board, goal: float, seed: int, folder: Path, log: Path, router: str | None = None
) -> Placement:
    """Place and route ``netlist.json`` for a goal in MHz, which need not be reached.

    ``router``: one of :data:`ROUTERS`; nextpnr's own choice if omitted.

    Raises
    ------
    FlowError
        If nextpnr is missing, fails, or reports no clock.
    """
    device = board.device
    common = ["--json", "netlist.json", "--report", "report.json", "--timing-allow-fail"]
    common += ["--freq", f"{goal:g}", "--seed", str(seed)]
    common += [] if router is None else ["--router", router]
    if device.family == "ecp5":
        tool, pins = "nextpnr-ecp5", "pins.lpf"
        where = [*device.place, "--package", board.package, "--speed", board.speed]
        files = ["--lpf", pins, "--textcfg", "placed.config"]
    elif device.family == "ice40":
        tool, pins = "nextpnr-ice40", "pins.pcf"
        where = [*device.place, "--package", board.package]
        files = ["--pcf", pins, "--asc", "placed.asc"]
    else:
        tool, pins = "nextpnr-himbaechel-gowin", "pins.cst"
        where = ["--device", board.package, "--vopt", f"family={device.place[0]}"]
        files = ["--vopt", f"cst={pins}", "--write", "placed.json"]
    folder.joinpath(pins).write_text(constraints(board))
    folder.joinpath("report.json").unlink(missing_ok=True)
    run_tool([find_tool(tool), *where, *common, *files], folder, log)
    report = json.loads(folder.joinpath("report.json").read_text())
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    if not clocks:
        raise FlowError(f"{tool} must report a clock; see {log}")
    used = {n: (u["used"], u["available"]) for n, u in report["utilization"].items() if u["used"]}
    return Placement(round(min(clocks), 2), used)


def pack(board: Board, folder: Path, log: Path) -> Path:
    """The bitstream of what was placed in a folder.

    Raises
    ------
    FlowError
        If the packer is missing or fails.
    """
    made = f"packed.{board.extension}"
    folder.joinpath(made).unlink(missing_ok=True)
    if board.device.family == "ecp5":
        command = [find_tool("ecppack"), "--compress", "placed.config", made]
    elif board.device.family == "ice40":
        command = [find_tool("icepack"), "placed.asc", made]
    else:
        options = ["-d", board.device.place[0], *board.pack]
        command = [find_tool("gowin_pack"), *options, "-o", made, "placed.json"]
    run_tool(command, folder, log)
    return folder / made
