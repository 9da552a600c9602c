"""Shared multiplier blocks: what fits, that it is exact, that the array is as without them."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyosys
import pytest
from amaranth.hdl import Fragment
from amaranth.sim import Simulator

from hw.array import SystolicArray
from hw.carry_chain import BEHAVIOURAL
from hw.edge import ArrayEdge
from hw.multiplier import DSP, MULTIPLIER_NAMES, make_multiplier, table_entry
from hw.packed_multiplier import BLOCK_BITS, DspMultiplier, PackedMultiplier, greatest_skew, packing
from hw.synthesis import component_source, ecp5_slots, ice40_slots, run_passes
from sw import timing
from sw.config import MachineConfig
from sw.format import MAX_BITS, MIN_BITS, SFx
from sw.isa import Destination
from tests.test_array import back_to_back, run

WIDTHS = range(MIN_BITS - 1, MAX_BITS)
#: Products per block by width and target, where more than one.
PRODUCTS = {
    "ecp5": {2: 8, 3: 4, 4: 2, 5: 2, 6: 2},
    "ice40": {2: 4, 3: 4, 4: 2, 5: 2, 6: 2, 7: 2, 8: 2},
}
SHARED = [(target, width) for target, widths in PRODUCTS.items() for width in widths]


@pytest.mark.parametrize("target", PRODUCTS)
def test_a_block_holds_as_many_products_as_stated(target: str) -> None:
    for width in WIDTHS:
        found = packing(width, target)
        assert found.rows * found.columns == PRODUCTS[target].get(width, 1)
    assert [packing(w, "generic") for w in WIDTHS] == [packing(w, "ecp5") for w in WIDTHS]


@pytest.mark.parametrize(("target", "width"), SHARED)
def test_no_two_products_of_a_block_share_a_bit_and_the_factors_fit(
    target: str, width: int
) -> None:
    found = packing(width, target)
    if found.halves:
        assert width <= 8
        return
    most = (1 << width) - 1
    fields = [
        i * found.row_stride + j * found.column_stride
        for i in range(found.rows)
        for j in range(found.columns)
    ]
    used = [set(range(low, low + 2 * width)) for low in fields]
    assert len(set.union(*used)) == 2 * width * len(fields)
    assert most * most < 1 << 2 * width
    for side, stride in ((found.rows, found.row_stride), (found.columns, found.column_stride)):
        assert (most << stride * (side - 1)).bit_length() <= BLOCK_BITS[target]


def evaluate(unit: PackedMultiplier, vectors: list[tuple[list[int], list[int]]]) -> None:
    """Compare the unit's products with Python's, from its twin in Amaranth's simulator."""

    async def testbench(context) -> None:
        for a, b in vectors:
            for ports, values in ((unit.a, a), (unit.b, b)):
                for port, value in zip(ports, values, strict=True):
                    context.set(port, value)
            got = [context.get(port) for port in unit.product]
            assert got == [x * y for x in a for y in b], f"{a=} {b=} {unit.width=} {unit.target}"

    simulator = Simulator(Fragment.get(unit, BEHAVIOURAL))
    simulator.add_testbench(testbench)
    simulator.run()


def every(unit: PackedMultiplier, values: list[int]) -> list[tuple[list[int], list[int]]]:
    """All combinations of the values on all operands."""
    lanes = unit.rows + unit.columns
    found = itertools.product(values, repeat=lanes)
    return [(list(v[: unit.rows]), list(v[unit.rows :])) for v in found]


@pytest.mark.parametrize(("target", "width"), [k for k in SHARED if k[1] <= 4])
def test_every_combination_of_small_magnitudes_is_exact(target: str, width: int) -> None:
    unit = PackedMultiplier(width, target)
    vectors = every(unit, list(range(1 << width)))
    assert len(vectors) == 1 << width * (unit.rows + unit.columns)
    evaluate(unit, vectors)


@pytest.mark.parametrize(("target", "width"), [k for k in SHARED if k[1] > 4])
def test_corners_of_wide_magnitudes_are_exact(target: str, width: int) -> None:
    top = 1 << width
    unit = PackedMultiplier(width, target)
    evaluate(unit, every(unit, [0, 1, 2, top // 2 - 1, top // 2, top - 2, top - 1]))


@pytest.mark.parametrize(("target", "width"), [k for k in SHARED if k[1] > 4])
def test_every_combination_is_exact_as_integers(target: str, width: int) -> None:
    found = packing(width, target)
    if found.halves:  # each product is a multiplier's own
        return
    values = np.arange(1 << width, dtype=np.int64)
    a, first, second = np.meshgrid(values, values, values, indexing="ij", sparse=True)
    whole = a * (first + (second << found.column_stride))
    field = (1 << 2 * width) - 1
    assert (whole & field == a * first).all()
    assert (whole >> found.column_stride & field == a * second).all()


@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_pairs_without_a_common_operand_are_exact_from_two_f_plus_one(width: int) -> None:
    values = np.arange(1 << width, dtype=np.int64)
    a0, a1, b0, b1 = np.meshgrid(values, values, values, values, indexing="ij", sparse=True)
    for p, exact in ((2 * width, False), (2 * width + 1, True)):
        whole = (a0 + (a1 << p)) * (b0 + (b1 << p))
        assert (whole & ((1 << 2 * width) - 1) == a0 * b0).all()
        assert (whole >> 2 * p == a1 * b1).all() == exact
    assert 3 * width + 1 <= 18


@pytest.mark.parametrize("target", BLOCK_BITS)
@pytest.mark.parametrize("width", WIDTHS)
def test_one_product_fills_the_socket(target: str, width: int) -> None:
    unit = make_multiplier(DSP, width, target)
    assert isinstance(unit, DspMultiplier)
    top = 1 << width

    async def testbench(context) -> None:
        for a in (0, 1, top // 3, top - 1):
            for b in (0, 1, top // 2, top - 1):
                context.set(unit.a, a)
                context.set(unit.b, b)
                assert context.get(unit.product) == a * b

    simulator = Simulator(Fragment.get(unit, BEHAVIOURAL))
    simulator.add_testbench(testbench)
    simulator.run()


def test_a_block_is_taken_only_where_it_is_asked_for() -> None:
    assert DSP in MULTIPLIER_NAMES
    for target in ("generic", "ecp5", "ice40", "osu018"):
        assert all(table_entry(target, width)["auto"] != DSP for width in WIDTHS)


def test_mistakes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="target must be one of generic, ecp5, ice40, not 'osu"):
        make_multiplier(DSP, 7, "osu018")
    with pytest.raises(ValueError, match="rows must be 1 to 2, not 3"):
        PackedMultiplier(3, "ecp5", 3)


SHAPES = [(3, True, 3, 5), (4, False, 3, 3), (5, False, 4, 3), (8, True, 2, 3), (16, False, 2, 2)]
ARRAYS = [
    pytest.param(target, *shape, marks=() if target == "ice40" or number < 2 else pytest.mark.slow)
    for target in BLOCK_BITS
    for number, shape in enumerate(SHAPES)
]


@pytest.mark.parametrize(("target", "bits", "unity", "rows", "columns"), ARRAYS)
def test_an_array_on_shared_blocks_has_every_sum_in_its_cycle(
    target: str, bits: int, unity: bool, rows: int, columns: int
) -> None:
    format = SFx(bits, unity)
    array = SystolicArray(format, rows, columns, 256, DSP, target)
    slices = back_to_back(format, (rows, columns), 4, seed=bits)
    run(ArrayEdge(format, rows, columns), array, slices)


def test_the_bus_in_two_parts_waits_as_well() -> None:
    format = SFx(4)
    array = SystolicArray(format, 18, 2, 64, DSP)
    run(ArrayEdge(format, 18, 2), array, back_to_back(format, (18, 2), 2, seed=1))


@pytest.mark.parametrize("bits", range(MIN_BITS, MAX_BITS + 1))
def test_the_model_knows_what_sharing_adds(bits: int) -> None:
    width = bits - 1
    assert timing.SHARED.get(width, 0) == greatest_skew(width)
    arrays = [SystolicArray(SFx(bits), 2, 2, 256, name) for name in (DSP, "operator")]
    configs = [
        MachineConfig(bits=bits, rows=2, columns=2, multiplier=name) for name in (DSP, "auto")
    ]
    late, soon = (timing.Timing(c).row_latency(Destination.MEMORY) for c in configs)
    assert late - soon == arrays[0].latency - arrays[1].latency


@pytest.mark.parametrize(
    ("target", "bits", "rows", "columns", "blocks"),
    [
        ("ecp5", 4, 2, 4, 2),
        pytest.param("ecp5", 3, 2, 4, 1, marks=pytest.mark.slow),
        pytest.param("ecp5", 7, 1, 3, 2, marks=pytest.mark.slow),
        ("ice40", 8, 1, 4, 2),
    ],
)
def test_synthesis_finds_as_many_blocks_as_there_are_groups(
    target: str, bits: int, rows: int, columns: int, blocks: int
) -> None:
    array = SystolicArray(SFx(bits, False), rows, columns, 64, DSP, target)
    slots = ecp5_slots if target == "ecp5" else ice40_slots
    cells = slots(component_source(array)).cells
    kind = "MULT18X18D" if target == "ecp5" else "SB_MAC16"
    assert cells[kind] == blocks


BENCH = """
module bench;
  reg [{w}:0] a, b, c; wire [{p}:0] y, z; integer k;
  unit unit(.a__0(a), .b__0(b), .b__1(c), .product__0(y), .product__1(z));
  initial begin
    for (k = 0; k < {count}; k = k + 1) begin
      {{a, b, c}} = {stimulus};
      #1 if (y !== a * b || z !== a * c) begin $display("%0d %0d %0d", a, b, c); $finish(0); end
    end
    $display("equal"); $finish(0);
  end
endmodule
"""


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize(("width", "broken"), [(4, False), (5, False), (8, False), (8, True)])
def test_sb_mac16_computes_the_products_in_yosys_own_model(
    width: int, broken: bool, tmp_path: Path
) -> None:
    """The primitive itself, packed and in halves; one with signed operands does not pass."""
    model = Path(pyosys.__file__).parent / "share/ice40/cells_sim.v"
    unit, netlist = tmp_path / "unit.il", tmp_path / "unit.v"
    unit.write_text(component_source(PackedMultiplier(width, "ice40")).text)
    run_passes([f"read_rtlil {unit}", "hierarchy -top unit", "proc", f"write_verilog {netlist}"])
    if broken:
        netlist.write_text(netlist.read_text().replace(".A_SIGNED(1'h0)", ".A_SIGNED(1'h1)"))
    exhaustive = 3 * width <= 15
    bench = BENCH.format(
        w=width - 1,
        p=2 * width - 1,
        count=1 << 3 * width if exhaustive else 20_000,
        stimulus="k" if exhaustive else "$random",
    )
    (tmp_path / "bench.v").write_text(bench)
    compiled = tmp_path / "bench.vvp"
    files = [str(tmp_path / "bench.v"), str(netlist), str(model)]
    options = ["-g2012", "-DNO_ICE40_DEFAULT_ASSIGNMENTS"]
    subprocess.run(["iverilog", *options, "-s", "bench", "-o", compiled, *files], check=True)
    said = subprocess.run(["vvp", "-n", compiled], check=True, capture_output=True, text=True)
    assert (said.stdout == "equal\n") != broken
