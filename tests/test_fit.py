"""What a board holds, told before building: against Yosys, and against the design itself."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory

from atreides.cli import main
from bench import fit as bench_fit
from bench.fit_learn import PRIOR, learn
from bench.fit_synthesis import Measurement, component
from hw import fit, fit_search
from hw.boards import BOARDS, find_board
from hw.fit_census import Kept, _Counter, census, self_test_bytes
from hw.fit_memory import block_rams, lut_rams, memory_luts, tile_banks
from hw.memory_attributes import NO_COLLISIONS, PASSES
from hw.synthesis import run_passes
from sw.config import MachineConfig
from sw.link import BUILD_BYTES, DEFAULT_LIMIT, Greeting
from sw.runtime.self_test import stored_test

LIBRARIES = {
    "ecp5": "-lib +/lattice/lutrams_trellis.txt -lib +/lattice/brams_16kd.txt",
    "ice40": "-lib +/ice40/brams.txt",
    "gowin": "-lib +/gowin/lutrams.txt -lib +/gowin/brams.txt",
}
BLOCKS = ("16KD", "ICE40_RAM4K", "GOWIN_SP", "GOWIN_DP", "GOWIN_SDP")
#: Depths of memories that are only read.
ROM_DEPTHS = (60, 128, 257, 400)
#: Memories that are written, with and without logic for reads and writes that collide.
KINDS: dict[str, dict[str, int]] = {"m": {}, "n": dict(NO_COLLISIONS)}
WIDTHS, DEPTHS = (1, 5, 10, 18, 24, 36, 41, 66, 80), (8, 32, 64, 80, 128, 256, 320, 1020)


def machine(bits: int, rows: int, columns: int, slots: int = 64, **more: object) -> MachineConfig:
    return MachineConfig(bits=bits, rows=rows, columns=columns, slots=slots, **more)  # type: ignore


@pytest.fixture(scope="module")
def memory_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A design with a memory of every size."""
    m = Module()
    address, other, data, enable = Signal(16), Signal(16), Signal(max(WIDTHS)), Signal(2)
    outputs = []
    for width in WIDTHS:
        for depth, (kind, attributes) in product(DEPTHS, KINDS.items()):
            memory = Memory(shape=width, depth=depth, init=[], attrs=attributes)
            m.submodules[f"{kind}_{width}_{depth}"] = inner = Module()
            inner.submodules.memory = memory
            write, read = memory.write_port(), memory.read_port()
            outputs.append(Signal(width, name=f"{kind}_o_{width}_{depth}"))
            inner.d.comb += [write.addr.eq(address), write.data.eq(data), write.en.eq(enable[0])]
            inner.d.comb += [
                read.addr.eq(other),
                read.en.eq(enable[1]),
                outputs[-1].eq(read.data),
            ]
        for depth in ROM_DEPTHS:
            init = [random.Random(word).randrange(1 << width) for word in range(depth)]
            m.submodules[f"rom_{width}_{depth}"] = inner = Module()
            inner.submodules.memory = memory = Memory(shape=width, depth=depth, init=init)
            outputs.append(Signal(width, name=f"rom_o_{width}_{depth}"))
            read = memory.read_port()
            inner.d.comb += [read.addr.eq(other), read.en.eq(1), outputs[-1].eq(read.data)]
    path = tmp_path_factory.mktemp("memories") / "m.il"
    ports = [address, other, data, enable, *outputs]
    path.write_text(rtlil.convert(m, ports=ports, emit_src=False))
    return path


@pytest.mark.parametrize("family", LIBRARIES)
def test_a_memory_becomes_what_yosys_makes_of_it(
    family: str, memory_source: Path, tmp_path: Path
) -> None:
    mapping = f"memory_libmap {LIBRARIES[family]}"
    stat = f"tee -q -o {tmp_path}/stat.json stat -json"
    run_passes([f"read_rtlil {memory_source}", *PASSES, mapping, stat])
    modules = json.loads((tmp_path / "stat.json").read_text())["modules"]
    want, got = {}, {}
    for name, module in modules.items():
        if found := re.search(r"\.(m|n|rom)_(\d+)_(\d+)(\$\d+)?$", name):
            kind, size = found[1], (int(found[2]), int(found[3]))
            cells = module["num_cells_by_type"].items()
            want[kind, size] = sum(n for cell, n in cells if any(b in cell for b in BLOCKS))
            memory = Kept(*size, written=kind != "rom", checked=kind == "m")
            got[kind, size] = block_rams(family, memory)
            if memory.written and family != "ice40" and not want[kind, size]:
                tables = sum(n for cell, n in cells if "16X4" in cell or "LUTRAM" in cell)
                assert tables == lut_rams(*size), size
    assert len(want) == len(WIDTHS) * (len(KINDS) * len(DEPTHS) + len(ROM_DEPTHS))
    assert got == want


@pytest.mark.slow
def test_memories_are_those_of_the_netlist() -> None:
    config = machine(3, 1, 1, 16, blocks=True, table=True, parameters=4, row_parameters=4)
    text = rtlil.convert(component("rest", config, "gowin"), name="top", emit_src=False)
    found = re.findall(r"^  memory width (\d+) size (\d+)", text, re.MULTILINE)
    counted = census(config, "generic")
    want = Counter((int(width), int(depth)) for width, depth in found)
    got: Counter[tuple[int, int]] = Counter()
    for memory, number in counted.memories.items():
        got[memory.width, memory.depth] += number
    assert got == want
    assert counted.memories[Kept(8, self_test_bytes(config), written=False, checked=True)] == 1
    bank, banks = tile_banks(config)
    assert counted.memories[bank] >= banks


def test_a_self_test_is_as_long_as_it_is_taken_to_be() -> None:
    for config in (machine(4, 2, 2), machine(8, 4, 4), machine(16, 2, 4), machine(10, 3, 2)):
        greeting = Greeting(config, 25_000_000, DEFAULT_LIMIT, "00" * BUILD_BYTES)
        length = sum(map(len, stored_test(greeting).requests))
        assert abs(self_test_bytes(config) - length) <= 8, config


def test_a_census_counts_what_is_written() -> None:
    m = Module()
    a, b, choice, o, r, t = Signal(8), Signal(8), Signal(2), Signal(9), Signal(8), Signal(3)
    m.d.comb += o.eq(a + b)  # 9 bits of sum
    m.d.comb += t[0].eq(a == b)  # 8 bits compared
    m.d.comb += t[1].eq(a.any())  # 8 bits reduced
    both = a & b  # 8 bits of logic, once
    m.d.comb += t[2].eq(Cat(both, both)[3])
    taken = Mux(choice[0], a, b)  # 8 choices
    other = Array([a, b, a, b])[choice]  # 3 times 8, and 4 choices of 2 bits
    with m.If(choice[1]):  # as many bits as are assigned
        m.d.sync += r.eq(taken | other)
    with m.Else():
        m.d.sync += r.eq(0)
    counter = _Counter()
    counter.unit(m)
    assert counter.registers == 8
    assert counter.operations == {
        **{"add": 9, "sums": 1, "compare": 8 + 8, "reduce": 8, "logic": 8 + 8, "select": 8 + 24},
        **{"assign": 8, "set": 8},
    }


def test_wider_cells_are_larger_and_every_family_has_costs() -> None:
    for family in bench_fit.FAMILIES:
        table = fit.family_table(family)
        cells = table["cells"]["auto"]
        assert {"4", "8"} <= set(cells)
        for resource in (0, 1):
            costs = [cells[width][resource] for width in sorted(cells, key=int)]
            assert costs == sorted(costs)
        assert all(value >= 0 for value in table["rest"].values())
        assert 0.5 < table["registers"]["registers"] <= 1.05
        assert set(table["errors"]) == set(fit.RESOURCES)


def test_more_rows_columns_or_bits_take_more() -> None:
    least = fit.need(machine(8, 2, 2), "ecp5")
    for more in (machine(8, 3, 2), machine(8, 2, 3), machine(9, 2, 2)):
        found = fit.need(more, "ecp5")
        assert found.luts > least.luts
        assert found.registers > least.registers
        assert found.block_rams >= least.block_rams
    assert fit.need(machine(8, 2, 2, 4096), "ecp5").block_rams > least.block_rams


def test_blocks_multiply_only_where_they_are_asked_for() -> None:
    cells = fit.family_table("ecp5")["cells"]
    for config, blocks in (
        (machine(8, 8, 8), 0),
        (machine(8, 8, 8, multiplier="dsp"), 64),
        (machine(4, 8, 8, multiplier="dsp"), 16),
    ):
        assert fit.array_cost(config, "ecp5", cells).dsps == blocks


def pretend(monkeypatch: pytest.MonkeyPatch, luts: int = 0, block_rams: int = 0) -> None:
    """Let machines take so much per cell and per slot, at once."""

    def need(config: MachineConfig, family: str, sprams: int = 0) -> fit.Need:
        return fit.Need(luts * config.slot_words, block_rams * config.slots)

    monkeypatch.setattr(fit_search, "need", need)
    any_array = SimpleNamespace(may_fit=lambda *_: True, correct=lambda *_: None)
    monkeypatch.setattr(fit_search, "Estimate", lambda *_: any_array)


def test_what_does_not_fit_is_refused_with_how_much_and_what_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    board = find_board("ulx3s-12f")
    pretend(monkeypatch, luts=1000)
    with pytest.raises(fit_search.Refusal) as refusal:
        fit_search.check(board, machine(16, 6, 5))
    assert str(refusal.value) == (
        "machine needs 30,000 look-up tables of 24,288, 24 % too many on ulx3s-12f; 5 x 4 fits"
    ) or str(refusal.value).endswith("4 x 5 fits")
    assert refusal.value.nearest is not None
    assert refusal.value.nearest.slot_words == 20  # 5 % of the tables are left free
    assert fit_search.check(board, refusal.value.nearest) is not None


def test_where_memory_alone_is_lacking_fewer_slots_are_nearest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, luts=1, block_rams=1)
    with pytest.raises(fit_search.Refusal, match="4 x 4 with 32 slots fits"):
        fit_search.check(find_board("ulx3s-12f"), machine(8, 4, 4, 64))


def test_only_what_is_certain_is_refused_before_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    board, config = find_board("ulx3s-12f"), machine(8, 4, 5)
    monkeypatch.setattr(fit_search, "error", lambda *_: 0.1)
    for luts, refused, doubted in (
        (22_000, False, False),
        (22_200, False, True),
        (24_288, False, True),
        (26_700, False, True),
        (26_800, True, False),
    ):
        taken = fit.Need(luts, 1)
        assert bool(fit_search.certain(board.device, taken)) == refused, luts
        said = fit_search.doubts(board, taken)
        assert bool(said) == doubted, luts
        if doubted:
            assert said == (
                f"machine may not fit ulx3s-12f: about {luts:,} look-up tables of 24,288, "
                "told within 10%"
            )
    monkeypatch.setattr(fit_search, "need", lambda *_: fit.Need(26_000, 1))
    assert fit_search.check(board, config, sure=True) == fit.Need(26_000, 1)
    monkeypatch.setattr(fit_search, "nearest", lambda *_: None)
    with pytest.raises(fit_search.Refusal, match="nothing of this width fits"):
        fit_search.check(board, config)


def test_the_largest_array_fits_and_no_larger_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    board, base = find_board("ulx3s-12f"), machine(8, 1, 1)
    pretend(monkeypatch, luts=700)
    found = fit_search.largest(board, base)
    most = math.floor(24_288 * fit_search.FILL) // 700
    assert found is not None
    assert found.slot_words == max(
        r * c
        for r in range(1, 33)
        for c in range(1, 33)
        if max(r, c) <= fit_search.ASPECT * min(r, c) and r * c <= most
    )
    pretend(monkeypatch, luts=100_000)
    assert fit_search.largest(board, base) is None


def test_buses_take_a_table_per_two_rows_and_more_to_join_them() -> None:
    assert [fit.bus_luts(rows) for rows in (1, 2, 3, 4, 8, 16)] == [1, 1, 3, 3, 5, 11]


def test_learning_finds_what_made_the_measurements() -> None:
    configs = [machine(bits, rows, 2) for bits, rows in ((4, 1), (8, 2), (16, 1), (6, 4))]

    def made(config: MachineConfig) -> Measurement:
        found = census(config, "ecp5")
        grown = fit.operations(found, "ecp5")
        luts = sum(1.2 * cost * grown.get(name, 0.0) for name, cost in PRIOR.items())
        luts += memory_luts("ecp5", found)
        return Measurement("rest", config, {"LUT4": round(luts)})

    rest = learn("ecp5", [made(config) for config in configs[:3]])["rest"]
    found = census(configs[3], "ecp5")
    told = fit.rest_luts(found, "ecp5", rest)
    assert told == pytest.approx(made(configs[3]).cells["LUT4"], rel=0.02)


def test_errors_of_a_trial_are_shares_of_what_was_built() -> None:
    told, built = fit.Need(110, 3, 1, 90), fit.Need(100, 3, 0, 100)
    trial = bench_fit.Trial("ecp5", machine(4, 2, 2), told, built)
    assert [round(trial.error(name), 3) for name in fit.RESOURCES] == [0.1, -0.1, 0, math.inf]
    assert bench_fit.errors([trial]) == {
        **{"luts": 0.1, "registers": 0.1, "block_rams": 0.0, "dsps": 1.0},
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--board", "nope"], "board must be one of ulx3s-12f"),
        (["--board", "ulx3s-85f", "--bits", "2-4"], "bits must be 3 to 16"),
        (["--board", "ulx3s-85f", "--bits", "x"], "bits must be as in 3-16 or 4,8"),
        (["--board", "ulx3s-85f", "--multiplier", "x"], "multiplier must be"),
        (["--board", "ulx3s-85f", "--rows", "4"], "--rows must come with --columns"),
        (["--board", "ulx3s-85f", "--slots", "0"], "slots must be 1 to 65536"),
        (
            ["--board", "icebreaker", "--bits", "8", "--rows", "2", "--columns", "2"],
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
    assert all(row["registers"] > 1000 for row in found["machines"])
    assert found["device"] == BOARDS["ulx3s-85f"].device.name


def test_what_is_left_out_of_a_machine_takes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--board", "ulx3s-85f", "--bits", "4", "--rows", "2", "--columns", "2", "--json"]
    small = ["--narrow", "--no-skipping", "--counters", "none", "--slots", "16"]
    found = []
    for more in ([], small):
        assert main(["fit", *sizes, *more]) == 0
        found.append(json.loads(capsys.readouterr().out)["machines"][0])
    assert found[1]["luts"] < 0.9 * found[0]["luts"]
    assert found[1]["registers"] < 0.95 * found[0]["registers"]


def test_bench_names_its_choices_at_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench_fit.main(["--target", "x"])
    assert ended.value.code == 2
    assert "ecp5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_leaves_out_nothing_that_fits() -> None:
    board, base = find_board("ulx3s-12f"), machine(12, 1, 1, table=True)
    estimate = fit_search.Estimate(base, "ecp5")
    for rows, columns in ((1, 2), (3, 3), (4, 8), (6, 6)):
        config = machine(12, rows, columns, table=True)
        if not fit_search.excesses(board.device, fit.need(config, "ecp5"), fit_search.FILL):
            assert estimate.may_fit(board.device, config), (rows, columns)
