"""The machine, an instruction at a time: words, faults, counters and cycles as the RTL has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sw import timing as t
from sw.checks import Gemm, initial_state
from sw.config import MachineConfig
from sw.isa import (
    INSTRUCTIONS,
    WORD_MASK,
    Destination,
    Fault,
    Instruction,
    Opcode,
    decode_at,
)
from sw.machine_counts import Counts, count_operands
from sw.machine_cycles import InstructionCycles, gemm_cycles
from sw.machine_gemm import Walk
from sw.machine_load import GemmCycles, Load
from sw.machine_operands import ResultRows, Words
from sw.machine_products import drain_sums, exact_product, gemm_rows
from sw.machine_report import Report, result_rows
from sw.machine_state import Parameters, TileMemory
from sw.registers import COUNTED, Counter, Register, ResultKind
from sw.serial_cycles import SerialCycles

#: What makes the rows of a GEMM: fast, or by definition.
MakeRows = Callable[[Walk, TileMemory, Parameters], tuple[ResultRows, Counts]]
#: What finds the cycles of a GEMM: compiled, or by definition.
FindCycles = Callable[[Load], GemmCycles]
#: Words of the longest instruction.
_MAX_WORDS: Final = max(definition.words for definition in INSTRUCTIONS.values())
#: Instructions, and GEMMs, that are remembered.
_REMEMBERED: Final = 1 << 14


class Machine:
    """A machine between, or within, programs.

    Parameters
    ----------
    config : MachineConfig
    make_rows, find_cycles : callable
        How a GEMM is computed and timed; the fast ways unless a test says otherwise.

    Attributes
    ----------
    memory : TileMemory
    parameters : Parameters
    state : State
        Registers and the shapes in the buffers, of the program that runs or ran last.
    row_buffer, column_buffer : NDArray
        The words that LDR and LDC copied, empty where there are none.
    sums : NDArray of int64
        What the array holds after a MATMUL.
    activation : NDArray
        The words of the activation buffer.
    program : tuple of int
    program_counter : int
        Index of the next word.
    """

    def __init__(
        self,
        config: MachineConfig,
        make_rows: MakeRows = gemm_rows,
        find_cycles: FindCycles = gemm_cycles,
    ) -> None:
        self.config = config
        self.memory = TileMemory(config)
        self.parameters = Parameters(config)
        self.program: tuple[int, ...] = ()
        self.state = initial_state(config)
        self.program_counter = 0
        self.fault = Fault.NONE
        self.ended = True
        self._counters = dict.fromkeys(Counter, 0)
        self._sent: list[tuple[ResultKind, ResultRows]] = []
        self._make_rows = make_rows
        self._find_cycles = find_cycles
        self._clock = InstructionCycles(config)
        self._serial = SerialCycles(config) if config.control == "serial" else None
        self._decoded: dict[tuple[int, ...], tuple[Instruction | None, int]] = {}
        self._cycles: dict[tuple[object, bytes], GemmCycles] = {}
        self._begin()

    @property
    def tiles(self) -> Words:
        """The tile slots ``[slots, rows, columns]``; a view to read, :meth:`load` writes."""
        return self.memory.tiles

    def load(self, words: ArrayLike) -> None:
        """Write words (or tiles) to memory from address 0 on, as the host port does."""
        self.memory.load(words)

    def run(self, words: Sequence[int], *, breakpoints: Sequence[int] = ()) -> Report:
        """Run a program from its first word.

        Parameters
        ----------
        words : sequence of int
            At least one 16-bit word.
        breakpoints : sequence of int
            Program counters that the machine stops before; :meth:`resume` goes on.

        Returns
        -------
        Report
            Of the whole program, or of what ran up to a breakpoint.
        """
        self.start(words)
        return self.resume(breakpoints)

    def start(self, words: Sequence[int]) -> None:
        """Take a program, with empty buffers and registers as after reset; run none of it."""
        program = tuple(int(word) for word in words)
        if not program:
            raise ValueError("program must have at least one word, not 0")
        for index, word in enumerate(program):
            if not 0 <= word <= WORD_MASK:
                raise ValueError(f"word {index} must be 0 to {WORD_MASK}, not {word!r}")
        self.program = program
        self._begin()

    def resume(self, breakpoints: Sequence[int] = ()) -> Report:
        """Run up to the end, a fault or the next breakpoint (the present place is none)."""
        going = self.step()
        while going and self.program_counter not in breakpoints:
            going = self.step()
        return self.report()

    def step(self) -> bool:
        """Run one instruction; whether the program goes on after it."""
        if self.ended:
            return False
        instruction, length = self._decode()
        if instruction is None:
            return self._stop(Fault.ENCODING, None)
        data_words = len(self.program) - self.program_counter - 1
        if data_words < length - 1:
            return self._stop(Fault.TRUNCATED, None)
        after = self.state.after(instruction, self.config)
        if isinstance(after, Fault):
            return self._stop(after, instruction)
        before, first = self.state, self.program_counter
        self._execute(instruction)
        self.state = after
        self.program_counter += length
        self._counters[Counter.INSTRUCTIONS] += 1
        self.ended = instruction.opcode == Opcode.HALT or self.program_counter == len(self.program)
        if self._serial is not None:
            cycles = self._serial.of(instruction, before, first, length)
            cycles += self._serial.of_end(instruction.opcode) if self.ended else 0
            self._counters[Counter.CYCLES] += cycles
        return not self.ended

    def report(self) -> Report:
        """What the program has done up to now."""
        results = [row for kind, rows in self._sent for row in result_rows(kind, rows)]
        return Report(self.fault, self.program_counter, self.counters, tuple(results))

    @property
    def counters(self) -> dict[Counter, int]:
        """What the program has counted up to now, as far as the machine has counters."""
        has = COUNTED[self.config.counters]
        return {counter: n if counter in has else 0 for counter, n in self._counters.items()}

    @property
    def sent(self) -> list[ResultRows]:
        """What left on the result stream up to now, by GEMM, with no tuple per row."""
        return [rows for _, rows in self._sent]

    # The parts of an instruction

    def _decode(self) -> tuple[Instruction | None, int]:
        """The next instruction, remembered by its words: programs repeat few."""
        words = self.program[self.program_counter : self.program_counter + _MAX_WORDS]
        if words not in self._decoded:
            _make_room(self._decoded)
            self._decoded[words] = decode_at(words, 0, self.config)
        return self._decoded[words]

    def _cycles_of(self, walk: Walk) -> GemmCycles:
        """The cycles of a GEMM, remembered by all that its control sees."""
        load = Load.of(walk, self.memory) if walk.skips else None
        key = walk.control, b"" if load is None else load.fingerprint
        if key not in self._cycles:
            _make_room(self._cycles)
            self._cycles[key] = self._find_cycles(load or Load.of(walk, self.memory))
        return self._cycles[key]

    def _begin(self) -> None:
        nothing: NDArray[Any] = np.zeros((0, 0), dtype=np.int64)
        self.state = initial_state(self.config)
        self.row_buffer = self.column_buffer = self.sums = self.activation = nothing
        self.program_counter = 0
        self.fault = Fault.NONE
        self.ended = not self.program
        self._counters = dict.fromkeys(Counter, 0)
        self._sent = []

    def _stop(self, fault: Fault, instruction: Instruction | None) -> bool:
        self.fault = fault
        self.ended = True
        first = self.program_counter
        words = self.program[first : first + _MAX_WORDS]
        if self._serial is not None:
            cycles = self._serial.of_fault(fault, words, self.state, first)
        elif fault == Fault.TRUNCATED:
            cycles = t.FETCH + t.DECODE + len(words) - 1
        else:
            gemm = None if instruction is None else self._gemm_of(instruction)
            cycles = self._clock.of_fault(fault, gemm)
        self._counters[Counter.CYCLES] += cycles
        return False

    def _gemm_of(self, instruction: Instruction) -> Gemm | None:
        if instruction.opcode not in (Opcode.GEMM, Opcode.ADD):
            return None
        return Gemm(instruction, self.state.registers, self.config)

    def _execute(self, instruction: Instruction) -> None:
        gemm = self._gemm_of(instruction)
        if gemm is not None:
            self._gemm(Walk(gemm))
            return
        terms = self.row_buffer.shape[1]
        if self._serial is None:
            self._counters[Counter.CYCLES] += self._clock.of(instruction, self.state.output, terms)
        match instruction.opcode:
            case Opcode.LDR | Opcode.LDC | Opcode.STR:
                self._move_tile(instruction)
            case Opcode.MATMUL:
                self._matmul()
            case Opcode.RELU | Opcode.LIN:
                relu = instruction.opcode == Opcode.RELU
                self.activation = drain_sums(self.sums, relu, self.config)

    def _move_tile(self, instruction: Instruction) -> None:
        slot, rows, columns = instruction.operands
        slot += self.state.registers[Register.TILE_BASE]
        if instruction.opcode == Opcode.LDR:
            self.row_buffer = self.tiles[slot, :rows, :columns].copy()
        elif instruction.opcode == Opcode.LDC:
            self.column_buffer = self.tiles[slot, :rows, :columns].copy()
        else:
            address = slot * self.config.slot_words
            for i, row in enumerate(self.activation):
                self.memory.write(address + i * self.config.columns, row)
            self._counters[Counter.WORDS_WRITTEN] += rows * columns

    def _matmul(self) -> None:
        a, b = self.row_buffer, self.column_buffer
        self.sums = exact_product(a, b, self.config.format)
        self.row_buffer = self.column_buffer = np.zeros((0, 0), dtype=np.int64)
        (rows, terms), columns = a.shape, b.shape[1]
        self._counters[Counter.MATMUL_CYCLES] = rows + terms + columns - 2
        registers = {
            **initial_state(self.config).registers,
            Register.MX: rows,
            Register.K0: terms,
            Register.NL: columns,
        }
        whole = Walk(Gemm(Instruction(Opcode.GEMM, (0, 0, 0)), registers, self.config))
        issued = np.ones((1, 1, terms), dtype=np.bool_)
        self._add(count_operands(a[None], b[None], whole, issued, self.config))

    def _gemm(self, walk: Walk) -> None:
        if self._serial is None:
            cycles = self._cycles_of(walk)
            around = t.FETCH + t.DECODE + self._clock.of_check(walk.gemm) + t.START + t.NOTICE
            self._counters[Counter.CYCLES] += around + cycles.total
            self._add(cycles)
        rows, counts = self._make_rows(walk, self.memory, self.parameters)
        self._add(counts)
        if walk.destination == Destination.MEMORY:
            self.memory.write_rows(rows)
            self._counters[Counter.WORDS_WRITTEN] += int(rows.counts.sum())
        else:
            self._send(rows, walk.destination)
        self.row_buffer = self.column_buffer = self.sums = np.zeros((0, 0), dtype=np.int64)

    def _send(self, rows: ResultRows, destination: Destination) -> None:
        kind = ResultKind.EXACT if destination == Destination.EXACT else ResultKind.WORDS
        self._sent.append((kind, rows))

    def _add(self, part: Counts | GemmCycles) -> None:
        """Add what has a counter's name."""
        for counter in Counter:
            self._counters[counter] += getattr(part, counter.name.lower(), 0)


def _make_room(remembered: dict[Any, Any]) -> None:
    if len(remembered) >= _REMEMBERED:
        remembered.clear()
