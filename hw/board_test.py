"""The self-test at power-up: stored requests to the link, and a checksum over its replies."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ISCSI
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sw.link import FLAG

#: CRC-32C (RFC 3720), reflected. Not the link's own: a frame that ends with its checksum is a
#: multiple of that polynomial, whatever it carries, and would tell nothing.
_POLYNOMIAL: Final = 0x82F63B78
_ONES: Final = 0xFFFFFFFF
#: Cycles without a byte of a reply, as a power of two, after which the test has failed: four times
#: what the link leaves an access waiting.
SILENCE_BITS: Final = 24


class State(Enum):
    """What the test does."""

    FETCH = 0
    HOLD = 1
    PLAY = 2
    LISTEN = 3
    CHECKSUM = 4
    JUDGE = 5
    RESET = 6
    OPEN = 7


class SelfTest(wiring.Component):
    """Sends stored requests to a link, one after each reply, then opens it to the line.

    Passed is what answers to all of them byte by byte what was expected, as far as a CRC-32C tells.
    Whatever the result, link and machine are reset and the line is opened; until then what comes
    from it is lost, and it stays idle.

    A byte of a request takes 3 cycles, one of a reply 9.

    Parameters
    ----------
    requests, replies : sequence of bytes
        Whole frames, flags and checksums included; a reply per request.
    silence_bits : int
        See SILENCE_BITS.

    Members
    -------
    line : In(stream of 8), to_line : Out(stream of 8)
        Bytes of the line; ``line`` never waits.
    to_link : Out(stream of 8), link : In(stream of 8)
        Bytes of the link; ``to_link`` never waits.
    reset : Out(1)
        Reset link and machine now.
    passed, failed, running : Out(1)
        How the test ended; that it has not.
    """

    def __init__(
        self,
        requests: Sequence[bytes],
        replies: Sequence[bytes],
        silence_bits: int = SILENCE_BITS,
    ) -> None:
        if len(requests) != len(replies) or not requests:
            raise ValueError(f"replies must be one per request, not {len(replies)!r}")
        for frame in (*requests, *replies):
            if frame.count(FLAG) != 2 or not frame[0] == frame[-1] == FLAG:
                raise ValueError(f"frame must be one from flag to flag, not {frame!r}")
        self.content = b"".join(requests)
        self.checksum = CRC32_ISCSI(8).compute(b"".join(replies))
        self.silence_bits = silence_bits
        plain, eager = stream.Signature(8), stream.Signature(8, always_ready=True)
        super().__init__(
            {
                **{"line": In(eager), "to_line": Out(plain), "to_link": Out(eager)},
                **{"link": In(plain), "reset": Out(1)},
                **{"passed": Out(1), "failed": Out(1), "running": Out(1, init=1)},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.requests = memory = Memory(shape=8, depth=len(self.content), init=self.content)
        self._stored = memory.read_port()
        self._state = state = Signal(State)
        self._checksum = Signal(32, init=_ONES)
        self._late = Signal()
        self._byte = Signal(8)  # of a request: block RAM is late in its cycle
        self._within = Signal()  # a frame, sent or received
        self._position = Signal(range(len(self.content) + 1))
        m.d.comb += [
            self._stored.addr.eq(self._position),
            self.to_link.payload.eq(self.line.payload),
            self.to_line.payload.eq(self.link.payload),
        ]
        m.d.sync += self.reset.eq(0)
        with m.Switch(state):
            with m.Case(State.FETCH):
                m.d.sync += [self._position.eq(self._position + 1), state.eq(State.HOLD)]
            with m.Case(State.HOLD):
                m.d.sync += [self._byte.eq(self._stored.data), state.eq(State.PLAY)]
            with m.Case(State.PLAY):
                self._play(m)
            with m.Case(State.JUDGE):
                right = (self._checksum == self.checksum ^ _ONES) & ~self._late
                m.d.sync += self.reset.eq(1)
                m.d.sync += [self.passed.eq(right), self.failed.eq(~right)]
                m.d.sync += [self.running.eq(0), state.eq(State.RESET)]
            with m.Case(State.RESET):
                m.d.sync += state.eq(State.OPEN)
            with m.Case(State.OPEN):
                m.d.comb += [
                    self.to_link.valid.eq(self.line.valid),
                    self.to_line.valid.eq(self.link.valid),
                    self.link.ready.eq(self.to_line.ready),
                ]
        self._listen(m)
        return m

    def _play(self, m: Module) -> None:
        """Send the fetched byte; after a frame's second flag, listen."""
        byte = self._byte
        flag = byte == FLAG
        m.d.comb += [self.to_link.valid.eq(1), self.to_link.payload.eq(byte)]
        m.d.sync += self._within.eq(self._within ^ flag)
        m.d.sync += self._state.eq(Mux(flag & self._within, State.LISTEN, State.FETCH))

    def _listen(self, m: Module) -> None:
        """Take the bytes of a reply, and shift each into the checksum for 8 cycles."""
        state, checksum, silence = self._state, self._checksum, Signal(self.silence_bits)
        byte, left, ended = Signal(8), Signal(3), Signal()
        m.d.sync += [silence.eq(0), left.eq(7)]
        with m.If(state == State.LISTEN):
            flag = self.link.payload == FLAG
            m.d.comb += self.link.ready.eq(1)
            m.d.sync += [byte.eq(self.link.payload), silence.eq(silence + 1)]
            with m.If(self.link.valid):
                m.d.sync += [self._within.eq(self._within ^ flag), ended.eq(flag & self._within)]
                m.d.sync += state.eq(State.CHECKSUM)
            with m.Elif(silence.all()):
                m.d.sync += [self._late.eq(1), state.eq(State.JUDGE)]
        with m.Elif(state == State.CHECKSUM):
            odd = checksum[0] ^ byte[0]
            m.d.sync += checksum.eq(checksum[1:] ^ Mux(odd, _POLYNOMIAL, 0))
            m.d.sync += [byte.eq(byte >> 1), left.eq(left - 1)]
            with m.If(left == 0):
                m.d.sync += state.eq(State.LISTEN)
                with m.If(ended):
                    over = self._position == len(self.content)
                    m.d.sync += state.eq(Mux(over, State.JUDGE, State.FETCH))
