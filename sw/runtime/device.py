"""What the runtime needs of a machine, be it a model, RTL in a simulator or a board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sw.config import MachineConfig
from sw.isa import Fault
from sw.registers import Counter


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a program left, but for what it wrote to tile memory.

    Parameters
    ----------
    fault : Fault
    counter : int
        Words up to the end, or index of the instruction that faulted.
    counters : dict of Counter to int
    rows : NDArray of int64
        ``[rows, columns]``: the beats of the result stream in order, words or exact sums, what lies
        beyond a row's count zero.
    counts : NDArray of int64
        ``[rows]``: how many lanes of each row count.
    """

    fault: Fault
    counter: int
    counters: dict[Counter, int]
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]


@runtime_checkable
class Device(Protocol):
    """A machine that keeps tile memory, parameters and table from one program to the next."""

    config: MachineConfig

    def reset(self) -> None:
        """Clear tile memory and parameters."""

    def write(self, address: int, words: NDArray[Any]) -> None:
        """Write consecutive words, as the host port does: ``columns`` at a time from ``address``.

        All-zero flags follow from the accesses, so their cut is part of the contract: the first
        access ends at the next multiple of ``columns``, the others start at one.
        """

    def write_columns(self, entry: int, biases: NDArray[Any], shifts: NDArray[Any]) -> None:
        """Write column parameters ``[entries, columns]`` from an entry on: bias words, shifts.

        Lifts become 0.
        """

    def run(self, words: tuple[int, ...]) -> Outcome:
        """Run a program to its end or its fault."""

    def read(self, address: int, count: int) -> NDArray[np.uint16]:
        """Consecutive words of tile memory."""

    def close(self) -> None:
        """Give back what it holds: processes, files."""


def checked_span(name: str, start: int, count: int, limit: int) -> None:
    """ValueError unless ``count`` neighbours from ``start`` on lie below ``limit``."""
    if count < 0:
        raise ValueError(f"count must be at least 0, not {count!r}")
    if not 0 <= start <= limit - count:
        raise ValueError(f"{name} must be 0 to {limit - count} for {count} words, not {start!r}")
