"""The programs of ``programs/`` on netlists under Verilator, word for word."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from atreides.machine_files import load_memory, load_program
from sim import netlist_programs, netlist_synthesis
from sim.gates import NETLISTS
from sim.machine_backends import execute
from sim.netlist_programs import PROGRAMS, job, machine, run_target
from sim.runner import ROOT
from sw.config import MachineConfig
from tests.test_gates import SMALL, differences, random_jobs

#: The smallest machine that all programs run on.
SMALLEST = machine(rows=2, bits=4, parameters=8, max_terms=64)


def console() -> Console:
    return Console(file=sys.stderr)


@pytest.mark.parametrize("config", [SMALLEST, MachineConfig(), machine(rows=4, bits=8)])
def test_programs_multiply_and_end_without_a_fault(config: MachineConfig) -> None:
    for name in PROGRAMS:
        (result,) = execute([job(name, config)], "model")
        assert result.report.fault == 0, name
        assert result.memory.any()


def test_on_the_published_machine_programs_and_images_are_as_they_are() -> None:
    config = machine()
    assert config == MachineConfig()
    for name in PROGRAMS:
        found = job(name, config)
        words, parameters = load_memory(ROOT / "programs" / f"{name}.npz", config)
        assert found.words == load_program(ROOT / "programs" / f"{name}.s", config)
        assert (found.memory == words).all()
        assert (found.parameters.biases == parameters.biases).all()
        assert (found.parameters.column_shifts == parameters.column_shifts).all()


def test_a_machine_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hello\.s"):
        job("hello", replace(SMALL, slots=2))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--target", "fpga"), "target must be one of ecp5, ice40, osu018, not 'fpga'"),
        (("--program", "hallo"), "program must be one of hello, gemm, perceptron, convolution"),
        (("--bits", "17"), "not 17"),
        (("--rows", "0"), "rows must be 1 to 32, not 0"),
        (("--slots", "8"), "gemm.s"),
        (("--rows", "x"), "--rows"),
        (("--speed", "1"), "--speed"),
    ],
)
def test_the_command_says_what_is_wrong(
    options: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert netlist_programs.main(options) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("sim.netlist_programs: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_what_synthesis_made_is_kept_by_what_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlist_synthesis, "FOLDER", tmp_path)
    text = "module atreides(input clk, input a, b, output reg q); always @(posedge clk) q<=a&b; "
    first = netlist_synthesis.mapped(text + "endmodule", "ice40")
    assert first.kinds == {"SB_LUT4": 1, "SB_DFF": 1}
    assert "synthesis" in netlist_synthesis.seconds(first.key)

    def fail(*_: object) -> None:
        raise AssertionError("synthesised again")

    monkeypatch.setattr(netlist_synthesis, "_synthesised", fail)
    assert netlist_synthesis.mapped(text + "endmodule", "ice40") == first
    with pytest.raises(AssertionError):
        netlist_synthesis.mapped(text + "  endmodule", "ice40")


@pytest.mark.slow
@pytest.mark.parametrize("netlist", NETLISTS)
def test_random_programs_and_hello_agree_on_the_smallest_netlist(netlist: str) -> None:
    assert differences([job("hello", SMALL), *random_jobs(4)], "verilator", netlist) == []


@pytest.mark.flow
@pytest.mark.parametrize("netlist", NETLISTS)
def test_all_programs_agree_on_a_small_netlist(netlist: str) -> None:
    run = run_target(netlist, SMALLEST, PROGRAMS, console())
    assert [outcome.program for outcome in run.outcomes] == list(PROGRAMS)
    assert not [line for outcome in run.outcomes for line in outcome.differences]


@pytest.mark.flow
@pytest.mark.parametrize("netlist", ["ecp5", "ice40"])
def test_all_programs_agree_on_the_published_netlist(netlist: str, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    assert netlist_programs.main(["--target", netlist, "--json", str(path)]) == 0
    (run,) = json.loads(path.read_text())["runs"]
    assert [o["differences"] for o in run["outcomes"]] == [[]] * len(PROGRAMS)
