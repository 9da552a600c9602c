"""Dense storage: x bits per word, nothing between words.

Little-endian bit order: word i occupies bits ``i * x .. i * x + x - 1`` of the stream, its least
significant bit first, and bit n of the stream is bit ``n % 8`` of byte ``n // 8``. The last byte is
filled with zeros.
"""

from __future__ import annotations

import torch

from sw.arrays import ArrayT, like, to_tensor
from sw.format import SFx
from sw.words import as_words, check_words, narrow, widen


def pack(words: ArrayT, format: SFx) -> ArrayT:
    """Words as a dense stream of bytes.

    Parameters
    ----------
    words : array of words
        Any shape, taken in index order.

    Returns
    -------
    array of uint8 ``[ceil(words * bits / 8)]``
    """
    tensor = as_words("words", words, format)
    check_words("words", tensor, format)
    flat = widen(tensor.reshape(-1))
    # Eight words fill `bits` bytes exactly, so groups of eight are independent.
    groups = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).reshape(-1, 8)
    packed = torch.zeros((groups.shape[0], format.bits), dtype=torch.int32, device=flat.device)
    for word in range(8):
        position = word * format.bits
        shifted = groups[:, word] << position % 8  # at most 16 + 7 bits
        for byte in range(position // 8, (position + format.bits - 1) // 8 + 1):
            packed[:, byte] |= (shifted >> 8 * (byte - position // 8)) & 0xFF
    return like(words, packed.reshape(-1)[: _packed_bytes(flat.numel(), format)].to(torch.uint8))


def unpack(packed: ArrayT, format: SFx, count: int) -> ArrayT:
    """The first ``count`` words of a dense stream: the inverse of :func:`pack`.

    Parameters
    ----------
    packed : array of uint8 ``[ceil(count * bits / 8)]``

    Returns
    -------
    array of words ``[count]``

    Raises
    ------
    ValueError
        If the stream does not have exactly the bytes of ``count`` words.
    """
    tensor = to_tensor("packed", packed).reshape(-1)
    if tensor.dtype != torch.uint8:
        raise TypeError(f"packed must be uint8, not {tensor.dtype}")
    if count < 0 or tensor.numel() != _packed_bytes(count, format):
        wanted = _packed_bytes(max(count, 0), format)
        raise ValueError(f"packed must have {wanted} bytes for {count} words, not {tensor.numel()}")
    padding = -(-count // 8) * format.bits - tensor.numel()
    groups = torch.nn.functional.pad(tensor.to(torch.int32), (0, padding)).reshape(-1, format.bits)
    words = torch.zeros((groups.shape[0], 8), dtype=torch.int32, device=tensor.device)
    for word in range(8):
        position = word * format.bits
        for byte in range(position // 8, (position + format.bits - 1) // 8 + 1):
            words[:, word] |= groups[:, byte] << 8 * (byte - position // 8)
        words[:, word] = (words[:, word] >> position % 8) & ((1 << format.bits) - 1)
    return like(packed, narrow(words.reshape(-1)[:count].contiguous(), format))


def _packed_bytes(count: int, format: SFx) -> int:
    return (count * format.bits + 7) // 8
