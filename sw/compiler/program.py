"""Programs word by word: SETs for what changes, sections per layer, and sections cut out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sw.checks import first_fault, initial_registers
from sw.compiler.schedule import Collect, Run, Section
from sw.config import MachineConfig
from sw.isa import Instruction, Opcode, decode_at, encode
from sw.registers import Register


@dataclass(frozen=True, slots=True)
class Operation:
    """A GEMM or ADD with what it needs in the registers.

    Parameters
    ----------
    instruction : Instruction
    registers : mapping of Register to int
        Those that matter to it; the others may hold anything.
    collect : Collect or None
        Of one that sends results.
    """

    instruction: Instruction
    registers: Mapping[Register, int]
    collect: Collect | None = None


class ProgramBuilder:
    """Collects the operations of one program.

    Parameters
    ----------
    config : MachineConfig
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self._words: list[int] = []
        self._sections: list[Section] = []
        self._registers = initial_registers(config)

    def __len__(self) -> int:
        return len(self._words)

    def section(self, layer: str, operations: Sequence[Operation]) -> None:
        """Append the operations of a layer, or of a piece of it."""
        for operation in operations:
            for register in sorted(operation.registers):
                value = operation.registers[register]
                if self._registers[register] != value:
                    self._registers[register] = value
                    self._words += encode(Instruction(Opcode.SET, (register, value)))
            self._words += encode(operation.instruction)
        collects = tuple(o.collect for o in operations if o.collect is not None)
        self._sections.append(Section(layer, len(self._words), collects))

    def run(self) -> Run:
        """The program.

        Raises
        ------
        ValueError
            If an instruction would fault: a defect of whoever made the operations.
        """
        fault = first_fault(self._words, self.config)
        if fault is not None:
            layer = next(s.layer for s in self._sections if fault[0] < s.end)
            raise ValueError(
                f"{layer} must be scheduled without faults, not with {fault[1].name} "
                f"at word {fault[0]}"
            )
        return Run(tuple(self._words), tuple(self._sections))


def registers_at(words: Sequence[int], end: int, config: MachineConfig) -> dict[Register, int]:
    """What the registers hold once the words before index ``end`` have run."""
    registers = initial_registers(config)
    counter = 0
    while counter < end:
        instruction, length = decode_at(words, counter, config)
        if instruction is not None and instruction.opcode == Opcode.SET:
            registers[Register(instruction.operands[0])] = instruction.operands[1]
        counter += length
    return registers


def split(run: Run, first: int, config: MachineConfig, count: int = 1) -> Run:
    """Sections of a program as a program of their own.

    SETs of the registers that are not at their defaults come first, in the first section.

    Parameters
    ----------
    run : Run
    first : int
        Index of the first section.
    config : MachineConfig
    count : int
        How many sections.
    """
    if not 0 <= first < len(run.sections) or not 1 <= count <= len(run.sections) - first:
        raise ValueError(
            f"sections must be within the program's {len(run.sections)}, "
            f"not {count} from {first} on"
        )
    start = run.sections[first - 1].end if first else 0
    defaults = initial_registers(config)
    prefix: list[int] = []
    for register, value in registers_at(run.words, start, config).items():
        if value != defaults[register]:
            prefix += encode(Instruction(Opcode.SET, (register, value)))
    sections = run.sections[first : first + count]
    shift = len(prefix) - start
    return Run(
        (*prefix, *run.words[start : sections[-1].end]),
        tuple(Section(s.layer, s.end + shift, s.collects) for s in sections),
    )
