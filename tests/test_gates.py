"""The netlist after synthesis runs what the machine model runs; a netlist with a fault does not."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atreides.cli import main
from atreides.machine_files import load_memory, load_program
from sim import gates, machine_backends
from sim.case import Case, plan_of
from sim.gates import NETLISTS, cell_models, netlist_design, unit_netlist
from sim.machine_backends import execute
from sim.machine_job import Job, MachineFailed
from sim.machine_model import machine_of
from sim.netlist_machine import plain_units
from sim.runner import SimulationFailed, compare
from sim.scoreboard import Scoreboard
from sim.units import UNITS
from sw.config import MachineConfig
from sw.registers import Counter
from tests.machine_programs import ProgramMaker, fill

FOLDER = Path(__file__).parent.parent / "programs"
#: The smallest machine with every part that runs these jobs.
SMALL = MachineConfig(
    bits=3, rows=2, columns=2, slots=16, parameters=1, row_parameters=1, max_terms=8
)
#: Its tile memory and parameter memories take block RAM.
LARGE = replace(SMALL, parameters=256, slots=64)
PUBLISHED = MachineConfig()
PROGRAMS = ("hello", "gemm", "perceptron", "convolution", "attention")


def random_jobs(count: int, config: MachineConfig = SMALL) -> list[Job]:
    """Programs that do products, on memories of random words."""
    found = []
    for seed in range(count):
        chance = random.Random(seed)
        job = Job.of(config, tuple(ProgramMaker(config, chance).program(6)))
        machine = machine_of(job)
        fill(machine, chance)
        words = [chance.randrange(1 << config.bits) for _ in range(config.memory_words)]
        memory = np.array(words, np.uint16)
        found.append(replace(job, memory=memory, parameters=machine.parameters))
    return found


def differences(jobs: list[Job], simulator: str, netlist: str) -> list[str]:
    pairs = zip(
        execute(jobs, simulator, netlist=netlist, limit=1 << 14),
        execute(jobs, "model"),
        strict=True,
    )
    return [sentence for got, want in pairs for sentence in got.differences(want)]


def test_jobs_multiply_and_end_without_a_fault() -> None:
    for result in execute(random_jobs(4), "model"):
        assert result.report.fault == 0
        assert result.report[Counter.MACS] > 0


@pytest.mark.parametrize("netlist", ["fpga", "", "ECP5"])
def test_a_netlist_must_be_one_of_the_three(netlist: str) -> None:
    with pytest.raises(ValueError, match="netlist must be one of ecp5, ice40, osu018"):
        execute(random_jobs(1), "icarus", netlist=netlist)


@pytest.mark.parametrize("back_end", ["model", "amaranth"])
def test_only_verilog_simulators_run_a_netlist(back_end: str) -> None:
    with pytest.raises(ValueError, match="netlist must be run by a Verilog simulator"):
        execute(random_jobs(1), back_end, netlist="ecp5")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--netlist", "ecp5"), "--netlist must have --backend icarus or verilator, not 'model'"),
        (
            ("--netlist", "fpga", "--backend", "icarus"),
            "netlist must be one of ecp5, ice40, osu018, not 'fpga'",
        ),
    ],
)
def test_the_command_line_says_what_netlists_there_are(
    options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(FOLDER / "hello.s"), *options]) == 2
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert sentence in shown


@pytest.mark.parametrize(
    ("cells", "models"),
    [
        ("LUT4 a (); CCU2C b ();", {"LUT4", "LUT2", "CCU2C"}),
        ("DP16KD a ();", {"DP16KD"}),
        ("EHXPLLL a ();", set()),
    ],
)
def test_models_are_of_the_cells_there_are_and_never_of_ports_alone(
    cells: str, models: set[str]
) -> None:
    found = re.findall(r"^module (\w+)", cell_models("ecp5", cells), re.MULTILINE)
    assert set(found) == models
    assert len(found) == len(models)


def unit_cases(units: Sequence[str], bits: Sequence[int]) -> list[Case]:
    return [case for unit in units for case in UNITS[unit](bits)]


def compared(cases: list[Case], text: str, limit: int, *, unset: bool = False) -> Scoreboard:
    board = compare(text, plan_of(cases, limit, unset=unset), "icarus")
    assert board.compared
    return board


#: Units that share a netlist, with widths and vectors: every input of SF3, corners beyond.
UNIT_GROUPS = {
    "words": (("fma", "convert-binary16"), (3,), 1 << 9),
    "cycles": (("mac",), (4,), 300),
    "more words": (("fma", "product", "encoder", "activation", "zero-detector"), (4, 7), 1 << 10),
    "drain": (("drain",), (8,), 1000),
    "conversions": (("convert-binary32", "convert-binary16", "to-binary32"), (8, 16), 1000),
    "more cycles": (("mac", "operand-hold", "shift-register"), (3, 8), 500),
}
#: Groups that continuous integration has time for, and how many variants of each.
SHORT = {"words": 3, "cycles": 3}


def test_a_unit_after_synthesis_equals_the_integer_model() -> None:
    cases = unit_cases(("mac",), (3,))[:1]
    board = compared(cases, unit_netlist([case.build() for case in cases], "ecp5"), 300)
    assert not board.mismatches, board.report()


@pytest.mark.slow
@pytest.mark.parametrize("netlist", NETLISTS)
@pytest.mark.parametrize("group", SHORT)
def test_units_after_synthesis_equal_the_integer_model(group: str, netlist: str) -> None:
    units, bits, limit = UNIT_GROUPS[group]
    nearest = [case for case in unit_cases(units, bits) if "truncate" not in str(case)]
    cases = nearest[: SHORT[group]]
    board = compared(cases, unit_netlist([case.build() for case in cases], netlist), limit)
    assert not board.mismatches, board.report()


@pytest.mark.flow
@pytest.mark.parametrize("netlist", NETLISTS)
@pytest.mark.parametrize("group", UNIT_GROUPS)
def test_many_units_after_synthesis_equal_the_integer_model(group: str, netlist: str) -> None:
    """Cells as ``tests/test_netlist_cells.py`` holds them against yosys' models."""
    units, bits, limit = UNIT_GROUPS[group]
    cases = unit_cases(units, bits)
    text = plain_units([case.build() for case in cases], netlist)
    board = compared(cases, text, limit, unset=netlist in gates.UNSET)
    assert not board.mismatches, board.report()


def with_other_table(text: str, chance: random.Random) -> str:
    """The netlist with one look-up table's contents inverted."""
    tables = list(re.finditer(r"(?:INIT|LUT_INIT)\((16'h)([0-9a-f]{4})\)\s*\) \S", text))
    table = chance.choice(tables)
    other = f"{0xFFFF ^ int(table[2], 16):04x}"
    return text[: table.start(2)] + other + text[table.end(2) :]


def check_that_other_tables_are_caught(netlist: str, count: int) -> None:
    cases = unit_cases(("fma",), (3,))[:1]
    whole = unit_netlist([case.build() for case in cases], netlist)
    chance = random.Random(3)
    for _ in range(count):
        broken = with_other_table(whole, chance)
        assert broken != whole
        assert compared(cases, broken, 1 << 9).mismatches


def test_a_unit_with_one_other_table_is_caught() -> None:
    check_that_other_tables_are_caught("ice40", 1)


@pytest.mark.slow
@pytest.mark.parametrize("netlist", ["ecp5", "ice40"])
def test_units_with_other_tables_are_all_caught(netlist: str) -> None:
    check_that_other_tables_are_caught(netlist, 8)


@pytest.mark.slow
@pytest.mark.parametrize("netlist", NETLISTS)
def test_the_machines_netlist_agrees_with_the_model_word_for_word(netlist: str) -> None:
    assert differences(random_jobs(2), "icarus", netlist) == []


@pytest.mark.slow
def test_block_ram_of_ecp5_agrees_with_the_model() -> None:
    """Memories that are large enough for the synthesiser to take blocks, some with registers."""
    design = netlist_design(LARGE, "ecp5")
    assert len(re.findall(r"^  DP16KD #", design.verilog, re.MULTILINE)) > 1
    assert re.search(r'\.REGMODE_B\("OUTREG"\)', design.verilog)
    assert differences(random_jobs(2, LARGE), "icarus", "ecp5") == []


@pytest.mark.flow
@pytest.mark.parametrize("netlist", ["ecp5", "osu018"])
def test_a_machine_with_one_other_cell_is_caught(
    netlist: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inverted table, or an AND in place of a NAND."""
    whole = netlist_design(SMALL, netlist)
    if netlist == "osu018":
        places = list(re.finditer(r"\bNAND2X1\b(?= )", whole.verilog))
        chosen = places[len(places) // 2]
        broken = whole.verilog[: chosen.start()] + "AND2X1" + whole.verilog[chosen.end() :]
    else:
        broken = with_other_table(whole.verilog, random.Random(1))
    assert broken != whole.verilog
    monkeypatch.setattr(
        machine_backends, "netlist_design", lambda *_: gates.Design(broken, whole.ports)
    )
    try:
        found = differences(random_jobs(2), "icarus", netlist)
    except (SimulationFailed, MachineFailed) as error:  # stuck, which is noticed as well
        found = [str(error)]
    assert found


@pytest.mark.flow
@pytest.mark.parametrize("netlist", ["ecp5", "ice40"])
def test_programs_of_the_published_machine_run_on_its_netlist(netlist: str) -> None:
    jobs = [
        Job(
            PUBLISHED,
            load_program(FOLDER / f"{name}.s", PUBLISHED),
            *load_memory(FOLDER / f"{name}.npz", PUBLISHED),
        )
        for name in PROGRAMS
    ]
    pairs = zip(execute(jobs, "icarus", netlist=netlist), execute(jobs, "model"), strict=True)
    assert [line for got, want in pairs for line in got.differences(want)] == []
