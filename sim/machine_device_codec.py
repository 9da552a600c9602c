"""The host's requests as bytes, many at a time, and words and rows from what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.machine_job import MachineFailed
from sim.machine_ports import Ports
from sw.config import MachineConfig
from sw.registers import ResultKind, Space
from sw.scale import SHIFT_BITS

#: Where the shift of a column parameter lies in a request's data, behind the bias.
_SHIFT: Final = 16
_BIAS_MASK: Final = (1 << _SHIFT) - 1
#: Payloads that are taken apart into bits at a time.
_SLAB: Final = 1 << 16
_INT64_BITS: Final = 64

#: Payloads ``[payloads, bytes]``, as in a driver's files.
Payloads = NDArray[np.uint8]


class Codec:
    """Payloads of a machine's streams as arrays of bytes.

    Parameters
    ----------
    config : MachineConfig
    ports : Ports
    """

    def __init__(self, config: MachineConfig, ports: Ports) -> None:
        self.config, self.ports = config, ports

    def write_tiles(self, address: int, words: NDArray[Any]) -> Payloads:
        """Writes of consecutive words: the first ends at a multiple of ``columns``."""
        starts, counts = self._accesses(address, len(words))
        lanes = self.config.columns
        before = address % lanes
        padded = np.zeros(len(starts) * lanes, dtype="<u2")
        padded[before : before + len(words)] = words
        rows = padded.reshape(len(starts), lanes)
        if before and len(rows):  # the first word of an access is in the lowest bits
            rows[0] = np.roll(rows[0], -before)
        return self._pack(
            "host",
            len(rows),
            space=Space.TILES,
            write=1,
            count=counts - 1,
            address=starts,
            data=rows,
        )

    def read_tiles(self, address: int, count: int) -> Payloads:
        """Reads of consecutive words, cut as writes are."""
        starts, counts = self._accesses(address, count)
        return self._pack("host", len(starts), space=Space.TILES, count=counts - 1, address=starts)

    def _accesses(self, address: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        lanes = self.config.columns
        first, end = address // lanes, -(-(address + count) // lanes) if count else address // lanes
        starts = np.arange(first, end) * lanes
        ends = np.minimum(starts + lanes, address + count)
        starts = np.maximum(starts, address)
        return starts, ends - starts

    def write_columns(
        self, entry: int, biases: NDArray[np.int64], shifts: NDArray[np.int64]
    ) -> Payloads:
        """Writes of column parameters ``[entries, columns]``, lifts 0."""
        data = (biases & _BIAS_MASK) | (shifts & (1 << SHIFT_BITS) - 1) << _SHIFT
        address = entry * self.config.columns + np.arange(data.size)
        space = Space.COLUMN_PARAMETERS
        return self._pack(
            "host", data.size, space=space, write=1, address=address, data=data.ravel()
        )

    def read_counters(self, count: int) -> Payloads:
        """Reads of the first counters."""
        return self._pack("host", count, space=Space.COUNTERS, address=np.arange(count))

    def program(self, words: tuple[int, ...]) -> Payloads:
        """The words of a program."""
        last = np.arange(len(words)) == len(words) - 1
        return self._pack("instructions", len(words), word=np.array(words), last=last)

    def _pack(self, stream: str, total: int, /, **values: ArrayLike) -> Payloads:
        """Payloads from a value per field, or several per field that lie side by side."""
        parts = []
        for first in range(0, total, _SLAB):
            number = min(_SLAB, total - first)
            bits = np.zeros((number, 8 * self.ports.bytes(stream)), dtype=np.uint8)
            for name, value in values.items():
                field = self.ports.field(stream, name)
                array = np.asarray(value)
                array = array[first : first + number] if array.ndim else array
                width = self.config.bits if array.ndim == 2 else field.width
                found = _bits(np.broadcast_to(array, (number, *array.shape[1:])), width)
                bits[:, field.offset : field.offset + found.shape[1]] = found
            parts.append(np.packbits(bits, axis=1, bitorder="little"))
        return np.concatenate(parts) if parts else np.zeros((0, self.ports.bytes(stream)), np.uint8)

    def field(self, stream: str, name: str, payloads: Payloads) -> NDArray[np.int64]:
        """A field of at most 63 bits of each payload."""
        field = self.ports.field(stream, name)
        return _join(_unpack(payloads)[:, field.offset : field.offset + field.width], signed=False)

    def words(self, replies: Payloads, address: int, count: int) -> NDArray[np.uint16]:
        """The words that reads of tile memory found."""
        _, counts = self._accesses(address, count)
        lanes = [
            _join(lane[..., : self.config.bits], signed=False) for lane in self._lanes(replies)
        ]
        nothing = np.zeros((0, self.config.columns), dtype=np.int64)
        found = np.concatenate([nothing, *lanes])
        return found[np.arange(self.config.columns) < counts[:, None]].astype(np.uint16)

    def counters(self, replies: Payloads, bits: int) -> NDArray[np.int64]:
        """The values that reads of counters found."""
        offset = self.ports.field("results", "data").offset
        return _join(_unpack(replies)[:, offset : offset + bits], signed=False)

    def rows(self, beats: Payloads) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows ``[rows, columns]`` of words or exact sums, and how many lanes of each count."""
        counts = self.field("results", "count", beats)
        words = self.field("results", "kind", beats) == ResultKind.WORDS
        parts = [np.zeros((0, self.config.columns), dtype=np.int64)]
        for first, lanes in zip(range(0, len(beats), _SLAB), self._lanes(beats), strict=True):
            of_words = words[first : first + _SLAB]
            part = np.empty(lanes.shape[:2], dtype=np.int64)
            part[of_words] = _join(lanes[of_words][..., : self.config.output.bits], signed=False)
            part[~of_words] = _join(lanes[~of_words], signed=True)
            parts.append(part)
        rows = np.concatenate(parts)
        rows[np.arange(self.config.columns) >= counts[:, None]] = 0
        return rows, counts

    def _lanes(self, beats: Payloads) -> Iterator[NDArray[np.uint8]]:
        """The bits of the data of some beats at a time, ``[beats, columns, bits of a lane]``."""
        offset, bits = self.ports.field("results", "data").offset, self.config.result_bits
        for first in range(0, len(beats), _SLAB):
            part = _unpack(beats[first : first + _SLAB])
            data = part[:, offset : offset + self.config.columns * bits]
            yield data.reshape(len(part), self.config.columns, bits)


def _bits(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """The low bits of values ``[n]`` or ``[n, m]`` side by side, lowest first, ``[n, bits]``."""
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= min(width, _INT64_BITS))
    plain = np.ascontiguousarray(values.astype(f"<u{size}"))
    found = np.unpackbits(
        plain.view(np.uint8).reshape(*plain.shape, size),
        axis=-1,
        bitorder="little",
        count=min(width, 8 * size),
    )
    return found.reshape(len(values), -1)


def _unpack(payloads: Payloads) -> NDArray[np.uint8]:
    return np.unpackbits(payloads, axis=1, bitorder="little")


def _join(bits: NDArray[np.uint8], *, signed: bool) -> NDArray[np.int64]:
    """Integers from their bits, the lowest first, along the last axis."""
    width = bits.shape[-1]
    padded = np.zeros((*bits.shape[:-1], _INT64_BITS), dtype=np.uint8)
    padded[..., :width] = bits[..., :_INT64_BITS]
    if signed and width < _INT64_BITS:
        padded[..., width:] = bits[..., -1:]
    if width > _INT64_BITS and (bits[..., _INT64_BITS:] != bits[..., _INT64_BITS - 1, None]).any():
        raise MachineFailed("exact sums must fit in 64 bits to be rows of a device")
    packed = np.packbits(padded, axis=-1, bitorder="little")
    return packed.view("<i8")[..., 0].astype(np.int64, copy=False)
