"""What a run of a program leaves besides the tile memory: one shape for the model and the RTL."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sw.isa import FAULT_MEANINGS, Fault
from sw.machine_operands import ResultRows
from sw.registers import Counter, ResultKind


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One beat of the result stream: a row of one tile of a result.

    Parameters
    ----------
    kind : ResultKind
        WORDS of the output format, or EXACT sums in units of ``2**-2F``.
    data : tuple of int
        One per lane that the row uses.
    last : bool
        Whether it is the last row of a GEMM.
    """

    kind: ResultKind
    data: tuple[int, ...]
    last: bool

    @property
    def count(self) -> int:
        """Lanes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Report:
    """How a program ended, what it took and what it sent.

    Parameters
    ----------
    fault : Fault
        NONE if the program ran to its end.
    counter : int
        The program counter (word index) of the faulting instruction; without a fault, the number
        of words that were taken.
    counters : mapping of Counter to int
    results : tuple of ResultRow
        What left on the result stream, in order.
    """

    fault: Fault
    counter: int
    counters: Mapping[Counter, int]
    results: tuple[ResultRow, ...] = ()

    def __getitem__(self, counter: Counter) -> int:
        return self.counters[counter]

    @property
    def cycles(self) -> int:
        """From the first instruction word taken to the status offered."""
        return self.counters[Counter.CYCLES]

    @property
    def meaning(self) -> str:
        """How the program ended, in words."""
        if self.fault == Fault.NONE:
            return f"{FAULT_MEANINGS[self.fault]}, {self.counter} words"
        return f"{FAULT_MEANINGS[self.fault]} at word {self.counter}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, as in the JSON file."""
        return {
            "fault": {
                "code": int(self.fault),
                "name": self.fault.name,
                "meaning": FAULT_MEANINGS[self.fault],
                "program_counter": self.counter if self.fault else None,
            },
            "words": None if self.fault else self.counter,
            "cycles": self.cycles,
            "counters": {c.name.lower(): self.counters[c] for c in Counter},
            "results": [
                {
                    "kind": row.kind.name.lower(),
                    "count": row.count,
                    "last": row.last,
                    "data": list(row.data),
                }
                for row in self.results
            ],
        }

    def to_json(self) -> str:
        """The report as one JSON object."""
        return json.dumps(self.to_dict(), indent=2)


def result_rows(kind: ResultKind, rows: ResultRows) -> list[ResultRow]:
    """The beats of one GEMM that sends its rows."""
    final = len(rows.counts) - 1
    return [
        ResultRow(kind, tuple(row[:count]), last=number == final)
        for number, (row, count) in enumerate(
            zip(rows.words.tolist(), rows.counts.tolist(), strict=True)
        )
    ]
