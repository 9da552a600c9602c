"""Proofs over the netlists of emitted units, and that these proofs reject what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from hw.emit import emit
from hw.fma import FusedMultiplyAdd
from hw.multiplier import MULTIPLIERS, make_multiplier
from sim import bitslice, satisfiability
from sim.netlist import PASSES, SHRINK, Gate, Netlist, read_verilog
from sim.satisfiability import FusedMultiplyAddProof, find_difference
from sw.format import ROUNDINGS, SFx

#: Simulation models of the ECP5's cells, in yosys' share directory.
ECP5 = ("+/lattice/cells_sim_ecp5.v",)


def multiplier_netlist(
    name: str, width: int, target: str = "generic", small: bool = False
) -> Netlist:
    text = emit(make_multiplier(name, width, target), "multiplier")
    libraries = ECP5 if target == "ecp5" else ()
    return read_verilog(text, "multiplier", libraries, (*PASSES, *SHRINK) if small else PASSES)


@pytest.mark.parametrize("width", [*range(2, 8), pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MULTIPLIERS)
def test_multiplier_equals_the_product_by_satisfiability(name: str, width: int) -> None:
    assert satisfiability.find_wrong_product(multiplier_netlist(name, width), width) is None


@pytest.mark.parametrize(
    "width", [9, 10, 11, *(pytest.param(w, marks=pytest.mark.slow) for w in range(12, 16))]
)
@pytest.mark.parametrize("name", MULTIPLIERS)
def test_multiplier_equals_the_product_on_every_pair(name: str, width: int) -> None:
    wrong = bitslice.find_wrong_product(multiplier_netlist(name, width, small=True), width)
    assert wrong is None, f"{name} width={width}: {wrong}"


@pytest.mark.parametrize("width", [2, 5, pytest.param(8, marks=pytest.mark.slow)])
def test_carry_chains_of_the_ecp5_equal_the_product_by_satisfiability(width: int) -> None:
    netlist = multiplier_netlist("chain", width, "ecp5")
    assert satisfiability.find_wrong_product(netlist, width) is None


@pytest.mark.parametrize(
    "width", [9, *(pytest.param(w, marks=pytest.mark.slow) for w in range(10, 16))]
)
def test_carry_chains_of_the_ecp5_equal_the_product_on_every_pair(width: int) -> None:
    wrong = bitslice.find_wrong_product(
        multiplier_netlist("chain", width, "ecp5", small=True), width
    )
    assert wrong is None, f"chain on ecp5 width={width}: {wrong}"


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
@pytest.mark.parametrize("bits", range(3, 7))
def test_fma_rounds_and_saturates_as_the_contract_says(
    bits: int, unity: bool, rounding: str
) -> None:
    text = emit(FusedMultiplyAdd(SFx(bits, unity), rounding), "fma")
    proof = FusedMultiplyAddProof(read_verilog(text, "fma"), bits, unity, rounding)
    for name, find in proof.properties.items():
        found = find()
        assert found is None, f"fma bits={bits} unity={unity} {rounding}: {name}: {found}"


# A proof that cannot fail proves nothing.


def swapped_gates(netlist: Netlist) -> Iterator[Netlist]:
    """The netlist with one gate of another kind, once for every gate."""
    other = {"$_AND_": "$_OR_", "$_OR_": "$_XOR_", "$_XOR_": "$_OR_", "$_NOT_": "$_BUF_"}
    for place, gate in enumerate(netlist.gates):
        if gate.kind == "$_MUX_":
            a, b, select = gate.inputs
            changed = Gate("$_MUX_", (b, a, select), gate.output)
        elif gate.kind in other:
            changed = Gate(other[gate.kind], gate.inputs, gate.output)
        else:
            continue
        yield replace(netlist, gates=(*netlist.gates[:place], changed, *netlist.gates[place + 1 :]))


def wrong_by_evaluation(netlist: Netlist, width: int) -> set[tuple[int, int, int]]:
    pairs = list(product(range(1 << width), repeat=2))
    got = netlist.evaluate({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})["product"]
    return {(a, b, p) for (a, b), p in zip(pairs, got, strict=True) if p != a * b}


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_solver_finds_exactly_the_broken_multipliers(name: str) -> None:
    netlist = multiplier_netlist(name, 4)
    assert not wrong_by_evaluation(netlist, 4)
    broken = 0
    for mutant in swapped_gates(netlist):
        wrong = wrong_by_evaluation(mutant, 4)
        found = satisfiability.find_wrong_product(mutant, 4)
        assert (found is not None) == bool(wrong)
        if found is not None:
            broken += 1
            assert (found["a"], found["b"]) in {(a, b) for a, b, _ in wrong}
    assert broken > len(netlist.gates) / 2


@pytest.mark.parametrize("name", MULTIPLIERS)
def test_bit_slices_find_broken_multipliers(name: str) -> None:
    netlist = multiplier_netlist(name, 6)
    mutants = list(swapped_gates(netlist))
    for mutant in mutants[:: len(mutants) // 4]:
        wrong = wrong_by_evaluation(mutant, 6)
        found = bitslice.find_wrong_product(mutant, 6)
        assert (found is not None) == bool(wrong)
        assert found is None or (found.a, found.b, found.got) in wrong
    first, *rest = netlist.outputs["product"]
    one_bit = replace(netlist, outputs={"product": (first, *rest[:-1], 0)})
    found = bitslice.find_wrong_product(one_bit, 6)
    assert found is not None
    assert found.a * found.b != found.got


@pytest.mark.parametrize("check", [satisfiability.find_wrong_product, bitslice.find_wrong_product])
def test_missing_and_renamed_outputs_are_refused_and_constant_ones_found(check) -> None:
    netlist = multiplier_netlist("array", 3)
    bits = netlist.outputs["product"]
    for outputs in ({}, {"p": bits}, {"product": bits[:-1]}, {"product": bits, "more": bits}):
        with pytest.raises(ValueError, match="outputs of the netlist must be"):
            check(replace(netlist, outputs=outputs), 3)
    with pytest.raises(ValueError, match="inputs of the netlist must be"):
        check(replace(netlist, inputs={"a": netlist.inputs["a"]}), 3)
    for constant in (0, 1):
        assert check(replace(netlist, outputs={"product": (constant,) * 6}), 3) is not None
    assert check(netlist, 3) is None


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("unity", [True, False])
def test_properties_of_the_fma_find_every_wrong_result(unity: bool, rounding: str) -> None:
    """Rounding and saturation together fix every result: a mutant that differs must break one."""
    format = SFx(3, unity)
    netlist = read_verilog(emit(FusedMultiplyAdd(format, rounding), "fma"), "fma")
    words = list(product(range(8), repeat=3))
    columns = {name: [word[place] for word in words] for place, name in enumerate("abc")}
    want = [format.fma(*word, rounding) for word in words]
    assert netlist.evaluate(columns)["o"] == want
    broken = 0
    for mutant in swapped_gates(netlist):
        wrong = mutant.evaluate(columns)["o"] != want
        proof = FusedMultiplyAddProof(mutant, 3, unity, rounding)
        names = ("rounding", "saturation", "minus zero")
        found = [name for name in names if proof.properties[name]() is not None]
        assert bool(found) == wrong
        broken += wrong
    assert broken > 10


@pytest.mark.parametrize("name", ["minus zero", "sign symmetry", "identity", "monotonic"])
def test_each_further_property_of_the_fma_can_fail(name: str) -> None:
    netlist = read_verilog(emit(FusedMultiplyAdd(SFx(3)), "fma"), "fma")
    low, high, sign = netlist.outputs["o"]
    c_low, _, c_sign = netlist.inputs["c"]
    broken = {
        "minus zero": (low, high, c_sign),
        "sign symmetry": (low, high, 0),
        "identity": (low, low, sign),
        "monotonic": (c_low, high, sign),
    }[name]
    proof = FusedMultiplyAddProof(replace(netlist, outputs={"o": broken}), 3, True, "nearest")
    assert proof.properties[name]() is not None


def test_difference_of_netlists_with_registers_is_found_in_the_next_state() -> None:
    text = """
    module counter(input clk, input enable, output [1:0] o);
      reg [1:0] count; initial count = 0; assign o = count;
      always @(posedge clk) if (enable) count <= count + 1;
    endmodule
    """
    original = read_verilog(text, "counter")
    assert find_difference(original, read_verilog(text, "counter")) is None
    same = text.replace("count + 1", "count - 2'd3")
    assert find_difference(original, read_verilog(same, "counter")) is None
    other = text.replace("if (enable)", "if (!enable)")
    assert find_difference(original, read_verilog(other, "counter")) is not None
    with pytest.raises(ValueError, match="registers must be the same"):
        find_difference(original, read_verilog(text.replace("count = 0", "count = 1"), "counter"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module m(input a, output b); missing x(.a(a), .b(b)); endmodule", "yosys must accept"),
        ("module m(input a, output b; endmodule", "yosys must accept"),
        ("module m(input a, output b); wire c; assign b = a & c; assign c = !b; endmodule", "loop"),
    ],
)
def test_a_design_that_is_no_netlist_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_verilog(text, "m")
