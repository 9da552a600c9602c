"""The comparison with binary32: which units, and what is made of their figures."""

from __future__ import annotations

import json

import pytest

from bench import ppa
from hw.ppa import HARDFLOAT, PUBLISHED, Rival, rivals, saved
from hw.synthesis import SynthesisError, check_standard_cells, verilog_source

#: um2 that SF16, SF8 and SF4 must not exceed for 75, 92.5 and 97 % against binary32; SF4 does.
BOUNDS = {16: 57_154, 8: 17_146}


class Figures:
    """Measurements that are made up: area from the length of the source."""

    def gates(self, source, options: str, clocked: bool):
        return type("Cost", (), {"area": float(len(source.text)), "delay": 1.0})()


def rival(name: str, kind: str, bits: int, size: int) -> Rival:
    return Rival(name, kind, bits, lambda: verilog_source("x" * size))


def test_savings_are_against_our_binary32_and_against_the_published_generator() -> None:
    units = [rival("binary32", "float", 32, 1000), rival("SF8", "superfloat", 8, 100)]
    units.append(rival("yosys *", "multiplier", 8, 50))
    rows = {row["unit"]: row for row in ppa.compare(Figures(), units)}
    assert rows["SF8"]["saved"] == 90.0
    assert rows["SF8"]["saved_hardfloat"] == saved(100.0, HARDFLOAT.area) == 100.0
    assert rows["SF8"]["published"] == 79.9
    assert rows["binary32"]["saved"] == 0.0
    assert "saved" not in rows["yosys *"]


def test_every_width_has_its_rivals_and_every_source_is_made() -> None:
    names = {unit.name for unit in rivals()}
    assert {"binary32", "bfloat16", "binary16"} <= names
    for bits in PUBLISHED:
        assert {f"int{bits}", f"SF{bits}", f"SF{bits} split"} <= names
        assert {f"{kind} {bits - 1} x {bits - 1}" for kind in ("yosys *", "auto")} <= names
    small = [unit for unit in rivals() if unit.bits == 4]
    assert all("unit" in unit.source().text for unit in small)


def test_a_missing_tool_is_one_sentence_and_leaves_no_file(tmp_path, monkeypatch, capsys) -> None:
    def missing() -> None:
        raise SynthesisError("OpenSTA must be installed")

    monkeypatch.setattr(ppa, "check_standard_cells", missing)
    assert ppa.main(["--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "bench.ppa: OpenSTA must be installed\n"
    assert not list(tmp_path.iterdir())


def test_the_report_is_json_with_a_row_per_unit(tmp_path, monkeypatch, capsys) -> None:
    units = [rival("binary32", "float", 32, 1000), rival("SF4", "superfloat", 4, 30)]
    monkeypatch.setattr(ppa, "check_standard_cells", lambda: None)
    monkeypatch.setattr(ppa, "rivals", lambda: units)
    monkeypatch.setattr(ppa, "Measurements", lambda folder: Figures())
    assert ppa.main(["--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "ppa.json").read_text())
    assert [row["unit"] for row in rows] == ["binary32", "SF4"]
    assert "97" in capsys.readouterr().out


@pytest.mark.slow
def test_split_cells_save_what_was_asked_on_a_shorter_path_than_integers() -> None:
    try:
        check_standard_cells()
    except SynthesisError as error:
        pytest.skip(str(error))
    units = {unit.name: unit for unit in rivals()}
    for bits, bound in BOUNDS.items():
        found = units[f"SF{bits} split"].gates()
        assert found.area <= bound
        assert found.delay < units[f"int{bits}"].gates().delay
