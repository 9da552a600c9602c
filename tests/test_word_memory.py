"""The tile memory of one port, and what yosys makes of it on UP5K."""

from __future__ import annotations

import importlib.util
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw.memory_attributes import LARGE_PASSES, PASSES
from hw.synthesis import component_source, run_passes
from hw.word_memory import WordMemory
from tests.simulation import simulate

SEED = 20261123
WORDS = 37
BENCH = """
module bench;
  reg clk = 0, write; reg [5:0] address; reg [{w}:0] value, late; wire [{w}:0] word;
  reg [63:0] steps [0:{last}]; reg check = 0; integer k;
  unit unit(.clk(clk), .rst(1'b0), .address(address), .write(write), .value(value), .word(word));
  initial begin
    $readmemh("steps.hex", steps);
    for (k = 0; k <= {last}; k = k + 1) begin
      {{write, address, value}} = steps[k][{bits}:0]; late = steps[k] >> 32;
      #1 clk = 1; #1 clk = 0;
      if (!write && word !== late) begin $display("%0d: %h not %h", k, word, late); $finish(0); end
    end
    $display("equal"); $finish(0);
  end
endmodule
"""


def steps(bits: int) -> Iterator[tuple[int, int, int, int]]:
    """Writes of all words, then writes and reads: write, address, value, what a read finds."""
    generator = random.Random(SEED + bits)
    kept: dict[int, int] = {}
    for step in range(300):
        address = step if step < WORDS else generator.randrange(WORDS)
        if step < WORDS or generator.random() < 0.4:
            kept[address] = generator.getrandbits(bits)
            yield 1, address, kept[address], 0
        else:
            yield 0, address, 0, kept[address]


@pytest.mark.parametrize(("bits", "lanes"), [(3, 4), (4, 4), (5, 2), (8, 2), (9, 1), (16, 1)])
def test_words_share_entries_and_keep_their_neighbours(bits, lanes):
    unit = WordMemory(bits, WORDS)
    assert unit.lanes == lanes

    async def testbench(context):
        for write, address, value, want in steps(bits):
            context.set(unit.address, address)
            context.set(unit.write, write)
            context.set(unit.value, value)
            await context.tick()
            if not write:
                assert context.get(unit.word) == want

    simulate(unit, testbench)


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize(("bits", "broken"), [(3, False), (4, False), (8, False), (4, True)])
def test_sb_spram256ka_keeps_words_in_yosys_own_model(
    bits: int, broken: bool, tmp_path: Path
) -> None:
    """The primitive, whose contents are unknown at first; one that ignores the mask does not."""
    # found, not imported: what pyosys loads for all keeps matplotlib from being imported behind it
    (place,) = importlib.util.find_spec("pyosys").submodule_search_locations
    model = Path(place) / "share/ice40/cells_sim.v"
    unit, netlist = tmp_path / "unit.il", tmp_path / "unit.v"
    unit.write_text(component_source(WordMemory(bits, WORDS)).text)
    passes = [*PASSES, *LARGE_PASSES, "synth_ice40 -device u -spram -top unit"]
    run_passes([f"read_rtlil {unit}", "hierarchy -top unit", *passes, f"write_verilog {netlist}"])
    text = netlist.read_text()
    assert text.count("SB_SPRAM256KA") == 1
    assert "SB_RAM40" not in text
    if broken:
        text = re.sub(r"\.MASKWREN\([^)]*\)", ".MASKWREN(4'hf)", text)
        netlist.write_text(text)
    found = list(steps(bits))
    (tmp_path / "steps.hex").write_text(
        "".join(
            f"{want << 32 | write << bits + 6 | address << bits | value:016x}\n"
            for write, address, value, want in found
        )
    )
    (tmp_path / "bench.v").write_text(BENCH.format(w=bits - 1, bits=bits + 6, last=len(found) - 1))
    files = [str(tmp_path / "bench.v"), str(netlist), str(model)]
    options = ["-g2012", "-DNO_ICE40_DEFAULT_ASSIGNMENTS"]
    command = ["iverilog", *options, "-s", "bench", "-o", "bench.vvp", *files]
    subprocess.run(command, check=True, cwd=tmp_path)
    said = subprocess.run(
        ["vvp", "-n", "bench.vvp"], check=True, cwd=tmp_path, capture_output=True, text=True
    )
    assert (said.stdout == "equal\n") != broken, said.stdout
