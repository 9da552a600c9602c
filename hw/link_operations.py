"""Operations of a request on the machine's streams, and what they give as bytes of a reply."""

from __future__ import annotations

from enum import Enum
from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.controller import INSTRUCTION, STATUS
from hw.host_port import host_layout, results_layout
from sw.config import MachineConfig
from sw.isa import WORD_BITS
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
    ReplyStatus,
    Sizes,
)
from sw.registers import COUNTER_BITS, ResultKind, Space

OPERATION_LAYOUT: Final = data.StructLayout(OPERATION_FIELDS)
ROW_LAYOUT: Final = data.StructLayout(ROW_FIELDS)
TRAILER_LAYOUT: Final = data.StructLayout(TRAILER_FIELDS)
#: Cycles without a row after a program's end, by which the last one has come.
QUIET_CYCLES: Final = 16


class State(Enum):
    """What the executor does."""

    IDLE = 0
    HEADER = 1
    DISPATCH = 2
    FETCH = 3
    OFFER = 4
    REPLY = 5
    RUN = 6
    ROW = 7
    LANES = 8
    TRAILER = 9


class LinkOperations(wiring.Component):
    """Does the operations of a request one after the other.

    A byte of the request takes 2 cycles, one of the reply 1; WRITE, CLEAR and READ take what the
    host port takes besides, RUN ends as ``docs/link.md`` says. Rows of a program that nobody
    collected are dropped by the next READ.

    Parameters
    ----------
    config : MachineConfig
    patience : int
        Cycles that the machine may leave one access of WRITE, CLEAR or READ waiting.

    Members
    -------
    start : In(1)
        Begin with the first byte of a request; only while not ``busy``.
    busy : Out(1)
    outcome : Out(ReplyStatus)
        How the last request ended.
    i : In(stream of 8), end : In(1)
        Bytes of the request; none is left.
    o : Out(stream of 8), room : In(1), full : In(1)
        Bytes of the reply; whether a row and a trailer fit yet; whether one was lost.
    reset : Out(1)
        Reset the machine now.
    instructions, host, results, status
        Streams of the machine, flipped.
    """

    def __init__(self, config: MachineConfig, patience: int) -> None:
        self.config = config
        self.patience = patience
        self.sizes = Sizes.of(config)
        super().__init__(
            {
                "start": In(1),
                "busy": Out(1),
                "outcome": Out(ReplyStatus),
                "i": In(stream.Signature(8)),
                "end": In(1),
                "o": Out(stream.Signature(8, always_ready=True)),
                "room": In(1),
                "full": In(1),
                "reset": Out(1),
                "instructions": Out(stream.Signature(INSTRUCTION)),
                "host": Out(stream.Signature(host_layout(config))),
                "results": In(stream.Signature(results_layout(config))),
                "status": In(stream.Signature(STATUS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state = state = Signal(State)
        self._header = Signal(OPERATION_LAYOUT)
        self._timer = Signal(32)
        self._index = Signal(range(max(OPERATION_BYTES, TRAILER_BYTES)))
        self._lane = Signal(range(self.config.columns + 1))
        self._byte = Signal(range(max(self.sizes.exact, PARAMETER_BYTES, COUNTER_BYTES)))
        self._size = Signal(range(self.config.columns + 1))  # words of this access
        self._last_access = Signal()
        self._data = Signal.like(self.host.payload.data)
        self._report = Signal(TRAILER_LAYOUT)
        limit = self._access_limit(m)
        m.d.comb += [
            self._last_access.eq(self._header.count <= limit),
            self._size.eq(Mux(self._last_access, self._header.count, limit)),
            self.busy.eq(state != State.IDLE),
        ]
        with m.If(self._timer != 0):
            m.d.sync += self._timer.eq(self._timer - 1)
        with m.Switch(state):
            with m.Case(State.IDLE), m.If(self.start):
                m.d.sync += [self._index.eq(0), state.eq(State.HEADER)]
            with m.Case(State.HEADER):
                self._read_header(m)
            with m.Case(State.DISPATCH):
                self._dispatch(m)
            with m.Case(State.FETCH):
                self._fetch(m)
            with m.Case(State.OFFER):
                self._offer(m)
            with m.Case(State.REPLY):
                self._reply(m)
            with m.Case(State.ROW):
                self._row(m)
            with m.Case(State.TRAILER):
                self._trailer(m)
        self._lanes(m)
        self._run(m)
        return m

    def _end(self, m: Module, outcome: ReplyStatus) -> None:
        m.d.sync += [self._state.eq(State.IDLE), self.outcome.eq(outcome)]

    def _access_limit(self, m: Module) -> Value:
        """Words of an access, but for the last: the first of tiles may be short."""
        self._tiles = self._header.space == Space.TILES
        self._later = Signal()  # not the first access
        first = Mux(self._header.first == 0, 1, self._header.first)
        short = first < self.config.columns
        found = Signal(range(self.config.columns + 1))
        m.d.comb += found.eq(self.config.columns)
        with m.If(~self._tiles):
            m.d.comb += found.eq(1)
        with m.Elif(~self._later & short):
            m.d.comb += found.eq(first)
        return found

    def _read_header(self, m: Module) -> None:
        m.d.comb += self.i.ready.eq(1)
        with m.If(self.end):
            with m.If(self.full):
                self._end(m, ReplyStatus.FULL)
            with m.Elif(self._index == 0):
                self._end(m, ReplyStatus.OK)
            with m.Else():
                self._end(m, ReplyStatus.MALFORMED)
        with m.Elif(self.i.valid):
            whole = self._header.as_value()
            m.d.sync += [whole.eq(Cat(whole[8:], self.i.payload)), self._index.eq(self._index + 1)]
            with m.If(self._index == OPERATION_BYTES - 1):
                m.d.sync += [self._index.eq(0), self._state.eq(State.DISPATCH)]

    def _dispatch(self, m: Module) -> None:
        header, state = self._header, self._state
        m.d.sync += [
            self._later.eq(0),
            self._lane.eq(0),
            self._byte.eq(0),
            self._timer.eq(self.patience),
        ]
        with m.Switch(header.operation):
            with m.Case(Operation.WRITE), m.If(header.count != 0):
                m.d.sync += state.eq(State.FETCH)
            with m.Case(Operation.READ):
                m.d.sync += state.eq(State.OFFER)
            with m.Case(Operation.CLEAR):
                m.d.sync += [self._data.eq(0), state.eq(State.OFFER)]
            with m.Case(Operation.RUN):
                m.d.sync += [self._timer.eq(header.address), state.eq(State.RUN)]
            with m.Case(Operation.RESET):
                m.d.comb += self.reset.eq(1)
                m.d.sync += state.eq(State.HEADER)
            with m.Default():
                self._end(m, ReplyStatus.MALFORMED)
        accesses = (Operation.WRITE, Operation.READ, Operation.CLEAR)
        with m.If(header.operation.matches(*accesses)):
            with m.If(header.count == 0):
                m.d.sync += state.eq(State.HEADER)
            with m.Elif(header.space > max(Space)):
                self._end(m, ReplyStatus.MALFORMED)

    def _fetch(self, m: Module) -> None:
        """The words of an access of WRITE, lane by lane."""
        m.d.comb += self.i.ready.eq(1)
        last = Signal()
        m.d.comb += last.eq(self._byte == Mux(self._tiles, self.sizes.word, PARAMETER_BYTES) - 1)
        target = self._data
        with m.If(self.end):
            self._end(m, ReplyStatus.MALFORMED)
        with m.Elif(self.i.valid):
            m.d.sync += self._byte.eq(self._byte + 1)
            with m.If(self._tiles), m.Switch(Cat(self._byte, self._lane)):
                for lane in range(self.config.columns):
                    for byte in range(self.sizes.word):
                        low = lane * self.config.bits + 8 * byte
                        end = min(low + 8, (lane + 1) * self.config.bits)
                        with m.Case(byte | lane << len(self._byte)):
                            m.d.sync += target[low:end].eq(self.i.payload)
            with m.Else(), m.Switch(self._byte):
                for byte in range(PARAMETER_BYTES):
                    with m.Case(byte):
                        m.d.sync += target[8 * byte : 8 * byte + 8].eq(self.i.payload)
            with m.If(last):
                m.d.sync += [self._byte.eq(0), self._lane.eq(self._lane + 1)]
                with m.If(self._lane + 1 == self._size):
                    m.d.sync += [self._lane.eq(0), self._state.eq(State.OFFER)]

    def _offer(self, m: Module) -> None:
        """One access of WRITE, CLEAR or READ."""
        header, host = self._header, self.host
        reads = header.operation == Operation.READ
        m.d.comb += [
            host.valid.eq(1),
            host.payload.space.eq(header.space),
            host.payload.write.eq(~reads),
            host.payload.count.eq(self._size - 1),
            host.payload.address.eq(header.address),
            host.payload.data.eq(self._data),
        ]
        with m.If(host.ready):
            m.d.sync += self._timer.eq(self.patience)
            with m.If(reads):
                m.d.sync += self._state.eq(State.REPLY)
            with m.Else():
                self._next_access(m)
        with m.Elif(self._timer == 0):
            self._end(m, ReplyStatus.STUCK)

    def _next_access(self, m: Module) -> None:
        header = self._header
        m.d.sync += [
            header.address.eq(header.address + self._size),
            header.count.eq(header.count - self._size),
            self._later.eq(1),
            self._state.eq(State.OFFER),
        ]
        with m.If(self._last_access):
            m.d.sync += self._state.eq(State.HEADER)
        with m.Elif(header.operation == Operation.WRITE):
            m.d.sync += self._state.eq(State.FETCH)

    def _reply(self, m: Module) -> None:
        """Wait for the beat that replies to a READ."""
        with m.If(self.results.valid):
            with m.If(self.results.payload.kind == ResultKind.READ):
                m.d.sync += self._state.eq(State.LANES)
            with m.Else():
                m.d.comb += self.results.ready.eq(1)
        with m.Elif(self._timer == 0):
            self._end(m, ReplyStatus.STUCK)

    def _row(self, m: Module) -> None:
        """The header of a row."""
        beat, row = self.results.payload, Signal(ROW_LAYOUT)
        m.d.comb += [
            row.count.eq(beat.count),
            row.last.eq(beat.last),
            row.exact.eq(beat.kind == ResultKind.EXACT),
            self.o.valid.eq(1),
            self.o.payload.eq(row),
        ]
        m.d.sync += self._state.eq(State.LANES)

    def _lanes(self, m: Module) -> None:
        """The lanes of a beat that count, each of whole bytes."""
        beat, sizes = self.results.payload, self.sizes
        lanes, last, word = Signal.like(self._lane), Signal.like(self._byte), Signal(COUNTER_BITS)
        whole = beat.data.word_select(self._lane, self.config.result_bits)
        if len(whole) > len(word):
            word = Signal(len(whole))
        m.d.comb += [word.eq(whole), lanes.eq(beat.count), last.eq(sizes.result - 1)]
        with m.If(beat.kind == ResultKind.EXACT):
            m.d.comb += last.eq(sizes.exact - 1)
        with m.Elif(beat.kind == ResultKind.READ):
            m.d.comb += last.eq(sizes.word - 1)
            with m.If(~self._tiles):
                m.d.comb += [word.eq(beat.data[:COUNTER_BITS]), lanes.eq(1)]
                m.d.comb += last.eq(COUNTER_BYTES - 1)
        with m.If(self._state == State.LANES):
            m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(word.word_select(self._byte, 8))]
            m.d.sync += self._byte.eq(self._byte + 1)
            with m.If(self._byte == last):
                m.d.sync += [self._byte.eq(0), self._lane.eq(self._lane + 1)]
                with m.If(self._lane + 1 == lanes):
                    m.d.comb += self.results.ready.eq(1)
                    m.d.sync += [self._lane.eq(0), self._state.eq(State.RUN)]
                    with m.If(beat.kind == ResultKind.READ):
                        self._next_access(m)

    def _run(self, m: Module) -> None:
        """Words of a program to the machine, rows from it, and its status."""
        header, beat, report = self._header, self.results, self._report
        instruction, word, half = self.instructions, self.instructions.payload, Signal()
        taken, fault, counter = Signal(16), Signal(4), Signal(32)
        fresh, ended, quiet = Signal(init=1), Signal(), Signal(range(QUIET_CYCLES + 1))
        m.d.comb += [
            report.marker.eq(TRAILER_MARKER),
            report.fault.eq(fault),
            report.ended.eq(ended & (quiet == QUIET_CYCLES)),
            report.taken.eq(taken),
            report.counter.eq(counter),
            self.status.ready.eq(1),
        ]
        with m.If(self.status.valid):
            m.d.sync += [ended.eq(1), fault.eq(self.status.payload.fault)]
            m.d.sync += counter.eq(self.status.payload.counter)
        with m.If(~ended | beat.valid):
            m.d.sync += quiet.eq(0)
        with m.Elif(quiet != QUIET_CYCLES):
            m.d.sync += quiet.eq(quiet + 1)
        with m.If(instruction.valid & instruction.ready):
            m.d.sync += instruction.valid.eq(0)
        with m.If(self.reset):
            m.d.sync += [instruction.valid.eq(0), fresh.eq(1), ended.eq(0), half.eq(0)]
        with m.If(self._state == State.DISPATCH):
            m.d.sync += [taken.eq(0), half.eq(0)]
        with m.If(self._state == State.RUN):
            all_taken = header.count == 0
            program_over = (quiet == QUIET_CYCLES) & ~instruction.valid
            done = all_taken & (~header.first[0] | program_over)
            with m.If(beat.valid & (beat.payload.kind == ResultKind.READ)):
                m.d.comb += beat.ready.eq(1)  # of a READ that gave up
            with m.Elif(beat.valid & self.room):
                m.d.sync += self._state.eq(State.ROW)
            with m.Elif(beat.valid | done | (self._timer == 0)):
                m.d.sync += self._state.eq(State.TRAILER)
            with m.Elif(~all_taken & self.end):
                self._end(m, ReplyStatus.MALFORMED)
            with m.Elif(~all_taken & ~instruction.valid):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    low, high = word.word[: WORD_BITS // 2], word.word[WORD_BITS // 2 :]
                    m.d.sync += [half.eq(~half), low.eq(high), high.eq(self.i.payload)]
                    with m.If(half):
                        final = header.first[0] & (header.count == 1)
                        m.d.sync += [
                            instruction.valid.eq(1),
                            word.last.eq(final),
                            header.count.eq(header.count - 1),
                            taken.eq(taken + 1),
                            fresh.eq(final),
                        ]
                        with m.If(fresh):
                            m.d.sync += ended.eq(0)

    def _trailer(self, m: Module) -> None:
        whole = self._report.as_value()
        m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(whole.word_select(self._index, 8))]
        m.d.sync += self._index.eq(self._index + 1)
        with m.If(self._index == TRAILER_BYTES - 1):
            m.d.sync += self._index.eq(0)
            self._end(m, ReplyStatus.OK)
