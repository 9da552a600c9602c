"""The model of ECP5's block RAM against a list of bits."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parent.parent / "sim" / "cells" / "ecp5_block_ram.v"
PORTS = {"DI": 18, "AD": 14, "CS": 3, "DO": 18}
#: Address bits below a word, by the width of a port.
BELOW = {36: 5, 18: 4, 9: 3, 4: 2, 2: 1, 1: 0}
CYCLES = 200
BENCH = """
module bench;
  reg CLK = 0;
  reg [17:0] DIA = 0, DIB = 0;
  reg [13:0] ADA = 0, ADB = 0;
  reg [2:0] CSA = 0, CSB = 0;
  reg WEA = 0, WEB = 0, CEA = 0, CEB = 0, RSTA = 0, RSTB = 0;
  wire [17:0] DOA, DOB;
  DP16KD #(.DATA_WIDTH_A(%d), .DATA_WIDTH_B(%d), .WRITEMODE_A("%s"), .RESETMODE("%s"),
    .REGMODE_A("%s"), .REGMODE_B("%s")) ram(
    .CLKA(CLK), .CLKB(CLK), .OCEA(1'b1), .OCEB(1'b1), .WEA(WEA), .WEB(WEB), .CEA(CEA), .CEB(CEB),
    .RSTA(RSTA), .RSTB(RSTB), %s);
  initial begin
    %s
  end
endmodule
"""


def first_bit(width: int, address: int) -> int:
    """Of a word, in the memory's 18,432 bits; narrow words leave the ninth bit of a byte alone."""
    if width >= 9:
        return (address >> BELOW[width]) * width
    return 9 * (address >> 3) + (address & 7) // width * width


def read(memory: list[int], width: int, address: int) -> int:
    start = first_bit(width, address)
    return sum(memory[start + bit] << bit for bit in range(width))


class Reference:
    """Port A writes and reads, port B reads; what both touch at once reads inverted at B."""

    def __init__(self, width_a: int, width_b: int, mode: str) -> None:
        self.width_a, self.width_b, self.mode = width_a, width_b, mode
        self.memory = [0] * 18432
        self.a = self.b = 0

    def step(
        self, a: int, b: int, data: int, write: bool, enables: tuple[bool, bool, bool]
    ) -> tuple[int, int]:
        """The words that both ports show after the edge."""
        enable_a, enable_b, reset_b = enables
        before, written = self.memory[:], set()
        if write and enable_a:
            for bit in range(self.width_a):
                if self.width_a < 18 or a >> (bit // 9) & 1:
                    place = first_bit(self.width_a, a) + bit
                    self.memory[place] = data >> bit & 1
                    written.add(place // 9)
        if enable_a and (not write or self.mode != "NORMAL"):
            seen = self.memory if write and self.mode == "WRITETHROUGH" else before
            self.a = read(seen, self.width_a, a)
        if enable_b:
            start = first_bit(self.width_b, b)
            places = range(start, start + self.width_b)
            flipped = [before[place] ^ (place // 9 in written) for place in places]
            self.b = sum(bit << n for n, bit in enumerate(flipped))
        if reset_b:
            self.b = 0
        return self.a, self.b


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus is not installed")
@pytest.mark.parametrize(
    ("width_a", "width_b", "mode", "reset", "registered"),
    [
        (18, 18, "NORMAL", "SYNC", ""),
        (36, 36, "NORMAL", "ASYNC", ""),
        (9, 1, "READBEFOREWRITE", "SYNC", ""),
        (4, 2, "WRITETHROUGH", "SYNC", "a"),
        (18, 9, "WRITETHROUGH", "ASYNC", "ab"),
        (36, 9, "NORMAL", "SYNC", ""),
        (1, 18, "NORMAL", "SYNC", "b"),
    ],
)
def test_block_ram_does_what_bits_in_a_list_do(
    width_a: int, width_b: int, mode: str, reset: str, registered: str, tmp_path: Path
) -> None:
    chance, model = random.Random(f"{width_a} {width_b}"), Reference(width_a, width_b, mode)
    lines, want = [], []
    for _ in range(CYCLES):
        a, b = (chance.randrange(64) << chance.choice((0, 0, 8)) for _ in "ab")
        if width_a >= 18:  # the lowest address bits are the byte enables
            a = a >> BELOW[width_a] << BELOW[width_a] | chance.randrange(1 << width_a // 9)
        if width_b >= 18:
            b = b >> BELOW[width_b] << BELOW[width_b]
        data, write = chance.getrandbits(36), chance.random() < 0.5
        enables = (chance.random() < 0.9, chance.random() < 0.9, chance.random() < 0.1)
        names = ("WEA", "CEA", "CEB", "RSTB")
        bits = "".join(f"{n}={int(v)};" for n, v in zip(names, (write, *enables), strict=True))
        lines.append(
            f"DIA={data & 0x3FFFF};DIB={data >> 18};ADA={a};ADB={b};{bits}"
            '#1 CLK=1;#1 CLK=0;#1 $display("%d %d",DOA,DOB);'
        )
        before = {"a": model.a, "b": model.b}
        now = dict(zip("ab", model.step(a, b, data, write, enables), strict=True))
        held = before | ({"b": 0} if enables[2] else {})
        seen = [(held if port in registered else now)[port] for port in "ab"]
        want.append((seen[0], seen[1]))
    pins = ", ".join(
        f".{n}{p}{k}({n}{p}[{k}])" for p in "AB" for n, w in PORTS.items() for k in range(w)
    )
    modes = ("OUTREG" if port in registered else "NOREG" for port in "ab")
    text = BENCH % (width_a, width_b, mode, reset, *modes, pins, "\n    ".join(lines))
    shown = simulated(text, tmp_path)
    assert len(shown) == CYCLES
    for (low, high), (word_a, word_b) in zip(shown, want, strict=True):
        if width_b == 36:  # its lower half is on the other port
            assert int(low) | int(high) << 18 == word_b
        else:
            assert int(high) % (1 << width_b) == word_b
            if width_a < 36:
                assert int(low) % (1 << width_a) == word_a


def simulated(text: str, folder: Path) -> list[tuple[str, str]]:
    (folder / "bench.v").write_text(text)
    compiled = folder / "bench.vvp"
    command = ["iverilog", "-g2012", "-s", "bench", "-o", compiled, folder / "bench.v", MODEL]
    subprocess.run(command, check=True)
    done = subprocess.run(["vvp", "-n", compiled], check=True, capture_output=True, text=True)
    return [(a, b) for a, b in (line.split() for line in done.stdout.splitlines())]
