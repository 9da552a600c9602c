"""Exact products by floating-point matrix multiplication, on any device, the way chosen by proof.

Operands are values of words: ``M * 2**(e - F)``. Within one element of the result all products are
multiples of ``2**(e_a + e_w - Fa - Fb)``, with the smallest exponents of its row and its column, so
a partial sum of K terms, in whatever order, is an integer multiple of that unit of magnitude at
most ``K * 2**(Fa + Fb + spread of the row + spread of the column)``. A type whose significand holds
it forms every partial sum exactly: binary32 to ``2**24``, binary64 to ``2**53``. A product of two
8-bit operands is exact in binary32 from bfloat16 operands, which is what tensor cores multiply.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch

from sw.drain import add_to_binary32
from sw.matmul import float32_is_full
from sw.wasq.weights import QuantizedWeight

#: Weights whose exponents lie within it, times rows within ``rounding.EXPONENT_LIMIT``, have sums
#: that binary32 neither overflows nor rounds as subnormals: 2**-(50 + 60 + 14) to 2**(110 + 16).
WEIGHT_LIMIT: Final = 60
_SINGLE_BITS: Final = 24
_DOUBLE_BITS: Final = 53
#: Below so many terms per exact binary32 product, binary64 is the faster way.
_LEAST_TERMS: Final = 256

_keep_wide: contextvars.ContextVar[bool] = contextvars.ContextVar("keep_wide", default=False)


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Within it, layers keep float64 copies of weights too, at eight bytes each."""
    token = _keep_wide.set(True)
    try:
        yield
    finally:
        _keep_wide.reset(token)


@dataclass(frozen=True, slots=True)
class Way:
    """How a product is formed.

    Parameters
    ----------
    dtype : torch.dtype
        Of the operands: bfloat16, float32 or float64.
    terms : int
        Along K per multiplication; sums of several are added in float64.
    """

    dtype: torch.dtype
    terms: int


def way(fraction_bits: int, widest: int, terms: int, spread: int, device: str) -> Way | None:
    """The fastest way that is proven exact, or None.

    Parameters
    ----------
    fraction_bits : int
        ``Fa + Fb``.
    widest : int
        The larger of both widths in bits.
    terms : int
        K.
    spread : int
        A bound on the spread of exponents within a row and within a column, added.
    device : str
        Its type.
    """
    if not spread and (single := (1 << _SINGLE_BITS) >> fraction_bits) >= min(terms, _LEAST_TERMS):
        if device == "cuda" and widest <= 8:
            return Way(torch.bfloat16, single)
        if float32_is_full():
            return Way(torch.float32, single)
    if fraction_bits + spread + max(terms - 1, 0).bit_length() <= _DOUBLE_BITS:
        return Way(torch.float64, terms)
    return None


@dataclass(slots=True, eq=False)
class Operand:
    """A weight made ready to be multiplied: its values, and what proofs ask of its exponents.

    Parameters
    ----------
    weight : QuantizedWeight
    """

    weight: QuantizedWeight
    spread: int = field(init=False)
    in_range: bool = field(init=False)
    _values: dict[torch.dtype, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        e = self.weight.exponents
        if self.weight.scale == "block" and e.numel():
            facts = torch.stack((e.amax(), e.amin(), (e.amax(-1) - e.amin(-1)).max())).tolist()
        else:
            facts = [int(e.max()), int(e.min()), 0] if e.numel() else [0, 0, 0]
        self.spread = facts[2]
        self.in_range = max(facts[0], -facts[1]) <= WEIGHT_LIMIT

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """The values ``[N, K]``, kept for the next call; float64 only within :func:`cached`."""
        found = self._values.get(dtype)
        if found is None:
            if dtype == torch.float32:
                found = self.weight.dequantize()
            else:
                found = self.values(torch.float32).to(dtype)
            if dtype == torch.bfloat16:
                self._values.pop(torch.float32, None)
            if dtype != torch.float64 or _keep_wide.get():
                self._values[dtype] = found
        return found


def multiply(
    a: torch.Tensor, b: torch.Tensor, how: Way, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """``a @ b + bias`` exactly, rounded once to binary32.

    Parameters
    ----------
    a, b : torch.Tensor
        Values ``[..., M, K]`` and ``[..., K, N]`` of ``how.dtype``.
    how : Way
        Proven for them.
    bias : torch.Tensor of float32 ``[N]``, optional
        Finite.
    """
    terms = a.shape[-1]
    if terms <= how.terms:
        total = _product(a, b)
        if total.dtype == torch.float32:  # exact so far: the addition is the one rounding
            return total if bias is None else total.add_(bias)
        return total.float() if bias is None else add_to_binary32(total, bias)
    parts = [
        (a[..., first : first + how.terms], b[..., first : first + how.terms, :])
        for first in range(0, terms, how.terms)
    ]
    if len(parts) == 2 and bias is None:
        return _product(*parts[0]).add_(_product(*parts[1]))
    wide = _product(*parts[0]).double()
    for part in parts[1:]:
        wide += _product(*part)
    return wide.float() if bias is None else add_to_binary32(wide, bias)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dtype != torch.bfloat16:
        with torch.autocast(a.device.type, enabled=False):
            return torch.matmul(a, b)
    # Partial sums meet in binary32, even where the library splits K.
    settings = torch.backends.cuda.matmul
    reduced = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        if a.dim() == 2:
            return torch.mm(a, b, out_dtype=torch.float32)
        return torch.bmm(a, b, out_dtype=torch.float32)
    finally:
        settings.allow_bf16_reduced_precision_reduction = reduced
