"""Cells as expressions and registers behave as yosys' models of them, cycle by cycle."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hw.synthesis import SynthesisError
from sim.gates import cell_models
from sim.netlist_cells import plain_verilog
from sim.netlist_machine import gate_tables
from sim.netlist_synthesis import NETLISTS, check_netlist
from sim.netlist_tables import expression

INPUTS = 24
#: Nets: the clock is 2, the inputs follow, outputs of cells come after those.
CLOCK, FIRST = 2, 3
CYCLES = 400

Cells = dict[str, dict[str, Any]]


class Maker:
    """Cells whose inputs are random inputs of the module, constants among them."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cells: Cells = {}
        self.net = FIRST + INPUTS

    def inputs(self, count: int = 1, constants: bool = True) -> list[int | str]:
        nets = [*range(FIRST, FIRST + INPUTS), *("01" * 2 if constants else "")]
        return [self.chance.choice(nets) for _ in range(count)]

    def add(
        self,
        kind: str,
        inputs: Sequence[str] | dict[str, int],
        outputs: dict[str, int],
        parameters: dict[str, str] | None = None,
        clock: str = "",
    ) -> None:
        widths = inputs if isinstance(inputs, dict) else dict.fromkeys(inputs, 1)
        pins: dict[str, list[int | str]] = {p: self.inputs(w) for p, w in widths.items()}
        pins |= {clock: [CLOCK]} if clock else {}
        for pin, width in outputs.items():
            pins[pin] = list(range(self.net, self.net + width))
            self.net += width
        self.cells[f"c{len(self.cells)}"] = {
            "type": kind,
            "parameters": parameters or {},
            "connections": pins,
        }

    def number(self, bits: int) -> str:
        return f"{self.chance.getrandbits(bits):0{bits}b}"


def ecp5() -> Maker:
    maker = Maker(1)
    for _ in range(150):
        maker.add("LUT4", "ABCD", {"Z": 1}, {"INIT": maker.number(16)})
    pins = ["CIN", *(f"{letter}{half}" for letter in "ABCD" for half in "01")]
    for number in range(60):
        parameters = {f"INIT{half}": maker.number(16) for half in "01"}
        parameters |= {f"INJECT1_{h}": ("YES", "NO")[number >> h & 1] for h in (0, 1)}
        maker.add("CCU2C", pins, {"S0": 1, "S1": 1, "COUT": 1}, parameters)
    for _ in range(6):
        maker.add("PFUMX", ("ALUT", "BLUT", "C0"), {"Z": 1})
        maker.add("L6MUX21", ("D0", "D1", "SD"), {"Z": 1})
    for enable in ("1 ", "CE", "INV"):
        for value in ("SET", "RESET"):
            for _ in range(4):
                parameters = {"CEMUX": enable, "REGSET": value, "SRMODE": "LSR_OVER_CE"}
                parameters |= {"GSR": "AUTO", "CLKMUX": "CLK", "LSRMUX": "LSR"}
                maker.add("TRELLIS_FF", ("CE", "LSR", "DI"), {"Q": 1}, parameters, "CLK")
    for _ in range(8):
        widths = {"DI": 4, "WAD": 4, "RAD": 4, "WRE": 1}
        parameters = {"INITVAL": maker.number(64), "WCKMUX": "WCK", "WREMUX": "WRE"}
        maker.add("TRELLIS_DPR16X4", widths, {"DO": 4}, parameters, "WCK")
    return maker


def ice40() -> Maker:
    maker = Maker(2)
    for _ in range(150):
        maker.add("SB_LUT4", ("I0", "I1", "I2", "I3"), {"O": 1}, {"LUT_INIT": maker.number(16)})
    for _ in range(12):
        maker.add("SB_CARRY", ("I0", "I1", "CI"), {"CO": 1})
    for suffix, pins in {
        "": "D",
        "E": "DE",
        "SR": "DR",
        "SS": "DS",
        "ESR": "DER",
        "ESS": "DES",
    }.items():
        for _ in range(5):
            maker.add(f"SB_DFF{suffix}", tuple(pins), {"Q": 1}, clock="C")
    return maker


def osu018() -> Maker:
    maker = Maker(3)
    for kind, outputs in gate_tables().items():
        for _ in range(6):
            pins = next(iter(outputs.values()))[0]
            maker.add(kind, pins, dict.fromkeys(outputs, 1))
    for _ in range(8):
        maker.add("DFFPOSX1", "D", {"Q": 1}, clock="CLK")
    return maker


MAKERS = {"ecp5": ecp5, "ice40": ice40, "osu018": osu018}


def module_of(maker: Maker) -> dict[str, Any]:
    outputs = list(range(FIRST + INPUTS, maker.net))
    ports = {
        "clk": {"direction": "input", "bits": [CLOCK]},
        "i": {"direction": "input", "bits": list(range(FIRST, FIRST + INPUTS))},
        "o": {"direction": "output", "bits": outputs},
    }
    return {"ports": ports, "cells": maker.cells}


def instances(maker: Maker) -> str:
    """The cells as instances, written without what is on trial."""

    def net(bit: int | str) -> str:
        if isinstance(bit, str):
            return f"1'b{bit}"
        if bit == CLOCK:
            return "clk"
        return f"i[{bit - FIRST}]" if bit < FIRST + INPUTS else f"o[{bit - FIRST - INPUTS}]"

    def value(text: str) -> str:
        return f"{len(text)}'b{text}" if set(text) <= {"0", "1"} else f'"{text.strip()}"'

    width = maker.net - FIRST - INPUTS
    lines = [f"module cells(input clk, input [{INPUTS - 1}:0] i, output [{width - 1}:0] o);"]
    for name, cell in maker.cells.items():
        given = ", ".join(f".{k}({value(v)})" for k, v in cell["parameters"].items())
        pins = ", ".join(
            f".{pin}({{{', '.join(net(b) for b in reversed(bits))}}})"
            for pin, bits in cell["connections"].items()
        )
        lines.append(f"{cell['type']} {f'#({given}) ' if given else ''}{name} ({pins});")
    return "\n".join([*lines, "endmodule\n"])


BENCH = """
module bench;
  reg clk = 0;
  reg [{inputs}-1:0] i = 0;
  wire [{width}-1:0] a, b;
  cells cells(.clk(clk), .i(i), .o(a));
  plain plain(.clk(clk), .i(i), .o(b));
  integer n, k, wrong = 0;
  initial begin
    for (n = 0; n < {cycles}; n = n + 1) begin
      i = $random;
      #1 if (n >= {first})
        for (k = 0; k < {width}; k = k + 1) if (a[k] !== b[k]) wrong = wrong + 1;
      clk = 1;
      #1 clk = 0;
    end
    $display("wrong %0d", wrong);
  end
endmodule
"""


def mismatches(folder: Path, maker: Maker, netlist: str, plain: str, first: int) -> int:
    """Bits that differ, from a cycle on, on random inputs."""
    text = instances(maker)
    width = maker.net - FIRST - INPUTS
    bench = BENCH.format(inputs=INPUTS, width=width, cycles=CYCLES, first=first)
    source, program = folder / "bench.v", folder / "bench.vvp"
    source.write_text(cell_models(netlist, text) + text + plain + bench, encoding="utf-8")
    command = ["iverilog", "-g2012", "-s", "bench", "-o", str(program), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    ran = subprocess.run(["vvp", "-n", str(program)], check=True, capture_output=True, text=True)
    return int(ran.stdout.split("wrong")[1])


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")
@pytest.mark.parametrize("netlist", NETLISTS)
def test_cells_behave_as_their_models(netlist: str, tmp_path: Path) -> None:
    try:
        check_netlist(netlist)
    except SynthesisError as error:
        pytest.skip(str(error))
    maker = MAKERS[netlist]()
    gates = gate_tables() if netlist == "osu018" else {}
    module = module_of(maker)
    # registers of osu018 start anywhere, on either side; one clock later all are known
    first = int(netlist == "osu018")
    plain = plain_verilog(module, "plain", gates, unset=netlist == "osu018")
    assert mismatches(tmp_path, maker, netlist, plain, first) == 0
    changed = dict(module, cells={n: dict(c) for n, c in maker.cells.items()})
    chosen = changed["cells"]["c0"]  # another table, or another gate
    if netlist == "osu018":
        assert chosen["type"] == "AND2X1"
        chosen["type"] = "OR2X1"
    else:
        (name, table) = next(iter(chosen["parameters"].items()))
        chosen["parameters"] = {name: table.translate(str.maketrans("01", "10"))}
    other = plain_verilog(changed, "plain", gates, unset=netlist == "osu018")
    assert mismatches(tmp_path, maker, netlist, other, first) > 0


@pytest.mark.parametrize(
    ("kind", "parameters", "sentence"),
    [
        ("EHXPLLL", {}, "cell c0 must be of a known kind, not EHXPLLL"),
        (
            "TRELLIS_FF",
            {"SRMODE": "ASYNC"},
            "SRMODE of TRELLIS_FF must be LSR_OVER_CE, not 'ASYNC'",
        ),
        ("TRELLIS_FF", {"CLKMUX": "INV"}, "CLKMUX of TRELLIS_FF must be CLK, not 'INV'"),
        ("SB_DFFNSR", {}, "register c0 must be synchronous, on the rising edge, not SB_DFFNSR"),
        ("SB_DFFER", {}, "register c0 must be synchronous, on the rising edge, not SB_DFFER"),
    ],
)
def test_a_cell_without_a_meaning_is_refused(
    kind: str, parameters: dict[str, str], sentence: str
) -> None:
    maker = Maker(4)
    maker.add(kind, ("D",), {"Q": 1}, parameters)
    with pytest.raises(SynthesisError) as error:
        plain_verilog(module_of(maker), "plain", {})
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("table", "inputs", "text"),
    [
        (0b1000, ("a", "b"), "(a & b)"),
        (0b1000, ("a", "a"), "a"),
        (0b0110, ("a", "a"), "1'b0"),
        (0b0110, ("a", "1'b1"), "~a"),
        (0b11001010, ("a", "b", "s"), "(s ? b : a)"),
        (0, (), "1'b0"),
    ],
)
def test_a_table_is_a_short_expression(table: int, inputs: tuple[str, ...], text: str) -> None:
    assert expression(table, inputs) == text


def test_a_table_must_have_as_many_rows_as_its_inputs() -> None:
    with pytest.raises(ValueError, match="table must have 4 rows, not 0x1f"):
        expression(0x1F, ("a", "b"))
