"""A board behind a serial port as a device of the runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sw.config import MachineConfig
from sw.isa import WORD_BITS, Fault
from sw.link import (
    COUNTER_BYTES,
    OPERATION_BYTES,
    OPERATION_FIELDS,
    PARAMETER_BYTES,
    ROW_FIELDS,
    TRAILER_BYTES,
    TRAILER_FIELDS,
    TRAILER_MARKER,
    Operation,
    Sizes,
    difference,
    pack_fields,
    unpack_fields,
)
from sw.machine_report import ResultRow
from sw.machine_state import Parameters, check_columns, check_words
from sw.registers import Counter, ResultKind, Space
from sw.runtime.device import Outcome, checked_span
from sw.runtime.link import RETRIES, SILENCE, BytePort, HostLink, LinkFailed
from sw.scale import SHIFT_BITS

#: Part of the allowed silence after which the board answers a RUN that is not over.
_ANSWER: Final = 0.25
#: Seconds that a program may last.
LIMIT: Final = 600.0
#: Largest count of an operation.
_MOST: Final = (1 << OPERATION_FIELDS["count"]) - 1
#: Where the shift of a column parameter lies, behind the bias.
_SHIFT: Final = 16
_BYTE: Final = 0xFF


class WrongBoard(ValueError):
    """The port has no board, or another one; the message is one sentence."""


class BoardDevice:
    """A machine on a board. Writes wait for the next run or read, and share requests.

    Parameters
    ----------
    config : MachineConfig
        The machine that the board must hold.
    port : BytePort
        Closed with the device, or if the board is the wrong one.
    build : str, optional
        Hexadecimal digits of the bitstream that it must hold.
    silence, retries
        See HostLink.
    seed : int, optional
        Of the first sequence number.
    limit : float
        Seconds that a program may last.

    Attributes
    ----------
    greeting : Greeting
    results : tuple of ResultRow
        Of the last program.

    Raises
    ------
    WrongBoard
        If no board answers, or one with another machine or bitstream.
    LinkFailed
        Of every method but ``close``: if the board stops answering.
    """

    def __init__(
        self,
        config: MachineConfig,
        port: BytePort,
        *,
        build: str | None = None,
        silence: float = SILENCE,
        retries: int = RETRIES,
        seed: int | None = None,
        limit: float = LIMIT,
    ) -> None:
        self.config, self.limit = config, limit
        self.link = HostLink(port, silence=silence, retries=retries, seed=seed)
        self._sizes = Sizes.of(config)
        self._waiting = bytearray()
        self.results: tuple[ResultRow, ...] = ()
        try:
            self.greeting = self._greeted(build)
            self.reset()
        except BaseException:
            port.close()
            raise

    def _greeted(self, build: str | None) -> Any:
        try:
            greeting = self.link.greet()
        except LinkFailed as error:
            raise WrongBoard(str(error)) from error
        name, other = self.link.port.name, difference(greeting.config, self.config)
        if other is not None:
            raise WrongBoard(f"board on {name} must hold a machine with {other}")
        if build is not None and greeting.build != build:
            raise WrongBoard(f"board on {name} must hold bitstream {build}, not {greeting.build}")
        return greeting

    def __enter__(self) -> BoardDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> None:
        """Clear tile memory and parameters, whoever wrote them; end what runs."""
        self._waiting.clear()
        self._add(_operation(Operation.RESET))
        config = self.config
        spaces = {
            Space.COLUMN_PARAMETERS: config.parameters * config.columns,
            Space.ROW_PARAMETERS: config.row_parameters,
            Space.TABLE: Parameters(config).starts.size * 2 * config.table,
        }
        for space, entries in spaces.items():
            for first in range(0, entries, _MOST):
                count = min(_MOST, entries - first)
                self._add(_operation(Operation.CLEAR, space=space, address=first, count=count))
        self._flush()

    def write(self, address: int, words: NDArray[Any]) -> None:
        """Write consecutive words, ``columns`` at a time."""
        new = np.asarray(words).ravel()
        checked_span("address", address, len(new), self.config.memory_words)
        check_words(new, self.config)
        kind = "<u2" if self._sizes.word > 1 else "u1"
        for start, part in self._pieces(address, len(new)):
            content = new[start - address :][:part]
            operation = Operation.WRITE if content.any() else Operation.CLEAR
            header = self._tiles(operation, start, part)
            self._add(header + (content.astype(kind).tobytes() if content.any() else b""))

    def write_columns(self, entry: int, biases: NDArray[Any], shifts: NDArray[Any]) -> None:
        """Write bias words and shifts ``[entries, columns]``, and lifts of 0."""
        new = check_columns(entry, biases, shifts, self.config)
        bias, shift = (part.astype(np.int64).ravel() for part in new)
        self._parameters(
            Space.COLUMN_PARAMETERS, entry * self.config.columns, bias | (shift & _BYTE) << _SHIFT
        )

    def write_parameters(self, parameters: Parameters) -> None:
        """Write all parameters, those of rows and the table too."""
        p = parameters
        columns = p.biases.astype(np.int64) | (p.column_shifts.astype(np.int64) & _BYTE) << _SHIFT
        columns |= p.column_lifts.astype(np.int64) << _SHIFT + SHIFT_BITS
        rows = p.row_shifts.astype(np.int64) & _BYTE | p.row_lifts.astype(np.int64) << SHIFT_BITS
        self._parameters(Space.COLUMN_PARAMETERS, 0, columns.ravel())
        self._parameters(Space.ROW_PARAMETERS, 0, rows)
        if self.config.table:
            table = np.stack([p.starts, p.slopes], axis=1).astype(np.int64).ravel()
            self._parameters(Space.TABLE, 0, table)

    def run(self, words: tuple[int, ...]) -> Outcome:
        """Run a program to its end or its fault."""
        if not words or min(words) < 0 or max(words) >> WORD_BITS:
            raise ValueError(f"program must have words of {WORD_BITS} bits, at least one")
        self._flush()
        answer = _ANSWER * self.link.silence
        cycles = min(int(answer * self.greeting.clock) + 1, (1 << 32) - 1)
        rest, beats, idle = np.array(words, "<u2"), bytearray(), 0.0
        room = (self.greeting.limit - OPERATION_BYTES) // rest.itemsize
        while True:
            part = rest[:room]
            last = int(len(part) == len(rest))
            header = _operation(Operation.RUN, first=last, address=cycles, count=len(part))
            reply = self.link.operate(header + part.tobytes())
            trailer = unpack_fields(TRAILER_FIELDS, reply[-TRAILER_BYTES:])
            if len(reply) < TRAILER_BYTES or trailer["marker"] != TRAILER_MARKER:
                raise LinkFailed(f"reply to a program must end with a trailer, not {reply[-8:]!r}")
            beats += reply[:-TRAILER_BYTES]
            rest = rest[trailer["taken"] :]
            moved = trailer["taken"] or len(reply) > TRAILER_BYTES
            if not len(rest) and trailer["ended"]:
                break
            idle = 0.0 if moved else idle + answer
            if idle > self.limit:
                raise LinkFailed(f"program must end within {self.limit:g} s, not run on")
        if trailer["fault"] not in list(Fault):
            raise LinkFailed(f"status must have a fault code, not {trailer['fault']}")
        self.results = self._rows(bytes(beats))
        rows = np.zeros((len(self.results), self.config.columns), np.int64)
        for row, result in zip(rows, self.results, strict=True):
            row[: result.count] = result.data
        counts = np.array([result.count for result in self.results], np.int64)
        return Outcome(Fault(trailer["fault"]), trailer["counter"], self._counters(), rows, counts)

    def read(self, address: int, count: int) -> NDArray[np.uint16]:
        """Consecutive words of tile memory."""
        checked_span("address", address, count, self.config.memory_words)
        self._flush()
        found = [
            self.link.operate(self._tiles(Operation.READ, start, part))
            for start, part in self._pieces(address, count)
        ]
        content = b"".join(found)
        if len(content) != count * self._sizes.word:
            raise LinkFailed(f"board must send {count} words, not {len(content)} bytes")
        return np.frombuffer(content, "<u2" if self._sizes.word > 1 else "u1").astype(np.uint16)

    def close(self) -> None:
        """Close the port; what was written since the last run or read is lost."""
        self.link.port.close()

    # Requests

    def _add(self, operation: bytes) -> None:
        if len(self._waiting) + len(operation) > self.greeting.limit:
            self._flush()
        self._waiting += operation

    def _flush(self) -> None:
        if self._waiting:
            content = bytes(self._waiting)
            self._waiting.clear()
            self.link.operate(content)

    def _pieces(self, address: int, count: int) -> Iterator[tuple[int, int]]:
        """Starts and lengths of operations on tiles, cut where accesses are."""
        lanes, end = self.config.columns, address + count
        most = (self.greeting.limit - OPERATION_BYTES) // self._sizes.word
        most = min(most - most % lanes, _MOST - _MOST % lanes)  # lanes fit, the board sees to it
        while address < end:
            part = min(most - address % lanes, end - address)
            yield address, part
            address += part

    def _tiles(self, operation: Operation, address: int, count: int) -> bytes:
        first = self.config.columns - address % self.config.columns
        return _operation(operation, first=first, address=address, count=count)

    def _parameters(self, space: Space, address: int, values: NDArray[np.int64]) -> None:
        new = (values & 0xFFFFFFFF).astype("<u4")
        most = (self.greeting.limit - OPERATION_BYTES) // PARAMETER_BYTES
        for first in range(0, len(new), most):
            part = new[first : first + most]
            header = {"space": space, "address": address + first, "count": len(part)}
            self._add(_operation(Operation.WRITE, **header) + part.tobytes())

    def _counters(self) -> dict[Counter, int]:
        header = _operation(Operation.READ, space=Space.COUNTERS, count=len(Counter))
        content = self.link.operate(header)
        if len(content) != len(Counter) * COUNTER_BYTES:
            raise LinkFailed(f"board must send {len(Counter)} counters, not {len(content)} bytes")
        parts = (content[COUNTER_BYTES * c :][:COUNTER_BYTES] for c in Counter)
        return {c: int.from_bytes(p, "little") for c, p in zip(Counter, parts, strict=True)}

    def _rows(self, beats: bytes) -> tuple[ResultRow, ...]:
        """The rows of words or exact sums that a reply has."""
        position, rows = 0, []
        while position < len(beats):
            header = unpack_fields(ROW_FIELDS, beats[position : position + 1])
            size = self._sizes.exact if header["exact"] else self._sizes.result
            end = position + 1 + header["count"] * size
            if header["count"] > self.config.columns or end > len(beats):
                raise LinkFailed("row of results must be whole")
            starts = range(position + 1, end, size)
            exact = bool(header["exact"])
            values = tuple(self._lane(beats[start : start + size], exact) for start in starts)
            kind = ResultKind.EXACT if exact else ResultKind.WORDS
            rows.append(ResultRow(kind, values, bool(header["last"])))
            position = end
        return tuple(rows)

    def _lane(self, content: bytes, exact: bool) -> int:
        bits = self.config.result_bits
        value = int.from_bytes(content, "little") & ((1 << bits) - 1 if exact else -1)
        return value - (value >> bits - 1 << bits) if exact else value


def _operation(operation: Operation, **fields: int) -> bytes:
    return pack_fields(OPERATION_FIELDS, operation=operation, **fields)
