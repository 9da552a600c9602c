"""The back ends of the machine: model and RTL give the same, and what goes wrong is told."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim import machine_backends, machine_verilator
from sim.machine_backends import RTL, execute
from sim.machine_coverage import Coverage
from sim.machine_design import design
from sim.machine_job import Job, MachineFailed, Result
from sim.machine_random import LIMIT, STALLED, compare, run
from sim.machine_session import Session, Stalls
from sim.machine_stimulus import LONGEST, Stimulus
from sim.machine_trace import Trace, Window
from sim.machine_verilator import FST_HEADERS
from sim.machine_work import slices
from sim.runner import MissingSimulator, SimulationFailed
from sw.assembler import assemble
from sw.config import MachineConfig
from sw.isa import Fault
from sw.registers import Counter

#: Small, for builds take seconds; with all there is.
CONFIG = MachineConfig(
    bits=4,
    rows=2,
    columns=2,
    slots=48,
    output_bits=6,
    bias_bits=5,
    parameters=4,
    row_parameters=8,
    blocks=True,
    table=True,
    hold=True,
)
#: Instructions per back end, as many as fit in some seconds.
INSTRUCTIONS = {"amaranth": 80, "icarus": 120, "cocotb-verilator": 600, "verilator": 3000}
PRODUCT = "LDR 0, 2, 2\nLDC 1, 2, 2\nMATMUL\nLIN\nSTR 2, 2, 2\n"


def product() -> Job:
    job = Job.of(CONFIG, assemble(PRODUCT, config=CONFIG).words)
    words = np.arange(CONFIG.memory_words, dtype=np.uint16) * 5 % 16
    return replace(job, memory=words)


#: What takes long, where Verilator and cocotb with Icarus run the same quickly.
_SLOW = ("icarus", "cocotb-verilator")
RTL_WITH_SLOW = [pytest.param(b, marks=[pytest.mark.slow] * (b in _SLOW)) for b in RTL]


@pytest.mark.parametrize("back_end", RTL_WITH_SLOW)
def test_random_programs_are_as_on_the_model(back_end: str) -> None:
    coverage, found = run(CONFIG, INSTRUCTIONS[back_end], seed=1, back_end=back_end)
    assert not found, str(found[0])
    assert coverage.instructions >= INSTRUCTIONS[back_end]


@pytest.mark.parametrize("back_end", RTL_WITH_SLOW)
def test_stalls_change_no_word(back_end: str) -> None:
    seeds = (100,) if back_end == "amaranth" else (100, 101)
    jobs = [(seed, Stimulus(CONFIG, seed).job(20)) for seed in seeds]
    found = compare(jobs, back_end, Stalls(1, 40, 60), Coverage(CONFIG))
    assert not found, str(found[0])


def test_stalls_do_stall() -> None:
    job = Job.of(CONFIG, assemble("NOP\n" * 20, config=CONFIG).words)
    (quick,), (slow,) = (
        execute([job], "verilator", stalls=stalls) for stalls in (None, Stalls(1, 20, 20))
    )
    assert slow.report[Counter.CYCLES] > quick.report[Counter.CYCLES]
    assert not slow.differences(quick, STALLED)


def test_random_programs_reach_faults_and_every_opcode() -> None:
    coverage = Coverage(CONFIG)
    jobs = [Stimulus(CONFIG, seed).job(40) for seed in range(120)]
    for job, result in zip(jobs, execute(jobs, "model"), strict=True):
        coverage.observe(job, result.report)
    missing = coverage.missing()
    assert not [b for b in missing if b[0] == "opcode"]
    assert len(missing) < len(coverage.bins()) / 2, coverage.report()
    assert len(coverage.faults()) >= 8, coverage.report()


def test_stimulus_follows_from_its_seed() -> None:
    first, again, other = (Stimulus(CONFIG, seed).job(20) for seed in (7, 7, 8))
    assert first.words == again.words != other.words
    assert (first.memory == again.memory).all()


def test_random_programs_are_short_even_where_a_wrong_size_is_right() -> None:
    config = MachineConfig(bits=8, rows=4, columns=4, slots=32, parameters=16, row_parameters=64)
    jobs = [Stimulus(config, seed).job(40) for seed in range(2, 52)]  # 65,535 groups came with 4
    results = execute(jobs, "model")
    for job, result in zip(jobs, results, strict=True):
        told = slices(job.words, config)
        taken = result.report[Counter.SLICES] + result.report[Counter.SKIPPED_SLICES]
        assert taken <= told <= LONGEST
    assert max(result.report.cycles for result in results) < LIMIT


def test_slices_of_a_program_are_those_that_the_array_takes() -> None:
    text = "SET G, 300\nSET K0, 3\nSET A_X, 0\nGEMM stream, linear\nHALT\nGEMM stream, linear\n"
    words = assemble(text, config=CONFIG).words
    (result,) = execute([Job.of(CONFIG, words)], "model")
    assert result.report.fault == Fault.NONE
    assert slices(words, CONFIG) == result.report[Counter.SLICES] == 900


def test_every_difference_is_told() -> None:
    (want,) = execute([product()], "model")
    memory = want.memory.copy()
    memory[9] ^= 1
    assert Result(want.report, memory).differences(want)[0].startswith("memory: 1 words")
    counters = {**want.report.counters, Counter.MACS: 0}
    wrong = replace(want.report, counters=counters, fault=Fault.SIZE)
    told = Result(wrong, want.memory).differences(want)
    assert [t.split(":")[0] for t in told] == ["fault", "macs"]
    assert not Result(want.report, want.memory.copy()).differences(want)


def test_a_wrong_machine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Session.results

    def results(self: Session, recording: object) -> list[Result]:
        found = original(self, recording)
        found[0].memory[0] ^= 1
        return found

    monkeypatch.setattr(machine_backends.Session, "results", results)
    found = compare([(1, product())], "verilator", None, Coverage(CONFIG))
    assert "memory: 1 words, the first at 0" in str(found[0])


@pytest.mark.parametrize("back_end", ["amaranth", "icarus", "verilator"])
def test_a_machine_that_is_not_done_in_time_is_given_up(back_end: str) -> None:
    with pytest.raises(MachineFailed, match="must be done within 5 cycles"):
        execute([product()], back_end, limit=5)


@pytest.mark.parametrize(
    ("back_end", "unit"),
    [pytest.param("amaranth", 10**9, marks=pytest.mark.slow), ("icarus", 3)],
)
def test_trace_holds_the_window(back_end: str, unit: int, tmp_path: Path) -> None:
    path = tmp_path / "wave.vcd"
    whole = execute([product()], back_end, trace=Trace(tmp_path / "whole.vcd"))
    part = execute([product()], back_end, trace=Trace(path, 20, 30))
    assert not part[0].differences(whole[0])
    text = path.read_text()
    times = [int(t) for t in re.findall(r"^#(\d+)", text, re.MULTILINE)]
    assert times[0] in (20 * unit, 20 * unit - unit // 2)
    assert len(times) > 5
    assert times == sorted(times)
    assert times[-1] < 30 * unit
    assert len(text) < len((tmp_path / "whole.vcd").read_text())
    for view in ("gtkw", "sucl"):
        assert "instructions_" in path.with_name(f"wave.vcd.{view}").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{name}.vcd{view}" for name in ("wave", "whole") for view in ("", ".gtkw", ".sucl")
    }


@pytest.mark.slow
def test_verilator_writes_fst(tmp_path: Path) -> None:
    path = tmp_path / "wave.fst"
    if not all(Path("/usr/include", header).exists() for header in FST_HEADERS):
        with pytest.raises(MissingSimulator, match="apt-get install liblz4-dev zlib1g-dev"):
            execute([product()], "verilator", trace=Trace(path, 20, 30))
        return
    execute([product()], "verilator", trace=Trace(path, 20, 30))
    assert path.stat().st_size > 500
    assert "TOP.atreides.status_valid" in path.with_name("wave.fst.gtkw").read_text()


def test_window_starts_with_the_values_of_that_time(tmp_path: Path) -> None:
    path = tmp_path / "cut.vcd"
    window = Window(path.open("w"), 5, 9)
    for line in ("$enddefinitions $end", "#0", "1!", "b10 #", "#4", "0!", "#6", "1!", "#9", "0!"):
        window.write(f"{line}\n")
    window.close()
    assert path.read_text().split("\n")[1:-1] == [
        *("#5", "$dumpvars", "0!", "b10 #", "$end", "#6", "1!")
    ]


@pytest.mark.parametrize(
    ("trace", "back_end", "message"),
    [
        ("wave.fst", "icarus", "trace must end in .vcd for icarus"),
        ("wave.fst", "amaranth", "trace must end in .vcd for amaranth"),
    ],
)
def test_traces_that_cannot_be_written_are_refused(
    trace: str, back_end: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        execute([product()], back_end, trace=Trace(tmp_path / trace))
    assert not list(tmp_path.iterdir())


def test_impossible_traces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must end in \.vcd or \.fst"):
        Trace(Path("wave.txt"))
    with pytest.raises(ValueError, match="trace-from must be"):
        Trace(Path("wave.vcd"), 9, 9)


def test_unknown_back_end_is_refused() -> None:
    with pytest.raises(ValueError, match="back end must be one of model, amaranth"):
        execute([product()], "spice")


@pytest.mark.parametrize("back_end", ["icarus", "verilator"])
def test_missing_simulator_is_named(back_end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine_backends.simulate.__globals__["simulator_version"].cache_clear()
    monkeypatch.setenv("PATH", "/nowhere")
    try:
        with pytest.raises(MissingSimulator, match="apt-get install"):
            execute([product()], back_end)
    finally:
        machine_backends.simulate.__globals__["simulator_version"].cache_clear()


def test_crashing_model_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "driver"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr(machine_verilator, "build", lambda *_: crash)
    with pytest.raises(SimulationFailed, match="the verilated model died"):
        execute([product()], "verilator")


@pytest.mark.parametrize(("least", "count"), [(1, 1), (2, 2), (3, 3)])
def test_files_of_a_small_model_go_to_few_units(tmp_path: Path, least: int, count: int) -> None:
    files = [tmp_path / f"{n}.cpp" for n in range(7)]
    for file in files:
        file.write_text("//")
    shares = machine_verilator._shares(files, least)
    assert len(shares) == count
    assert sorted(file for share in shares for file in share) == files


def test_files_of_a_large_model_go_to_a_unit_per_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_verilator, "_UNIT_BYTES", 10)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    files = [tmp_path / f"{n}.cpp" for n in range(7)]
    for file in files:
        file.write_text(10 * "/")
    shares = machine_verilator._shares(files, 2)
    assert len(shares) == 5
    assert sorted(file for share in shares for file in share) == files


def test_a_model_that_does_not_compile_is_told() -> None:
    broken = replace(design(CONFIG), verilog="module atreides(; endmodule")
    with pytest.raises(SimulationFailed, match="cannot compile atreides"):
        machine_verilator.build(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ()}, "at least one word"),
        ({"words": (1 << 16,)}, "words of 16 bits"),
        ({"memory": np.zeros(3, np.uint16)}, "memory must have 192 words"),
        ({"memory": np.full(192, 16, np.uint16)}, "words of 4 bits, not 0x10"),
    ],
)
def test_jobs_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(product(), **change)
