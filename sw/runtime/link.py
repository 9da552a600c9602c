"""The host's end of the link: requests over a line that loses, spoils and repeats bytes."""

from __future__ import annotations

import random
import zlib
from typing import Final, Protocol

from sw.link import (
    CRC_BYTES,
    DEFAULT_LIMIT,
    ESCAPE,
    FLAG,
    FLIP,
    REPLY,
    REPLY_BYTES,
    SEQUENCES,
    FrameKind,
    Greeting,
    ReplyStatus,
)

#: Seconds of silence after which a request is sent again, and how often it is.
SILENCE: Final = 0.5
RETRIES: Final = 8
#: Bytes of the longest reply on the line, twice: what comes without an end is noise.
_NOISE: Final = 4 * DEFAULT_LIMIT


class LinkFailed(RuntimeError):
    """The board did not answer, or not as the protocol has it; the message is one sentence."""


class BytePort(Protocol):
    """A line of bytes to a board."""

    name: str

    def write(self, content: bytes) -> None:
        """Send bytes."""

    def read(self, seconds: float) -> bytes:
        """What has come; if nothing, what comes next within some seconds; b"" for silence."""

    def close(self) -> None:
        """Give the line back."""


def frame(content: bytes) -> bytes:
    """Content as a frame: checksum, escapes and flags."""
    whole = content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")
    found = bytearray([FLAG])
    for byte in whole:
        found += bytes((ESCAPE, byte ^ FLIP)) if byte in (FLAG, ESCAPE) else bytes((byte,))
    found.append(FLAG)
    return bytes(found)


class Deframer:
    """Whole frames among the bytes of a line."""

    def __init__(self) -> None:
        self._found = bytearray()
        self._escaped = False

    def feed(self, received: bytes) -> list[bytes]:
        """The contents of the frames that end within these bytes and have the right checksum."""
        whole = []
        for byte in received:
            if byte == FLAG:
                content, tail = bytes(self._found[:-CRC_BYTES]), bytes(self._found[-CRC_BYTES:])
                right = tail == zlib.crc32(content).to_bytes(CRC_BYTES, "little")
                if right and content and not self._escaped:
                    whole.append(content)
                self._found.clear()
                self._escaped = False
            elif byte == ESCAPE and not self._escaped:
                self._escaped = True
            else:
                self._found.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False
        return whole


class HostLink:
    """Requests to a board, each done exactly once however often it must be sent.

    Parameters
    ----------
    port : BytePort
    silence : float
        Seconds without a byte after which a request is sent again.
    retries : int
        How often, at most.
    seed : int, optional
        Of the first sequence number, which is random so that a board is not taken for greeted.

    Attributes
    ----------
    sent, repeated : int
        Requests sent, and those of them that were sent again.
    """

    def __init__(
        self,
        port: BytePort,
        *,
        silence: float = SILENCE,
        retries: int = RETRIES,
        seed: int | None = None,
    ) -> None:
        self.port, self.silence, self.retries = port, silence, retries
        self.sent = self.repeated = 0
        self._sequence = random.Random(seed).randrange(SEQUENCES)
        self._deframer = Deframer()

    def greet(self) -> Greeting:
        """Begin anew, and hear what the board is.

        Raises
        ------
        LinkFailed
            If nothing answers, or something else than such a board does.
        """
        content = self._exchange(FrameKind.GREET, b"")
        try:
            return Greeting.of_bytes(content)
        except ValueError as error:
            raise LinkFailed(f"{self.port.name} must have a board of this link: {error}") from error

    def operate(self, operations: bytes) -> bytes:
        """Have operations done; what they give.

        Raises
        ------
        LinkFailed
            If the board does not answer, or could not do them.
        """
        return self._exchange(FrameKind.OPERATE, operations)

    def _exchange(self, kind: FrameKind, operations: bytes) -> bytes:
        self._sequence = (self._sequence + 1) % SEQUENCES
        request = frame(bytes((kind, self._sequence)) + operations)
        for attempt in range(1 + self.retries):
            self.sent, self.repeated = self.sent + 1, self.repeated + (attempt > 0)
            self.port.write(request)
            reply = self._reply(kind)
            if reply is not None:
                status, content = reply
                if status != ReplyStatus.OK:
                    raise LinkFailed(
                        f"board on {self.port.name} must do a request, not end it as"
                        f" {_name(status)}"
                    )
                return content
        raise LinkFailed(
            f"board on {self.port.name} must answer within {self.silence:g} s, not be silent"
            f" {1 + self.retries} times"
        )

    def _reply(self, kind: FrameKind) -> tuple[int, bytes] | None:
        """Status and content of the reply to the last request; None after a silence."""
        wanted, count = bytes((kind | REPLY, self._sequence)), 0
        while count < _NOISE:
            received = self.port.read(self.silence)
            if not received:
                return None
            count += len(received)
            for content in self._deframer.feed(received):
                if len(content) >= REPLY_BYTES and content[: len(wanted)] == wanted:
                    return content[len(wanted)], content[REPLY_BYTES:]
        return None


def _name(status: int) -> str:
    known = [s.name.lower() for s in ReplyStatus if s == status]
    return known[0] if known else f"status {status}"
