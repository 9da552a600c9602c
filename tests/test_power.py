"""Power of netlists against sums by hand, with a library of round numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hw.gate_costs import gate_delays
from hw.gate_netlist import GateNetlist, gate_netlist
from hw.power import Activity, Power, power
from hw.synthesis import LIBERTY, SynthesisError, verilog_source
from tests.gate_library import (
    CLOCK_ENERGY,
    HERTZ,
    INPUT_ENERGY,
    INVERTER_ENERGY,
    INVERTER_LEAKAGE,
    INVERTER_LOAD,
    OUTPUT_ENERGY,
    REGISTER_LEAKAGE,
    REGISTER_LOAD,
    chain,
    hazard,
)

pytestmark = pytest.mark.skipif(shutil.which("sta") is None, reason="OpenSTA is not installed")
VOLTS = 2
MILLIWATTS = 1e3
#: pJ per cycle at 10 ns, in milliwatts.
PICOJOULES = 1e-12 * HERTZ * MILLIWATTS
#: OpenSTA computes in single precision.
CLOSE = 1e-5


def activity(cycles: int, **toggles: int) -> Activity:
    return Activity(cycles, toggles, {})


def test_a_chain_of_inverters_and_a_register_is_as_by_hand(tmp_path: Path) -> None:
    rates = {"n1": 0.5, "n2": 0.5, "n3": 0.25, "n4": 0.75, "n5": 0.125}
    counted = {net: round(1000 * rate) for net, rate in rates.items()}
    found = power(chain(tmp_path), activity(1000, **counted), 10.0)
    loads = {"n2": REGISTER_LOAD, "n3": INVERTER_LOAD, "n4": INVERTER_LOAD}
    switching = sum(0.5 * load * VOLTS**2 * rates[net] for net, load in loads.items())
    inverters = INVERTER_ENERGY * (rates["n2"] + rates["n4"] + rates["n5"])
    register = OUTPUT_ENERGY * rates["n3"] + INPUT_ENERGY * rates["n2"]
    assert found.switching == pytest.approx(switching * PICOJOULES, rel=CLOSE)
    assert found.internal == pytest.approx((inverters + register) * PICOJOULES, rel=CLOSE)
    assert found.clock == pytest.approx(2 * CLOCK_ENERGY * PICOJOULES, rel=CLOSE)
    leakage = (3 * INVERTER_LEAKAGE + REGISTER_LEAKAGE) * 1e-9 * MILLIWATTS
    assert found.leakage == pytest.approx(leakage, rel=CLOSE)
    parts = (found.internal, found.clock, found.switching, found.leakage)
    assert found.total == sum(parts)


def test_without_toggles_only_leakage_and_clock_are_left(tmp_path: Path) -> None:
    found = power(chain(tmp_path), activity(10), 10.0)
    assert (found.internal, found.switching) == (0, 0)
    assert found.clock > 0
    assert found.leakage > 0


def test_a_unit_without_registers_has_no_clock_power(tmp_path: Path) -> None:
    found = power(hazard(tmp_path, 1), activity(1, out=1, n1=1), 10.0)
    assert found.clock == 0
    assert found.internal > 0
    assert found.switching > 0


@pytest.mark.parametrize("factor", [2, 3])
def test_power_is_proportional_to_toggles_and_to_the_clock(tmp_path: Path, factor: int) -> None:
    counted = {"n1": 10, "n2": 10, "n3": 5, "n4": 5, "n5": 5}
    netlist = chain(tmp_path)
    once = power(netlist, activity(20, **counted), 10.0)
    more = power(netlist, activity(20, **{n: factor * c for n, c in counted.items()}), 10.0)
    faster = power(netlist, activity(20, **counted), 10.0 / factor)
    for part in ("internal", "switching"):
        assert getattr(more, part) == pytest.approx(factor * getattr(once, part))
        assert getattr(faster, part) == pytest.approx(factor * getattr(once, part))
    assert more.clock == once.clock
    assert faster.clock == pytest.approx(factor * once.clock)
    assert more.leakage == faster.leakage == once.leakage


def test_delays_are_the_librarys(tmp_path: Path) -> None:
    assert set(gate_delays(hazard(tmp_path, 3)).values()) == {(100, 200)}


@pytest.mark.parametrize("clock", [0, -1, float("nan")])
def test_the_clock_must_be_positive(tmp_path: Path, clock: float) -> None:
    with pytest.raises(ValueError, match="clock must be a positive number of nanoseconds"):
        power(chain(tmp_path), activity(1), clock)


def test_an_activity_must_have_cycles() -> None:
    with pytest.raises(ValueError, match="cycles must be at least 1, not 0"):
        activity(0)


def test_a_library_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = verilog_source("module unit(input a, output y); assign y = ~a; endmodule\n")
    with pytest.raises(SynthesisError, match=r"the cell library .*none\.lib must be installed"):
        gate_netlist(source, liberty=tmp_path / "none.lib")


@pytest.mark.skipif(not LIBERTY.is_file(), reason="osu018 is not installed")
def test_a_mapped_unit_keeps_its_ports_and_constants() -> None:
    text = (
        "module unit(input clk, input [2:0] a, input b, output reg [3:0] y, output z, k);\n"
        "always @(posedge clk) y <= {a[1] & b, ~a}; assign z = b; assign k = 1'b1;\nendmodule\n"
    )
    netlist = gate_netlist(verilog_source(text))
    assert {name: len(nets) for name, nets in netlist.inputs.items()} == {"clk": 1, "a": 3, "b": 1}
    assert {n: len(nets) for n, nets in netlist.outputs.items()} == {"y": 4, "z": 1, "k": 1}
    assert netlist.outputs["z"] == netlist.inputs["b"]
    assert netlist.outputs["k"] == ("1'b1",)
    assert sum(gate.kind == "DFFPOSX1" for gate in netlist.gates) == 4
    found = power(netlist, activity(1, **dict.fromkeys(netlist.nets, 1)), 10.0)
    assert isinstance(netlist, GateNetlist)
    assert isinstance(found, Power)
    assert min(found.internal, found.clock, found.switching, found.leakage) > 0
