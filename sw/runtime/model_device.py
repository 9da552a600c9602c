"""The machine model as a device, and as a clock that computes no words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sw.config import MachineConfig
from sw.machine import Machine
from sw.machine_counts import Counts, issued_slices
from sw.machine_gemm import Walk
from sw.machine_operands import ResultRows, Words, order_rows
from sw.machine_state import Parameters, TileMemory
from sw.registers import Counter
from sw.runtime.device import Outcome, checked_span

#: Counters that no program's addresses and counts decide: they follow from the words.
DATA_COUNTERS: Final = (Counter.ZERO_OPERANDS, Counter.HELD_OPERANDS, Counter.UNITY_OPERANDS)


class ModelDevice:
    """The machine model as a device.

    Parameters
    ----------
    config : MachineConfig
    values : bool
        False: words are neither kept nor computed, reads give zeros and the result stream is left
        out, and so are the counters in ``DATA_COUNTERS``. All-zero flags of what the host writes
        are kept; what programs write to tile memory counts as not zero, so that of B operands that
        programs made no slice is skipped. All other counters, the cycles too, are then those of
        the machine, unless such an operand has slices of zeros.

    Attributes
    ----------
    machine : Machine
    """

    def __init__(self, config: MachineConfig, *, values: bool = True) -> None:
        self.config = config
        self.values = values
        self.machine = self._made()

    def _made(self) -> Machine:
        if self.values:
            return Machine(self.config)
        made = Machine(self.config, make_rows=_count_rows)
        made.memory = _Flags(self.config)
        return made

    def __enter__(self) -> ModelDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Clear tile memory and parameters."""
        self.machine = self._made()

    def write(self, address: int, words: NDArray[Any]) -> None:
        """Write consecutive words, ``columns`` at a time."""
        checked_span("address", address, len(words), self.config.memory_words)
        self.machine.memory.load(words, address)

    def write_columns(self, entry: int, biases: NDArray[Any], shifts: NDArray[Any]) -> None:
        """Write bias words and shifts ``[entries, columns]``, and lifts of 0."""
        self.machine.parameters.write_columns(entry, biases, shifts)

    def run(self, words: tuple[int, ...]) -> Outcome:
        """Run a program to its end or its fault."""
        machine = self.machine
        machine.start(words)
        while machine.step():
            pass
        counters = machine.counters
        if not self.values:
            counters = {c: n for c, n in counters.items() if c not in DATA_COUNTERS}
        rows, counts = self._sent()
        return Outcome(machine.fault, machine.program_counter, counters, rows, counts)

    def _sent(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sent = self.machine.sent if self.values else []
        nothing = np.zeros((0, self.config.columns), dtype=np.int64)
        rows = np.concatenate([nothing, *(part.words for part in sent)])
        counts = np.concatenate([nothing[:, 0], *(part.counts for part in sent)])
        return rows.astype(np.int64, copy=False), counts

    def read(self, address: int, count: int) -> NDArray[np.uint16]:
        """Consecutive words of tile memory; zeros without values."""
        checked_span("address", address, count, self.config.memory_words)
        return self.machine.memory.words[address : address + count].astype(np.uint16)

    def close(self) -> None:
        """Nothing is held."""


class _Flags(TileMemory):
    """A tile memory that keeps flags alone."""

    def _store(self, address: int, new: Words) -> None:
        super()._store(address, new)
        self.words[address : address + len(new)] = 0

    def write(self, address: int, words: Sequence[int]) -> None:
        lanes = self.config.columns
        self.zero_segments[address // lanes : (address + len(words) - 1) // lanes + 1] = False

    def write_rows(self, rows: ResultRows) -> None:
        first, last = rows.addresses, rows.addresses + rows.counts - 1
        self.zero_segments[first // self.config.columns] = False
        self.zero_segments[last // self.config.columns] = False


def _count_rows(
    walk: Walk, memory: TileMemory, parameters: Parameters
) -> tuple[ResultRows, Counts]:
    """What a GEMM writes where, as zeros, and what counts without a look at its words."""
    lanes = np.full(walk.tiles, walk.lanes)
    lanes[-1] = walk["NL"]
    alone = walk.batches_of_b
    slices = issued_slices(walk, memory.zero_segments, alone).sum(axis=-1)
    alike = walk["G"] // len(alone)
    counts = Counts(
        macs=alike * walk.rows * int((slices @ lanes).sum()),
        slices=alike * walk.row_tiles * int(slices.sum()),
        skipped_slices=alike * walk.row_tiles * int((walk.terms - slices).sum()),
    )
    nothing = np.broadcast_to(np.uint8(0), (walk["G"], walk.rows, walk.columns))
    return order_rows(nothing, walk, range(walk["G"])), counts
