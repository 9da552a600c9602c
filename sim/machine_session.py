"""Jobs as the host's transactions on the machine's streams, and results from what came back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sim.machine_job import Job, MachineFailed, Result
from sim.machine_ports import Ports
from sw.config import MachineConfig
from sw.isa import Fault
from sw.machine_report import Report, ResultRow
from sw.machine_state import Parameters
from sw.registers import COUNTER_BITS, Counter, ResultKind, Space
from sw.scale import SHIFT_BITS

#: Where the shift of a column parameter lies in a request's data, behind the bias.
_SHIFT = 16


@dataclass(frozen=True, slots=True)
class Stalls:
    """How often the host's side of each stream moves, in percent of the cycles.

    Parameters
    ----------
    seed : int
    offer : int
        Chance that an idle source offers its next payload.
    take : int
        Chance that a sink is ready.
    """

    seed: int
    offer: int = 60
    take: int = 60


@dataclass(frozen=True, slots=True)
class Phase:
    """Transactions that may overlap; the next phase starts when all are done.

    Parameters
    ----------
    reset : bool
        Whether the machine is reset first.
    host, instructions : tuple of int
        Payloads to send.
    reads, statuses : int
        Replies to reads, and status beats, to wait for.
    """

    reset: bool = False
    host: tuple[int, ...] = ()
    instructions: tuple[int, ...] = ()
    reads: int = 0
    statuses: int = 0


@dataclass(slots=True)
class Recording:
    """What the machine sent, in order, over all phases."""

    results: list[int]
    statuses: list[int]
    cycles: int = 0


class Session:
    """Jobs on one machine, one after the other, each after a reset.

    A reset clears the tile memory; the parameter memories keep what the job before wrote.

    Parameters
    ----------
    ports : Ports
    jobs : sequence of Job
        All of the same configuration.
    unset : bool
        Whether the parameter memories hold anything at power-up, and not zeros.
    """

    def __init__(self, ports: Ports, jobs: Sequence[Job], *, unset: bool = False) -> None:
        self.ports, self.jobs, self.unset = ports, tuple(jobs), unset
        self.config: MachineConfig = self.jobs[0].config

    def phases(self) -> list[Phase]:
        """Load, run and read back each job."""
        known = None if self.unset else Parameters(self.config)
        found = []
        for job in self.jobs:
            found.append(Phase(reset=True, host=tuple(self._load(job, known))))
            found.append(Phase(instructions=tuple(self.program(job)), statuses=1))
            reads = tuple(self._read())
            found.append(Phase(host=reads, reads=len(reads)))
            known = job.parameters
        return found

    def results(self, recording: Recording) -> list[Result]:
        """One per job.

        Raises
        ------
        MachineFailed
            If a beat is missing or makes no sense.
        """
        if len(recording.statuses) != len(self.jobs):
            raise MachineFailed(
                f"machine must send {len(self.jobs)} status beats, not {len(recording.statuses)}"
            )
        reads = len(list(self._read()))
        beats = iter(recording.results)
        return [self._result(status, *self._split(beats, reads)) for status in recording.statuses]

    def _load(self, job: Job, known: Parameters | None) -> Iterator[int]:
        columns = self.config.columns
        for start in range(0, len(job.memory), columns):
            words = job.memory[start : start + columns]
            if words.any():
                yield self._write(Space.TILES, start, _join(words, self.config.bits), len(words))
        yield from self._load_parameters(job.parameters, known)

    def _load_parameters(self, new: Parameters, old: Parameters | None) -> Iterator[int]:
        """Write what is not there yet: everything if nothing is known."""
        columns = ("biases", "column_shifts", "column_lifts")
        for entry, column in _changes(columns, new, old):
            data = (
                int(new.biases[entry, column])
                | (int(new.column_shifts[entry, column]) & 0xFF) << _SHIFT
                | int(new.column_lifts[entry, column]) << _SHIFT + SHIFT_BITS
            )
            address = entry * self.config.columns + column
            yield self._write(Space.COLUMN_PARAMETERS, address, data)
        for (entry,) in _changes(("row_shifts", "row_lifts"), new, old):
            data = int(new.row_shifts[entry]) & 0xFF | int(new.row_lifts[entry]) << SHIFT_BITS
            yield self._write(Space.ROW_PARAMETERS, entry, data)
        table = ("starts", "slopes") if self.config.table or old is not None else ()
        for (segment,) in _changes(table, new, old):
            yield self._write(Space.TABLE, 2 * segment, int(new.starts[segment]) & 0x1FFFF)
            yield self._write(Space.TABLE, 2 * segment + 1, int(new.slopes[segment]) & 0xFFFF)

    def program(self, job: Job) -> Iterator[int]:
        """The payloads of a program."""
        final = len(job.words) - 1
        for number, word in enumerate(job.words):
            yield self.ports.pack("instructions", word=word, last=int(number == final))

    def _read(self) -> Iterator[int]:
        """Requests that read the counters, then the whole tile memory."""
        for number in Counter:
            yield self.ports.pack("host", space=Space.COUNTERS, address=number)
        columns, words = self.config.columns, self.config.memory_words
        for start in range(0, words, columns):
            count = min(columns, words - start)
            yield self.ports.pack("host", space=Space.TILES, count=count - 1, address=start)

    def _write(self, space: int, address: int, data: int, count: int = 1) -> int:
        return self.ports.pack(
            "host", space=space, write=1, count=count - 1, address=address, data=data
        )

    def _split(self, beats: Iterator[int], reads: int) -> tuple[list[int], list[int]]:
        """A job's rows, and the replies to its reads, which come after them."""
        kind = self.ports.field("results", "kind")
        rows: list[int] = []
        replies: list[int] = []
        while len(replies) < reads:
            beat = next(beats, None)
            if beat is None:
                raise MachineFailed(f"machine must reply to {reads} reads, not {len(replies)}")
            (replies if kind.extract(beat) == ResultKind.READ else rows).append(beat)
        return rows, replies

    def _result(self, status: int, rows: list[int], replies: list[int]) -> Result:
        fault = self.ports.field("status", "fault").extract(status)
        if fault not in list(Fault):
            raise MachineFailed(f"status must have a fault code of the machine, not {fault}")
        data = self.ports.field("results", "data")
        values = [data.extract(beat) for beat in replies]
        counters = zip(Counter, values, strict=False)
        report = Report(
            Fault(fault),
            self.ports.field("status", "counter").extract(status),
            {counter: value & (1 << COUNTER_BITS) - 1 for counter, value in counters},
            tuple(self._row(beat) for beat in rows),
        )
        return Result(report, self._memory(values[len(Counter) :]))

    def _memory(self, values: Sequence[int]) -> np.ndarray:
        columns, lane = self.config.columns, self.config.result_bits
        mask = (1 << self.config.bits) - 1
        words = [v >> lane * j & mask for v in values for j in range(columns)]
        return np.array(words[: self.config.memory_words], np.uint16)

    def _row(self, beat: int) -> ResultRow:
        fields = {f.name: f.extract(beat) for f in self.ports.payloads["results"]}
        bits = self.config.result_bits
        lanes = [fields["data"] >> bits * j & (1 << bits) - 1 for j in range(fields["count"])]
        kind = ResultKind(fields["kind"])
        if kind == ResultKind.WORDS:
            values = [lane & (1 << self.config.output.bits) - 1 for lane in lanes]
        else:
            values = [lane - (lane >> bits - 1 << bits) for lane in lanes]
        return ResultRow(kind, tuple(values), bool(fields["last"]))


def _changes(
    names: Sequence[str], new: Parameters, old: Parameters | None
) -> Iterator[tuple[int, ...]]:
    """Indices at which one of some arrays differs; all if the old ones are not known."""
    if not names:
        return
    values = [(getattr(new, name), getattr(old, name, None)) for name in names]
    changed = [np.full(a.shape, True) if b is None else a != b for a, b in values]
    for index in np.argwhere(np.logical_or.reduce(changed)):
        yield tuple(map(int, index))


def _join(words: np.ndarray, bits: int) -> int:
    """Words side by side, the first in the lowest bits."""
    value = 0
    for number, word in enumerate(words.tolist()):
        value |= word << bits * number
    return value
