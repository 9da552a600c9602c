"""Random jobs for the machine: legal and illegal, biased to the shapes and words that hurt."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from sim.machine_job import Job
from sim.machine_work import slices
from sw.activation import FUNCTIONS, Table, fit
from sw.checks import Gemm, initial_registers
from sw.config import MachineConfig
from sw.isa import BASE_SLOTS, Destination, Fault, Flag, Function, Instruction, Opcode, encode
from sw.machine_state import LIFT_BITS, Parameters
from sw.registers import REGISTERS, AMode, BMode, Register

#: Tries at a legal product before an illegal one is taken.
_TRIES: Final = 40
#: Slices of a program at most: a size that is meant to be wrong may be right, and take hours.
LONGEST: Final = 20_000
#: Tables of all functions, fitted once: that takes longer than a short program.
_TABLES: Final[dict[str, Table]] = {}


class Stimulus:
    """Makes jobs.

    Parameters
    ----------
    config : MachineConfig
    seed : int
    """

    def __init__(self, config: MachineConfig, seed: int) -> None:
        self.config = config
        self.random = random.Random(seed)
        self.arrays = np.random.default_rng(seed)

    def job(self, instructions: int) -> Job:
        """A job of about as many instructions as said, of at most LONGEST slices."""
        words = self._words(instructions)
        while slices(words, self.config) > LONGEST:
            words = self._words(instructions)
        return Job(self.config, words, self.memory(), self.parameters())

    def _words(self, instructions: int) -> tuple[int, ...]:
        self._current = initial_registers(self.config)
        parts: list[list[tuple[int, ...]]] = []
        while sum(map(len, parts)) < instructions:
            parts.append(self._pick((10, self._product), (2, self._base), (1, self._plain))())
        if self._chance(0.4):
            parts.insert(self.random.randrange(len(parts) + 1), self._illegal())
        words = [word for part in parts for instruction in part for word in instruction]
        if self._chance(0.03) and len(words) > 1:  # an instruction may lack its end
            words.pop()
        return tuple(words)

    def memory(self) -> npt.NDArray[np.uint16]:
        """Words: any, or zeros of both signs, unities, and whole segments of zeros."""
        config, size = self.config, self.config.memory_words
        format = config.format
        words = self.arrays.integers(0, 1 << config.bits, size, dtype=np.uint16)
        special = np.array(
            [0, 0, format.sign_bit, format.max_code, format.sign_bit + format.max_code]
        )
        chosen = self.arrays.random(size) < self.random.choice((0.05, 0.5))
        words[chosen] = self.arrays.choice(special, chosen.sum()).astype(np.uint16)
        segments = self.arrays.random(-(-size // config.columns))
        zero = np.repeat(segments < self.random.choice((0, 0.3, 0.8)), config.columns)[:size]
        words[zero] = self.arrays.choice(special[1:3], zero.sum()).astype(np.uint16)
        return words

    def parameters(self) -> Parameters:
        """Biases, shifts near the useful ones and far from them, lifts, and a table."""
        config = self.config
        made = Parameters(config)
        shape = made.biases.shape
        made.biases[:] = self.arrays.integers(0, 1 << config.bias_format.bits, shape)
        for shifts in (made.column_shifts, made.row_shifts):
            shifts[:] = self.arrays.integers(-3, 8, shifts.shape)
            far = self.arrays.random(shifts.shape) < 0.1
            shifts[far] = self.arrays.integers(-128, 128, far.sum())
        if config.blocks:
            limit = min(config.max_spread, (1 << LIFT_BITS) - 1) + 1
            for lifts in (made.column_lifts, made.row_lifts):
                lifts[:] = self.arrays.integers(0, limit, lifts.shape)
        if config.table:
            made.write_table(self._table())
        return made

    def _table(self) -> Table:
        name = self.random.choice(sorted(FUNCTIONS))
        if name not in _TABLES:
            _TABLES[name] = fit(FUNCTIONS[name], 1, 1, step=512)
        return _TABLES[name]

    # Parts of programs: instructions, each as its words

    def _product(self) -> list[tuple[int, ...]]:
        """SETs, then GEMMs and ADDs, of which nearly all are legal."""
        for _ in range(_TRIES):
            registers = self._registers()
            instruction = self._gemm(registers)
            if Gemm(instruction, registers, self.config).fault() == Fault.NONE:
                break
        given = [r for r in registers if registers[r] != self._current[r] or self._chance(0.02)]
        self.random.shuffle(given)
        self._current = registers
        sets = [encode(Instruction(Opcode.SET, (r, registers[r]))) for r in given]
        again = [self._gemm(registers) for _ in range(self.random.randrange(4))]
        legal = [i for i in again if Gemm(i, registers, self.config).fault() == Fault.NONE]
        return [*sets, *map(encode, [*legal, instruction])]

    def _gemm(self, registers: dict[Register, int]) -> Instruction:
        config = self.config
        flags = self.random.choice((0, Flag.COLUMN, Flag.ROW, Flag.COLUMN | Flag.ROW))
        add = self._chance(0.2)
        if not add and self._chance(0.5):
            flags |= Flag.SKIP
        inner = (registers[Register.K1], registers[Register.K2])
        if config.blocks and not add and inner == (1, 1) and self._chance(0.5):
            flags |= Flag.BLOCK | Flag.COLUMN | Flag.ROW
        destination = self.random.choice(tuple(Destination))
        functions = list(Function)[: 4 if config.table else 3]
        if destination == Destination.EXACT:
            functions = [Function.LINEAR]
        fields = (int(destination), int(self.random.choice(functions)), int(flags))
        return Instruction(Opcode.ADD if add else Opcode.GEMM, fields)

    def _registers(self) -> dict[Register, int]:
        """Sizes, layouts and places of a product, all registers set."""
        registers = dict(self._current)
        r, side = Register, self.config
        registers[r.MX] = self._size(side.rows, 3 * side.rows)
        registers[r.MY] = self._pick((6, 1), (1, 2), (1, 3))
        inner = self._size(max(side.columns, 8), 5 * side.vector)
        registers[r.K1], registers[r.K2] = self._pick((5, (1, 1)), (2, (2, 1)), (2, (3, 2)))
        registers[r.K0] = max(1, inner // (registers[r.K1] * registers[r.K2]))
        registers[r.NT] = self._pick((4, 1), (2, 2), (1, 3))
        registers[r.NL] = self._size(side.columns, side.columns)
        registers[r.G] = self._pick((8, 1), (1, 2), (1, 3))
        registers[r.A_MODE] = self.random.choice(tuple(AMode))
        registers[r.B_MODE] = self._pick((5, BMode.SLICES), (2, BMode.LANES), (1, BMode.IDENTITY))
        self._strides(registers)
        self._places(registers)
        for name in (r.P_COLUMN, r.P_ROW, r.CLAMP):
            if self._chance(0.7):
                continue
            registers[name] = self.random.randrange(1 << REGISTERS[name].kind.width(side))
        for name in (r.P_COLUMN_G, r.P_ROW_G):
            if self._chance(0.3):
                registers[name] = self.random.randrange(5)
        beyond = max(0, side.slots - BASE_SLOTS)
        registers[r.TILE_BASE] = self._pick((3, 0), (1, self.random.randint(0, beyond)))
        return registers

    def _strides(self, registers: dict[Register, int]) -> None:
        """Strides of dense matrices, with odd ones among them."""
        r, lanes = Register, self.config.columns
        k0, k1 = registers[r.K0], registers[r.K1]
        rows = registers[r.MX] * registers[r.MY]
        width = (registers[r.NT] - 1) * lanes + registers[r.NL]
        in_lanes = registers[r.A_MODE] == AMode.LANES
        dense = {
            r.A_X: k0 * k1 * registers[r.K2],
            r.A_K0: rows,
            r.A_K1: k0 if in_lanes else k0 * rows,
            r.A_K2: k0 * k1 if in_lanes else k0 * k1 * rows,
            r.A_N: self._pick((6, 0), (1, lanes)),
            r.A_G: self.random.choice((0, rows * k0)),
            r.B_X: k0 * k1 * registers[r.K2],
            r.B_K0: self._pick((3, lanes), (1, width)),
            r.B_N: self._pick((2, lanes), (1, lanes * k0 * k1 * registers[r.K2])),
            r.B_G: self.random.choice((0, lanes * k0)),
            r.O_X: self._pick((3, width), (1, lanes), (1, width + 1)),
            r.O_N: lanes,
        }
        dense[r.A_Y] = registers[r.MX] * dense[r.A_X]
        dense[r.B_K1] = k0 if registers[r.B_MODE] == BMode.LANES else k0 * dense[r.B_K0]
        dense[r.B_K2] = k1 * dense[r.B_K1]
        dense[r.O_Y] = registers[r.MX] * dense[r.O_X]
        dense[r.O_G] = rows * dense[r.O_X]
        limit = 1 << self.config.address_bits
        for register, stride in dense.items():
            if self._chance(0.05):
                stride = self.random.choice((0, 1, lanes, self.random.randrange(3 * lanes)))
            registers[register] = min(stride, limit - 1)

    def _places(self, registers: dict[Register, int]) -> None:
        """Bases, apart from each other if that is possible."""
        size, lanes = self.config.memory_words, self.config.columns
        bases = [Register.A_BASE, Register.B_BASE, Register.O_BASE]
        gemm = Gemm(Instruction(Opcode.GEMM, (0, 0, 0)), registers, self.config)
        extents = [gemm.extent_a(), gemm.extent_b() or (0, 0), gemm.extent_output() or (0, 0)]
        lengths = [extent[1] - extent[0] + 1 for extent in extents]
        order = self.random.sample(range(3), 3)
        spare = max(0, size - sum(lengths))
        start = 0
        for number in order:
            gap = self.random.randrange(spare // 3 + 1)
            aligned = (start + gap) // lanes * lanes
            start = aligned if aligned >= start and self._chance(0.6) else start + gap
            registers[bases[number]] = min(start, (1 << self.config.address_bits) - 1)
            start += lengths[number]

    def _base(self) -> list[tuple[int, ...]]:
        """A product of two tiles, stored, with a slip now and then."""
        config = self.config
        limits = (config.rows, min(config.rows, config.columns), config.columns)
        rows, inner, columns = (self._size(min(16, side), min(16, side)) for side in limits)
        slots = min(BASE_SLOTS, config.slots)
        a, b, c = (self.random.randrange(slots) for _ in range(3))
        part = [
            Instruction(Opcode.LDR, (a, rows, inner)),
            Instruction(Opcode.LDC, (b, inner, columns)),
            Instruction(Opcode.MATMUL),
            Instruction(self.random.choice((Opcode.RELU, Opcode.LIN))),
            Instruction(Opcode.STR, (c, rows, columns)),
        ]
        if self._chance(0.3):
            part[:2] = part[1::-1]
        if self._chance(0.2):  # twice, or in another place
            part.insert(self.random.randrange(6), self.random.choice(part))
        if self._chance(0.04):
            part.pop(self.random.randrange(5))
        return [encode(instruction) for instruction in part]

    def _plain(self) -> list[tuple[int, ...]]:
        """An instruction that changes little."""
        return [
            encode(
                self._pick(
                    (3, Instruction(Opcode.NOP)),
                    (3, Instruction(Opcode.FENCE)),
                    (2, Instruction(Opcode.HALT)),
                    (0.5, Instruction(Opcode.RELU)),
                    (1, Instruction(Opcode.LIN)),
                )
            )
        ]

    def _illegal(self) -> list[tuple[int, ...]]:
        """Something that most likely is a fault."""
        make: Callable[[], tuple[int, ...]] = self._pick(
            (2, lambda: (self.random.randrange(1 << 16),)),
            (1, self._wide_value),
            (1, lambda: (0x7000 | self.random.randrange(256), *self._halves())),
            (1, lambda: (0x8000 | self.random.randrange(1 << 12),)),
            (1, lambda: (0x9000 | self.random.randrange(1 << 12),)),
            (1, lambda: (self.random.randrange(1, 4) << 12 | self.random.randrange(1 << 12),)),
        )
        part = [make()]
        if self._chance(0.5):  # sizes, places and modes that are wrong for a good instruction
            register = self.random.choice(list(Register))
            width = REGISTERS[register].kind.width(self.config)
            value = self._pick(
                (1, 0), (1, (1 << width) - 1), (1, self.random.randrange(1 << width))
            )
            product = self._product()
            self._current[register] = value
            part = [*product[:-1], encode(Instruction(Opcode.SET, (register, value))), product[-1]]
        return part

    def _wide_value(self) -> tuple[int, ...]:
        register = self.random.choice(list(Register))
        width = REGISTERS[register].kind.width(self.config)
        value = (1 << width) + self._pick((1, -1), (1, 0), (1, self.random.randrange(1 << 15)))
        return encode(Instruction(Opcode.SET, (register, value)))

    def _halves(self) -> tuple[int, int]:
        return self.random.randrange(1 << 16), self._pick((3, 0), (1, 1))

    # Choices

    def _chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def _pick(self, *choices: tuple[float, object]) -> object:
        weights = [weight for weight, _ in choices]
        return self.random.choices([choice for _, choice in choices], weights)[0]

    def _size(self, side: int, limit: int) -> int:
        """1, a side, next to it, a multiple, or any up to a limit."""
        any_size = self.random.randint(1, limit)
        size = self._pick(
            (2, 1), (3, side), (1, side - 1), (1, side + 1), (1, 2 * side), (4, any_size)
        )
        return min(max(1, size), limit)
