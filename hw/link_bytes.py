"""Bytes out of the memory that holds a request, and into the one that holds a reply."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import ReadPort, WritePort
from amaranth.lib.wiring import In, Out


class ByteReader(wiring.Component):
    """The first bytes of a memory as a stream, one in three cycles.

    Parameters
    ----------
    depth : int
        Bytes of the memory.
    limit : int
        Bytes that a stream may have.

    Members
    -------
    start : In(1)
        Begin anew with the byte at address 0.
    length : In(range(limit + 1))
    read : In(read port)
    o : Out(stream of 8)
    end : Out(1)
        All bytes have been taken; a register, from 2 cycles after the last one was.
    """

    def __init__(self, depth: int, limit: int) -> None:
        self.depth = depth
        self.limit = limit
        super().__init__(
            {
                "start": In(1),
                "length": In(range(limit + 1)),
                "read": In(ReadPort.Signature(addr_width=(depth - 1).bit_length(), shape=8)),
                "o": Out(stream.Signature(8)),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        position = Signal(range(self.limit + 1))
        read = Signal()
        m.d.comb += [
            self.read.addr.eq(position),
            self.read.en.eq(~read),
        ]
        m.d.sync += self.end.eq(position == self.length)
        with m.If(self.start):
            m.d.sync += [position.eq(0), read.eq(0), self.o.valid.eq(0), self.end.eq(0)]
        with m.Elif(~self.o.valid):  # block RAM is late in its cycle
            m.d.sync += [read.eq(~self.end), self.o.valid.eq(read & ~self.end)]
            m.d.sync += self.o.payload.eq(self.read.data)
        with m.Elif(self.o.ready):
            m.d.sync += [position.eq(position + 1), read.eq(0), self.o.valid.eq(0)]
        return m


class ByteWriter(wiring.Component):
    """A stream of bytes into a memory from address 0 on; what does not fit is dropped.

    Parameters
    ----------
    limit : int
        Bytes of the memory.
    reserve : int
        Bytes that must be free for ``room``.

    Members
    -------
    start : In(1)
        Begin anew.
    i : In(stream of 8)
        Never waits.
    write : In(write port)
    length : Out(range(limit + 1))
        Bytes written.
    room : Out(1)
        ``reserve`` bytes fit yet.
    full : Out(1)
        A byte has been dropped.
    """

    def __init__(self, limit: int, reserve: int) -> None:
        self.limit = limit
        self.reserve = reserve
        super().__init__(
            {
                "start": In(1),
                "i": In(stream.Signature(8, always_ready=True)),
                "write": In(WritePort.Signature(addr_width=(limit - 1).bit_length(), shape=8)),
                "length": Out(range(limit + 1)),
                "room": Out(1),
                "full": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fits = self.length != self.limit
        m.d.comb += [
            self.room.eq(self.length <= self.limit - self.reserve),
            self.write.addr.eq(self.length),
            self.write.data.eq(self.i.payload),
            self.write.en.eq(self.i.valid & fits),
        ]
        with m.If(self.start):
            m.d.sync += [self.length.eq(0), self.full.eq(0)]
        with m.Elif(self.i.valid):
            m.d.sync += [self.length.eq(self.length + fits), self.full.eq(self.full | ~fits)]
        return m
