"""Activations to the values of their words, in one pass and without waiting for a device.

The values are ``decode(encode(x))`` bit for bit (tested); they stand for the words where a product
of floats is proven to be the product of the words (:mod:`sw.wasq.gemm`).
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass, field
from typing import Final

import torch

from sw import native
from sw.format import SFx
from sw.scale import BLOCK, MAX_SPREAD
from sw.wasq import rounding_triton
from sw.wasq.config import ActivationScale

#: Rows whose exponent lies within it have values, products and sums that binary32 holds; see gemm.
EXPONENT_LIMIT: Final = 50
_INFINITY: Final = 0x7F800000


class _Report(ctypes.Structure):
    """``struct Report`` of ``kernels/rounding.cpp``."""

    _fields_ = (("bad_rows", ctypes.c_int64),)


class Last:
    """The rows rounded last, by the very tensor that was read and how, unless it has changed since.

    Queries, keys and values read one tensor, and so do gates and what they multiply. Tensors of
    ``torch.inference_mode`` do not tell changes, and are rounded each time.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[torch.Tensor], int, object, torch.Tensor] | None = None

    def __deepcopy__(self, memo: object) -> Last:
        return Last()

    def __reduce__(self) -> tuple[type[Last], tuple[()]]:
        return Last, ()

    def find(self, x: torch.Tensor, how: object) -> torch.Tensor | None:
        """What is kept for a tensor."""
        known = self._known
        if known is None or known[0]() is not x or known[2] != how or known[1] != x._version:
            return None
        return known[3]

    def keep(self, x: torch.Tensor, how: object, values: torch.Tensor) -> None:
        """Keep it until the next, or until the pass ends."""
        if not x.is_inference():
            self._known = weakref.ref(x), x._version, how, values

    def forget(self) -> None:
        """Keep nothing."""
        self._known = None


@dataclass(slots=True)
class Faults:
    """Rows that could not be rounded, counted per layer on their device and looked at once.

    A row that holds NaN or infinity, or whose exponent lies beyond :data:`EXPONENT_LIMIT`, becomes
    NaN, so that nothing computed from it passes for a result before :meth:`check` names the layer.
    """

    counts: dict[tuple[str, torch.device], torch.Tensor] = field(default_factory=dict)
    #: What the layer before this one read, for a layer that reads the same.
    last: Last = field(default_factory=lambda: Last())

    def counter(self, name: str, device: torch.device) -> torch.Tensor:
        """The int32 ``[1]`` on this device that counts a layer's rows."""
        key = (name, device)
        if key not in self.counts:
            with torch.inference_mode(False):  # it is written to in either mode
                self.counts[key] = torch.zeros(1, dtype=torch.int32, device=device)
        return self.counts[key]

    def check(self) -> None:
        """End a pass: wait for the device and refuse what was counted.

        Nothing is waited for while a CUDA graph is captured; who replays it checks afterwards.

        Raises
        ------
        ValueError
            Naming the first layer and how many of its rows.
        """
        self.last.forget()
        on_cuda = any(device.type == "cuda" for _, device in self.counts)
        if not self.counts or (on_cuda and torch.cuda.is_current_stream_capturing()):
            return
        found = torch.cat([c.to("cpu", non_blocking=False) for c in self._gathered()])
        names = [name for name, _ in self.counts]
        if not bool(found.any()):
            return
        for count in self.counts.values():
            count.zero_()
        first = int(found.nonzero()[0])
        raise ValueError(
            f"input of {names[first]} must hold finite numbers whose rows reach between "
            f"2**-{EXPONENT_LIMIT} and 2**{EXPONENT_LIMIT}, not others in {int(found[first])} rows"
        )

    def _gathered(self) -> list[torch.Tensor]:
        """One tensor per device, in the order of the counters where there is one device."""
        devices = {device for _, device in self.counts}
        if len(devices) == 1:
            return [torch.cat(list(self.counts.values()))]
        return list(self.counts.values())


def round_rows(
    x: torch.Tensor,
    form: SFx,
    scale: ActivationScale,
    static: torch.Tensor | None,
    dtype: torch.dtype,
    faults: torch.Tensor | None,
) -> torch.Tensor | None:
    """Round activations to nearest.

    Parameters
    ----------
    x : torch.Tensor of float32 or bfloat16 ``[M, K]``
    form : SFx
    scale : {"none", "tensor", "token", "block"}
    static : torch.Tensor of int64, optional
        Calibrated exponents, ``[]`` or ``[B]``.
    dtype : torch.dtype
        float32 or float64; bfloat16 for formats up to 8 bits.
    faults : torch.Tensor of int32 ``[1]``, optional
        Where a device counts rows that it cannot round; those become NaN.

    Returns
    -------
    torch.Tensor ``[M, K]`` of ``dtype``, or None
        None, on the CPU or without ``faults``, if a row cannot be rounded.
    """
    x = x.contiguous()
    kind = x.device.type
    fused = kind == "cuda" and rounding_triton.is_available()
    if not fused:
        x = x.float()
    given = _given(x, form, scale, static)
    length = BLOCK if scale == "block" else max(x.shape[1], 1)
    library = native.library() if kind == "cpu" else None
    if library is not None:
        return _native(library, x, form, length, given, dtype)
    counter = faults
    if counter is None:
        counter = torch.zeros(1, dtype=torch.int32, device=x.device)
    if fused:
        values = rounding_triton.round_rows(
            x, form, length, given, dtype, counter, EXPONENT_LIMIT, MAX_SPREAD
        )
    else:
        values = _plain(x, form, length, given, dtype, counter)
    if faults is None and int(counter):
        return None
    return values


def _given(
    x: torch.Tensor, form: SFx, scale: ActivationScale, static: torch.Tensor | None
) -> torch.Tensor | None:
    """Exponents that hold for all rows, int32 ``[1]`` or ``[B]``; None: each row finds its own."""
    if scale == "none":
        return torch.zeros(1, dtype=torch.int32, device=x.device)
    if static is not None:
        return static.reshape(-1).to(torch.int32)
    if scale == "tensor":
        bits = x.float().view(torch.int32) & 0x7FFFFFFF
        top = bits.amax() if bits.numel() else bits.new_zeros(())
        return _covering(top, form).reshape(1)
    return None


def _covering(bits: torch.Tensor, form: SFx) -> torch.Tensor:
    """The smallest e that covers magnitudes, from their bits, int32; beyond any limit for inf."""
    e = (bits >> 23) - 126
    if form.unity:
        e = e - (bits & 0x7FFFFF == 0).to(torch.int32)
    return torch.where(bits == 0, 0, e)


def _native(
    library: ctypes.CDLL,
    x: torch.Tensor,
    form: SFx,
    length: int,
    given: torch.Tensor | None,
    dtype: torch.dtype,
) -> torch.Tensor | None:
    values = torch.empty(x.shape, dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    report = _Report()
    function = getattr(library, f"round_rows_{values.dtype}".replace("torch.", ""))
    function(
        native.pointer(x),
        native.pointer(values),
        *(ctypes.c_long(size) for size in (*x.shape, length)),
        None if given is None else native.pointer(given.contiguous()),
        ctypes.byref(native.Format.of(form)),
        MAX_SPREAD,
        EXPONENT_LIMIT,
        native.threads(),
        ctypes.byref(report),
    )
    return None if report.bad_rows else values.to(dtype)


def round_at(x: torch.Tensor, form: SFx, e: torch.Tensor) -> torch.Tensor:
    """Values of the words of float32 at exponents -100 to 100 that broadcast to them.

    NaN gives 0; nothing is checked, and no device waited for.
    """
    e = e.to(torch.int32)
    up = ((form.fraction_bits + 1 - e + 127) << 23).view(torch.float32)
    down = ((e - form.fraction_bits + 127) << 23).view(torch.float32)
    halves = (x.abs() * up).nan_to_num_(0.0).clamp_(max=2.0 * form.max_code).to(torch.int32)
    magnitude = (halves + 1) >> 1
    if form.unity:
        magnitude -= (halves == 2 * form.max_code - 1).to(torch.int32)
        magnitude += (magnitude == form.max_code).to(torch.int32)
    return torch.where(x < 0, -magnitude, magnitude).to(torch.float32) * down


def _plain(
    x: torch.Tensor,
    form: SFx,
    length: int,
    given: torch.Tensor | None,
    dtype: torch.dtype,
    faults: torch.Tensor,
) -> torch.Tensor:
    rows, terms = x.shape
    bits = x.view(torch.int32) & 0x7FFFFFFF
    if given is None:
        padded = torch.nn.functional.pad(bits, (0, -terms % length))
        found = _covering(padded.reshape(rows, -1, length).amax(-1), form)
    else:
        found = given.reshape(1, -1)
    top = found.amax(-1, keepdim=True)
    found = torch.maximum(found, top - MAX_SPREAD)
    bad = (top.abs() > EXPONENT_LIMIT) | (bits > _INFINITY).any(-1, keepdim=True)
    faults += bad.sum().to(torch.int32)
    e = found.repeat_interleave(length, -1)[:, :terms].clamp(-100, 100)
    return round_at(x, form, e).masked_fill_(bad, float("nan")).to(dtype)
