"""numpy arrays and torch tensors as one thing: numpy is viewed as torch without a copy."""

from __future__ import annotations

from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import torch

Array: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"
ArrayT = TypeVar("ArrayT", bound="np.ndarray[Any, Any] | torch.Tensor")


def to_tensor(name: str, array: Array) -> torch.Tensor:
    """A torch view of ``array``; a copy only where torch cannot express numpy's layout.

    Raises
    ------
    TypeError
        If ``array`` is neither a numpy array nor a torch tensor, or its dtype has no torch twin.
    """
    if isinstance(array, torch.Tensor):
        return array.detach()
    if not isinstance(array, np.ndarray):
        kind = type(array).__name__
        raise TypeError(f"{name} must be a numpy array or a torch tensor, not {kind}")
    name_of = array.dtype.name
    if name_of in ("bfloat16", "float8_e4m3fn"):  # ml_dtypes: not numpy's own
        bits = array.view(np.uint16 if name_of == "bfloat16" else np.uint8)
        return to_tensor(name, bits).view(getattr(torch, name_of))
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise TypeError(f"{name} must have a dtype that torch knows, not {array.dtype}") from None


def like(reference: ArrayT, tensor: torch.Tensor) -> ArrayT:
    """``tensor`` as the kind of array that ``reference`` is."""
    if isinstance(reference, torch.Tensor):
        return cast(ArrayT, tensor)
    if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn):
        import ml_dtypes  # an optional dependency: numpy itself has neither type

        name = str(tensor.dtype).removeprefix("torch.")
        bits = tensor.view(torch.uint16 if name == "bfloat16" else torch.uint8)
        return cast(ArrayT, bits.numpy().view(getattr(ml_dtypes, name)))
    return cast(ArrayT, tensor.numpy())


def integer_tensor(name: str, value: int | Array, device: torch.device) -> torch.Tensor:
    """Exponents or parts of a shift as int64 on ``device``; 0-dimensional for a plain int."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    tensor = torch.tensor(value) if isinstance(value, int) else to_tensor(name, value)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, not {tensor.dtype}")
    return tensor.to(device=device, dtype=torch.int64)


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """``2**exponents`` for -1022 to 1023 as float64, from its bits: no library's rounding in it."""
    return ((exponents.to(torch.int64) + 1023) << 52).contiguous().view(torch.float64)
