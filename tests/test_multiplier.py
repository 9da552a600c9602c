"""Every multiplier gives a * b; the table behind ``auto`` is whole and its choices are measured."""

from __future__ import annotations

import random
import subprocess

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hw import synthesis
from hw.adder import ADDERS
from hw.carry_chain import (
    BEHAVIOURAL,
    CLEARED_ACCUMULATE,
    GATED_ACCUMULATE,
    GATED_SUM,
    CarryChain,
)
from hw.chain_multiplier import ChainMultiplier
from hw.compressor_tree import CELLS, REDUCTIONS
from hw.dadda_multiplier import DaddaMultiplier
from hw.multiplier import (
    AUTO,
    MAX_WIDTH,
    MIN_WIDTH,
    MULTIPLIERS,
    OPERATOR,
    TARGETS,
    Multiplier,
    make_multiplier,
    table_entry,
)
from sw.format import SFx

SEED = 20261122
WIDTHS = range(MIN_WIDTH, MAX_WIDTH + 1)
STAR = "yosys *"


def operand_pairs(width: int, count: int) -> list[tuple[int, int]]:
    """All pairs up to 4 bits; else corners and seeded random pairs."""
    if width <= 4:
        return [(a, b) for a in range(1 << width) for b in range(1 << width)]
    ones, top = (1 << width) - 1, 1 << (width - 1)
    corners = [0, 1, 2, ones, ones - 1, top, top - 1, 0x5555 & ones, 0x2AAA & ones]
    generator = random.Random(SEED + width)
    pairs = [(a, b) for a in corners for b in corners]
    return pairs + [
        (generator.getrandbits(width), generator.getrandbits(width)) for _ in range(count)
    ]


def check_product(multiplier: Multiplier, count: int = 60) -> None:
    async def testbench(context) -> None:
        for a, b in operand_pairs(multiplier.width, count):
            context.set(multiplier.a, a)
            context.set(multiplier.b, b)
            got = context.get(multiplier.product)
            assert got == a * b, f"a={a:#x} b={b:#x} got={got:#x} want={a * b:#x} seed={SEED}"

    simulator = Simulator(Fragment.get(multiplier, BEHAVIOURAL))
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*MULTIPLIERS, OPERATOR])
def test_every_multiplier_gives_the_product(name, width):
    check_product(make_multiplier(name, width))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_ecp5_form_gives_the_product_on_the_twins_of_its_carry_chains(width):
    check_product(make_multiplier("chain", width, "ecp5"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_osu018_form_gives_the_product_on_the_twins_of_its_full_adders(width):
    check_product(make_multiplier("dadda", width, "osu018"))


@pytest.mark.parametrize("compress", [(3,), (4, 3), (7, 3), (8, 7, 6, 5, 4, 3)])
@pytest.mark.parametrize("width", [3, 5, 6, 13, 15])
def test_layers_of_tables_do_not_change_the_product(width, compress):
    check_product(ChainMultiplier(width, "ecp5", compress), 20)


@pytest.mark.parametrize("adder", ADDERS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_way_to_reduce_and_add_gives_the_product(reduction, adder):
    for width in (2, 3, 4, 7):
        ripples = (0, width // 2, width) if reduction == "arrival" else (0,)
        for ripple in ripples:
            check_product(DaddaMultiplier(width, reduction, ripple, "shared", adder), 20)


@pytest.mark.parametrize("cell", CELLS)
def test_every_full_adder_gives_the_product(cell):
    check_product(DaddaMultiplier(6, cell=cell), 20)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_reduction_preserves_weight_and_uses_every_bit_once(reduction):
    for width in WIDTHS:
        heights = [min(i + 1, 2 * width - 1 - i) for i in range(2 * width)]
        result = REDUCTIONS[reduction](heights)
        weight = dict(
            enumerate(column for column, height in enumerate(heights) for _ in range(height))
        )
        for compressor in result.compressors:
            for bit in compressor.inputs:
                assert weight.pop(bit) == compressor.column
            weight[compressor.sum] = compressor.column
            weight[compressor.carry] = compressor.column + 1
        left = {bit: column for column, bits in enumerate(result.columns) for bit in bits}
        carried_away = {bit for bit, column in weight.items() if column >= 2 * width}
        assert {b: c for b, c in weight.items() if b not in carried_away} == left
        assert max(len(column) for column in result.columns) <= 2


@pytest.mark.parametrize("table", [GATED_SUM, GATED_ACCUMULATE, CLEARED_ACCUMULATE])
def test_the_twin_of_a_carry_chain_follows_the_simulation_model_of_its_primitive(table):
    chain = CarryChain(5, table)
    generator = random.Random(SEED)

    def expected(operands: list[int], carry: int) -> int:
        total = 0
        for bit in range(5):
            a, b, c, d = (operand >> bit & 1 for operand in operands)
            propagate = table >> (a | b << 1 | c << 2 | d << 3) & 1
            generate = table >> (a | b << 1) & 1
            total |= (propagate ^ carry) << bit
            carry = carry if propagate else generate
        return total

    async def testbench(context) -> None:
        for _ in range(400):
            operands = [generator.getrandbits(5) for _ in range(4)]
            carry = generator.getrandbits(1)
            for port, value in zip((chain.a, chain.b, chain.c, chain.d), operands, strict=True):
                context.set(port, value)
            context.set(chain.carry, carry)
            got, want = context.get(chain.sum), expected(operands, carry)
            assert got == want, f"{operands=} {carry=} {got=} {want=} seed={SEED}"

    simulator = Simulator(Fragment.get(chain, BEHAVIOURAL))
    simulator.add_testbench(testbench)
    simulator.run()


ICARUS_BENCH = """
module bench;
  reg [{top}:0] a = 0, b = 0; wire [{double}:0] product; integer i, wrong = 0;
  unit dut(.a(a), .b(b), .product(product));
  initial begin
    for (i = 0; i < {count}; i = i + 1) begin
      if ({exhaustive}) {{a, b}} = i; else begin a = $random; b = $random; end
      #1 if (product !== a * b) begin
        wrong = wrong + 1; if (wrong < 5) $display("a=%h b=%h got=%h", a, b, product); end
    end
    $display("%0d checked, %0d wrong", i, wrong);
  end
endmodule
"""


@pytest.mark.parametrize("width", [3, 5, 8, 15])
def test_the_ecp5_netlist_gives_the_product_on_the_cells_that_yosys_ships(width, tmp_path):
    """Synthesised for ECP5, on yosys' own models: every pair up to 8 bits, else 2,000 of them."""
    text = rtlil.convert(make_multiplier("chain", width, "ecp5"), name="unit", emit_src=False)
    (tmp_path / "unit.il").write_text(text)
    synthesis.run_passes(
        [
            f"read_rtlil {tmp_path}/unit.il",
            "synth_ecp5 -nodsp -top unit",
            f"write_verilog -noattr {tmp_path}/netlist.v",
        ]
    )
    exhaustive = width <= 8
    bench = ICARUS_BENCH.format(
        top=width - 1,
        double=2 * width - 1,
        count=1 << 2 * width if exhaustive else 2_000,
        exhaustive=int(exhaustive),
    )
    (tmp_path / "bench.v").write_text(bench)
    assert "CCU2C" in (tmp_path / "netlist.v").read_text()
    synthesis.run_passes(  # the models' bodies in place of the cells
        [
            "read_verilog -D NO_INCLUDES +/ecp5/cells_sim.v",
            "setattr -mod -unset whitebox -unset lib_whitebox -unset abc9_box =*",
            f"read_verilog {tmp_path}/netlist.v",
            "hierarchy -check -top unit",
            "proc",
            "flatten",
            "opt_clean",
            f"write_verilog -noattr {tmp_path}/gates.v",
        ]
    )
    program = tmp_path / "bench.vvp"
    command = ["iverilog", "-g2012", "-s", "bench", "-o", program]
    subprocess.run([*command, tmp_path / "bench.v", tmp_path / "gates.v"], check=True)
    log = subprocess.run(["vvp", program], check=True, capture_output=True, text=True).stdout
    count = 1 << 2 * width if exhaustive else 2_000
    assert log.splitlines()[-1] == f"{count} checked, 0 wrong", log


def test_primitives_stand_in_the_forms_of_their_target_only():
    assert "CCU2C" in rtlil.convert(make_multiplier("chain", 7, "ecp5"))
    for name in MULTIPLIERS:
        text = rtlil.convert(make_multiplier(name, 7))
        assert "CCU2C" not in text
        assert "FAX1" not in text


@pytest.mark.parametrize("target", TARGETS)
def test_the_table_chooses_for_every_width_and_its_choice_is_no_worse_than_yosys(target):
    for width in WIDTHS:
        entry = table_entry(target, width)
        name = entry[AUTO]
        assert name in MULTIPLIERS
        assert isinstance(make_multiplier(AUTO, width, target), Multiplier)
        measured = entry["measured"]
        for got, rival in zip(measured[name], measured[STAR], strict=True):
            if target in ("ecp5", "osu018"):
                assert got <= rival, f"{target} F={width}: {name} {measured}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("booth", 4),
            "multiplier must be one of array, dadda, chain, operator, dsp, auto, not 'booth'",
        ),
        (("array", 16), "width must be 2 to 15, not 16"),
        (("array", 1), "width must be 2 to 15, not 1"),
        (("array", 4, "asic"), "target must be one of generic, ecp5, ice40, osu018, not 'asic'"),
    ],
)
def test_unknown_names_widths_and_targets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_multiplier(*arguments)


def test_a_width_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match=r"width must be an integer, not 4\.0"):
        make_multiplier("array", 4.0)


def test_widths_cover_every_format():
    assert [SFx(bits).fraction_bits for bits in range(3, 17)] == list(WIDTHS)
