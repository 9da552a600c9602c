"""The search for invariants believes nobody: proofs are checked, counterexamples replayed."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sim.claims import Bench, Refutation
from sim.netlist import Netlist, read_verilog
from sim.reachability import Proof, Undecided, check_invariant, decide, find, induct, replay

#: Counts 1, 2, 3, 4, 5, 0, 1, ...; never 6 or 7.
COUNTER = """
module counter(input clk, input enable, output [2:0] o, output is_6, output is_4);
  reg [2:0] count; initial count = 1; assign o = count;
  assign is_6 = count == 6; assign is_4 = count == 4;
  always @(posedge clk) if (enable) count <= count == 5 ? 0 : count + 1;
endmodule
"""


@pytest.fixture(scope="module")
def counter() -> Netlist:
    return read_verilog(COUNTER, "counter")


def test_what_cannot_be_reached_is_proven_by_a_checked_invariant(counter: Netlist) -> None:
    proof = decide(counter, counter.outputs["is_6"][0])
    assert isinstance(proof, Proof)
    assert proof.cubes


def test_what_can_be_reached_is_shown_by_a_run(counter: Netlist) -> None:
    trace = decide(counter, counter.outputs["is_4"][0])
    assert isinstance(trace, list)
    assert trace[0]["o"] == 1
    assert trace[-1]["o"] == 4
    shortest = find(counter, counter.outputs["is_4"][0], 10)
    assert [cycle["o"] for cycle in shortest] == [1, 2, 3, 4]
    assert find(counter, counter.outputs["is_4"][0], 3) is None
    assert find(counter, counter.outputs["is_6"][0], 20) is None


def test_replay_follows_the_netlist(counter: Netlist) -> None:
    enables = [1, 1, 0, 1, 1, 1, 1]
    trace, reached = replay(
        counter, [{"enable": enable} for enable in enables], counter.outputs["is_4"][0]
    )
    assert [cycle["o"] for cycle in trace] == [1, 2, 3, 3, 4, 5, 0]
    assert not reached


def test_a_forged_invariant_is_refused(counter: Netlist) -> None:
    bad = counter.outputs["is_6"][0]
    place = {register.output: i for i, register in enumerate(counter.registers)}
    zero, one, two = (place[net] for net in counter.outputs["o"])
    check_invariant(counter, bad, [{two: 1, one: 1}])
    check_invariant(counter, bad, [{two: 1, one: 1, zero: 0}])
    for forged in (
        [{zero: 1, one: 0, two: 0}],  # excludes the start
        [{two: 1}],  # excludes 6, but 3 leads to 4
        [{two: 1, one: 1, zero: 1}],  # does not exclude 6
    ):
        with pytest.raises(Undecided):
            check_invariant(counter, bad, forged)


def test_induction_needs_enough_of_the_state(counter: Netlist) -> None:
    # From 5 to 0, so only a start at 6 itself breaks it, which the induction excludes.
    assert induct(counter, counter.outputs["is_6"][0]) is None
    trace = induct(counter, counter.outputs["is_4"][0])
    assert [cycle["o"] for cycle in trace] == [3, 4]


class Toggle(wiring.Component):
    """``o`` changes with ``i``; two registers that are always equal."""

    def __init__(self) -> None:
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        one, other = Signal(name="one"), Signal(name="other")
        m.d.sync += [one.eq(one ^ self.i), other.eq(other ^ self.i)]
        m.d.comb += self.o.eq(one ^ other)
        return m


def toggle_bench() -> Bench:
    unit = Toggle()
    bench = Bench(unit)
    bench.watch("input", unit.i)
    return bench


def test_claims_may_look_into_a_unit_and_need_an_invariant() -> None:
    bench = toggle_bench()
    bench.claim("registers agree", bench.unit.o == 0)
    assert isinstance(bench.build().prove(), Proof)
    bench = toggle_bench()
    bench.claim("never 1", bench.inside("one") == 0)
    refutation = bench.build().prove()
    assert isinstance(refutation, Refutation)
    assert refutation.claims == ("never 1",)
    assert "broken in cycle 1: never 1" in str(refutation)
    assert "unit.one" in str(refutation)


def test_assumptions_bind_and_vacuous_ones_leave_covers_out_of_reach() -> None:
    bench = toggle_bench()
    bench.assume(bench.unit.i == 0)
    bench.claim("never 1", bench.inside("one") == 0)
    bench.cover("may be 1", bench.inside("other"))
    built = bench.build()
    assert isinstance(built.prove(), Proof)
    assert built.reach("may be 1", 10) is None
    bench = toggle_bench()
    bench.cover("may be 1", bench.inside("other"))
    assert len(bench.build().reach("may be 1", 10)) == 2


def test_a_reset_may_come_in_any_cycle() -> None:
    bench = toggle_bench()
    before = bench.register("before", bench.inside("one") & ~bench.unit.i)
    seen = bench.register("seen", 1)
    bench.claim("a reset clears both", ~before | bench.inside("one"))
    bench.cover("a second start", ~seen & before)
    built = bench.build()
    assert isinstance(built.prove(), Proof)
    assert built.reach("a second start", 10) is None
    bench = toggle_bench()
    rises = bench.count("rises", 1, up=bench.unit.i)
    assert rises is not None
    assert isinstance(bench.build().prove(), Refutation)
    bench = toggle_bench()
    bench.assume(~bench.inside("one") | ~bench.unit.i)
    bench.claim("never again 0", ~bench.register("was", bench.inside("one")) | bench.inside("one"))
    assert isinstance(bench.build().prove(), Proof)


def test_what_is_cut_out_may_be_anything() -> None:
    class Pair(wiring.Component):
        def __init__(self) -> None:
            super().__init__({"i": In(1), "o": Out(1)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            m.submodules.toggle = toggle = Toggle()
            m.d.comb += [toggle.i.eq(self.i), self.o.eq(toggle.o)]
            return m

    for cut in (False, True):
        bench = Bench(Pair())
        if cut:
            bench.cut("toggle")
        bench.claim("never 1", bench.register("was", bench.unit.o) == 0)
        assert isinstance(bench.build().prove(), Refutation if cut else Proof)


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="path must name one driven signal, not 0"):
        toggle_bench().inside("three")
