"""Cycles of programs: what each instruction takes of the controller, and of the unit it starts."""

from __future__ import annotations

from dataclasses import dataclass

from sw import timing as t
from sw.checks import Gemm
from sw.config import MachineConfig
from sw.isa import Destination, Fault, Instruction, Opcode
from sw.machine_clock import clock_gemm
from sw.machine_load import GemmCycles, Load
from sw.machine_recurrence import recur_gemm
from sw.registers import Register

#: The units' own cycles after the start.
_LANES_LOADED = t.LANES_PUSH + t.TRANSPOSED
_SLICES_LOADED = t.SLICE_PUSH + 1
_STORED = 1


@dataclass(frozen=True, slots=True)
class InstructionCycles:
    """How long instructions take, from the cycle in which their first word is taken.

    Parameters
    ----------
    config : MachineConfig
    """

    config: MachineConfig

    def of(self, instruction: Instruction, output: tuple[int, int] | None, terms: int) -> int:
        """Cycles of an instruction other than GEMM and ADD.

        Parameters
        ----------
        instruction : Instruction
        output : (rows, columns), optional
            Of the array's output before the instruction.
        terms : int
            Slices in the row buffer before it.
        """
        match instruction.opcode:
            case Opcode.NOP | Opcode.FENCE | Opcode.HALT:
                return t.FETCH + t.DECODE
            case Opcode.SET:
                return t.FETCH + t.DECODE + t.SET_WORDS
            case Opcode.MATMUL:
                unit = terms
            case Opcode.RELU | Opcode.LIN:
                rows = output[0] if output else 0
                unit = t.Timing(self.config).row_latency(Destination.MEMORY) + rows
            case Opcode.LDR:
                unit = _LANES_LOADED + sum(instruction.operands[1:])
            case Opcode.LDC:
                unit = _SLICES_LOADED + instruction.operands[1]
            case _:
                unit = _STORED + instruction.operands[1]
        return t.FETCH + t.DECODE + t.START + unit + t.NOTICE

    def of_check(self, gemm: Gemm) -> int:
        """Cycles of a GEMM's range check: a bit of each count in turn."""
        names = ("MX", "MY", "K0", "K1", "K2", "NT", "G", "NL")
        counts = [gemm[Register[name]] for name in names]
        if not all(counts) or counts[-1] > self.config.columns:
            return 1 + t.NOTICE
        counts[-1] = gemm.widest_tile
        return 1 + sum(1 + (count - 1).bit_length() for count in counts) + t.NOTICE

    def of_fault(self, fault: Fault, gemm: Gemm | None) -> int:
        """Cycles from the faulting instruction's word to the status."""
        if fault == Fault.VALUE:
            return t.FETCH + t.DECODE + t.SET_WORDS
        if gemm is not None and fault != Fault.ENCODING:
            return t.FETCH + t.DECODE + self.of_check(gemm)
        return t.FETCH + t.DECODE


def gemm_cycles(load: Load) -> GemmCycles:
    """The cycles of a GEMM: compiled recurrences, or without a compiler the definition."""
    found = recur_gemm(load)
    return clock_gemm(load) if found is None else found
