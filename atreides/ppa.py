"""``atreides ppa``: area, delay and power of a unit beside its rivals, by open tools."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from atreides.machine_files import FileMistake, check_writable, write_bytes, write_text
from atreides.ppa_layer import DESCRIPTION, real_layer
from atreides.ppa_measure import FOLDER, POWER_PERIOD, Flow, Row, compare
from atreides.ppa_work import POWERED, check_power
from hw.multiplier import AUTO
from hw.ppa import CORE, FPGAS, OSU018, UNITS, WIDTHS, subjects
from hw.synthesis import SynthesisError, check_standard_cells
from hw.tops import Options
from sim.machine_job import MachineFailed
from sim.runner import MissingSimulator, SimulationFailed

#: Units that are compared with others, and at which widths if none is given.
COMPARED: Final = ("mac", "multiplier")
#: Target of a library of which no unit knows a cell.
LIBERTY: Final = "liberty"
#: Bytes that a packed Liberty file may hold.
MOST_LIBERTY: Final = 256 << 20
#: Said where a power would stand.
NO_FPGA_POWER: Final = "not measured, for the open tools know no power of an FPGA"
_DEFAULTS: Final = Options()
_COLUMNS: Final = (
    *("lut", "ff", "dsp", "bram", "mhz", "um2", "ns", "memory_bits"),
    *("saved", "saved_hardfloat", "published"),
    *("mw", "power_saved", "power_published"),
    *("mac_per_s", "mac_per_s_lut", "mac_per_s_mw"),
)
_HEADINGS: Final = {
    "lut": "LUT",
    "ff": "FF",
    "dsp": "DSP",
    "bram": "BRAM",
    "mhz": "MHz (range)",
    "memory_bits": "memory bits",
    "saved": "saved",
    "saved_hardfloat": "(H)",
    "published": "publ.",
    "mw": "mW",
    "power_saved": "saved",
    "power_published": "publ.",
    "mac_per_s": "MMAC/s",
    "mac_per_s_lut": "MMAC/s\nper LUT",
    "mac_per_s_mw": "MMAC/s\nper mW",
}


def ppa(
    unit: Annotated[
        str, typer.Argument(metavar="UNIT", help="One of hw.build --list, cell, array or core.")
    ],
    bits: Annotated[
        str | None, typer.Option(metavar="N,N..", help="Widths; of mac and multiplier 16,8,4.")
    ] = None,
    target: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="ecp5, ice40, osu018, or a Liberty file.")
    ] = OSU018,
    place: Annotated[bool, typer.Option("--place", help="In an FPGA: MHz of 3 seeds.")] = False,
    power: Annotated[
        bool, typer.Option("--power", help="In standard cells: mW while a real layer is computed.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="All figures.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help=".svg or .png.")] = None,
    compared: Annotated[
        bool, typer.Option("--compare/--alone", help="Beside integers, IEEE 754, yosys' own.")
    ] = True,
    unity: Annotated[
        bool | None,
        typer.Option("--unity/--no-unity", help="All ones is 1: not where it is compared."),
    ] = None,
    multiplier: Annotated[str, typer.Option(metavar="NAME", help="As for hw.build.")] = AUTO,
    rows: Annotated[int, typer.Option(metavar="N", help="Of an array.")] = _DEFAULTS.rows,
    columns: Annotated[int, typer.Option(metavar="N", help="Of an array.")] = _DEFAULTS.columns,
    max_terms: Annotated[
        int, typer.Option(metavar="N", help="Longest dot product.")
    ] = _DEFAULTS.max_terms,
    slots: Annotated[int, typer.Option(metavar="N", help="Of the core.")] = _DEFAULTS.slots,
    parameters: Annotated[
        int, typer.Option(metavar="N", help="Of the core.")
    ] = _DEFAULTS.parameters,
    row_parameters: Annotated[
        int, typer.Option(metavar="N", help="Of the core.")
    ] = _DEFAULTS.row_parameters,
) -> None:
    """Measure a unit in an FPGA or in standard cells, beside its rivals: area, delay, power.

    `atreides ppa mac --power --plot build/mac.svg` shows what SF16, SF8 and SF4 save against
    binary32;

    `atreides ppa mac --bits 8 --target ecp5 --place` shows it in an FPGA, with MHz;

    `atreides ppa core --rows 2 --columns 2 --slots 512 --power` measures the whole machine.

    Standard cells are timed without wires: compare, do not quote as silicon. Results are kept in
    build/ppa: a run that was broken off goes on. Exit status 2 for a mistake of yours.
    """
    try:
        for path in (json_file, plot):
            check_writable(path)
        if plot is not None and plot.suffix not in (".png", ".svg"):
            raise ValueError(f"plot must end in .png or .svg, not {str(plot)!r}")
        flow = _flow(target, place, power)
        if power and not (unit in COMPARED and compared) and unit not in (*POWERED, CORE):
            raise ValueError(
                f"--power must come with {' or '.join(COMPARED)}, compared, or with "
                f"{', '.join(POWERED)}, not {unit!r}"
            )
        shared = {
            "unity": unity if unity is not None else not (unit in COMPARED and compared),
            "multiplier": multiplier,
            "target": "generic" if flow.target == LIBERTY else flow.target,
            "rows": rows,
            "columns": columns,
            "max_terms": max_terms,
            "slots": slots,
            "parameters": parameters,
            "row_parameters": row_parameters,
        }
        options = [Options(bits=width, **shared) for width in _widths(unit, bits)]
        if power and not (unit in COMPARED and compared):
            for each in options:
                check_power(unit, each)
        found = _measure(unit, options, compared, flow)
        title = f"{unit} on {target}"
        show(title, found, Console())
        if json_file is not None:
            content = {"unit": unit, "target": target, "rows": found}
            if flow.target in FPGAS:
                content["power"] = NO_FPGA_POWER
            write_text(json_file, json.dumps(content, indent=1) + "\n")
        if plot is not None:
            from atreides.ppa_plots import picture

            write_bytes(plot, picture(title, found, plot.suffix[1:]))
    except (FileMistake, SynthesisError, TypeError, ValueError, MissingSimulator) as error:
        raise typer.BadParameter(str(error)) from error
    except (MachineFailed, SimulationFailed) as error:
        print(f"atreides: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def show(title: str, rows: Sequence[Row], console: Console) -> None:
    """The table of units."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("unit", no_wrap=True)
    powered = any("mw" in row for row in rows)
    names = [
        name
        for name in _COLUMNS
        if any(name in row for row in rows) and not (powered and name == "mac_per_s")
    ]
    for name in names:
        table.add_column(_HEADINGS.get(name, name), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["unit"], *(_shown(name, row) for name in names))
    console.print(table)
    if any("saved" in row for row in rows):
        console.print(
            "saved: per cent of binary32, fused and rounded once; (H): of HardFloat's area; "
            "publ.: as published."
        )
    if "memory_bits" in names:
        console.print(
            "memory bits: of the memories, which are neither in the area nor in the power; paths "
            "end at their pins."
        )
    if any("lut" in row for row in rows):
        console.print(f"power: {NO_FPGA_POWER}.")
    if powered:
        zeros = real_layer(FOLDER).zeros
        console.print(
            f"mW: at {1000 / POWER_PERIOD:g} MHz without wires and clock tree, on {DESCRIPTION}; "
            f"{zeros:.0%} of its products are zero."
        )


def _flow(target: str, placed: bool, powered: bool) -> Flow:
    """The flow of a target's name or of a Liberty file, its tools seen to be there."""
    if target in FPGAS:
        if powered:
            raise ValueError(f"--power must come with standard cells, not {target!r}")
        return Flow(target, placed=placed)
    if placed:
        raise ValueError(f"--place must come with {' or '.join(FPGAS)}, not {target!r}")
    liberty = None if target == OSU018 else _library(target)
    check_standard_cells(liberty)
    return Flow(OSU018 if liberty is None else LIBERTY, liberty, powered=powered)


def _library(target: str) -> Path:
    """A Liberty file's path; one that is packed by gzip is unpacked into build/ppa first."""
    path = Path(target)
    if not path.name.endswith((".lib", ".lib.gz")) or not path.is_file():
        raise ValueError(
            f"target must be {', '.join(FPGAS)}, {OSU018} or a Liberty file .lib or .lib.gz, "
            f"not {target!r}"
        )
    if path.suffix != ".gz":
        return path
    try:
        with gzip.open(path) as packed:
            text = packed.read(MOST_LIBERTY + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} must be packed by gzip: {error}") from None
    if len(text) > MOST_LIBERTY:
        raise ValueError(f"{path} must hold at most {MOST_LIBERTY >> 20} MiB, it holds more")
    FOLDER.mkdir(parents=True, exist_ok=True)
    unpacked = FOLDER / path.stem
    write_bytes(unpacked, text)
    return unpacked


def _widths(unit: str, bits: str | None) -> list[int]:
    if bits is None:
        return list(WIDTHS) if unit in COMPARED else [_DEFAULTS.bits]
    parts = bits.split(",")
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"bits must be numbers as in 16,8,4, not {bits!r}")
    return list(dict.fromkeys(map(int, parts)))


def _measure(unit: str, options: Sequence[Options], compared: bool, flow: Flow) -> list[Row]:
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
    units = subjects(unit, options, compared)
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(units))
        for one in units:
            progress.update(task, description=one.name)
            rows.append(flow.measure(one))
            progress.advance(task)
    return compare(rows, flow.target)


def _shown(name: str, row: Row) -> str:
    value: Any = row.get(name)
    if value is None:
        return ""
    if name == "mhz":
        low, high = row["mhz_range"]
        return f"{value:g} ({low:g}-{high:g})"
    if name.startswith("mac_per_s"):
        return f"{value / 1e6:.3g}" if value < 1e9 else f"{value / 1e6:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
