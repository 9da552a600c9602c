"""What a board holds, told before building: against Yosys, and against the design itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib.memory import Memory

from atreides.cli import main
from bench.fit_learn import learn
from bench.fit_synthesis import Measurement, component, logic_cells, synthesise
from hw import fit
from hw.boards import BOARDS, find_board
from hw.fit_memory import block_rams, memories, ram_luts, tile_banks
from hw.synthesis import run_passes
from sw.config import MachineConfig
from sw.format import MAX_BITS, MIN_BITS

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = {
    "ecp5": "-lib +/lattice/lutrams_trellis.txt -lib +/lattice/brams_16kd.txt",
    "ice40": "-lib +/ice40/brams.txt",
}
WIDTHS, DEPTHS = (1, 5, 8, 10, 12, 18, 24, 36), (8, 32, 64, 80, 128, 192, 256, 320, 1020)


def machine(bits: int, rows: int, columns: int, slots: int = 64, **more: object) -> MachineConfig:
    return MachineConfig(bits=bits, rows=rows, columns=columns, slots=slots, **more)  # type: ignore


@pytest.mark.parametrize("target", ["ecp5", "ice40"])
def test_a_memory_becomes_what_yosys_makes_of_it(target: str, tmp_path: Path) -> None:
    m = Module()
    address, other, data, enable = Signal(16), Signal(16), Signal(36), Signal(2)
    outputs = []
    for width in WIDTHS:
        for depth in DEPTHS:
            memory = Memory(shape=width, depth=depth, init=[])
            m.submodules[f"m_{width}_{depth}"] = inner = Module()
            inner.submodules.memory = memory
            write, read = memory.write_port(), memory.read_port()
            outputs.append(Signal(width, name=f"o_{width}_{depth}"))
            inner.d.comb += [write.addr.eq(address), write.data.eq(data), write.en.eq(enable[0])]
            inner.d.comb += [
                read.addr.eq(other),
                read.en.eq(enable[1]),
                outputs[-1].eq(read.data),
            ]
    ports = [address, other, data, enable, *outputs]
    (tmp_path / "m.il").write_text(rtlil.convert(m, ports=ports, emit_src=False))
    mapping = f"memory_libmap {LIBRARIES[target]}"
    stat = f"tee -q -o {tmp_path}/stat.json stat -json"
    run_passes([f"read_rtlil {tmp_path}/m.il", "memory_collect", mapping, stat])
    modules = json.loads((tmp_path / "stat.json").read_text())["modules"]
    want, got = {}, {}
    for name, module in modules.items():
        if found := re.search(r"m_(\d+)_(\d+)(\$\d+)?$", name):
            size = int(found[1]), int(found[2])
            cells = module["num_cells_by_type"].items()
            want[size] = sum(n for cell, n in cells if "16KD" in cell or "RAM4K" in cell)
            got[size] = block_rams(target, *size)
            if target == "ecp5" and not want[size]:
                tables = sum(n for cell, n in cells if "16X4" in cell)
                assert 4 * tables == ram_luts(*size), size
    assert len(want) == len(WIDTHS) * len(DEPTHS)
    assert got == want


def test_memories_are_those_of_the_netlist() -> None:
    config = machine(4, 2, 1, blocks=True, table=True)
    text = rtlil.convert(component("whole", config, "generic"), name="top", emit_src=False)
    found = re.findall(r"^  memory width (\d+) size (\d+)", text, re.MULTILINE)
    assert memories(config) == Counter((int(width), int(depth)) for width, depth in found)
    size, banks = tile_banks(config)
    assert memories(config)[size] >= banks


def test_table_has_every_width_and_wider_cells_are_larger() -> None:
    cells = fit.target_table("ecp5")["cells"]["auto"]
    assert list(map(int, sorted(cells, key=int))) == list(range(MIN_BITS, MAX_BITS + 1))
    costs = [cells[str(bits)] for bits in range(MIN_BITS, MAX_BITS + 1)]
    assert costs == sorted(costs)
    assert all(value >= 0 for value in fit.target_table("ecp5")["rest"].values())


def test_more_rows_columns_or_bits_take_more() -> None:
    base = machine(8, 4, 4)
    least = fit.need(base, "ecp5")
    for more in (machine(8, 5, 4), machine(8, 4, 5), machine(9, 4, 4)):
        found = fit.need(more, "ecp5")
        assert found.luts >= least.luts
        assert found.block_rams >= least.block_rams
        assert (found.luts, found.block_rams) != (least.luts, least.block_rams)
    assert fit.need(machine(8, 4, 4, 1024), "ecp5").block_rams > least.block_rams


def test_blocks_multiply_only_where_they_are_asked_for() -> None:
    assert fit.need(machine(8, 8, 8), "ecp5").dsps == 0
    assert fit.need(machine(8, 8, 8, multiplier="dsp"), "ecp5").dsps == 64
    assert fit.need(machine(4, 8, 8, multiplier="dsp"), "ecp5").dsps == 16


def test_what_does_not_fit_is_refused_with_how_much_and_what_does() -> None:
    board = find_board("ulx3s-12f")
    wanted = machine(16, 12, 12)
    with pytest.raises(fit.Refusal) as refusal:
        fit.check(board, wanted)
    said = re.fullmatch(
        r"machine needs ([\d,]+) look-up tables of 24,288, (\d+) % too many.* on ulx3s-12f; "
        r"(\d+) x (\d+) fits",
        str(refusal.value),
    )
    assert said, str(refusal.value)
    luts = int(said[1].replace(",", ""))
    assert luts == fit.need(wanted, "ecp5").luts
    assert int(said[2]) == -(-100 * (luts - 24288) // 24288)
    nearest = refusal.value.nearest
    assert nearest is not None
    assert (nearest.rows, nearest.columns) == (int(said[3]), int(said[4]))
    fit.check(board, nearest)


def test_the_largest_array_fits_and_no_larger_one_does() -> None:
    board, base = find_board("ulx3s-12f"), machine(8, 1, 1)
    found = fit.largest(board, base, (6, 6))
    assert found is not None
    assert not fit.excesses(board.device, fit.need(found, "ecp5"), fit.FILL)
    for rows in range(1, 7):
        for columns in range(1, 7):
            larger = rows * columns > found.rows * found.columns
            if larger and max(rows, columns) <= fit.ASPECT * min(rows, columns):
                need = fit.need(machine(8, rows, columns), "ecp5")
                assert fit.excesses(board.device, need, fit.FILL), (rows, columns)


def test_buses_take_a_table_per_two_rows_and_more_to_join_them() -> None:
    assert [fit.bus_luts(rows) for rows in (1, 2, 3, 4, 8, 16)] == [1, 1, 3, 3, 5, 11]


@pytest.mark.slow
def test_learning_finds_the_coefficients_that_made_the_measurements() -> None:
    made = []
    for bits, rows, columns in ((4, 2, 2), (8, 4, 4), (4, 8, 8), (16, 2, 4), (12, 4, 8)):
        config = machine(bits, rows, columns)
        grown = fit.features(config)
        memory = sum(
            n * (ram_luts(w, d) + w * (-(-d // 16) - 1))
            for (w, d), n in memories(config).items()
            if not block_rams("ecp5", w, d)
        )
        luts = 3000 + 2 * grown["tails"] + 3 * grown["lanes"] + memory
        made.append(Measurement("rest", config, {"LUT4": round(luts)}))
    found = learn("ecp5", made)["rest"]
    assert found["machine"] == pytest.approx(3000, abs=2)
    assert found["tails"] == pytest.approx(2, abs=0.05)
    assert found["lanes"] == pytest.approx(3, abs=0.05)


def test_logic_cells_share_a_table_with_its_register_and_its_carry() -> None:
    def cell(kind: str, outputs: str = "O", **pins: object) -> dict[str, object]:
        directions = {p: "output" if p == outputs else "input" for p in pins}
        connections = {pin: [bit] for pin, bit in pins.items()}
        return {"type": kind, "connections": connections, "port_directions": directions}

    cells = {
        "packed": cell("SB_DFF", "Q", D=10, Q=11),
        "table": cell("SB_LUT4", I0="0", I1=2, I2=3, I3=4, O=10),
        "carry": cell("SB_CARRY", "CO", I0=2, I1=3, CI=4, CO=5),
        "alone": cell("SB_CARRY", "CO", I0=6, I1=7, CI=5, CO=8),
        "read twice": cell("SB_LUT4", I0=11, I1="0", I2="0", I3="0", O=12),
        "apart": cell("SB_DFFE", "Q", D=12, Q=13),
        "bare": cell("SB_DFF", "Q", D=13, Q=14),
    }
    module = {"cells": cells, "ports": {"o": {"bits": [12, 14]}}}
    assert logic_cells(module) == 2 + 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--board", "nope"], "board must be one of ulx3s-12f"),
        (["--board", "tang-nano-9k"], "whose devices were measured"),
        (["--board", "ulx3s-85f", "--bits", "2-4"], "bits must be 3 to 16"),
        (["--board", "ulx3s-85f", "--bits", "x"], "bits must be as in 3-16 or 4,8"),
        (["--board", "ulx3s-85f", "--multiplier", "x"], "multiplier must be"),
        (["--board", "ulx3s-85f", "--rows", "4"], "--rows must come with --columns"),
        (["--board", "ulx3s-85f", "--slots", "0"], "slots must be 1 to 65536"),
        (
            ["--board", "ulx3s-12f", "--bits", "16", "--rows", "12", "--columns", "12"],
            "too many",
        ),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_fit_prints_a_row_per_width_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--rows", "2", "--columns", "2"]
    assert main(["fit", "--board", "ulx3s-85f", "--bits", "4,8", *sizes, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["bits"] for row in found["machines"]] == [4, 8]
    assert all(row["dsps"] == 0 and row["fits"] for row in found["machines"])
    assert found["device"] == BOARDS["ulx3s-85f"].device.name


def test_cells_of_a_synthesised_array_are_as_the_table_has_them() -> None:
    config = machine(5, 2, 3)
    text = rtlil.convert(component("array", config, "ecp5"), name="unit", emit_src=False)
    found = fit.Need.of("ecp5", synthesise(text, "ecp5", "array")).luts
    told = fit.array_luts(config, fit.target_table("ecp5")["cells"])
    assert abs(told / found - 1) <= 0.1, (told, found)


def test_bench_names_its_choices_at_a_mistake() -> None:
    command = [sys.executable, "-m", "bench.fit", "--target", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ecp5" in done.stderr


@pytest.mark.slow
def test_a_machine_it_has_not_learned_from_is_told_within_10_per_cent() -> None:
    config = machine(5, 2, 3, 96)
    text = rtlil.convert(component("whole", config, "ecp5"), name="unit", emit_src=False)
    found = fit.Need.of("ecp5", synthesise(text, "ecp5", "whole"))
    told = fit.need(config, "ecp5")
    print(f"told {told}, found {found}")
    assert abs(told.luts / found.luts - 1) <= 0.1, (told, found)
    assert told.block_rams == found.block_rams
