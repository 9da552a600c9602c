"""The doctor: what is missing is named with the line that gets it, and changes the exit status."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tomllib
from pathlib import Path

import pytest

from atreides import doctor
from atreides.cli import main

ROOT = Path(__file__).parent.parent
PROGRAMS = ("g++", "make", "perl", "iverilog", "vvp")


def fake_program(folder: Path, name: str, says: str, status: int = 0) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    program.chmod(0o755)


def report(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, str]]]:
    status = main(["doctor", "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["healthy"] == (status == 0)
    return status, {finding["name"]: finding for finding in shown["findings"]}


def test_machine_that_runs_the_tests_is_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = report(capsys)
    missing = [
        f for f in findings.values() if f["state"] == "missing" and f["purpose"] != "optional"
    ]
    assert status == 0, missing


def test_every_pinned_package_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    findings = report(capsys)[1]
    for pin in pins:
        name, version = pin.split("==")
        assert findings[name]["wanted"] == version
        assert findings[name]["found"] == importlib.metadata.version(name)


@pytest.mark.parametrize("absent", PROGRAMS)
def test_missing_program_is_named_with_the_line_that_gets_it(
    absent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in PROGRAMS:
        if name != absent:
            fake_program(tmp_path, name, f"{name} version 7.1.2")
    monkeypatch.setenv("PATH", str(tmp_path))
    status, findings = report(capsys)
    assert status == 1
    assert [name for name in PROGRAMS if findings[name]["state"] == "missing"] == [absent]
    package = {"vvp": "iverilog"}.get(absent, absent)
    expected = f"apt-get install -y --no-install-recommends {package}"
    assert findings[absent]["remedy"] == expected
    present = next(name for name in PROGRAMS if name != absent)
    assert findings[present]["found"] == "7.1.2"


def test_program_that_fails_counts_as_missing(tmp_path: Path) -> None:
    fake_program(tmp_path, "perl", "Can't locate Pod/Usage.pm in perl 5.36.0", status=2)
    findings = {f.name: f for f in doctor.examine_programs(str(tmp_path))}
    assert findings["perl"].state == "missing"


def test_table_shows_the_remedy_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "apt-get install -y --no-install-recommends iverilog\n" in shown
    assert "Something required is missing." in shown


@pytest.mark.parametrize(
    ("says", "warned"),
    [("Verilator 5.006 2023-01-22", True), ("Verilator 5.050 2027-01-01", False), ("", False)],
)
def test_only_an_older_verilator_on_path_is_warned_about(
    says: str, warned: bool, tmp_path: Path
) -> None:
    if says:
        fake_program(tmp_path, "verilator", says)
    findings = list(doctor.examine_verilator_on_path(str(tmp_path)))
    assert [f.state for f in findings] == (["warning"] if warned else [])


def test_other_version_of_a_package_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: [("numpy", "1.0", False)])
    (finding,) = doctor.examine_packages()
    assert finding.state == "warning"
    assert finding.remedy.endswith('-m pip install "numpy==1.0"')


def test_build_of_a_pinned_version_is_that_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: [("torch", "2.13.0", False)])
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    (finding,) = doctor.examine_packages()
    assert finding.state == "ok"


def test_absent_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requirements", lambda: [("no-such-package-here", "1.0", False)])
    (finding,) = doctor.examine_packages()
    assert (finding.state, finding.purpose) == ("missing", "required")


def test_kernels_row_follows_what_tensors_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> str:
        return {f.name: f.state for f in doctor.examine_tensors()}["native kernels"]

    assert shutil.which("g++")
    assert state() == "ok"
    monkeypatch.setenv("ATREIDES_NATIVE", "0")
    assert state() == "warning"


def test_optional_things_are_missing_without_harm(tmp_path: Path) -> None:
    absent = {"PATH": str(tmp_path), "ATREIDES_DATA": str(tmp_path / "nowhere")}
    findings = {f.name: f for f in doctor.examine_optional(absent)}
    assert findings["ATREIDES_DATA"].state == findings["OpenSTA"].state == "missing"
    assert all(f.purpose == "optional" for f in findings.values())
    present = {**absent, "ATREIDES_DATA": str(tmp_path)}
    findings = {f.name: f for f in doctor.examine_optional(present)}
    assert findings["ATREIDES_DATA"].found == str(tmp_path)
