"""The counter of carries: every state counts and clears, as logic and as the library's cells."""

from __future__ import annotations

import shutil

import pytest
from amaranth.sim import Simulator

from hw.carry_count import CarryCount, kept_inverted
from hw.gate_netlist import gate_netlist
from hw.ppa import AlwaysValid
from hw.split_mac import SplitMultiplyAccumulate
from hw.synthesis import LIBERTY, component_source
from sim.activity import record
from sw.format import SFx
from tests.test_split_mac import random_cycles

TOOLS = [tool for tool in ("sta", "iverilog") if shutil.which(tool) is None]
needs_gates = pytest.mark.skipif(
    bool(TOOLS) or not LIBERTY.is_file(), reason="standard cells are not installed"
)


def states(width: int) -> list[tuple[int, int, int]]:
    return [(k, c, f) for k in range(1 << width) for c in (0, 1) for f in (0, 1)]


def wanted(width: int, kept: int, carry: int, clear: int) -> int:
    inverted = kept_inverted(width)
    count = 0 if clear else (kept ^ inverted) + carry
    return (count ^ inverted) & (1 << width) - 1


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_every_state_counts_and_clears(width: int) -> None:
    unit = CarryCount(width)

    async def testbench(context) -> None:
        for kept, carry, clear in states(width):
            context.set(unit.kept, kept)
            context.set(unit.carry, carry)
            context.set(unit.clear, clear)
            assert context.get(unit.following) == wanted(width, kept, carry, clear)

    simulator = Simulator(unit)
    simulator.add_testbench(testbench)
    simulator.run()


@needs_gates
@pytest.mark.parametrize("width", [1, 5])
def test_the_cells_count_as_the_logic_does(width: int) -> None:
    netlist = gate_netlist(component_source(CarryCount(width, "osu018")))
    columns = zip(*states(width), strict=True)
    given = {name: list(v) for name, v in zip(("kept", "carry", "clear"), columns, strict=True)}
    found = record(netlist, given).outputs["following"]
    assert list(found) == [wanted(width, *state) for state in states(width)]


@needs_gates
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_the_split_cell_in_gates_holds_the_dot_product(bits: int) -> None:
    format = SFx(bits, False)
    unit = SplitMultiplyAccumulate(format, target="osu018")
    netlist = gate_netlist(component_source(AlwaysValid(unit)))
    cycles = [(a, b, int(first)) for a, b, first, _ in random_cycles(format, 200)]
    given = {
        n: list(v) for n, v in zip(("a", "b", "first"), zip(*cycles, strict=True), strict=True)
    }
    outputs = record(netlist, given).outputs
    below, total, terms = 2 * format.fraction_bits, 0, 0
    for k, (a, b, first) in enumerate(cycles[:-1]):
        total = format.multiply(a, b) + (0 if first else total)
        terms = 1 if first else terms + 1
        low, high, carry = (outputs[name][k + 1] for name in ("low", "high", "carry"))
        count = (high ^ kept_inverted(len(unit.high))) + carry
        held = low + (count << len(unit.low)) - (terms << below)
        assert held == total, f"{k=} {a=:#x} {b=:#x} {format}"


def test_a_width_of_no_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, not 0"):
        CarryCount(0)
    with pytest.raises(TypeError, match="width must be an integer, not '3'"):
        CarryCount("3")
