"""The board's end of the host link: requests from a serial line, each done exactly once."""

from __future__ import annotations

from enum import Enum

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.controller import INSTRUCTION, STATUS
from hw.host_port import host_layout, results_layout
from hw.link_bytes import ByteReader, ByteWriter
from hw.link_frames import FrameReceiver, FrameSender
from hw.link_operations import LinkOperations
from sw.link import (
    DEFAULT_PATIENCE,
    REPLY,
    TRAILER_BYTES,
    FrameKind,
    Greeting,
    Sizes,
)


class State(Enum):
    """What the link does."""

    WAIT = 0
    GREET = 1
    OPERATE = 2
    SEND = 3
    SENDING = 4


class Link(wiring.Component):
    """Frames in, operations on the machine's streams, replies out.

    A GREET is answered always and makes its sequence number the last one. An OPERATE with the next
    number is done, answered, and its reply kept; one with the last number is answered from what is
    kept, and nothing is done; any other, and any before the first GREET, is passed over. So
    whatever a line loses, spoils or repeats, a host that asks again until it is answered has each
    request done once.

    The reply's first byte is offered 5 cycles after the operations' end, or after the frame's if it
    is a repeated one.

    Parameters
    ----------
    greeting : Greeting
        Of the machine; its ``limit`` sizes both memories.
    patience : int
        See LinkOperations.

    Raises
    ------
    ValueError
        If a row of results does not fit the limit.

    Members
    -------
    i : In(stream of 8), o : Out(stream of 8)
        Bytes of the line; ``i`` never waits.
    instructions, host, results, status
        Streams of the machine, flipped.
    reset : Out(1)
        Reset the machine now.
    greeted : Out(1)
        A host has greeted.
    """

    def __init__(self, greeting: Greeting, patience: int = DEFAULT_PATIENCE) -> None:
        self.greeting = greeting
        self.config = greeting.config
        self.patience = patience
        self.limit = greeting.limit
        least = max(Sizes.of(self.config).least_limit, len(greeting.to_bytes()))
        if self.limit < least:
            raise ValueError(f"limit must be at least {least} for this machine, not {self.limit!r}")
        super().__init__(
            {
                "i": In(stream.Signature(8, always_ready=True)),
                "o": Out(stream.Signature(8)),
                "instructions": Out(stream.Signature(INSTRUCTION)),
                "host": Out(stream.Signature(host_layout(self.config))),
                "results": In(stream.Signature(results_layout(self.config))),
                "status": In(stream.Signature(STATUS)),
                "reset": Out(1),
                "greeted": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        content = self.greeting.to_bytes()
        m.submodules.receiver = self._receiver = receiver = FrameReceiver(self.limit)
        m.submodules.sender = self._sender = sender = FrameSender(self.limit)
        m.submodules.reader = self._reader = ByteReader(receiver.depth, self.limit)
        reserve = Sizes.of(self.config).row + TRAILER_BYTES
        m.submodules.writer = self._writer = ByteWriter(self.limit, reserve)
        m.submodules.operations = self._operations = LinkOperations(self.config, self.patience)
        m.submodules.requests = requests = Memory(shape=8, depth=receiver.depth, init=[])
        m.submodules.replies = replies = Memory(shape=8, depth=self.limit, init=[])
        m.submodules.greeting = greeting = Memory(shape=8, depth=len(content), init=content)
        self._known = greeting.read_port()
        for unit, port in (
            (receiver.write, requests.write_port()),
            (self._reader.read, requests.read_port()),
            (self._writer.write, replies.write_port()),
            (sender.read, replies.read_port()),
        ):
            connect(m, unit, port)
        connect(m, flipped(self.i), receiver.i)
        connect(m, sender.o, flipped(self.o))
        self._operate(m)
        self._sequence(m, len(content))
        return m

    def _operate(self, m: Module) -> None:
        operations, reader, writer = self._operations, self._reader, self._writer
        connect(m, operations.instructions, flipped(self.instructions))
        connect(m, operations.host, flipped(self.host))
        connect(m, flipped(self.results), operations.results)
        connect(m, flipped(self.status), operations.status)
        connect(m, reader.o, operations.i)
        m.d.comb += [
            reader.length.eq(self._receiver.length),
            operations.end.eq(reader.end),
            operations.room.eq(writer.room),
            operations.full.eq(writer.full),
            self.reset.eq(operations.reset),
        ]

    def _sequence(self, m: Module, greeting_bytes: int) -> None:
        """Which requests are done, which answered again, which passed over."""
        receiver, sender, operations = self._receiver, self._sender, self._operations
        reader, writer, known = self._reader, self._writer, self._known
        state, last = Signal(State), Signal(8)
        position, copying = Signal(range(greeting_bytes + 1)), Signal()
        start = Signal()
        same, follows = Signal(), Signal()  # a frame's number is there long before the frame is
        m.d.sync += [
            same.eq(receiver.sequence == last),
            follows.eq(receiver.sequence == (last + 1)[:8]),
        ]
        m.d.comb += [
            known.addr.eq(position),
            writer.i.valid.eq(operations.o.valid),
            writer.i.payload.eq(operations.o.payload),
            writer.start.eq(start),
            reader.start.eq(start),
            sender.sequence.eq(last),
            sender.length.eq(writer.length),
        ]
        with m.Switch(state):
            with m.Case(State.WAIT), m.If(receiver.valid):
                m.d.comb += receiver.ready.eq(1)
                with m.If(receiver.kind == FrameKind.GREET):
                    m.d.comb += start.eq(1)
                    m.d.sync += [
                        *(last.eq(receiver.sequence), self.greeted.eq(1)),
                        *(position.eq(0), copying.eq(0), sender.status.eq(0)),
                        *(sender.kind.eq(FrameKind.GREET | REPLY), state.eq(State.GREET)),
                    ]
                with m.Elif((receiver.kind == FrameKind.OPERATE) & self.greeted):
                    with m.If(same):
                        m.d.sync += state.eq(State.SEND)
                    with m.Elif(follows):
                        m.d.comb += [start.eq(1), operations.start.eq(1), receiver.ready.eq(0)]
                        m.d.sync += [last.eq(receiver.sequence), state.eq(State.OPERATE)]
            with m.Case(State.GREET):
                m.d.comb += [writer.i.valid.eq(copying), writer.i.payload.eq(known.data)]
                m.d.sync += [copying.eq(position != greeting_bytes), position.eq(position + 1)]
                with m.If(position == greeting_bytes):
                    m.d.sync += state.eq(State.SEND)
            with m.Case(State.OPERATE), m.If(~operations.busy):
                m.d.comb += receiver.ready.eq(1)
                m.d.sync += [
                    sender.kind.eq(FrameKind.OPERATE | REPLY),
                    sender.status.eq(operations.outcome),
                    state.eq(State.SEND),
                ]
            with m.Case(State.SEND):
                m.d.comb += sender.start.eq(1)
                m.d.sync += state.eq(State.SENDING)
            with m.Case(State.SENDING), m.If(~sender.busy):
                m.d.sync += state.eq(State.WAIT)
