"""Devices: the machine model, or the RTL in a simulator that keeps running between programs."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sim.machine_backends import BACK_ENDS, LIMIT, RTL
from sim.machine_device_codec import Codec
from sim.machine_device_link import AmaranthLink, Answer, BytePhase, CocotbLink, Link, VerilatorLink
from sim.machine_job import MachineFailed
from sim.machine_session import Stalls
from sim.machine_trace import Trace
from sim.runner import SimulationFailed
from sw.config import MachineConfig
from sw.isa import WORD_BITS, Fault
from sw.machine_state import check_columns, check_words
from sw.registers import COUNTER_BITS, Counter, ResultKind
from sw.runtime.device import Device, Outcome, checked_span
from sw.runtime.model_device import ModelDevice

#: Bytes of requests that wait for the next run or read before they are sent all the same.
_WAITING: Final = 1 << 26


class SimulatedDevice:
    """The RTL in a simulator of its own. Writes wait for the next run or read.

    Parameters
    ----------
    config : MachineConfig
    back_end : {"amaranth", "icarus", "cocotb-verilator", "verilator"}
    trace : Trace, optional
        Waveform to write, whole once the device is closed; for Verilator alone.
    stalls : Stalls, optional
        Random stalls on all streams.
    limit : int
        Cycles that all writes before a program, the program, or a read may last.

    Raises
    ------
    ValueError
        For an unknown back end, or a trace that it does not write.
    MissingSimulator, SimulationFailed
        From the simulator.
    MachineFailed
        If the machine is stuck or breaks a stream's rules; the device is of no use then.
    """

    def __init__(
        self,
        config: MachineConfig,
        back_end: str,
        *,
        trace: Trace | None = None,
        stalls: Stalls | None = None,
        limit: int = LIMIT,
    ) -> None:
        if back_end not in RTL:
            raise ValueError(f"back end must be one of {', '.join(RTL)}, not {back_end!r}")
        if trace is not None and back_end != "verilator":
            raise ValueError(f"trace must be omitted for {back_end}: verilator writes one")
        self.config = config
        self._link = self._linked(back_end, stalls, limit, trace)
        self._codec = Codec(config, self._link.ports)
        self._written = np.zeros(config.parameters, dtype=np.bool_)
        self._waiting = BytePhase(reset=True)
        self._waiting_bytes = 0
        self._open = True
        self._failed = False
        self._cycles = 0

    def _linked(
        self, back_end: str, stalls: Stalls | None, limit: int, trace: Trace | None
    ) -> Link:
        if back_end == "verilator":
            return VerilatorLink(self.config, stalls, limit, trace)
        if back_end == "amaranth":
            return AmaranthLink(self.config, stalls, limit)
        return CocotbLink(self.config, back_end.removeprefix("cocotb-"), stalls, limit)

    def __enter__(self) -> SimulatedDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Clear tile memory and parameters."""
        self._waiting = BytePhase(reset=True)
        self._waiting_bytes = 0
        entries = np.flatnonzero(self._written)
        self._written[:] = False
        if len(entries):  # a reset of the RTL keeps the parameters
            first, count = int(entries[0]), int(entries[-1] - entries[0]) + 1
            zeros = np.zeros((count, self.config.columns), dtype=np.int64)
            self._wait(self._codec.write_columns(first, zeros, zeros))

    def write(self, address: int, words: NDArray[Any]) -> None:
        """Write consecutive words, ``columns`` at a time."""
        new = np.asarray(words).ravel()
        checked_span("address", address, len(new), self.config.memory_words)
        check_words(new, self.config)
        self._wait(self._codec.write_tiles(address, new))

    def write_columns(self, entry: int, biases: NDArray[Any], shifts: NDArray[Any]) -> None:
        """Write bias words and shifts ``[entries, columns]``, and lifts of 0."""
        new = check_columns(entry, biases, shifts, self.config)
        self._written[entry : entry + len(new[0])] = True
        self._wait(self._codec.write_columns(entry, *(part.astype(np.int64) for part in new)))

    def run(self, words: tuple[int, ...]) -> Outcome:
        """Run a program to its end or its fault."""
        if not words or min(words) < 0 or max(words) >> WORD_BITS:
            raise ValueError(f"program must have words of {WORD_BITS} bits, at least one")
        program = BytePhase(instructions=[self._codec.program(words)], statuses=1)
        counters = BytePhase(host=[self._codec.read_counters(len(Counter))], reads=len(Counter))
        answer = self._exchange(program, counters)
        if len(answer.statuses) != 1:
            raise MachineFailed(f"machine must send one status beat, not {len(answer.statuses)}")
        fault, counter = (
            int(self._codec.field("status", name, answer.statuses)[0])
            for name in ("fault", "counter")
        )
        if fault not in list(Fault):
            raise MachineFailed(f"status must have a fault code of the machine, not {fault}")
        replies = self._codec.field("results", "kind", answer.results) == ResultKind.READ
        values = self._codec.counters(answer.results[replies], COUNTER_BITS).tolist()
        rows, counts = self._codec.rows(answer.results[~replies])
        found = dict(zip(Counter, values, strict=True))
        return Outcome(Fault(fault), counter, found, rows, counts)

    def read(self, address: int, count: int) -> NDArray[np.uint16]:
        """Consecutive words of tile memory."""
        checked_span("address", address, count, self.config.memory_words)
        requests = self._codec.read_tiles(address, count)
        if not len(requests):
            return np.zeros(0, dtype=np.uint16)
        answer = self._exchange(BytePhase(host=[requests], reads=len(requests)))
        return self._codec.words(answer.results, address, count)

    def close(self) -> None:
        """End the simulator; what was written since the last run or read is lost."""
        if self._open:
            self._open = False
            self._link.close()

    @property
    def cycles(self) -> int:
        """Cycles simulated up to the last run or read, those of the host's requests too."""
        return self._cycles

    def _wait(self, requests: NDArray[np.uint8]) -> None:
        if len(requests):
            self._waiting.host.append(requests)
            self._waiting_bytes += requests.size
        if self._waiting_bytes >= _WAITING:
            self._exchange()

    def _exchange(self, *phases: BytePhase) -> Answer:
        if not self._open:
            raise ValueError("device must be open, not closed")
        if self._failed:
            raise SimulationFailed("the simulator has ended: the device failed before")
        first, self._waiting = self._waiting, BytePhase()
        self._waiting_bytes = 0
        self._failed = True
        answer = self._link.exchange([p for p in (first, *phases) if not p.is_empty])
        self._failed = False
        self._cycles = answer.cycles
        return answer


def make_device(
    config: MachineConfig,
    back_end: str,
    *,
    trace: Trace | None = None,
    stalls: Stalls | None = None,
    limit: int = LIMIT,
) -> Device:
    """A device: the machine model, or a :class:`SimulatedDevice`, whose errors it has.

    Parameters
    ----------
    config : MachineConfig
    back_end : {"model", "amaranth", "icarus", "cocotb-verilator", "verilator"}
    trace, stalls, limit
        As of :class:`SimulatedDevice`; not for the model, which has neither.
    """
    if back_end not in BACK_ENDS:
        raise ValueError(f"back end must be one of {', '.join(BACK_ENDS)}, not {back_end!r}")
    if back_end != "model":
        return SimulatedDevice(config, back_end, trace=trace, stalls=stalls, limit=limit)
    if stalls or trace:
        raise ValueError("model must have neither stalls nor a trace")
    return ModelDevice(config)
