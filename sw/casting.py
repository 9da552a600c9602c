"""Which float types carry a format: the published casting table and the proof of any other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from sw.format import SFx


def carrier(format: SFx) -> torch.dtype:
    """The published casting table: a float type that holds every value of the format exactly.

    Returns
    -------
    torch.dtype
        ``float8_e4m3fn`` for SF3-SF4, ``bfloat16`` for SF5-SF8, ``float16`` for SF9-SF11,
        ``float32`` for SF12-SF16.
    """
    if format.bits <= 4:
        return torch.float8_e4m3fn
    if format.bits <= 8:
        return torch.bfloat16
    return torch.float16 if format.bits <= 11 else torch.float32


def float_dtype(dtype: Any) -> torch.dtype:
    """A torch or numpy float type as torch's; float32 for None."""
    if dtype is None:
        return torch.float32
    if not isinstance(dtype, torch.dtype):
        dtype = getattr(torch, np.dtype(dtype).name, dtype)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a float type, not {dtype!r}")
    return dtype


def check_carried(format: SFx, exponents: torch.Tensor, dtype: torch.dtype) -> None:
    """Every value is ``M * 2**(e - F)`` with M below ``2**F``, or ``2**e``: F significant bits."""
    information = torch.finfo(dtype)
    precision = 1 - round(math.log2(information.eps))
    if precision < format.fraction_bits:
        raise ValueError(f"dtype must carry {format.fraction_bits} fraction bits, not {dtype}")
    check_range(format, exponents, dtype)
    least = math.frexp(information.smallest_normal)[1] - precision + format.fraction_bits
    if exponents.numel() and int(exponents.min()) < least:
        raise ValueError(
            f"exponent must be at least {least} for {dtype} to carry {format}, "
            f"not {int(exponents.min())}"
        )


def check_range(format: SFx, exponents: torch.Tensor, dtype: torch.dtype) -> None:
    """The largest value, ``M * 2**(e - F)`` with all ones, must not overflow."""
    largest = torch.finfo(dtype).max
    top = 1.0 if format.unity else format.max_code / format.sign_bit
    fraction, exponent = math.frexp(largest)
    most = exponent if fraction >= top else exponent - 1
    if exponents.numel() and int(exponents.max()) > most:
        raise ValueError(
            f"exponent must be at most {most} for {dtype} to carry {format}, "
            f"not {int(exponents.max())}"
        )
