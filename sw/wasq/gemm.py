"""Exact products by floating-point matrix multiplication, on any device, the way chosen by proof.

Operands are values of words: ``M * 2**(e - F)``. Within one element of the result all products are
multiples of ``2**(e_a + e_w - Fa - Fb)``, with the smallest exponents of its row and its column, so
a partial sum of K terms, in whatever order, is an integer multiple of that unit of magnitude at
most ``K * 2**(Fa + Fb + spread of the row + spread of the column)``. A type whose significand holds
it forms every partial sum exactly: binary32 to ``2**24``, binary64 to ``2**53``. A product of two
8-bit operands is exact in binary32 from bfloat16 operands, which is what tensor cores multiply. Of
a weight that is known, the largest sum of magnitudes in a row is a closer bound than K times the
largest word: no partial sum exceeds it times ``2**Fa``.

Where exponents differ within a row, 32 terms of 8-bit operands still are exact in binary32 (19
bits), and their sums in binary64: one Triton kernel does both (:mod:`sw.wasq.gemm_triton`).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from sw.drain import add_to_binary32, add_to_odd_binary64, to_bfloat16
from sw.matmul import float32_is_full
from sw.scale import BLOCK
from sw.wasq import gemm_triton
from sw.wasq.weights import QuantizedWeight

#: Weights whose exponents lie within it, times rows within ``rounding.EXPONENT_LIMIT``, have sums
#: that binary32 neither overflows nor rounds as subnormals: 2**-(50 + 60 + 14) to 2**(110 + 16).
WEIGHT_LIMIT: Final = 60
#: The same with blocks whose exponents lie as far apart as they may: no unit of a product of two
#: 8-bit words is a subnormal of binary32 from this exponent of weights on.
WEIGHT_FLOOR: Final = -47
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


def way(
    fraction_bits: int,
    widest: int,
    terms: int,
    spread: int,
    device: str,
    *,
    largest_sum: Callable[[], float] | None = None,
    grouped: bool = False,
) -> Way | None:
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
    largest_sum : callable, optional
        Gives a bound on all partial sums of products, in units of ``2**-(Fa + Fb)`` at exponents 0.
    grouped : bool
        Whether both operands are matrices whose exponents let blocks be multiplied apart.
    """
    single = (1 << _SINGLE_BITS) >> fraction_bits
    if not spread and single >= min(terms, _LEAST_TERMS):
        if terms > single and largest_sum is not None and largest_sum() <= 1 << _SINGLE_BITS:
            single = terms
        if device == "cuda" and widest <= 8:
            return Way(torch.bfloat16, single)
        if float32_is_full():
            return Way(torch.float32, single)
    if fraction_bits + spread + max(terms - 1, 0).bit_length() <= _DOUBLE_BITS:
        if grouped and widest <= 8 and gemm_triton.serves(device):
            return Way(torch.bfloat16, BLOCK)
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
    #: What :mod:`sw.wasq.exact` decided for a configuration, kept for the next call.
    plan: Any = field(init=False, default=None)
    lowest: int = field(init=False)
    _sum: float | None = field(init=False, default=None)
    _values: dict[torch.dtype, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        e = self.weight.exponents
        if self.weight.scale == "block" and e.numel():
            facts = torch.stack((e.amax(), e.amin(), (e.amax(-1) - e.amin(-1)).max())).tolist()
        else:
            facts = [int(e.max()), int(e.min()), 0] if e.numel() else [0, 0, 0]
        self.spread = facts[2]
        self.lowest = facts[1]
        self.in_range = max(facts[0], -facts[1]) <= WEIGHT_LIMIT

    def largest_sum(self) -> float:
        """Of a row's magnitudes as integers, where it has one exponent; looked for once."""
        if self._sum is None:
            values, weight = self.values(torch.float32), self.weight
            sums = torch.linalg.vector_norm(values, 1, dim=1, dtype=torch.float64)
            units = torch.exp2(weight.format.fraction_bits - weight.exponents.double())
            self._sum = float((sums * units.reshape(-1)).amax()) if sums.numel() else 0.0
        return self._sum

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
    a: torch.Tensor,
    b: torch.Tensor,
    how: Way,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """``a @ b + bias`` exactly, rounded once.

    Parameters
    ----------
    a, b : torch.Tensor
        Values ``[..., M, K]`` and ``[..., K, N]`` of ``how.dtype``.
    how : Way
        Proven for them.
    bias : torch.Tensor of float32 ``[N]``, optional
        Finite.
    dtype : torch.dtype
        Of the result: float32 or bfloat16.
    """
    terms = a.shape[-1]
    if terms <= how.terms:
        if bias is None and dtype == how.dtype == torch.bfloat16:
            return _product(a, b, dtype)
        return _rounded(_product(a, b), bias, dtype)
    if a.dim() == 2 and how.dtype == torch.bfloat16 and gemm_triton.serves(a.device.type):
        return gemm_triton.product(a, b.T, how.terms, bias, dtype)
    parts = [
        (a[..., first : first + how.terms], b[..., first : first + how.terms, :])
        for first in range(0, terms, how.terms)
    ]
    if len(parts) == 2 and bias is None and dtype == torch.float32:
        return _product(*parts[0]).add_(_product(*parts[1]))
    wide = _product(*parts[0]).double()
    for part in parts[1:]:
        wide += _product(*part)
    return _rounded(wide, bias, dtype)


def _rounded(exact: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Exact sums, float32 or float64, and a bias, rounded once."""
    single = exact.dtype == torch.float32
    if dtype == torch.float32:
        if single:  # exact so far: the addition is the one rounding
            return exact if bias is None else exact.add_(bias)
        return exact.float() if bias is None else add_to_binary32(exact, bias)
    if single and bias is None:
        return exact.to(dtype)
    wide = exact.double()
    return to_bfloat16(wide if bias is None else add_to_odd_binary64(wide, bias))


def _product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """float32 and float64 in their own type; bfloat16 summed in binary32 and rounded once."""
    if torch.is_autocast_enabled(a.device.type):
        with torch.autocast(a.device.type, enabled=False):
            return _product(a, b, dtype)
    if a.dtype != torch.bfloat16:
        return torch.matmul(a, b)
    # Partial sums meet in binary32, even where the library splits K.
    settings = torch.backends.cuda.matmul
    reduced = settings.allow_bf16_reduced_precision_reduction
    if reduced:
        settings.allow_bf16_reduced_precision_reduction = False
    try:
        multiplied = torch.mm if a.dim() == 2 else torch.bmm
        return multiplied(a, b) if dtype == a.dtype else multiplied(a, b, out_dtype=dtype)
    finally:
        if reduced:
            settings.allow_bf16_reduced_precision_reduction = reduced
