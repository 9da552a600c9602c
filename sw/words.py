"""Words as tensors hold them: storage types, checks, operands, the rounding of magnitudes."""

from __future__ import annotations

import torch

from sw.arrays import Array, to_tensor
from sw.format import ROUNDINGS, Rounding, SFx


def word_dtype(format: SFx) -> torch.dtype:
    """The storage type of words: ``torch.uint8`` up to 8 bits, else ``torch.uint16``."""
    return torch.uint8 if format.bits <= 8 else torch.uint16


def as_words(name: str, words: Array, format: SFx) -> torch.Tensor:
    """Words as a contiguous tensor of the format's storage type; other integers are checked."""
    tensor = to_tensor(name, words)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold words, not {tensor.dtype}")
    if tensor.dtype != word_dtype(format):
        wide = widen(tensor)
        refuse_words(name, int(((wide < 0) | (wide >> format.bits != 0)).sum()), format)
        tensor = narrow(wide, format)
    return tensor


def check_words(name: str, words: torch.Tensor, format: SFx) -> None:
    """Refuse words outside the format, saying how many."""
    refuse_words(name, int((widen(words) >> format.bits != 0).sum()), format)


def check_rounding(rounding: str) -> None:
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, not {rounding!r}")


def widen(words: torch.Tensor) -> torch.Tensor:
    """Words as int32 (int64 for wider integers); torch has few operations on uint16 itself."""
    if words.dtype == torch.uint16:
        return words.view(torch.int16).to(torch.int32) & 0xFFFF
    return words.to(torch.int64 if words.dtype.itemsize > 2 else torch.int32)


def narrow(words: torch.Tensor, format: SFx) -> torch.Tensor:
    """Integers that are known to be words as the format's storage type."""
    if format.bits <= 8:
        return words.to(torch.uint8)
    return words.to(torch.int16).view(torch.uint16)  # keeps the low 16 bits


def operands(words: torch.Tensor, format: SFx) -> torch.Tensor:
    """The signed operands M of words, int32."""
    wide = widen(words)
    magnitude = wide & format.max_code
    magnitude += unity_step(magnitude, format)
    return torch.where(wide & format.sign_bit != 0, -magnitude, magnitude)


def round_halves(halves: torch.Tensor, format: SFx, rounding: Rounding) -> torch.Tensor:
    """Magnitudes for integer half units that saturate at ``2 * max_code``: steps 2 and 3."""
    if rounding == "truncate":
        return halves >> 1
    magnitude = (halves + 1) >> 1
    if format.unity:  # only saturation may produce all ones, rounding stops one short
        magnitude -= (halves == 2 * format.max_code - 1).to(magnitude.dtype)
    return magnitude


def unity_step(magnitude: torch.Tensor, format: SFx) -> torch.Tensor | int:
    """What unity adds to a magnitude to make it the operand: 1 for all ones, else 0."""
    return (magnitude == format.max_code).to(magnitude.dtype) if format.unity else 0


def refuse_words(name: str, count: int, format: SFx) -> None:
    if count:
        limit = (1 << format.bits) - 1
        raise ValueError(
            f"{name} must hold words from 0 to {limit} for {format}, not {count} others"
        )
