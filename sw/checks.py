"""What instructions check before they take effect: the faults of a program, without running it.

No instruction branches, so the fault that a program stops at follows from its words alone. The
assembler refuses such programs by this definition, and the machine finds the same faults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sw.config import COUNT_BITS, MachineConfig
from sw.isa import Destination, Fault, Flag, Instruction, Opcode, decode_at
from sw.registers import REGISTERS, AMode, BMode, Register

Shape = tuple[int, int]
#: The first and the last address of an operand.
Extent = tuple[int, int]
#: Bits of the shift that an identity B takes from B_K0 and B_K1.
IDENTITY_SHIFT_BITS = 4


def initial_registers(config: MachineConfig) -> dict[Register, int]:
    """What the registers hold as a program starts."""
    return {r: definition.kind.default(config) for r, definition in REGISTERS.items()}


@dataclass(frozen=True, slots=True)
class Gemm:
    """A GEMM or ADD with the registers that it runs on.

    Parameters
    ----------
    instruction : Instruction
    registers : mapping of Register to int
    config : MachineConfig
    """

    instruction: Instruction
    registers: Mapping[Register, int]
    config: MachineConfig

    def __getitem__(self, register: Register) -> int:
        return self.registers[register]

    @property
    def flags(self) -> int:
        """The flags, as in ``Flag``."""
        return self.instruction.operands[2]

    @property
    def b_mode(self) -> int:
        """B_MODE, or the identity in an ADD; 3 is undefined."""
        return BMode.IDENTITY if self.instruction.opcode == Opcode.ADD else self[Register.B_MODE]

    @property
    def rows(self) -> int:
        """M."""
        return self[Register.MX] * self[Register.MY]

    @property
    def inner(self) -> int:
        """K."""
        return self[Register.K0] * self[Register.K1] * self[Register.K2]

    @property
    def columns(self) -> int:
        """N."""
        return (self[Register.NT] - 1) * self.config.columns + self[Register.NL]

    @property
    def widest_tile(self) -> int:
        """Columns that an extent takes every tile to have."""
        if self[Register.NT] > 1 or self.flags & Flag.SKIP:
            return self.config.columns
        return self[Register.NL]

    def _end(self, base: Register, counts: Sequence[tuple[int, int]]) -> Extent:
        return self[base], self[base] + sum((count - 1) * step for count, step in counts)

    def _inner_counts(self, side: str) -> list[tuple[int, int]]:
        return [(self[Register[f"K{i}"]], self[Register[f"{side}_K{i}"]]) for i in (1, 2)]

    def _outer_counts(self, side: str) -> list[tuple[int, int]]:
        return [
            (self[Register.NT], self[Register[f"{side}_N"]]),
            (self[Register.G], self[Register[f"{side}_G"]]),
        ]

    def _row_counts(self, side: str) -> list[tuple[int, int]]:
        return [
            (self[Register.MX], self[Register[f"{side}_X"]]),
            (self[Register.MY], self[Register[f"{side}_Y"]]),
        ]

    def extent_a(self) -> Extent:
        """The first and the last address of A."""
        counts = self._inner_counts("A") + self._outer_counts("A")
        if self[Register.A_MODE] == AMode.LANES:
            counts += [*self._row_counts("A"), (self[Register.K0], 1)]
        else:
            counts += [(self.rows, 1), (self[Register.K0], self[Register.A_K0])]
        return self._end(Register.A_BASE, counts)

    def extent_b(self) -> Extent | None:
        """The first and the last address of B, as if every tile were full; None if no memory."""
        if self.b_mode == BMode.IDENTITY:
            return None
        counts = self._inner_counts("B") + self._outer_counts("B")
        if self.b_mode == BMode.LANES:
            counts += [(self.widest_tile, self[Register.B_X]), (self[Register.K0], 1)]
        else:
            counts += [(self.widest_tile, 1), (self[Register.K0], self[Register.B_K0])]
        return self._end(Register.B_BASE, counts)

    def extent_output(self) -> Extent | None:
        """The first and the last address of the output, as if full; None on the stream."""
        if self.instruction.operands[0] != Destination.MEMORY:
            return None
        counts = [*self._row_counts("O"), *self._outer_counts("O"), (self.widest_tile, 1)]
        return self._end(Register.O_BASE, counts)

    def fault(self) -> Fault:
        """The fault of the instruction, NONE if it runs."""
        if not self._is_defined():
            return Fault.ENCODING
        if not self._has_sizes():
            return Fault.SIZE
        a, b, output = self.extent_a(), self.extent_b(), self.extent_output()
        inputs = [extent for extent in (a, b) if extent is not None]
        extents = inputs + ([] if output is None else [output])
        if any(end >= self.config.memory_words for _, end in extents):
            return Fault.RANGE
        if output and any(x[0] <= output[1] and output[0] <= x[1] for x in inputs):
            return Fault.OVERLAP
        return Fault.NONE

    def _is_defined(self) -> bool:
        """Whether registers that name a mode, or that others forbid, name what there is."""
        if self.b_mode not in tuple(BMode):
            return False
        if self.flags & Flag.BLOCK and (self[Register.K1] != 1 or self[Register.K2] != 1):
            return False
        if self.b_mode == BMode.IDENTITY and not self.config.unity:
            # 2**0 is no word; the shift in B_K1 is used only where there is a k1 above 0.
            used = [Register.B_K0] + [Register.B_K1] * (self[Register.K1] > 1)
            return all(self[r] % (1 << IDENTITY_SHIFT_BITS) for r in used)
        return True

    def _has_sizes(self) -> bool:
        counts = [self[r] for r, d in REGISTERS.items() if r <= Register.G]
        totals = (self.rows, self.inner, self.columns)
        return (
            all(counts)
            and self[Register.NL] <= self.config.columns
            and all(total < 1 << COUNT_BITS for total in totals)
            and self.inner <= self.config.max_terms
        )


@dataclass(frozen=True, slots=True)
class State:
    """All that decides a fault: shapes as (rows, columns), None where empty, and the registers.

    Parameters
    ----------
    registers : mapping of Register to int
    row_buffer, column_buffer, output, activation : tuple of int, optional
    """

    registers: Mapping[Register, int]
    row_buffer: Shape | None = None
    column_buffer: Shape | None = None
    output: Shape | None = None
    activation: Shape | None = None

    def after(self, instruction: Instruction | None, config: MachineConfig) -> State | Fault:
        """The state after an instruction, or its fault."""
        if instruction is None:
            return Fault.ENCODING
        match instruction.opcode:
            case Opcode.LDR | Opcode.LDC | Opcode.STR:
                return self._after_tile(instruction, config)
            case Opcode.MATMUL:
                return self._after_matmul()
            case Opcode.RELU | Opcode.LIN:
                if self.output is None:
                    return Fault.NO_RESULT
                return replace(self, activation=self.output)
            case Opcode.SET:
                return self._after_set(instruction, config)
            case Opcode.GEMM | Opcode.ADD:
                fault = Gemm(instruction, self.registers, config).fault()
                # The buffers carry the slices of a GEMM, and its sums replace the array's output.
                return fault or replace(self, row_buffer=None, column_buffer=None, output=None)
            case _:
                return self

    def _after_tile(self, instruction: Instruction, config: MachineConfig) -> State | Fault:
        slot, *size = instruction.operands
        shape = size[0], size[1]
        if shape[0] > config.rows or shape[1] > config.columns:
            return Fault.SIZE
        if instruction.opcode == Opcode.STR and shape != self.activation:
            return Fault.STORE_SHAPE
        if slot + self.registers[Register.TILE_BASE] >= config.slots:
            return Fault.RANGE
        if instruction.opcode == Opcode.LDR:
            return replace(self, row_buffer=shape)
        if instruction.opcode == Opcode.LDC:
            return replace(self, column_buffer=shape)
        return self

    def _after_matmul(self) -> State | Fault:
        if self.row_buffer is None or self.column_buffer is None:
            return Fault.EMPTY_BUFFER
        if self.row_buffer[1] != self.column_buffer[0]:
            return Fault.INNER_SIZE
        output = (self.row_buffer[0], self.column_buffer[1])
        return replace(self, row_buffer=None, column_buffer=None, output=output)

    def _after_set(self, instruction: Instruction, config: MachineConfig) -> State | Fault:
        register, value = Register(instruction.operands[0]), instruction.operands[1]
        if value >> REGISTERS[register].kind.width(config):
            return Fault.VALUE
        return replace(self, registers={**self.registers, register: value})


def initial_state(config: MachineConfig) -> State:
    """The state as a program starts: defaults in the registers, all buffers empty."""
    return State(initial_registers(config))


def first_fault(words: Sequence[int], config: MachineConfig) -> tuple[int, Fault] | None:
    """The program counter and fault that a program stops at, or None if it runs to its end."""
    state = initial_state(config)
    counter = 0
    while counter < len(words):
        instruction, length = decode_at(words, counter, config)
        if counter + length > len(words):
            return counter, Fault.TRUNCATED
        after = state.after(instruction, config)
        if isinstance(after, Fault):
            return counter, after
        if instruction is not None and instruction.opcode == Opcode.HALT:
            return None
        state, counter = after, counter + length
    return None
