"""What a back end of the machine is given, and what it leaves: the same for model and RTL."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sw.config import MachineConfig
from sw.isa import WORD_BITS
from sw.machine_report import Report
from sw.machine_state import Parameters
from sw.registers import Counter


class MachineFailed(RuntimeError):
    """The machine, not the program, did something that it must not: the message says what."""


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One program and all that it finds in the machine.

    Parameters
    ----------
    config : MachineConfig
    words : tuple of int
        The program, 16 bits each, at least one.
    memory : array of uint16, (memory words,)
        Words of the machine's format in tile memory.
    parameters : Parameters

    Raises
    ------
    ValueError
        For an empty program, a memory of another size, or a word outside of its format.
    """

    config: MachineConfig
    words: tuple[int, ...]
    memory: npt.NDArray[np.uint16]
    parameters: Parameters

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("program must have at least one word, not 0")
        wrong = [word for word in self.words if not 0 <= word < 1 << WORD_BITS]
        if wrong:
            raise ValueError(f"program must have words of {WORD_BITS} bits, not {wrong[0]!r}")
        if self.memory.shape != (self.config.memory_words,):
            raise ValueError(
                f"memory must have {self.config.memory_words} words, not {self.memory.shape}"
            )
        largest = int(self.memory.max())
        if largest >> self.config.bits:
            raise ValueError(f"memory must have words of {self.config.bits} bits, not {largest:#x}")

    @classmethod
    def of(cls, config: MachineConfig, words: tuple[int, ...]) -> Job:
        """A job on a machine whose memories are all zero."""
        return cls(config, words, np.zeros(config.memory_words, np.uint16), Parameters(config))


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a run left.

    Parameters
    ----------
    report : Report
        Fault, counters and the rows of the result stream.
    memory : array of uint16, (memory words,)
        Tile memory after the run.
    """

    report: Report
    memory: npt.NDArray[np.uint16]

    def differences(self, want: Result, ignore: Collection[Counter] = ()) -> list[str]:
        """Sentences about all that is not as in another result, but for some counters."""
        got, wanted = self.report, want.report
        found = [
            f"{name}: got {getattr(got, name)!r}, want {getattr(wanted, name)!r}"
            for name in ("fault", "counter")
            if getattr(got, name) != getattr(wanted, name)
        ]
        wrong = np.flatnonzero(self.memory != want.memory)
        if len(wrong):
            first = int(wrong[0])
            found.append(
                f"memory: {len(wrong)} words, the first at {first}: "
                f"got {int(self.memory[first]):#06x}, want {int(want.memory[first]):#06x}"
            )
        if len(got.results) != len(wanted.results):
            found.append(f"rows: got {len(got.results)}, want {len(wanted.results)}")
        pairs = zip(got.results, wanted.results, strict=False)
        differing = [(n, a, b) for n, (a, b) in enumerate(pairs) if a != b]
        if differing:
            number, row, other = differing[0]
            found.append(f"{len(differing)} rows, the first {number}: got {row}, want {other}")
        found += [
            f"{counter.name.lower()}: got {got[counter]}, want {wanted[counter]}"
            for counter in Counter
            if counter not in ignore and got[counter] != wanted[counter]
        ]
        return found
