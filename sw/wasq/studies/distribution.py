"""Where the parameters of networks lie: inside [-1, 1] or not, below one ulp, at unity.

The published row of YOLOv5n (0.4210 % outside, 0.11 % sparse at SF16) is that of the network with
batch normalization fused into its convolutions, as its own library runs it; "outside" there counts
what lies beyond the largest value below unity, ``(2**F - 1) / 2**F``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from sw.wasq.finite import check_finite
from sw.wasq.studies.sources import Source

WIDTHS: Final = tuple(range(3, 17))
#: Powers of two of the histogram: bin k holds 2**k <= |v| < 2**(k + 1); the first also all below.
LOWEST, HIGHEST = -40, 15
#: Edges of the histogram of values, which are clamped to them.
EDGE: Final = 2.0
_BINS: Final = 160
#: Values that are looked at together, so that memory stays small.
_CHUNK: Final = 1 << 22


@dataclass(slots=True)
class Counts:
    """Counts of values; they add up.

    Parameters
    ----------
    values, zeros, outside : int
        All, those that are 0, those beyond [-1, 1].
    low, high : float
        Smallest and largest value.
    sparse : list of int
        By width: below one ulp, ``2**-F``, zeros included.
    unity : list of int
        By width: what becomes 1 though it is not beyond it, ``(2**F - 1) / 2**F <= |v| <= 1``.
    powers : torch.Tensor of int64
        Histogram of floor(log2 |v|), without zeros.
    shape : torch.Tensor of int64
        Histogram of values in 160 bins from -2 to 2.
    """

    values: int
    zeros: int
    outside: int
    low: float
    high: float
    sparse: list[int]
    unity: list[int]
    powers: torch.Tensor
    shape: torch.Tensor

    def __add__(self, other: Counts) -> Counts:
        def both(a: list[int], b: list[int]) -> list[int]:
            return [x + y for x, y in zip(a, b, strict=True)]

        return Counts(
            self.values + other.values,
            self.zeros + other.zeros,
            self.outside + other.outside,
            min(self.low, other.low),
            max(self.high, other.high),
            both(self.sparse, other.sparse),
            both(self.unity, other.unity),
            self.powers + other.powers,
            self.shape + other.shape,
        )

    def row(self) -> dict[str, Any]:
        """Percentages as plain data, by width where they depend on it."""

        def percent(count: int) -> float:
            return 100 * count / self.values

        return {
            "values": self.values,
            "min": self.low,
            "max": self.high,
            "outside": percent(self.outside),
            "inside": percent(self.values - self.outside),
            "zero": percent(self.zeros),
            "widths": {
                str(bits): {
                    "sparse": percent(self.sparse[place]),
                    "unity": percent(self.unity[place]),
                    "beyond": percent(self.outside + self.unity[place]),
                }
                for place, bits in enumerate(WIDTHS)
            },
        }


def count(tensor: torch.Tensor, name: str = "tensor") -> Counts:
    """Count the values of a tensor, exactly: every limit is a power of two or compared in float64.

    Parameters
    ----------
    tensor : torch.Tensor of a float type
        Not empty.
    name : str
        For errors.

    Raises
    ------
    ValueError
        If it is empty, or a value is NaN or infinite.
    """
    if not tensor.numel():
        raise ValueError(f"{name} must have values, not none")
    parts = [_part(part, name) for part in torch.split(tensor.detach().flatten(), _CHUNK)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _part(values: torch.Tensor, name: str) -> Counts:
    values = values.double()
    check_finite(values, name)
    magnitudes = values.abs()
    nonzero = magnitudes[magnitudes > 0]
    # frexp: nonzero = f * 2**e with 0.5 <= f < 1, so floor(log2) is e - 1.
    powers = (torch.frexp(nonzero).exponent.long() - 1).clamp(LOWEST, HIGHEST) - LOWEST
    zeros = values.numel() - nonzero.numel()
    near = magnitudes[(magnitudes >= 0.5) & (magnitudes <= 1)]
    limits = [1 - 2.0 ** -(bits - 1) for bits in WIDTHS]
    histogram = torch.bincount(powers, minlength=HIGHEST - LOWEST + 1)
    below = [zeros + int(histogram[: -(bits - 1) - LOWEST].sum()) for bits in WIDTHS]
    bins = ((values.clamp(-EDGE, EDGE) + EDGE) * (_BINS / (2 * EDGE))).long().clamp(max=_BINS - 1)
    return Counts(
        values=values.numel(),
        zeros=zeros,
        outside=int((magnitudes > 1).sum()),
        low=float(values.min()),
        high=float(values.max()),
        sparse=below,
        unity=[int((near >= limit).sum()) for limit in limits],
        powers=histogram.cpu(),
        shape=torch.bincount(bins, minlength=_BINS).cpu(),
    )


def study(source: Source) -> dict[str, Any]:
    """The row of a network, with its tensors and histograms.

    Returns
    -------
    dict
        ``study``, ``model``, ``form``, ``sha256``, the figures of :meth:`Counts.row`, ``tensors``,
        ``touched`` (percent of tensors with a value outside), ``matrices`` and
        ``matrices_touched`` (those of two dimensions and more), ``published``, ``histogram`` (by
        power of two, from :data:`LOWEST`), ``shape``, ``per_tensor``.
    """
    counted = {name: count(tensor, name) for name, tensor in source.tensors.items()}
    matrices = [name for name, tensor in source.tensors.items() if tensor.dim() > 1]
    total = next(iter(counted.values()))
    for other in list(counted.values())[1:]:
        total = total + other
    return {
        **{"study": "distribution", "model": source.name, "form": source.form},
        **{"sha256": source.sha256, **total.row(), "tensors": len(counted)},
        "touched": _touched(counted, list(counted)),
        **{"matrices": len(matrices), "matrices_touched": _touched(counted, matrices)},
        "published": source.published,
        "histogram": {"lowest": LOWEST, "counts": total.powers.tolist()},
        "shape": {"edge": EDGE, "counts": total.shape.tolist()},
        "per_tensor": [
            {"tensor": name, "shape": list(source.tensors[name].shape), **counts.row()}
            for name, counts in counted.items()
        ],
    }


def _touched(counted: Mapping[str, Counts], names: list[str]) -> float:
    """Percent of these tensors that the published rule would leave in their native type."""
    touched = sum(1 for name in names if counted[name].outside)
    return 100 * touched / len(names) if names else math.nan
