"""Frames from bytes and bytes from frames: flags, escapes and checksums of the host link."""

from __future__ import annotations

from enum import Enum

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.memory import ReadPort, WritePort
from amaranth.lib.wiring import In, Out

from sw.link import CRC_BYTES, ESCAPE, FLAG, FLIP, REPLY_BYTES, REQUEST_BYTES


class FrameReceiver(wiring.Component):
    """Finds whole frames, and puts what they carry into a memory.

    A frame counts if its checksum is right, it fits, and it began while no other was held. All
    else, noise between frames too, is passed over without a word.

    Parameters
    ----------
    limit : int
        Bytes that a frame may carry besides kind, sequence number and checksum.

    Members
    -------
    i : In(stream of 8)
        Bytes of the line; never waits.
    write : In(write port of a memory of ``limit + CRC_BYTES`` bytes)
    valid : Out(1)
        A frame is held: ``kind``, ``sequence`` and ``length`` bytes from address 0 on. From the
        cycle after its closing flag on.
    kind, sequence : Out(8)
    length : Out(range(limit + 1))
    ready : In(1)
        The frame is done with.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.depth = limit + CRC_BYTES
        port = WritePort.Signature(addr_width=(self.depth - 1).bit_length(), shape=8)
        super().__init__(
            {
                "i": In(stream.Signature(8, always_ready=True)),
                "write": In(port),
                "valid": Out(1),
                "kind": Out(8),
                "sequence": Out(8),
                "length": Out(range(limit + 1)),
                "ready": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(8).create()
        receiving, escaped, ends = Signal(), Signal(), Signal()
        index = Signal(range(self.depth + REQUEST_BYTES + 1))
        byte, plain = Signal(8), Signal()
        flag, escape = self.i.payload == FLAG, self.i.payload == ESCAPE
        m.d.comb += [
            byte.eq(self.i.payload ^ (Const(FLIP, 8) & escaped.replicate(8))),
            plain.eq(self.i.valid & receiving & ~flag & (escaped | ~escape)),
            crc.data.eq(byte),
            crc.valid.eq(plain),
            crc.start.eq(self.i.valid & flag),
            self.write.addr.eq(index - REQUEST_BYTES),
            self.write.data.eq(byte),
            self.write.en.eq(plain & (index >= REQUEST_BYTES)),
        ]
        # The index has its last value long before the closing flag.
        m.d.sync += self.length.eq(index - (REQUEST_BYTES + CRC_BYTES))
        with m.If(self.ready):
            m.d.sync += self.valid.eq(0)
        with m.If(self.i.valid & receiving):
            m.d.sync += escaped.eq(~flag & ~escaped & escape)
        with m.If(plain):
            m.d.sync += index.eq(index + 1)
            with m.If(index == 0):
                m.d.sync += self.kind.eq(byte)
            with m.If(index == 1):
                m.d.sync += self.sequence.eq(byte)
            with m.If(index == self.depth + REQUEST_BYTES):
                m.d.sync += receiving.eq(0)  # too long
        whole = receiving & ~escaped & (index >= REQUEST_BYTES + CRC_BYTES) & crc.match_detected
        m.d.comb += ends.eq(self.i.valid & flag & whole)
        with m.If(ends):
            m.d.sync += [self.valid.eq(1), receiving.eq(0)]
        with m.Elif(self.i.valid & flag & ~self.valid):
            m.d.sync += [receiving.eq(1), index.eq(0)]
        return m


class Part(Enum):
    """What a sender sends."""

    IDLE = 0
    OPEN = 1
    HEADER = 2
    PAYLOAD = 3
    CHECKSUM = 4
    CLOSE = 5


class FrameSender(wiring.Component):
    """Sends a reply from a memory: flag, header, payload, checksum, flag.

    One byte in three cycles at best, one more where it is escaped.

    Parameters
    ----------
    limit : int
        Bytes of the longest payload.

    Members
    -------
    start : In(1)
        Send now; only while not ``busy``.
    kind, sequence, status : In(8)
    length : In(range(limit + 1))
        Of the payload, from address 0 on; all of these stay until the end.
    read : In(read port of a memory of ``limit`` bytes)
    o : Out(stream of 8)
    busy : Out(1)
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        port = ReadPort.Signature(addr_width=(limit - 1).bit_length(), shape=8)
        super().__init__(
            {
                "start": In(1),
                "kind": In(8),
                "sequence": In(8),
                "status": In(8),
                "length": In(range(limit + 1)),
                "read": In(port),
                "o": Out(stream.Signature(8)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.crc = crc = CRC32_ISO_HDLC(8).create()
        part, index = Signal(Part), Signal(range(max(self.limit, REPLY_BYTES, CRC_BYTES) + 1))
        source, byte, taken, escaped = Signal(8), Signal(8), Signal(), Signal()
        read, sends = Signal(), Signal()  # the byte is read, then it is in its register
        counts = Signal()  # the byte taken before, still there, is checked
        flagged = (part == Part.OPEN) | (part == Part.CLOSE)
        special = ~flagged & ((byte == FLAG) | (byte == ESCAPE))
        header = Cat(self.kind, self.sequence, self.status)
        last, late = Signal(), Signal()  # index of the part's last byte; no byte is taken sooner
        m.d.comb += [
            self.busy.eq(part != Part.IDLE),
            self.read.addr.eq(index),
            self.read.en.eq(~read),
            self.o.valid.eq(sends),
            self.o.payload.eq(byte),
            # a special byte is taken with its second half
            taken.eq(sends & self.o.ready & (~special | escaped)),
            crc.start.eq(part == Part.OPEN),
            crc.data.eq(byte),
            crc.valid.eq(counts),
        ]
        m.d.sync += counts.eq(taken & ((part == Part.HEADER) | (part == Part.PAYLOAD)))
        with m.If(special):
            m.d.comb += self.o.payload.eq(byte ^ FLIP)
            with m.If(~escaped):
                m.d.comb += self.o.payload.eq(ESCAPE)
        with m.If(sends & self.o.ready):
            m.d.sync += escaped.eq(special & ~escaped)
        reads = self.busy & ~taken
        # Memory is late in its cycle: nothing between it and its register.
        stored, other, is_stored = Signal(8, reset_less=True), Signal(8), Signal()
        m.d.sync += [
            *(read.eq(reads), sends.eq(reads & read), late.eq(last)),
            *(stored.eq(self.read.data), other.eq(source), is_stored.eq(part == Part.PAYLOAD)),
        ]
        m.d.comb += [last.eq(1), source.eq(FLAG), byte.eq(Mux(is_stored, stored, other))]
        following = Signal(Part)
        m.d.comb += following.eq(part + 1)
        with m.Switch(part):
            with m.Case(Part.IDLE):
                m.d.comb += [taken.eq(self.start), following.eq(Part.OPEN)]
            with m.Case(Part.HEADER):
                m.d.comb += source.eq(header.word_select(index[:2], 8))
                m.d.comb += last.eq(index == REPLY_BYTES - 1)
                with m.If(self.length == 0):
                    m.d.comb += following.eq(Part.CHECKSUM)
            with m.Case(Part.PAYLOAD):
                m.d.comb += last.eq(index + 1 == self.length)
            with m.Case(Part.CHECKSUM):
                m.d.comb += source.eq(crc.crc.word_select(index[:2], 8))
                m.d.comb += last.eq(index == CRC_BYTES - 1)
            with m.Case(Part.CLOSE):
                m.d.comb += following.eq(Part.IDLE)
        with m.If(taken):
            m.d.sync += index.eq(index + 1)
            with m.If(late | ~self.busy):
                m.d.sync += [index.eq(0), part.eq(following)]
        return m
