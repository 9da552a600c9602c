"""Every unit against the integer model: cocotb under Icarus and Verilator, and Amaranth.

The quick tests take every unit in every width with unity on and off and with both roundings under
Icarus, and one variant per width in Amaranth; every input where that is few, else corners and
seeded random vectors. The slow tests take every input wherever the operands have at most 16 bits
together, and every multiplier in every unit, under both simulators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from sim import runner
from sim.case import Case, plan_of
from sim.plan import Plan
from sim.runner import SIMULATORS, MissingSimulator, SimulationFailed, compare, simulate
from sim.stimulus import EXHAUSTIVE_BITS, Operand
from sim.units import ALL_BITS, UNITS, rotate

#: Units that share a harness, because each build costs seconds; and their vectors per case.
GROUPS = {
    "multipliers": (("multiplier", "product", "fma"), 128),
    "drain": (("drain",), 128),
    "words": (
        (
            "encoder",
            "signed-encoder",
            "activation",
            "convert-binary32",
            "convert-binary16",
            "to-binary32",
            "zero-detector",
            "unity-detector",
            "cycle-count",
        ),
        512,
    ),
    "streams": (("fma-stream",), 150),
    "clocked": (("mac", "operand-hold", "shift-register"), 400),
}
#: Vectors per case of the slow runs where not every input is possible.
SLOW_VECTORS = 3000


def cases_of(units: Sequence[str], bits: Sequence[int] = ALL_BITS) -> list[Case]:
    return [case for n, unit in enumerate(units) for case in rotate(UNITS[unit](bits), n)]


def check(cases: Sequence[Case], plan: Plan, simulator: str) -> None:
    board = compare([case.build() for case in cases], plan, simulator)
    assert not board.mismatches, "\n" + board.report()
    if plan.streams:
        assert board.compared == sum(len(v) for lane in plan.lanes for v in lane.expected.values())
    else:
        assert board.compared == sum(len(lane.expected) for lane in plan.lanes) > 0


def test_every_unit_is_in_a_group() -> None:
    assert sorted(unit for units, _ in GROUPS.values() for unit in units) == sorted(UNITS)


def one_variant_per_width(units: Sequence[str]) -> list[Case]:
    """Another variant for the next width."""
    return [
        found[number % len(found)]
        for unit in units
        for number, bits in enumerate(ALL_BITS)
        if (found := list(UNITS[unit]((bits,))))
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_units_equal_the_integer_model_under_icarus(group: str) -> None:
    units, limit = GROUPS[group]
    cases = cases_of(units)
    check(cases, plan_of(cases, limit), "icarus")


#: Verilator compiles for half a minute what Icarus runs in seconds: one group of it is quick.
@pytest.mark.parametrize("group", ["words", pytest.param("clocked", marks=pytest.mark.slow)])
def test_units_equal_the_integer_model_under_verilator(group: str) -> None:
    units, limit = GROUPS[group]
    cases = one_variant_per_width(units) if group == "words" else cases_of(units)
    check(cases, plan_of(cases, limit), "verilator")


@pytest.mark.parametrize("group", GROUPS)
def test_units_equal_the_integer_model_in_amaranth(group: str) -> None:
    units, limit = GROUPS[group]
    cases = one_variant_per_width(units)
    check(cases, plan_of(cases, min(limit, 300)), "amaranth")


@pytest.mark.slow
@pytest.mark.parametrize("simulator", SIMULATORS)
@pytest.mark.parametrize("unit", [u for u in UNITS if u not in ("shift-register", "operand-hold")])
def test_units_equal_the_integer_model_on_every_input_of_16_bits(unit: str, simulator: str) -> None:
    for cases, limit in _sweeps(unit):
        check(cases, plan_of(cases, limit), simulator)


def _sweeps(unit: str) -> Iterator[tuple[list[Case], int]]:
    """Every case that has 12 bits or fewer, 13 to 16 bits, or more, and its vectors."""
    cases = list(UNITS[unit](ALL_BITS))
    if cases[0].clocked:
        yield rotate(cases, 1), SLOW_VECTORS
        return
    for low, high, limit in ((0, 12, 1 << 12), (12, EXHAUSTIVE_BITS, 1 << EXHAUSTIVE_BITS)):
        if chosen := [c for c in cases if low < c.operand_bits <= high]:
            yield chosen, limit
    if chosen := [c for c in cases if c.operand_bits > EXHAUSTIVE_BITS]:
        yield rotate(chosen, 1), SLOW_VECTORS


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_all_variants_equal_the_integer_model_in_amaranth(group: str) -> None:
    units, limit = GROUPS[group]
    cases = cases_of(units)
    check(cases, plan_of(cases, limit), "amaranth")


# The harness itself must notice what is wrong.


class Adder(wiring.Component):
    """Adds a constant, with a defect for one input."""

    def __init__(self, broken_at: int | None) -> None:
        self.broken_at = broken_at
        super().__init__({"a": In(5), "o": Out(6)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o.eq(self.a + 3)
        if self.broken_at is not None:
            with m.If(self.a == self.broken_at):
                m.d.comb += self.o.eq(0)
        return m


class Buffer(wiring.Component):
    """A one-word buffer that loses or changes words if told to."""

    def __init__(self, defect: str) -> None:
        self.defect = defect
        word = stream.Signature(6)
        super().__init__({"i": In(word), "o": Out(word)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free = self.o.ready | ~self.o.valid
        m.d.comb += self.i.ready.eq(free if self.defect != "loses" else 1)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        if self.defect == "changes":
            with m.If(~self.o.ready):
                m.d.sync += self.o.payload.eq(self.o.payload ^ 1)
        return m


def adder_case(broken_at: int | None) -> Case:
    function = lambda a: {"o": a + 3}  # noqa: E731
    return Case("adder", {}, lambda: Adder(broken_at), (Operand("a", 5),), function)


@pytest.mark.parametrize("simulator", runner.BACK_ENDS)
def test_one_wrong_output_is_reported_with_all_that_is_needed_to_repeat_it(simulator: str) -> None:
    cases = [adder_case(None), adder_case(17), adder_case(None)]
    plan = plan_of(cases, 32, seed=7)
    board = compare([case.build() for case in cases], plan, simulator)
    assert board.failed_lanes == {1}
    assert board.compared == 96
    (line,) = board.report().splitlines()
    for part in ("adder", "seed 7", "a=0x11", "got o=0x0", "want o=0x14"):
        assert part in line


@pytest.mark.slow
def test_verilators_run_time_is_compiled_once() -> None:
    for broken_at in (2, 3):
        design = Adder(broken_at)
        made = runner.compile_design(design, "verilator", top="adder", visible=("a", "o"))
    assert "Vtop__ALL.cpp" in (made / "build.log").read_text()
    assert "verilated_vpi.cpp" not in (made / "build.log").read_text()


@pytest.mark.parametrize("simulator", ["icarus", "amaranth"])
@pytest.mark.parametrize("defect", ["none", "loses", "changes"])
def test_a_stream_that_loses_or_changes_words_is_noticed(defect: str, simulator: str) -> None:
    case = Case(
        "buffer",
        {},
        lambda: Buffer(defect),
        (Operand("a", 6),),
        lambda a: {"o": a},
        streams=("i", "o"),
    )
    plan = plan_of([case] * 5, 64)
    board = compare([Buffer(defect) for _ in range(5)], plan, simulator)
    # nobody stalls in the last lane, which therefore cannot show these defects
    assert plan.lanes[4].stall == (100, 100)
    assert 4 not in board.failed_lanes
    assert bool(board.failed_lanes) == (defect != "none")


def test_a_renamed_port_is_refused() -> None:
    cases = [adder_case(None)]
    plan = plan_of(cases, 8)
    (lane,) = plan.lanes
    fields = (replace(lane.layout.outputs[0], name="sum"),)
    renamed = replace(plan, lanes=(replace(lane, layout=replace(lane.layout, outputs=fields)),))
    with pytest.raises(ValueError, match="layout of adder must be"):
        compare([case.build() for case in cases], renamed, "icarus")


def test_an_output_without_expectation_is_refused() -> None:
    case = replace(adder_case(None), function=lambda a: {})
    with pytest.raises(ValueError, match="differ in o"):
        plan_of([case], 8)


def test_a_missing_simulator_fails_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    runner.simulator_version.cache_clear()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingSimulator, match="apt-get install iverilog"):
        runner.simulator_version("icarus")
    runner.simulator_version.cache_clear()


def test_verilog_that_does_not_compile_fails_with_the_log() -> None:
    with pytest.raises(SimulationFailed, match="syntax error"):
        simulate("module harness(; endmodule", "sim.testbench_vectors")
