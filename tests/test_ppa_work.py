"""What units are given while their power is measured: stimulus, sums, memories, other libraries."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from atreides.ppa_core import core_work
from atreides.ppa_layer import Layer
from atreides.ppa_measure import Flow
from atreides.ppa_work import array_work, check_power
from hw.array import SystolicArray
from hw.gate_netlist import GateNetlist, gate_netlist
from hw.power import Activity
from hw.ppa import MACHINE_TOP, subjects
from hw.synthesis import LIBERTY, Source, component_source, run_passes, verilog_source
from hw.tops import Options, build_top
from sim.activity import record
from sim.runner import SimulationFailed
from tests.gate_library import mappable

TOOLS = [tool for tool in ("sta", "iverilog") if shutil.which(tool) is None]
tools = pytest.mark.skipif(bool(TOOLS), reason=f"{TOOLS} not installed")
osu018 = pytest.mark.skipif(
    bool(TOOLS) or not LIBERTY.is_file(), reason="osu018 or a tool is not installed"
)
#: Words of SF3 with unity: 2 and -1 out of 4, zero, one.
LAYER = Layer(
    np.array([[0.5, 0.0, 1.0], [0.25, 0.5, 0.0]], np.float32),
    np.array([[-0.25, 0.5, 1.0], [0.0, 0.5, -0.5]], np.float32),
    1.0,
    np.array([[1.0], [1.0]], np.float32),
)
SMALL = Options(bits=3, rows=2, columns=2, max_terms=16, target="osu018")


def test_slices_enter_an_array_skewed_and_one_after_the_other() -> None:
    work = array_work(SMALL, LAYER)
    assert work.inputs["control__0"][:5] == [0b011, 0b001, 0b101, 0, 0]
    assert work.inputs["control__1"][:5] == [0, 0b011, 0b001, 0b101, 0]
    # magnitude, then sign, unity, zero
    assert work.inputs["a__0"][:3] == [0b00010, 0b10000, 0b01000]
    assert work.inputs["b__1"][1:4] == [0b10000, 0b00010, 0b00110]
    assert work.macs == 12
    assert {len(values) for values in work.inputs.values()} == {work.cycles}


def test_other_sums_than_the_layers_are_noticed() -> None:
    work = array_work(SMALL, LAYER)
    # in units of a sixteenth: a row of activations by a column of weights, modulo the accumulator
    size = 1 << SMALL.format.accumulator_bits(16)
    sums = {"bus__0": (0, -2 + 16, -1 + 4, 0), "bus__1": (-8, 4, 0)}
    right = {port: tuple(v % size for v in values) for port, values in sums.items()}
    work.check(Activity(1, {}, right))
    with pytest.raises(SimulationFailed, match="bus__1 must send"):
        work.check(Activity(1, {}, {**right, "bus__1": (4,)}))


@pytest.mark.parametrize(
    ("unit", "options", "sentence"),
    [
        ("array", Options(rows=25), "rows and columns must be at most 24 with --power, not 25"),
        ("core", Options(rows=2, columns=2), "slots must be at least 436 with --power, not 16"),
    ],
)
def test_what_the_layer_does_not_fit_is_said_before_any_work(
    unit: str, options: Options, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_power(unit, options)


@osu018
def test_an_array_of_gates_sends_the_layers_sums() -> None:
    work = array_work(SMALL, LAYER)
    unit = SystolicArray(SMALL.format, 2, 2, 16, target="osu018")
    netlist = gate_netlist(component_source(unit))
    found = record(netlist, work.inputs)
    work.check(found)
    assert found.total(netlist) > 0


def memory_source(folder: Path) -> Source:
    """A memory of 8 words that is read behind a register and inverted."""
    text = (
        "module unit(input clk, input [3:0] d, input [2:0] at, input w, output reg [3:0] q);\n"
        "reg [3:0] m [0:7]; integer k; initial for (k = 0; k < 8; k = k + 1) m[k] = 0;\n"
        "always @(posedge clk) begin if (w) m[at] <= d; q <= ~m[at]; end\n"
        "endmodule\n"
    )
    path = folder / "unit.v"
    path.write_text(text)
    run_passes([f"read_verilog {path}", "proc", f"write_rtlil {folder}/unit.il"])
    return Source((folder / "unit.il").read_text(), "rtlil")


@tools
def test_memories_are_simulated_beside_the_gates_and_skipped_cycles_do_not_count(
    tmp_path: Path,
) -> None:
    netlist = gate_netlist(memory_source(tmp_path), liberty=mappable(tmp_path))
    assert isinstance(netlist, GateNetlist)
    assert netlist.memories
    written = [3, 9, 14, 1, 7, 0, 15, 6]
    operands = {
        "d": [*written, *[0] * 9],
        "at": [*range(8), *range(8), 0],
        "w": [1] * 8 + [0] * 9,
    }
    whole = record(netlist, operands)
    assert list(whole.outputs["q"][9:]) == [15 - word for word in written]
    late = record(netlist, operands, skip=12)
    assert late.cycles == 5
    assert 0 < late.total(netlist) * 5 < whole.total(netlist) * 17
    with pytest.raises(ValueError, match="skip must be 0 to 16, not 17"):
        record(netlist, operands, skip=17)


@tools
def test_a_library_of_other_cells_gives_area_delay_and_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atreides.ppa_work.real_layer", lambda folder, outputs=4: LAYER)
    (cell,) = subjects("cell", [Options(bits=3, unity=False, max_terms=16)], compared=False)
    library = mappable(tmp_path)
    row = Flow("liberty", library, powered=True, folder=tmp_path / "kept").measure(cell)
    kinds = {gate.kind for gate in gate_netlist(cell.source(), liberty=library).gates}
    assert kinds <= {"quince", "medlar", "sorb", "rowan", "pear"}
    assert {"medlar", "rowan"} <= kinds
    assert row["um2"] == int(row["um2"])  # areas of whole numbers
    assert row["ns"] > 0.3
    assert row["mw"] > row["mw_clock"] > 0
    assert row["mac_per_s_mw"] == row["macs_per_cycle"] * 25e6 / row["mw"]
    text = verilog_source("module unit(input a, output y); assign y = ~a; endmodule\n")
    assert [gate.kind for gate in gate_netlist(text, liberty=library).gates] == ["quince"]


@osu018
@pytest.mark.slow
def test_a_whole_machine_of_gates_does_the_layer_cycle_by_cycle_as_the_rtl() -> None:
    sizes = {"slots": 16, "parameters": 1, "row_parameters": 1}
    options = Options(
        bits=3, unity=False, rows=1, columns=2, max_terms=16, target="osu018", **sizes
    )
    work = core_work(options, LAYER)
    assert work.macs == 12
    netlist = gate_netlist(component_source(build_top(MACHINE_TOP, options)))
    found = record(netlist, work.inputs, skip=work.skip)
    work.check(found)
    assert found.cycles == work.cycles
    valid = found.outputs["status__valid"]
    assert valid[-1] == 1
    wrong = {**found.outputs, "status__valid": (*valid[:-1], 0)}
    with pytest.raises(SimulationFailed, match="status__valid must be 0x1 in cycle"):
        work.check(Activity(found.cycles, found.toggles, wrong))
