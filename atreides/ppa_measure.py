"""Area, delay and frequency of units in one flow each, every result kept so that a run resumes."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from atreides.machine_files import write_text
from atreides.ppa_work import work
from hw.gate_netlist import gate_netlist
from hw.power import Power, power
from hw.ppa import FPGAS, HARDFLOAT, PUBLISHED, REFERENCE, Rival, has_clock, saved
from hw.ppa_place import place
from hw.synthesis import (
    DELAY_GOAL,
    Source,
    ecp5_slots,
    ice40_slots,
    memory_bits,
    standard_cells,
)
from sim.activity import record

SEEDS: Final = (1, 2, 3)
#: Nanoseconds of a cycle in which power is measured: longer than the path of any unit compared.
POWER_PERIOD: Final = 40.0
#: As many of those are a cycle of the simulation where memories, which take no time, join one path
#: to another: toggles per cycle are the same once all has settled.
_MEMORY_PERIODS: Final = 5
#: Kinds of the comparison whose saving is published.
FAMILY: Final = "superfloat"
#: Primitives by what they are: look-up tables of memory and how many each takes, and blocks.
TABLES: Final[Mapping[str, Mapping[str, int]]] = {
    "ecp5": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4},
    "ice40": {"SB_LUT4": 1},
}
DSPS: Final = ("MULT18X18D", "MULT9X9D", "ALU54B", "SB_MAC16")
MEMORIES: Final = ("DP16KD", "PDPW16KD", "SB_RAM40_4K", "SB_SPRAM256KA")
#: Where results are kept.
FOLDER: Final = Path("build/ppa")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Flow:
    """How units are measured.

    Parameters
    ----------
    target : {"ecp5", "ice40", "osu018", "liberty"}
    liberty : Path, optional
        The library, if it is not osu018.
    placed : bool
        In an FPGA: place and route.
    powered : bool
        In standard cells: power from the toggles of all nets while a real layer is computed.
    seeds : tuple of int
        Of placement.
    folder : Path
        Where results are kept, one file each; a changed unit is measured anew.
    """

    target: str
    liberty: Path | None = None
    placed: bool = False
    powered: bool = False
    seeds: tuple[int, ...] = SEEDS
    folder: Path = FOLDER

    def measure(self, rival: Rival) -> Row:
        """A unit's row.

        Raises
        ------
        SynthesisError
            If a tool is missing or fails, or a unit fits no device.
        """
        row: Row = {"unit": rival.name, "kind": rival.kind, "bits": rival.bits}
        source = rival.source()
        if self.target in FPGAS:
            return row | self._in_fpga(rival, source)
        return row | self._in_gates(rival, source)

    def _in_gates(self, rival: Rival, source: Source) -> Row:
        def run() -> Row:
            return asdict(standard_cells(source, rival.options, has_clock(source), self.liberty))

        library = ""
        if self.liberty is not None:
            library = hashlib.sha256(self.liberty.read_bytes()).hexdigest()
        kind = f"cells {DELAY_GOAL} {rival.options} {library}"
        kind += " to the memories' pins" * bool(memory_bits(source))
        kind += " not from rst" * has_clock(source, "rst")
        found = self._kept(kind, source, run)
        row: Row = {"um2": found["area"], "ns": found["delay"]}
        if found["memory_bits"]:
            row["memory_bits"] = found["memory_bits"]
        if rival.macs:
            row["mac_per_s"] = rival.macs * 1e9 / found["delay"]
        if self.powered:
            row |= self._power(rival, source, library)
        return row

    def _power(self, rival: Rival, source: Source, library: str) -> Row:
        """Milliwatts at one frequency for all units, each of which then does the same work."""
        given = work(rival, self.folder)
        settled = POWER_PERIOD * (_MEMORY_PERIODS if memory_bits(source) else 1)

        def run() -> Row:
            netlist = gate_netlist(source, rival.options, self.liberty)
            activity = record(netlist, given.inputs, clock=settled, skip=given.skip)
            given.check(activity)
            used = power(netlist, activity, POWER_PERIOD)
            return {**asdict(used), "mw": used.total, "toggles": activity.total(netlist)}

        stimulus = hashlib.sha256(json.dumps(given.inputs).encode()).hexdigest()
        kind = f"power {DELAY_GOAL} {rival.options} {library} {POWER_PERIOD} {stimulus}"
        kind += f" {given.skip}" * bool(given.skip)
        kind += f" settled in {settled}" * (settled != POWER_PERIOD)
        found = self._kept(kind, source, run)
        parts = {f"mw_{name}": found[name] for name in asdict(Power(0, 0, 0, 0))}
        row: Row = {"mw": found["mw"], **parts, "toggles": found["toggles"]}
        if rival.macs:
            row["macs_per_cycle"] = given.macs / given.cycles
            row["mac_per_s_mw"] = row["macs_per_cycle"] * 1e9 / POWER_PERIOD / found["mw"]
        return row

    def _in_fpga(self, rival: Rival, source: Source) -> Row:
        slots = ecp5_slots if self.target == "ecp5" else ice40_slots
        found = self._kept(self.target, source, lambda: asdict(slots(source)))
        cells: Mapping[str, int] = found["cells"]
        tables = sum(cells.get(name, 0) * count for name, count in TABLES[self.target].items())
        row: Row = {"lut": tables, "ff": found["registers"]}
        row["dsp"] = sum(cells.get(name, 0) for name in DSPS)
        row["bram"] = sum(cells.get(name, 0) for name in MEMORIES)
        row["cells"] = {name: count for name, count in cells.items() if name[0] != "$"}
        if self.placed:
            row |= self._placed(source, tables)
            if rival.macs:
                row["mac_per_s"] = rival.macs * 1e6 * row["mhz"]
                row["mac_per_s_lut"] = row["mac_per_s"] / tables
        return row

    def _placed(self, source: Source, tables: int) -> Row:
        runs = []
        for seed in self.seeds:

            def run(seed: int = seed) -> Row:
                return asdict(place(source, self.target, tables, seed))

            runs.append(self._kept(f"place {self.target} {seed}", source, run))
        frequencies = [run["mhz"] for run in runs]
        return {
            "mhz": statistics.median(frequencies),
            "mhz_range": [min(frequencies), max(frequencies)],
            "device": runs[0]["device"],
            "seeds": list(self.seeds),
        }

    def _kept(self, kind: str, source: Source, run: Callable[[], Row]) -> Row:
        digest = hashlib.sha256(f"{kind}\n{source.language}\n{source.text}".encode()).hexdigest()
        path = self.folder / f"{digest[:32]}.json"
        if path.exists():
            kept: Row = json.loads(path.read_text(encoding="utf-8"))
            return kept
        found = run()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found) + "\n")
        return found


def compare(rows: Sequence[Row], target: str) -> list[Row]:
    """The rows with per cent of binary32's area and power that each saves, if that is among them.

    On osu018 against Berkeley HardFloat's too; in standard cells beside SFx of a published width,
    the published saving.
    """
    unit = "lut" if target in FPGAS else "um2"
    reference = next((row for row in rows if row["unit"] == REFERENCE), None)
    if reference is None:
        return list(rows)
    area, milliwatts = reference[unit], reference.get("mw")
    found = []
    for row in rows:
        row = {**row, "saved": saved(row[unit], area)}
        if target == "osu018":
            row["saved_hardfloat"] = saved(row[unit], HARDFLOAT.area)
        published = target not in FPGAS and row["bits"] in PUBLISHED
        if published and row["kind"].startswith(FAMILY):
            row["published"] = PUBLISHED[row["bits"]][0]
        if milliwatts is not None:
            row["power_saved"] = saved(row["mw"], milliwatts)
            if "published" in row:
                row["power_published"] = PUBLISHED[row["bits"]][1]
        found.append(row)
    return found
