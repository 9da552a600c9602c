"""Cycles of programs with serial control: exact, from sizes and registers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sw import serial_timing as t
from sw.checks import Gemm, State
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import FIELD_BITS, Fault, Function, Instruction, Opcode
from sw.machine_gemm import Walk
from sw.registers import Register
from sw.serial_checks import SerialChecks
from sw.serial_gemm import SerialLoops

_FIELD: Final = (1 << FIELD_BITS) - 1
_NUMBERS: Final = 0x3F
#: Steps of what has no operand, up to its look at the free fields and with the jump.
_PLAIN_LOOK, _PLAIN = 3, 4
#: ``set_register`` up to each of its faults, and whole.
_SET_FIELDS, _SET_NUMBER, _SET_DATA, _SET_LOW, _SET_HIGH, _SET_LIMIT, _SET = (
    3,
    11,
    13,
    30,
    45,
    51,
    56,
)
#: ``tile`` with its call up to the rows and the columns, and whole; ``slot`` likewise.
_TILE_ROWS, _TILE_COLUMNS, _TILE = 17, 20, 21
_SLOT_SUM, _SLOT_LAST, _SLOT = 14, 18, 24
#: ``load_rows``, ``load_columns``, ``store_tile``: once, and per lane or row, and per word.
_LOAD, _LANE_A, _LANE_B, _A_TO_A, _B_TO_B = 8 + 1, 13, 14, 7, 8
_SHAPE_ROWS, _SHAPE, _STORE, _STORE_ROW, _STORE_WORD = 3, 6, 6 + 1, 6 + 9, 11
#: ``matmul`` up to each of its faults, and whole.
_NO_ROWS, _NO_COLUMNS, _INNER, _MATMUL = 5, 7, 9, 20
#: ``drain_output`` with what leads to it (RELU's is a step longer), a row, a word of it.
_OUTPUT_LOOK, _OUTPUT, _DRAIN, _DRAIN_ROW = 5, 7, 7 + 1 + 2 + 3 + 4 + 1, 2 + 9
_DRAIN_WORD: Final = t.ELEMENT + 11


@dataclass(frozen=True, slots=True)
class SerialCycles:
    """How long instructions take, from the cycle in which their first word is taken.

    Parameters
    ----------
    config : MachineConfig
    """

    config: MachineConfig

    def of(self, instruction: Instruction, state: State, first: int, words: int) -> int:
        """Cycles of an instruction without a fault, up to the next one's first word.

        Parameters
        ----------
        instruction : Instruction
        state : State
            Before it.
        first, words : int
            The index of its first word, and how many it has.
        """
        steps = t.TAKEN + t.DISPATCH + t.carries(first, words) + t.FINISH + t.FETCH + t.TAKE
        if instruction.opcode in (Opcode.GEMM, Opcode.ADD):
            gemm = Gemm(instruction, state.registers, self.config)
            return t.STEP * (steps + SerialChecks(gemm).steps) + SerialLoops(Walk(gemm)).cycles
        own, waits = self._own(instruction, state)
        return t.STEP * (steps + own) + waits

    def of_end(self, opcode: Opcode) -> int:
        """Cycles that a program's last instruction takes more than others."""
        steps = t.ENDED - t.FETCH - t.TAKE
        return 1 + t.STEP * (steps - t.FINISH if opcode == Opcode.HALT else steps)

    def of_fault(self, fault: Fault, words: tuple[int, ...], state: State, first: int) -> int:
        """Cycles from a faulting instruction's first word to the status.

        Parameters
        ----------
        fault : Fault
        words : tuple of int
            The instruction's, as many as there are of three.
        state : State
            Before it.
        first : int
            The index of its first word.
        """
        taken, steps = 1, 0
        opcode = words[0] >> COUNT_BITS - FIELD_BITS
        match opcode:
            case Opcode.GEMM | Opcode.ADD:
                operands = tuple(words[0] >> shift & _FIELD for shift in (8, 4, 0))
                instruction = Instruction(Opcode(opcode), operands)
                steps = SerialChecks(Gemm(instruction, state.registers, self.config)).steps
            case Opcode.SET:
                taken, steps = self._set_fault(fault, words)
            case Opcode.LDR | Opcode.LDC | Opcode.STR:
                steps = self._tile_fault(fault, words[0], state)
            case Opcode.MATMUL if fault == Fault.EMPTY_BUFFER:
                steps = _NO_ROWS if state.row_buffer is None else _NO_COLUMNS
            case Opcode.MATMUL if fault == Fault.INNER_SIZE:
                steps = _INNER
            case Opcode.RELU | Opcode.LIN:
                steps = _OUTPUT if fault == Fault.NO_RESULT else _OUTPUT_LOOK
                steps += opcode == Opcode.RELU
            case Opcode.NOP | Opcode.FENCE | Opcode.HALT | Opcode.MATMUL:
                steps = _PLAIN_LOOK
        steps += t.TAKEN + t.DISPATCH + t.carries(first, taken)
        # What finds a program cut short lies just before what reports it.
        return 1 + t.STEP * (steps + t.FAULT - (fault == Fault.TRUNCATED) + t.STOP)

    def _own(self, instruction: Instruction, state: State) -> tuple[int, int]:
        """Steps of an instruction's own, with the jump to the end, and cycles that it waits."""
        match instruction.opcode:
            case Opcode.SET:
                return _SET, 0
            case Opcode.LDR | Opcode.LDC | Opcode.STR:
                return self._tile(instruction, state)
            case Opcode.MATMUL:
                return _MATMUL, 0
            case Opcode.RELU | Opcode.LIN:
                rows, columns = state.output or (0, 0)
                relu = instruction.opcode == Opcode.RELU
                word = _DRAIN_WORD + t.ACTIVATION[Function.RELU if relu else Function.LINEAR]
                steps = _DRAIN + relu + rows * (_DRAIN_ROW + columns * word)
                return steps, t.drain_wait(self.config, rows, columns)
        return _PLAIN, 0

    def _tile(self, instruction: Instruction, state: State) -> tuple[int, int]:
        slot, rows, columns = instruction.operands
        slot += state.registers[Register.TILE_BASE]
        steps = _TILE + (rows == _FIELD + 1) + (columns == _FIELD + 1)
        steps += _SLOT + t.multiply(slot, self.config.slot_words).steps
        if instruction.opcode == Opcode.LDR:
            waits = (rows - 1) * t.load_wait(columns, _A_TO_A)
            return steps + _LOAD + rows * _LANE_A, waits
        if instruction.opcode == Opcode.LDC:
            waits = (columns - 1) * t.load_wait(rows, _B_TO_B)
            return steps + _LOAD + columns * _LANE_B, waits
        return steps + _SHAPE + _STORE + rows * (_STORE_ROW + columns * _STORE_WORD), 0

    def _tile_fault(self, fault: Fault, word: int, state: State) -> int:
        """Steps of LDR, LDC and STR up to a fault."""
        rows, columns = (word >> shift & _FIELD for shift in (4, 0))
        sizes = (columns == 0) + (rows == 0)
        if fault == Fault.SIZE:
            beyond = (rows or _FIELD + 1) > self.config.rows
            return sizes + (_TILE_ROWS if beyond else _TILE_COLUMNS)
        stores = word >> COUNT_BITS - FIELD_BITS == Opcode.STR
        if fault == Fault.STORE_SHAPE:
            known = state.activation or (0, 0)
            same = known[0] == (rows or _FIELD + 1)
            return sizes + _TILE + (_SHAPE if same else _SHAPE_ROWS)
        slot = (word >> 8 & _FIELD) + state.registers[Register.TILE_BASE]
        return sizes + _TILE + _SHAPE * stores + (_SLOT_SUM if slot >= t.WORDS else _SLOT_LAST)

    def _set_fault(self, fault: Fault, words: tuple[int, ...]) -> tuple[int, int]:
        """Words that a SET takes up to a fault, and steps."""
        if fault == Fault.ENCODING:
            return 1, _SET_NUMBER if words[0] >> 6 & _NUMBERS == 0 else _SET_FIELDS
        if fault == Fault.TRUNCATED:
            return len(words), _SET_DATA if len(words) == 1 else _SET_LOW
        return 3, _SET_HIGH if words[2] else _SET_LIMIT
