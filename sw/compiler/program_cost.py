"""What programs take of the machine, and why, from their words and the zeros of the weights alone.

Nothing is multiplied. Cycles come from the machine model's own clock; a GEMM's sizes decide them,
and with the flag SKIP which segments of B are known to be zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sw import timing as t
from sw.checks import Gemm, State, initial_state
from sw.config import MachineConfig
from sw.estimate import fill_cycles
from sw.isa import Destination, Fault, Instruction, Opcode, decode_at
from sw.machine_cycles import InstructionCycles, gemm_cycles
from sw.machine_gemm import Walk
from sw.machine_load import GemmCycles, Load
from sw.machine_state import TileMemory
from sw.registers import BMode, Register
from sw.serial_cycles import SerialCycles
from sw.serial_gemm import SerialLoops

#: Instructions that the compiler emits.
_KNOWN: Final = (Opcode.NOP, Opcode.SET, Opcode.GEMM, Opcode.ADD, Opcode.FENCE, Opcode.HALT)
#: Registers that move operands about: without skipping, cycles do not depend on them.
_PLACES: Final = tuple(
    r for r in Register if Register.A_BASE <= r <= Register.CLAMP or r == Register.TILE_BASE
)


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """What some instructions take; costs add.

    The first fields are counters of the machine by their names. Slots are places for a product: one
    per cell of the array and cycle.

    Parameters
    ----------
    cycles, compute_cycles, macs, slices, skipped_slices : int
    stall_a, stall_b, stall_drain, stall_results, instructions, words_written : int
    timed_cycles : int
        Cycles of GEMMs from the start of planner and issuer on: slices, stalls and drain.
    fill : int
        Cycles of the stalls that pass before a GEMM's first slice.
    drain : int
        Cycles from a GEMM's last slice to its last row.
    idle_rows, idle_columns : int
        Slots in cycles with a slice, of rows and columns of the array that the tile has not.
    possible_macs : int
        MACS if no slice were skipped.
    a_words, b_words : int
        Words that the feeders read.
    sent_rows, sent_lanes : int
        Rows on the result stream, and the words or sums in them.
    exact_lanes : int
        Of them those that are exact sums.
    loading, draining : int
        With serial control, cycles of GEMMs in which lanes are loaded, and sums become words.
    guesses : int
        GEMMs whose skipping depends on data: cycles are those without zeros in it.
    """

    cycles: int = 0
    compute_cycles: int = 0
    macs: int = 0
    slices: int = 0
    skipped_slices: int = 0
    stall_a: int = 0
    stall_b: int = 0
    stall_drain: int = 0
    stall_results: int = 0
    instructions: int = 0
    words_written: int = 0
    timed_cycles: int = 0
    fill: int = 0
    drain: int = 0
    idle_rows: int = 0
    idle_columns: int = 0
    possible_macs: int = 0
    a_words: int = 0
    b_words: int = 0
    sent_rows: int = 0
    sent_lanes: int = 0
    exact_lanes: int = 0
    loading: int = 0
    draining: int = 0
    guesses: int = 0

    def __add__(self, other: ProgramCost) -> ProgramCost:
        return ProgramCost(*(getattr(self, n) + getattr(other, n) for n in _NAMES))

    def __sub__(self, other: ProgramCost) -> ProgramCost:
        return ProgramCost(*(getattr(self, n) - getattr(other, n) for n in _NAMES))


_NAMES: Final = tuple(f.name for f in fields(ProgramCost))


@dataclass(frozen=True, slots=True)
class SectionCost:
    """What a section of a program takes; costs add.

    Parameters
    ----------
    total : ProgramCost
    clearing : ProgramCost
        Of it, what only writes zeros: products of one operand, which is zero, with itself.
    """

    total: ProgramCost = ProgramCost()
    clearing: ProgramCost = ProgramCost()

    def __add__(self, other: SectionCost) -> SectionCost:
        return SectionCost(self.total + other.total, self.clearing + other.clearing)

    @property
    def work(self) -> ProgramCost:
        """What does not write zeros."""
        return self.total - self.clearing


class ZeroFlags(TileMemory):
    """The zero flags of a tile memory, and of which segments nobody knows them beforehand.

    Parameters
    ----------
    config : MachineConfig

    Attributes
    ----------
    unknown : NDArray of bool
        ``[segments]``: those whose words depend on data, and where a write could have been zero.
    """

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(config)
        self.unknown = np.zeros_like(self.zero_segments)

    def host_write(self, address: int, words: NDArray[Any] | None, count: int) -> None:
        """A host's write of neighbouring words, ``columns`` at a time; None if they are unknown."""
        lanes = self.config.columns
        first, end = -(-address // lanes), (address + count) // lanes
        touched = slice(address // lanes, -(-(address + count) // lanes))
        self.zero_segments[touched] = False
        self.unknown[touched] = False
        if words is None:
            self.unknown[first:end] = True
        elif first < end:
            whole = words[first * lanes - address : end * lanes - address].reshape(-1, lanes)
            self.zero_segments[first:end] = ~(whole & self.config.format.max_code).any(axis=1)

    def host_zeros(self, address: int, rows: int, count: int, stride: int) -> None:
        """A host's writes of rows of zeros."""
        zeros = np.zeros(count, dtype=self.words.dtype)
        for row in range(rows):
            self.host_write(address + row * stride, zeros, count)

    def gemm_write(self, walk: Walk) -> None:
        """A GEMM's rows, whose words are unknown."""
        lanes = self.config.columns
        base = np.full(1, walk["O_BASE"], dtype=np.int64)
        counts = (("MX", "O_X"), ("MY", "O_Y"), ("G", "O_G"))
        for count, stride in counts:
            base = (base[:, None] + np.arange(walk[count]) * walk[stride]).ravel()
        for tile in range(walk.tiles):
            address = base + tile * walk["O_N"]
            used = walk.tile_columns(tile)
            for segments in (address // lanes, (address + used - 1) // lanes):
                self.zero_segments[segments] = False
                self.unknown[segments] = True


@dataclass
class ProgramTimer:
    """Times programs one after the other on a machine whose zero flags it follows.

    Parameters
    ----------
    config : MachineConfig
    """

    config: MachineConfig
    flags: ZeroFlags = field(init=False)
    _known: dict[tuple[Any, ...], ProgramCost] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.flags = ZeroFlags(self.config)
        self._clock = InstructionCycles(self.config)
        self._serial = SerialCycles(self.config) if self.config.control == "serial" else None

    def run(self, words: Sequence[int], ends: Sequence[int]) -> Iterator[SectionCost]:
        """The costs of a program's sections.

        Parameters
        ----------
        words : sequence of int
        ends : sequence of int
            Ascending indices of the word after each section's last; what follows belongs to the
            last section.

        Raises
        ------
        ValueError
            If the program faults, or has an instruction that moves or multiplies a single tile.
        """
        state = initial_state(self.config)
        counter = 0
        for end in [*ends[:-1], len(words)]:
            cost, waiting = SectionCost(), ProgramCost()  # SETs wait for what they are for
            while counter < end:
                instruction, length = decode_at(words, counter, self.config)
                after = state.after(instruction, self.config)
                if isinstance(after, Fault) or instruction is None:
                    raise ValueError(f"program must run without a fault, not {after!r}")
                if instruction.opcode not in _KNOWN:
                    raise ValueError(f"program must have no {instruction.opcode.name}")
                place = counter, length
                if self._serial is None:
                    waiting += self._instruction(instruction, state.registers)
                else:
                    waiting += self._one_after_the_other(self._serial, instruction, state, place)
                if instruction.opcode in (Opcode.GEMM, Opcode.ADD):
                    clears = _clears(Gemm(instruction, state.registers, self.config))
                    cost += SectionCost(waiting, waiting if clears else ProgramCost())
                    waiting = ProgramCost()
                state, counter = after, counter + length
                if instruction.opcode == Opcode.HALT:
                    counter = len(words)
                if self._serial is not None and counter == len(words):
                    waiting += ProgramCost(cycles=self._serial.of_end(instruction.opcode))
            yield cost + SectionCost(waiting)

    def _instruction(self, instruction: Instruction, registers: Any) -> ProgramCost:
        if instruction.opcode not in (Opcode.GEMM, Opcode.ADD):
            return ProgramCost(cycles=self._clock.of(instruction, None, 0), instructions=1)
        walk = Walk(Gemm(instruction, registers, self.config))
        guess = walk.skips and self._reads_unknown(walk)
        key: tuple[Any, ...] = (instruction,)
        key += tuple(v for r, v in registers.items() if r not in _PLACES)
        if walk.skips:
            load = Load.of(walk, self.flags)
            key += (load.slices.shape, load.slices.tobytes())
        if key not in self._known:
            self._known[key] = self._gemm(Load.of(walk, self.flags))
        if walk.destination == Destination.MEMORY and self.config.skips:
            self.flags.gemm_write(walk)
        return self._known[key] + ProgramCost(guesses=int(guess))

    def _one_after_the_other(
        self, clock: SerialCycles, instruction: Instruction, state: State, place: tuple[int, int]
    ) -> ProgramCost:
        """The cost of an instruction with serial control; ``place``: first word, and words."""
        cycles = clock.of(instruction, state, *place)
        if instruction.opcode not in (Opcode.GEMM, Opcode.ADD):
            return ProgramCost(cycles=cycles, instructions=1)
        walk = Walk(Gemm(instruction, state.registers, self.config))
        loops, found = SerialLoops(walk), _operands(Load.of(walk, self.flags))
        return found + ProgramCost(
            cycles=cycles,
            compute_cycles=loops.cycles,
            instructions=1,
            timed_cycles=loops.cycles,
            loading=loops.cycles - loops.draining - found.slices,
            draining=loops.draining,
        )

    def _reads_unknown(self, walk: Walk) -> bool:
        extent = walk.gemm.extent_b()
        if extent is None:
            return False
        lanes = self.config.columns
        return bool(self.flags.unknown[extent[0] // lanes : extent[1] // lanes + 1].any())

    def _gemm(self, load: Load) -> ProgramCost:
        found = gemm_cycles(load)
        around = t.FETCH + t.DECODE + self._clock.of_check(load.walk.gemm) + t.START + t.NOTICE
        return _operands(load) + _time(load, found, around)


def _clears(gemm: Gemm) -> bool:
    """Whether A and B are the same words, one term of them."""
    return gemm.inner == 1 and (gemm.extent_b() or (-1,))[0] == gemm.extent_a()[0]


def _time(load: Load, found: GemmCycles, around: int) -> ProgramCost:
    """Cycles of a GEMM, ``around`` of them until planner and issuer are started and after it."""
    walk, config = load.walk, load.walk.gemm.config
    a_lanes = min(walk.rows, config.rows) * load.a_in_lanes
    b_lanes = min(walk.columns, config.columns) * load.b_in_lanes
    stalls = found.stall_a + found.stall_b
    last_rows = walk.tile_rows(walk.row_tiles - 1)
    return ProgramCost(
        cycles=around + found.total,
        compute_cycles=found.compute_cycles,
        stall_a=found.stall_a,
        stall_b=found.stall_b,
        stall_drain=found.stall_drain,
        stall_results=found.stall_results,
        instructions=1,
        timed_cycles=found.total,
        fill=min(stalls, found.first_read - 1 + fill_cycles(a_lanes, b_lanes)),
        drain=load.timing.row_latency(walk.destination) + last_rows - 1,
    )


def _operands(load: Load) -> ProgramCost:
    """Slices of a GEMM, and the words that they bring and make."""
    walk, config = load.walk, load.walk.gemm.config
    batches = len(load.slices)
    repeated = np.broadcast_to(load.slices, (batches, walk.tiles, load.slices.shape[2]))
    per_tile = repeated.sum(axis=(0, 2)) * (walk["G"] // batches)  # slices of each column tile
    lanes = np.array([walk.tile_columns(tile) for tile in range(walk.tiles)])
    chunks = (repeated > 0) * walk.chunk_lengths  # terms that are read of each lane
    read = chunks.sum(axis=(0, 2)) * (walk["G"] // batches)
    slices = walk.row_tiles * int(per_tile.sum())
    b_terms = read if load.b_in_lanes else per_tile
    in_rows = walk.rows * int(per_tile.sum())  # lanes of A in all slices
    macs = walk.rows * int(lanes @ per_tile)
    results = walk["G"] * walk.rows * walk.columns
    return ProgramCost(
        macs=macs,
        slices=slices,
        skipped_slices=walk.row_tiles * walk.terms * walk.tiles * walk["G"] - slices,
        words_written=0 if load.to_stream else results,
        idle_rows=(slices * config.rows - in_rows) * config.columns,
        idle_columns=in_rows * config.columns - macs,
        possible_macs=results * walk.terms,
        a_words=walk.rows * int((read if load.a_in_lanes else per_tile).sum()),
        b_words=walk.row_tiles * int(lanes @ b_terms) * (walk.b_mode != BMode.IDENTITY),
        sent_rows=walk["G"] * walk.rows * walk.tiles if load.to_stream else 0,
        sent_lanes=results if load.to_stream else 0,
        exact_lanes=results if walk.destination == Destination.EXACT else 0,
    )
