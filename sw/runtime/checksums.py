"""What a layer leaves behind, and its checksum: the same number on every back end."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from sw.words import widen


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """The result of one layer, as it leaves the array.

    Parameters
    ----------
    layer : str
    values : torch.Tensor
        ``[n, h, w, c]``: words of the machine's format (uint8 or uint16), or exact sums (int64).
    """

    layer: str
    values: torch.Tensor

    @property
    def exact(self) -> bool:
        """Whether the values are sums for the host, not words."""
        return self.values.dtype == torch.int64

    @property
    def checksum(self) -> int:
        """CRC-32 of the values in index order; see :func:`checksum`."""
        return checksum(self.values)


def checksum(values: torch.Tensor) -> int:
    """CRC-32 (as in zlib) of words or exact sums.

    Values are taken in index order of ``[n, h, w, c]``, c fastest, each little-endian: words of any
    width as two bytes, sums as eight in two's complement, float32 as its four.
    """
    if values.dtype in (torch.uint8, torch.uint16):
        array = widen(values).numpy().astype("<u2")
    elif values.dtype == torch.float32:
        array = values.contiguous().numpy().astype("<f4", copy=False)
    else:
        array = values.to(torch.int64).contiguous().numpy().astype("<i8", copy=False)
    return zlib.crc32(np.ascontiguousarray(array).data)
