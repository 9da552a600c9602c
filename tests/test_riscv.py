"""A RISC-V core drives the array by custom instructions: PicoRV32 and the coprocessor in Icarus."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pythondata_cpu_picorv32

from hw.coprocessor import Coprocessor
from hw.emit import emit
from sw.config import MachineConfig
from sw.isa import Destination, Fault, Instruction, Opcode
from sw.isa import encode as encode_machine
from sw.machine import Machine
from sw.registers import Counter, Register, Space
from sw.riscv import UPPER, Custom, encode, encode_word, header

ROOT = Path(__file__).parent.parent
CONFIG = MachineConfig(bits=8, rows=2, columns=2, slots=4, max_terms=64)
PICORV32 = Path(pythondata_cpu_picorv32.data_location, "picorv32.v")
COMPILER = shutil.which("riscv64-unknown-elf-gcc")
#: Words that the program stores here are what it found.
OUT = 0x10000000
#: x1 points there; x2 to x5 are scratch.
POINTER, FIRST, SECOND, THIRD = 1, 2, 3, 4
BENCH = """
module bench;
  reg clk = 0, resetn = 0;
  always #1 clk = !clk;
  wire trap, valid, instr;
  wire [31:0] addr, wdata, insn, rs1, rs2, rd;
  wire [3:0] wstrb;
  wire pcpi_valid, write, claimed, ready;
  reg mem_ready;
  reg [31:0] rdata, memory [0:4095];
  picorv32 #(.ENABLE_PCPI(1), .CATCH_ILLINSN(1), .STACKADDR(32'h4000)) core (
    .clk(clk), .resetn(resetn), .trap(trap), .mem_valid(valid), .mem_instr(instr),
    .mem_ready(mem_ready), .mem_addr(addr), .mem_wdata(wdata), .mem_wstrb(wstrb), .mem_rdata(rdata),
    .pcpi_valid(pcpi_valid), .pcpi_insn(insn), .pcpi_rs1(rs1), .pcpi_rs2(rs2), .pcpi_wr(write),
    .pcpi_rd(rd), .pcpi_wait(claimed), .pcpi_ready(ready), .irq(32'b0));
  coprocessor array (
    .clk(clk), .rst(!resetn), .valid(pcpi_valid), .instruction(insn), .rs1(rs1), .rs2(rs2),
    .ready(ready), .write(write), .rd(rd), .claimed(claimed));
  integer i;
  always @(posedge clk) begin
    mem_ready <= valid && !mem_ready;
    rdata <= memory[addr[13:2]];
    if (valid && !mem_ready && |wstrb) begin
      if (addr[28]) $display("found %08x", wdata);
      else for (i = 0; i < 4; i = i + 1)
        if (wstrb[i]) memory[addr[13:2]][8*i +: 8] <= wdata[8*i +: 8];
    end
    if (resetn && trap) begin $display("trap"); $finish; end
  end
  initial begin
    $readmemh("program.hex", memory);
    repeat (4) @(posedge clk);
    resetn <= 1;
    repeat (200000) @(posedge clk);
    $display("too long");
    $finish;
  end
endmodule
"""


def li(register: int, value: int) -> list[int]:
    """Load a constant."""
    value &= 0xFFFFFFFF
    low = (value & 0xFFF) - (0x1000 if value & 0x800 else 0)
    high = (value - low) >> 12 & 0xFFFFF
    return [
        high << 12 | register << 7 | 0x37,
        (low & 0xFFF) << 20 | register << 15 | register << 7 | 0x13,
    ]


def put(register: int) -> int:
    """Store a register where the bench prints it."""
    return register << 20 | POINTER << 15 | 0b010 << 12 | 0x23


@pytest.fixture(scope="module")
def verilog() -> str:
    return emit(Coprocessor(CONFIG), "coprocessor")


def run(image: Sequence[int], folder: Path, verilog: str) -> list[int | str]:
    """What a program stored, and how it ended."""
    memory = [*image, *[0] * (4096 - len(image))]
    folder.joinpath("program.hex").write_text("\n".join(f"{word:08x}" for word in memory) + "\n")
    folder.joinpath("coprocessor.v").write_text(verilog)
    folder.joinpath("bench.v").write_text(BENCH)
    sources = ["bench.v", "coprocessor.v", str(PICORV32)]
    subprocess.run(["iverilog", "-g2012", "-o", "bench.vvp", *sources], cwd=folder, check=True)
    ran = subprocess.run(
        ["vvp", "-n", "bench.vvp"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = re.findall(r"found (\w+)|(trap|too long)", ran.stdout)
    return [int(word, 16) if word else end for word, end in lines]


class Writer:
    """A program for the core, and beside it what the machine's model says it finds."""

    def __init__(self) -> None:
        self.image = li(POINTER, OUT)
        self.machine = Machine(CONFIG)
        self.words: list[int] = []
        self.want: list[int | str] = []

    def write(self, address: int, word: int) -> None:
        self.machine.memory.write(address, [word])
        self.image += [*li(FIRST, address), *li(SECOND, word)]
        self.image.append(encode(Custom.WRITE, Space.TILES, 0, FIRST, SECOND))

    def give(self, opcode: Opcode, *operands: int) -> None:
        words = encode_machine(Instruction(opcode, operands))
        self.words += words
        if opcode == Opcode.SET:
            self.image += li(FIRST, operands[1])
            self.image.append(encode(Custom.SET, operands[0], 0, FIRST))
        else:
            self.image.append(encode_word(words[0]))

    def find(self, kind: Custom, funct7: int, want: int, rs1: int = 0) -> None:
        self.image += li(SECOND, rs1) if kind in (Custom.READ, Custom.LANE) else []
        source = SECOND if kind in (Custom.READ, Custom.LANE) else 0
        self.image += [encode(kind, funct7, THIRD, source), put(THIRD)]
        self.want.append(want & 0xFFFFFFFF)

    def end(self, rows: int = 0) -> Fault:
        """Take so many rows of results, then end the program."""
        halt = encode_machine(Instruction(Opcode.HALT))[0]
        report = self.machine.run([*self.words, halt])
        for number, row in enumerate(report.results[:rows]):
            last = number == len(report.results) - 1
            self.find(Custom.TAKE, 0, row.count | row.kind << 8 | last << 10)
            for lane, value in enumerate(row.data):
                self.find(Custom.LANE, 0, value, lane)
                self.find(Custom.LANE, 1, value >> 32, lane)
        self.find(Custom.END, 0, report.fault)
        self.find(Custom.END, 1, report.counter)
        for counter in (Counter.MATMUL_CYCLES, Counter.INSTRUCTIONS):
            self.find(Custom.READ, Space.COUNTERS, report[counter], counter)
            self.find(Custom.READ, Space.COUNTERS + UPPER, report[counter] >> 32, counter)
        for address, word in enumerate(self.machine.tiles.ravel()):
            self.find(Custom.READ, Space.TILES, int(word), address)
        self.words = []
        return report.fault


@pytest.fixture(scope="module")
def writer() -> Writer:
    """Loads two tiles; a base program; a GEMM whose sums leave on the stream; a fault; a GEMM whose
    rows nobody takes; and a write where none may be.
    """
    found = Writer()
    random = np.random.default_rng(1)
    for address, word in enumerate(random.integers(0, 256, 8)):
        found.write(address, int(word))
    found.give(Opcode.LDR, 0, 2, 2)
    found.give(Opcode.LDC, 1, 2, 2)
    found.give(Opcode.MATMUL)
    found.give(Opcode.RELU)
    found.give(Opcode.STR, 2, 2, 2)
    assert found.end() == Fault.NONE
    for rows in (3, 0):
        for register, value in (
            (Register.MX, 3),
            (Register.K0, 2),
            (Register.A_X, 2),
            (Register.B_BASE, 1),
            (Register.B_K0, 2),
            (Register.NL, 2),
        ):
            found.give(Opcode.SET, register, value)
        found.give(Opcode.GEMM, Destination.EXACT, 0, 0)
        assert found.end(rows) == Fault.NONE
    found.give(Opcode.STR, 2, 2, 2)
    assert found.end() == Fault.STORE_SHAPE
    found.give(Opcode.NOP)
    found.image.append(encode(Custom.WRITE, Space.TILES, 0, FIRST, SECOND))
    found.want.append("trap")
    return found


def test_core_finds_what_the_model_of_the_machine_says(
    writer: Writer, tmp_path: Path, verilog: str
) -> None:
    assert run(writer.image, tmp_path, verilog) == writer.want


@pytest.mark.parametrize(
    "instruction",
    [
        encode(Custom.INSTRUCTION, Opcode.SET),
        encode(Custom.INSTRUCTION, Opcode.NOP, 16),
        encode(Custom.SET, max(Register) + 1),
        encode(Custom.END, 2),
        encode(Custom.WRITE, Space.COUNTERS),
        encode(Custom.READ, Space.TABLE),
        encode(Custom.LANE, 2),
        7 << 12 | 0b0001011,
    ],
)
def test_undefined_fields_are_illegal_instructions(instruction: int) -> None:
    assert not _claims(instruction)


@pytest.mark.parametrize("kind", list(Custom))
def test_defined_instructions_are_claimed(kind: Custom) -> None:
    assert _claims(encode(kind))


def _claims(instruction: int) -> bool:
    """Whether the coprocessor says that an instruction is its own."""
    from amaranth.sim import Simulator

    from hw.custom_instructions import CustomInstructions

    unit = CustomInstructions(CONFIG)
    found = []

    async def bench(context: object) -> None:
        context.set(unit.instruction, instruction)
        context.set(unit.valid, 1)
        found.append(context.get(unit.claimed))

    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return bool(found[0])


def test_words_of_the_machine_are_numbers_in_the_fields() -> None:
    # LDR 0, 8, 8 is .insn r 0x0b, 0, 2, x0, x8, x8
    assert encode_word(0x2088) == 2 << 25 | 8 << 20 | 8 << 15 | 0x0B
    with pytest.raises(ValueError, match="SET"):
        encode_word(0x7000)
    with pytest.raises(ValueError, match="rd must be 0 to 31, not 32"):
        encode(Custom.TAKE, 0, 32)


def test_committed_header_is_made_from_the_tables() -> None:
    assert (ROOT / "programs" / "riscv" / "atreides.h").read_text() == header()


@pytest.mark.skipif(COMPILER is None, reason="needs gcc-riscv64-unknown-elf to compile C for RV32")
def test_program_in_c_drives_the_array(tmp_path: Path, verilog: str) -> None:
    source = ROOT / "programs" / "riscv" / "hello.c"
    start = tmp_path / "start.s"
    start.write_text(".globl _start\n_start: li sp, 0x4000\ncall main\nebreak\n")
    flags = [
        "-march=rv32i",
        "-mabi=ilp32",
        "-O1",
        "-ffreestanding",
        "-nostdlib",
        "-Wall",
        "-Werror",
    ]
    placed = ["-Wl,-Ttext=0", "-Wl,--build-id=none", "-Wl,-e,_start"]
    made = [str(COMPILER), *flags, *placed, str(start), str(source), "-o", "program.elf"]
    subprocess.run(made, cwd=tmp_path, check=True)
    copy = ["riscv64-unknown-elf-objcopy", "-O", "binary", "program.elf", "program.bin"]
    subprocess.run(copy, cwd=tmp_path, check=True)
    content = tmp_path.joinpath("program.bin").read_bytes()
    content += bytes(-len(content) % 4)
    image = [int.from_bytes(content[i : i + 4], "little") for i in range(0, len(content), 4)]
    # 1/8, -3/8; -5/16, 9/16 after ReLU in units of 2**-7, then the first row in units of 2**-14
    assert run(image, tmp_path, verilog) == [0, 16, 0, 0, 72, 2048, -6144 & 0xFFFFFFFF, "trap"]
