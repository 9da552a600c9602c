"""Which registers behind ECP5's block RAM become the block RAM's own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.block_ram import merge_output_registers
from hw.memory_attributes import BLOCK, NO_COLLISIONS, PASSES
from hw.synthesis import component_source, run_passes

WIDTH = 10


class Followed(wiring.Component):
    """A block RAM with a register behind it, and what is not quite that."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.width = 36 if kind == "wide" else WIDTH
        super().__init__(
            {
                "address": In(9),
                "data": In(self.width),
                "write": In(1),
                "other": In(1),
                "o": Out(self.width),
                "too": Out(self.width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        attributes = BLOCK | NO_COLLISIONS
        m.submodules.memory = memory = Memory(
            shape=self.width, depth=512, init=[], attrs=attributes
        )
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.address),
            write.data.eq(self.data),
            write.en.eq(self.write),
            read.addr.eq(self.address ^ 1),
            read.en.eq(self.other),
        ]
        init = (1 << self.width) - 1 if self.kind == "starts at 1" else 0
        register = Signal(self.width, init=init, reset_less=self.kind != "cleared")
        m.d.comb += self.o.eq(register)
        if self.kind == "held":
            with m.If(self.write):
                m.d.sync += register.eq(read.data)
        elif self.kind == "inverted":
            m.d.sync += register.eq(~read.data)
        else:
            m.d.sync += register.eq(read.data)
        if self.kind == "read before":
            m.d.comb += self.too.eq(read.data)
        return m


def netlist(kind: str, folder: Path) -> dict[str, Any]:
    (folder / "unit.il").write_text(component_source(Followed(kind)).text)
    read = [f"read_rtlil {folder}/unit.il", "hierarchy -top unit"]
    run_passes([*read, *PASSES, f"synth_ecp5 -nodsp -top unit -json {folder}/unit.json"])
    found: dict[str, Any] = json.loads((folder / "unit.json").read_text())["modules"]["unit"]
    assert sum(cell["type"] == "DP16KD" for cell in found["cells"].values()) == 1
    return found


def test_a_register_that_follows_becomes_the_block_rams_own(tmp_path: Path) -> None:
    module = netlist("follows", tmp_path)
    before = copy.deepcopy(module)
    assert merge_output_registers(module) == WIDTH
    gone = before["cells"].keys() - module["cells"].keys()
    after = {before["cells"][name]["connections"]["DI"][0]: name for name in gone}
    assert len(after) == WIDTH
    for name, cell in module["cells"].items():
        was = before["cells"][name]
        if cell["type"] != "DP16KD":
            assert cell == was
            continue
        modes = {
            port: (was["parameters"][f"REGMODE_{port}"], cell["parameters"][f"REGMODE_{port}"])
            for port in "AB"
        }
        assert sorted(modes.values()) == [("NOREG", "NOREG"), ("NOREG", "OUTREG")]
        for pin, bits in was["connections"].items():
            follower = after.get(bits[0]) if bits and pin.startswith("DO") else None
            want = before["cells"][follower]["connections"]["Q"] if follower else bits
            assert cell["connections"][pin] == want
    assert merge_output_registers(module) == 0


@pytest.mark.parametrize(
    "kind", ["held", "cleared", "starts at 1", "inverted", "read before", "wide"]
)
def test_another_register_stays(kind: str, tmp_path: Path) -> None:
    module = netlist(kind, tmp_path)
    before = copy.deepcopy(module)
    assert merge_output_registers(module) == 0
    assert module == before


def test_all_outputs_that_are_read_must_be_followed(tmp_path: Path) -> None:
    module = netlist("follows", tmp_path)
    name = next(name for name, cell in module["cells"].items() if cell["type"] == "TRELLIS_FF")
    module["cells"][name]["parameters"]["CLKMUX"] = "INV"
    before = copy.deepcopy(module)
    assert merge_output_registers(module) == 0
    assert module == before
