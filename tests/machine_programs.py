"""Random programs for a machine, legal and illegal, and machines to run them on."""

from __future__ import annotations

import random
from collections.abc import Callable

from sw.activation import FUNCTIONS, fit
from sw.checks import Gemm
from sw.config import MachineConfig
from sw.isa import Destination, Fault, Flag, Function, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_state import Parameters
from sw.registers import REGISTERS, AMode, BMode, Register

CONFIGS = {
    "base": MachineConfig(),
    "small": MachineConfig(bits=4, rows=2, columns=2, slots=64, parameters=16, row_parameters=32),
    "wide": MachineConfig(
        bits=8, rows=4, columns=8, slots=24, output_bits=12, bias_bits=16, table=True
    ),
    "blocks": MachineConfig(
        bits=6, rows=4, columns=4, slots=40, blocks=True, table=True, output_bits=3, hold=True
    ),
    "no_unity": MachineConfig(bits=8, unity=False, rows=3, columns=5, slots=20, blocks=True),
    "wrapping": MachineConfig(
        bits=16, rows=2, columns=4, slots=64, blocks=True, max_spread=2, max_terms=80
    ),
}


def fill(machine: Machine, chance: random.Random, zeros: float = 0.3) -> None:
    """Random words, zeros and minus zeros and unities among them, and random parameters."""
    config = machine.config
    f = config.format
    lanes = config.columns
    words: list[int] = []
    while len(words) < config.memory_words:
        dense = chance.random() >= zeros
        words += [
            chance.choice((0, f.sign_bit, f.max_code, chance.randrange(1 << f.bits)))
            if dense
            else chance.choice((0, f.sign_bit))
            for _ in range(lanes)
        ]
    machine.load(words[: config.memory_words])
    fill_parameters(machine.parameters, chance)


def fill_parameters(parameters: Parameters, chance: random.Random) -> None:
    config = parameters.config
    bias = config.bias_format
    lift = min(15, config.max_spread if chance.random() < 0.8 else 15)
    for entry in range(config.parameters):
        for column in range(config.columns):
            parameters.write_column(
                entry,
                column,
                bias=chance.randrange(1 << bias.bits),
                shift=chance.choice((0, 1, 3, chance.randint(-128, 127))),
                lift=chance.randint(0, lift),
            )
    for entry in range(config.row_parameters):
        shift = chance.choice((0, -1, 2, chance.randint(-128, 127)))
        parameters.write_row(entry, shift=shift, lift=chance.randint(0, lift))
    if config.table:
        function = FUNCTIONS[chance.choice(sorted(FUNCTIONS))]
        parameters.write_table(fit(function, 1, 1, step=512))


class ProgramMaker:
    """Makes random programs; what it means to be legal, it does not promise."""

    def __init__(self, config: MachineConfig, chance: random.Random) -> None:
        self.config = config
        self.chance = chance

    def program(self, length: int) -> list[int]:
        """Words of about ``length`` instructions."""
        words: list[int] = []
        for _ in range(length):
            words += self.chance.choices(
                (self.gemm, self.base, self.one, self.anything), (8, 6, 2, 0.15)
            )[0]()
        return words

    def gemm(self) -> list[int]:
        """SETs and a GEMM or ADD that is legal more often than not."""
        chance = self.chance
        for _ in range(30):
            instruction, registers = self.random_gemm()
            legal = Gemm(instruction, registers, self.config).fault() == Fault.NONE
            if legal or chance.random() < 0.01:
                break
        words = []
        for register, value in registers.items():
            words += encode(Instruction(Opcode.SET, (register, value)))
        return [*words, *encode(instruction)]

    def random_gemm(self) -> tuple[Instruction, dict[Register, int]]:
        chance, config = self.chance, self.config
        limit = 1 << config.address_bits
        registers = {}
        small = max(3, config.columns)
        for register, definition in REGISTERS.items():
            width = definition.kind.width(config)
            registers[register] = chance.randrange(1 << width) if chance.random() < 0.01 else 0
            if register <= Register.G:
                registers[register] = chance.choice((1, 1, 1, 2, chance.randint(1, 4)))
            elif register < Register.P_COLUMN and not register.name.endswith("BASE"):
                stride = chance.choice(
                    (0, 1, config.columns, config.slot_words, chance.randrange(small * 3))
                )
                registers[register] = min(stride, limit - 1)
            elif register.name.endswith("BASE") and register != Register.TILE_BASE:
                address = chance.randrange(config.memory_words)
                if chance.random() < 0.7:
                    address -= address % config.columns
                registers[register] = address
            elif register in (Register.P_COLUMN, Register.P_ROW, Register.CLAMP):
                registers[register] = chance.randrange(1 << min(width, 16))
            elif register in (Register.P_COLUMN_G, Register.P_ROW_G):
                registers[register] = chance.randrange(4)
        registers[Register.K0] = chance.choice((1, 2, small, chance.randint(1, 40)))
        registers[Register.MX] = chance.randint(1, 2 * config.rows + 1)
        registers[Register.NL] = chance.randint(1, config.columns)
        registers[Register.A_MODE] = chance.choice(tuple(AMode))
        registers[Register.B_MODE] = chance.choice((*BMode, BMode.SLICES, BMode.SLICES))
        if chance.random() < 0.6:
            self._align(registers)
        flags = chance.choice((0, Flag.COLUMN, Flag.ROW, Flag.COLUMN | Flag.ROW))
        if chance.random() < 0.6:
            flags |= Flag.SKIP
        if config.blocks and chance.random() < 0.4:
            flags = Flag.BLOCK | Flag.COLUMN | Flag.ROW | (flags & Flag.SKIP)
            registers[Register.K1] = registers[Register.K2] = 1
            registers[Register.K0] = chance.choice((1, 31, 32, 33, 70, chance.randint(1, 100)))
        destination = chance.choice(tuple(Destination))
        functions = list(Function)[: 4 if config.table else 3]
        function = 0 if destination == Destination.EXACT else chance.choice(functions)
        opcode = chance.choice((Opcode.GEMM, Opcode.GEMM, Opcode.ADD))
        if opcode == Opcode.ADD:
            flags &= Flag.COLUMN | Flag.ROW
        return Instruction(opcode, (int(destination), int(function), int(flags))), registers

    def _align(self, registers: dict[Register, int]) -> None:
        """B in panels, as SKIP wants them."""
        lanes = self.config.columns
        registers[Register.B_MODE] = BMode.SLICES
        for name in ("B_BASE", "B_K1", "B_K2", "B_N", "B_G"):
            registers[Register[name]] -= registers[Register[name]] % lanes
        registers[Register.B_K0] = lanes

    def base(self) -> list[int]:
        """A product of two tiles, stored, with a slip now and then."""
        chance, config = self.chance, self.config
        rows, inner, columns = (
            chance.randint(1, min(16, side))
            for side in (config.rows, min(config.rows, config.columns), config.columns)
        )
        slots = min(16, config.slots)
        slot = [chance.randrange(slots if chance.random() < 0.97 else 16) for _ in range(3)]
        slip = 1 if chance.random() < 0.02 else 0
        program = [
            Instruction(Opcode.LDR, (slot[0], rows, inner)),
            Instruction(Opcode.LDC, (slot[1], max(1, inner - slip), columns)),
            Instruction(Opcode.MATMUL),
            Instruction(chance.choice((Opcode.RELU, Opcode.LIN))),
            Instruction(Opcode.STR, (slot[2], rows, columns)),
        ]
        if chance.random() < 0.3:
            program[:2] = program[1::-1]
        if chance.random() < 0.2:
            program.insert(chance.randrange(5), program[chance.randrange(5)])
        if chance.random() < 0.02:
            program.pop(chance.randrange(len(program)))
        return [word for instruction in program for word in encode(instruction)]

    def one(self) -> list[int]:
        """One instruction of another kind."""
        chance = self.chance
        make: list[Callable[[], Instruction]] = [
            lambda: Instruction(Opcode.NOP),
            lambda: Instruction(Opcode.FENCE),
            lambda: Instruction(Opcode.RELU),
            lambda: Instruction(Opcode.SET, (Register.TILE_BASE, chance.randrange(3))),
            lambda: Instruction(
                Opcode.STR, (chance.randrange(16), *(chance.randint(1, 8) for _ in range(2)))
            ),
        ]
        if chance.random() < 0.02:
            return list(encode(Instruction(Opcode.HALT)))
        choice = make[0] if chance.random() < 0.4 else chance.choice(make[1:2] * 4 + make)
        return list(encode(choice()))

    def anything(self) -> list[int]:
        """A random word."""
        return [self.chance.randrange(1 << 16)]
