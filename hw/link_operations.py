"""Operations of a request on the machine's streams, and what they give as bytes of a reply."""

from __future__ import annotations

from enum import Enum
from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.controller import INSTRUCTION, STATUS
from hw.host_port import host_layout, results_layout
from hw.link_access import AccessSize, AccessWords
from hw.link_program import ProgramEnd, ProgramWords
from hw.link_results import ResultBytes
from sw.config import MachineConfig
from sw.link import (
    COUNTER_BYTES,
    OPERATION_BYTES,
    OPERATION_FIELDS,
    ROW_FIELDS,
    TRAILER_BYTES,
    TRAILER_FIELDS,
    TRAILER_MARKER,
    Operation,
    ReplyStatus,
    Sizes,
)
from sw.registers import ResultKind, Space

OPERATION_LAYOUT: Final = data.StructLayout(OPERATION_FIELDS)
ROW_LAYOUT: Final = data.StructLayout(ROW_FIELDS)
TRAILER_LAYOUT: Final = data.StructLayout(TRAILER_FIELDS)


class State(Enum):
    """What the executor does."""

    IDLE = 0
    HEADER = 1
    DISPATCH = 2
    SIZE = 3
    FETCH = 4
    OFFER = 5
    REPLY = 6
    RUN = 7
    ROW = 8
    LANE = 9
    LANES = 10
    TRAILER = 11
    NEXT = 12


class LinkOperations(wiring.Component):
    """Does the operations of a request one after the other.

    A byte of the request takes 3 cycles, one of the reply 1, a lane of it one more; WRITE, CLEAR
    and READ take two cycles per access and what the host port takes besides, RUN ends as
    ``docs/link.md`` says. Rows of a program that nobody collected are dropped by the next READ.

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
        self._following = Signal(range(self.config.columns + 2))  # the lane after that of a write
        self._byte = Signal(range(max(self.sizes.exact, COUNTER_BYTES)))
        self._later = Signal()  # not the first access
        self._size = Signal(range(self.config.columns + 1))  # words of this access
        self._last_access = Signal()
        self._dropped = Signal()  # the beat that is there has been read
        self._expired = Signal()  # the timer is at its end; a cycle late
        self._tiles = Signal()  # of an access; from the cycle after DISPATCH on
        m.d.sync += self._tiles.eq(self._header.space == Space.TILES)
        m.submodules.access = self._access = AccessSize(self.config)
        m.submodules.words = self._words = AccessWords(self.config)
        m.submodules.bytes = self._bytes = ResultBytes(self.config)
        m.submodules.program = self._program = ProgramWords()
        m.submodules.end = self._program_end = ProgramEnd()
        m.d.comb += [
            self._access.tiles.eq(self._tiles),
            self._access.later.eq(self._later),
            self._access.first.eq(self._header.first),
            self._access.left.eq(self._header.count),
            self.busy.eq(state != State.IDLE),
            self.results.ready.eq(self._dropped),
        ]
        m.d.sync += [
            self._expired.eq(self._timer == 0),
            self._dropped.eq(0),
            self.reset.eq(0),
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
            with m.Case(State.SIZE):
                self._measure(m)
            with m.Case(State.FETCH):
                self._fetch(m)
            with m.Case(State.OFFER):
                self._offer(m)
            with m.Case(State.NEXT):
                self._next_access(m)
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

    def _measure(self, m: Module) -> None:
        """What the access has, in registers."""
        write = self._header.operation == Operation.WRITE
        m.d.sync += [
            self._size.eq(self._access.size),
            self._last_access.eq(self._access.last),
            self._state.eq(Mux(write, State.FETCH, State.OFFER)),
        ]

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
            self._following.eq(1),
            self._byte.eq(0),
            self._timer.eq(self.patience),
            self._expired.eq(0),
        ]
        with m.Switch(header.operation):
            with m.Case(Operation.WRITE), m.If(header.count != 0):
                m.d.sync += state.eq(State.SIZE)
            with m.Case(Operation.READ):
                m.d.sync += state.eq(State.SIZE)
            with m.Case(Operation.CLEAR):
                m.d.comb += self._words.clear.eq(1)
                m.d.sync += state.eq(State.SIZE)
            with m.Case(Operation.RUN):
                m.d.sync += [self._timer.eq(header.address), state.eq(State.RUN)]
            with m.Case(Operation.RESET):
                m.d.sync += [self.reset.eq(1), state.eq(State.HEADER)]
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
        words = self._words
        m.d.comb += [
            self.i.ready.eq(1),
            words.tiles.eq(self._tiles),
            words.lane.eq(self._lane),
            words.byte.eq(self._byte),
            words.value.eq(self.i.payload),
        ]
        with m.If(self.end):
            self._end(m, ReplyStatus.MALFORMED)
        with m.Elif(self.i.valid):
            m.d.comb += words.take.eq(1)
            m.d.sync += self._byte.eq(self._byte + 1)
            with m.If(words.last_byte):
                m.d.sync += [self._byte.eq(0), self._lane.eq(self._following)]
                m.d.sync += self._following.eq(self._following + 1)
                with m.If(self._following == self._size):
                    m.d.sync += [self._lane.eq(0), self._following.eq(1)]
                    m.d.sync += self._state.eq(State.OFFER)

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
            host.payload.data.eq(self._words.data),
        ]
        with m.If(host.ready):
            m.d.sync += [self._timer.eq(self.patience), self._expired.eq(0)]
            with m.If(reads):
                m.d.sync += self._state.eq(State.REPLY)
            with m.Else():
                m.d.sync += self._state.eq(State.NEXT)
        with m.Elif(self._expired):
            self._end(m, ReplyStatus.STUCK)

    def _next_access(self, m: Module) -> None:
        header = self._header
        m.d.sync += [
            header.address.eq(header.address + self._size),
            header.count.eq(header.count - self._size),
            self._later.eq(1),
            self._state.eq(State.SIZE),
        ]
        with m.If(self._last_access):
            m.d.sync += self._state.eq(State.HEADER)

    def _reply(self, m: Module) -> None:
        """Wait for the beat that replies to a READ."""
        with m.If(self.results.valid & ~self._dropped):
            with m.If(self.results.payload.kind == ResultKind.READ):
                m.d.sync += self._state.eq(State.LANE)
            with m.Else():
                m.d.sync += self._dropped.eq(1)
        with m.Elif(self._expired):
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
        m.d.sync += self._state.eq(State.LANE)

    def _lanes(self, m: Module) -> None:
        """The lanes of a beat that count, byte by byte."""
        found = self._bytes
        m.d.comb += [
            found.beat.eq(self.results.payload),
            found.tiles.eq(self._tiles),
            found.lane.eq(self._lane),
            found.byte.eq(self._byte),
            found.take.eq(self._state == State.LANE),
        ]
        with m.If(self._state == State.LANE):
            m.d.sync += self._state.eq(State.LANES)
        with m.If(self._state == State.LANES):
            m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(found.data)]
            m.d.sync += self._byte.eq(self._byte + 1)
            with m.If(found.last_byte):
                m.d.sync += [self._byte.eq(0), self._lane.eq(self._lane + 1)]
                m.d.sync += self._state.eq(State.LANE)
                with m.If(found.last_lane):
                    m.d.sync += self._dropped.eq(1)
                    m.d.sync += [self._lane.eq(0), self._state.eq(State.RUN)]
                    with m.If(self.results.payload.kind == ResultKind.READ):
                        m.d.sync += self._state.eq(State.NEXT)

    def _run(self, m: Module) -> None:
        """Words of a program to the machine, rows from it, and its status."""
        header, beat, end, program = self._header, self.results, self._program_end, self._program
        connect(m, flipped(self.status), end.status)
        connect(m, program.o, flipped(self.instructions))
        m.d.comb += [
            end.row.eq(beat.valid),
            end.restart.eq(self.reset | program.first),
            program.begin.eq(self._state == State.DISPATCH),
            program.reset.eq(self.reset),
            program.value.eq(self.i.payload),
            program.last.eq(header.first[0] & (header.count == 1)),
        ]
        all_taken, row = Signal(), beat.valid & ~self._dropped
        m.d.sync += all_taken.eq((header.count == 0) | (program.whole & (header.count == 1)))
        with m.If(program.whole):
            m.d.sync += header.count.eq(header.count - 1)
        with m.If(self._state == State.RUN):
            with m.If(~all_taken & ~program.o.valid):
                m.d.comb += [self.i.ready.eq(1), program.take.eq(self.i.valid)]
            program_over = end.quiet & ~program.o.valid
            done = all_taken & (~header.first[0] | program_over)
            with m.If(row & (beat.payload.kind == ResultKind.READ)):
                m.d.sync += self._dropped.eq(1)  # of a READ that gave up
            with m.Elif(row & self.room):
                m.d.sync += self._state.eq(State.ROW)
            with m.Elif(row | done | self._expired):
                m.d.sync += self._state.eq(State.TRAILER)
            with m.Elif(~all_taken & self.end):
                self._end(m, ReplyStatus.MALFORMED)

    def _trailer(self, m: Module) -> None:
        report, end = Signal(TRAILER_LAYOUT), self._program_end
        whole = report.as_value()
        m.d.comb += [
            report.marker.eq(TRAILER_MARKER),
            report.fault.eq(end.fault),
            report.ended.eq(end.ended & end.quiet),
            report.taken.eq(self._program.taken),
            report.counter.eq(end.counter),
        ]
        m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(whole.word_select(self._index, 8))]
        m.d.sync += self._index.eq(self._index + 1)
        with m.If(self._index == TRAILER_BYTES - 1):
            m.d.sync += self._index.eq(0)
            self._end(m, ReplyStatus.OK)
