"""What host and board say to each other, byte by byte: the facts of ``docs/link.md``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import IntEnum
from typing import Final

from sw.config import MachineConfig

#: Bits per second of a line that nobody chose another rate for.
BAUD: Final = 1_000_000
#: Version of all that is in this file; a greeting says which one a board speaks.
PROTOCOL: Final = 1

#: Framing as PPP has it on asynchronous lines (RFC 1662, section 4): a frame lies between flags;
#: a flag or an escape within is sent as an escape and the byte with bit 5 flipped.
FLAG: Final = 0x7E
ESCAPE: Final = 0x7D
FLIP: Final = 0x20
#: Bytes of the CRC-32 of ISO/IEC 13239 and IEEE 802.3, over all before it, lowest byte first.
CRC_BYTES: Final = 4
#: Bytes of a request before its operations: its kind and its sequence number.
REQUEST_BYTES: Final = 2
#: Bytes of a reply before what the operations gave: kind, sequence number, status.
REPLY_BYTES: Final = 3
#: Set in the kind of a reply.
REPLY: Final = 0x80
#: Sequence numbers are counted modulo this.
SEQUENCES: Final = 256


class FrameKind(IntEnum):
    """What a request is."""

    GREET = 1
    OPERATE = 2


class ReplyStatus(IntEnum):
    """How the operations of a request ended; any but OK ended them at the first that failed."""

    OK = 0
    MALFORMED = 1
    STUCK = 2
    FULL = 3


class Operation(IntEnum):
    """What a request asks for; it has any number of operations, RUN only as its last."""

    WRITE = 1
    READ = 2
    CLEAR = 3
    RUN = 4
    RESET = 5


#: The header of an operation, lowest bits first.
OPERATION_FIELDS: Final[dict[str, int]] = {
    "operation": 4,
    "space": 4,
    "first": 8,
    "address": 32,
    "count": 16,
}
#: Before each row of results in a reply: lanes that count, last row of a GEMM, exact sums.
ROW_FIELDS: Final[dict[str, int]] = {"count": 6, "last": 1, "exact": 1}
#: The end of a RUN's reply.
TRAILER_FIELDS: Final[dict[str, int]] = {
    "marker": 8,
    "fault": 4,
    "ended": 4,
    "taken": 16,
    "counter": 32,
}
OPERATION_BYTES: Final = sum(OPERATION_FIELDS.values()) // 8
TRAILER_BYTES: Final = sum(TRAILER_FIELDS.values()) // 8
#: No row starts with this: an array has at most 32 columns.
TRAILER_MARKER: Final = 0xFF
#: Bytes of a parameter, or of half a table's segment, and of a counter.
PARAMETER_BYTES: Final = 4
COUNTER_BYTES: Final = 6
#: Of a build in a greeting.
BUILD_BYTES: Final = 16
#: Bytes that the operations of a request, or its reply, may have; with a checksum 1 KiB.
DEFAULT_LIMIT: Final = 1020
#: Cycles without progress after which an operation other than RUN gives up.
DEFAULT_PATIENCE: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a machine's words on the link.

    Parameters
    ----------
    word : int
        Of a word of tile memory.
    result, exact : int
        Of a lane of a row of words, and of exact sums.
    row : int
        Of the longest row with its header.
    """

    word: int
    result: int
    exact: int
    row: int

    @classmethod
    def of(cls, config: MachineConfig) -> Sizes:
        """Those of a configuration."""
        widths = (config.bits, config.output.bits, config.result_bits)
        word, result, exact = (-(-width // 8) for width in widths)
        return cls(word, result, exact, 1 + config.columns * max(result, exact))

    @property
    def least_limit(self) -> int:
        """The least limit that serves: a row and a trailer, or an operation and a word, fit."""
        return self.row + TRAILER_BYTES


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a board says of itself.

    Parameters
    ----------
    config : MachineConfig
    clock : int
        Of the board's clock, in Hz.
    limit : int
        Bytes that the operations of a request, or its reply, may have.
    build : str
        Hexadecimal digits that name the bitstream; those of the configuration if it is a plain one.
    protocol : int
    """

    config: MachineConfig
    clock: int
    limit: int
    build: str
    protocol: int = PROTOCOL

    def to_bytes(self) -> bytes:
        """JSON in ASCII: a board keeps it as it is."""
        content = {**asdict(self), "config": asdict(self.config)}
        return json.dumps(content, separators=(",", ":"), sort_keys=True).encode("ascii")

    @classmethod
    def of_bytes(cls, content: bytes) -> Greeting:
        """The greeting of these bytes; ValueError if they are none, or of another protocol."""
        try:
            found = json.loads(content.decode("ascii"))
            if found["protocol"] != PROTOCOL:
                raise ValueError(f"protocol must be {PROTOCOL}, not {found['protocol']!r}")
            config = MachineConfig(**found.pop("config"))
            greeting = cls(config=config, **found)
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"greeting must be that of a board, not {content[:40]!r}") from error
        return greeting


def identity(config: MachineConfig) -> str:
    """The hexadecimal digits that name a configuration in this protocol."""
    text = json.dumps({"protocol": PROTOCOL, **asdict(config)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * BUILD_BYTES]


def difference(found: MachineConfig, wanted: MachineConfig) -> str | None:
    """The first size in which two machines differ to a program, or None.

    The multiplier is none: all of them multiply alike.
    """
    found = replace(found, multiplier=wanted.multiplier)
    for name in (field.name for field in fields(wanted)):
        if getattr(found, name) != getattr(wanted, name):
            return f"{name} {getattr(wanted, name)!r}, not {getattr(found, name)!r}"
    return None


def pack_fields(widths: Mapping[str, int], **values: int) -> bytes:
    """Fields side by side, the first in the lowest bits, as bytes, the lowest first.

    Raises
    ------
    ValueError
        For a value that its field cannot hold.
    """
    whole, offset = 0, 0
    for name, width in widths.items():
        value = values.get(name, 0)
        if not 0 <= value < 1 << width:
            raise ValueError(f"{name} must be 0 to {(1 << width) - 1}, not {value!r}")
        whole |= value << offset
        offset += width
    return whole.to_bytes(offset // 8, "little")


def unpack_fields(widths: Mapping[str, int], content: bytes) -> dict[str, int]:
    """The inverse of :func:`pack_fields`."""
    whole, found = int.from_bytes(content, "little"), {}
    for name, width in widths.items():
        found[name] = whole & (1 << width) - 1
        whole >>= width
    return found
