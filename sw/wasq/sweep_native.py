"""A block of columns rounded in turn by the compiled kernel, ``kernels/sweep.cpp``."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

import torch

from sw import native
from sw.format import SFx

#: The kernel's largest block.
MOST_COLUMNS: Final = 64


class _Arguments(ctypes.Structure):
    """``struct Arguments`` of ``kernels/sweep.cpp``."""

    _fields_ = (
        *((n, ctypes.c_void_p) for n in ("columns", "base", "aside", "scaled", "diagonal", "top")),
        *((n, ctypes.c_void_p) for n in ("values", "errors", "change", "chosen")),
        ("gain", ctypes.c_float),
        *((n, ctypes.c_int32) for n in ("width", "tries", "spread")),
        ("rows", ctypes.c_int64),
        ("format", native.Format),
        ("threads", ctypes.c_int32),
    )


def choose(
    columns: torch.Tensor,
    scaled: torch.Tensor,
    diagonal: torch.Tensor,
    form: SFx,
    limits: tuple[int, int, float],
    others: Mapping[str, torch.Tensor | None],
) -> bool:
    """As :func:`sw.wasq.sweep.choose`, if this applies; else nothing is done and it is False.

    Parameters
    ----------
    columns, scaled, diagonal, form
    limits : (tries, spread, gain)
    others : mapping of str to torch.Tensor or None
        By name, all contiguous.

    Raises
    ------
    ValueError
        If one of the tensors is not contiguous.
    """
    width, rows = columns.shape
    ours = columns.device.type == "cpu" and 0 < width <= MOST_COLUMNS and rows > 0
    library = native.library() if ours else None
    if library is None:
        return False
    given = {"columns": columns, "scaled": scaled, "diagonal": diagonal, **others}
    for name, tensor in given.items():
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, not of strides {tensor.stride()}")
    tries, spread, gain = limits
    arguments = _Arguments(
        **{name: None if t is None else t.data_ptr() for name, t in given.items()},
        gain=gain,
        width=width,
        tries=tries,
        spread=spread,
        rows=rows,
        format=native.Format.of(form),
        threads=torch.get_num_threads(),
    )
    library.sweep_columns(ctypes.byref(arguments))
    return True
