"""A law through the points of the scaling study, and how well it tells points it has not seen.

``ln P = E + A n^-alpha + B c^-beta + D n^-delta 2^(-gamma x)``: an irreducible part and one falling
power per size, context and width, as in J. Hoffmann et al., "Training Compute-Optimal Large
Language Models", arXiv:2203.15556, there of the loss, which ln P is. What a width costs falls with
the size, as in T. Kumar et al., "Scaling Laws for Precision", arXiv:2411.04330. For given exponents
the rest is linear least squares; exponents are found on a grid that is refined around its best
point (variable projection: G. Golub, V. Pereyra, 1973), so that there is no starting point to
choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Lowest and highest alpha, beta, gamma and delta; points of the grid per exponent.
_BOUNDS: Final = ((0.02, 2.0), (0.02, 3.0), (0.1, 3.0), (0.02, 2.0))
_GRID: Final = 7
_REFINEMENTS: Final = 8
#: Added to the normal equations' diagonal, relative to it, while exponents are ranked.
_RIDGE: Final = 1e-12
#: A size that terms are relative to, so that coefficients are of the order of 1.
_UNIT: Final = 1e6

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Law:
    """``ln P = E + A (n / 10^6)^-alpha + B c^-beta + D (n / 10^6)^-delta 2^(-gamma x)``.

    Parameters
    ----------
    E, A, B, D, alpha, beta, gamma, delta : float
    error : float
        Root mean square of ln P over the points fitted.
    explained : float
        Share of the variance of ln P.
    points : int
    """

    E: float
    A: float
    B: float
    D: float
    alpha: float
    beta: float
    gamma: float
    delta: float
    error: float
    explained: float
    points: int

    def __call__(self, size: float, context: float, bits: float) -> float:
        """The perplexity."""
        return math.exp(
            self.E
            + self.A * (size / _UNIT) ** -self.alpha
            + self.B * context**-self.beta
            + self.D * (size / _UNIT) ** -self.delta * 2 ** (-self.gamma * bits)
        )

    def to_json(self) -> dict[str, float]:
        """As plain data."""
        return asdict(self)


def fit(rows: Sequence[Row]) -> Law:
    """The law with the least squared error of ln P.

    Parameters
    ----------
    rows : sequence of mapping
        With ``size``, ``context``, ``bits`` and ``perplexity``.

    Raises
    ------
    ValueError
        If there are fewer than 9 rows for the 8 numbers of the law, or one is not finite.
    """
    if len(rows) < 9:
        raise ValueError(f"rows must be at least 9 to fit a law, not {len(rows)}")
    n, c, x, p = (_column(rows, name) for name in ("size", "context", "bits", "perplexity"))
    y = np.log(p)
    if not np.isfinite(y).all():
        raise ValueError("perplexity must be finite and above 0 in every row")
    centres = [math.sqrt(low * high) for low, high in _BOUNDS]
    reach = [math.log(high / low) / 2 for low, high in _BOUNDS]
    best: tuple[float, Sequence[float]] | None = None
    for _ in range(_REFINEMENTS):
        axes = [
            np.clip(centre * np.exp(np.linspace(-r, r, _GRID)), low, high)
            for centre, r, (low, high) in zip(centres, reach, _BOUNDS, strict=True)
        ]
        chosen = np.array(list(product(*axes)))
        errors = _errors(_terms(n, c, x, chosen), y)
        least = int(errors.argmin())
        if best is None or errors[least] < best[0]:
            best = float(errors[least]), chosen[least].tolist()
        centres, reach = list(best[1]), [r * 2.5 / _GRID for r in reach]
    assert best is not None
    terms = _terms(n, c, x, np.array([best[1]]))[0]
    found = np.asarray(np.linalg.lstsq(terms, y, rcond=1e-10)[0], np.float64)
    error = float(np.square(terms @ found - y).sum())
    total = float(np.square(y - y.mean()).sum())
    explained = 1 - error / total if total else 1.0
    rms = math.sqrt(error / len(rows))
    e, a, b, d = found.tolist()
    alpha, beta, gamma, delta = best[1]
    return Law(e, a, b, d, alpha, beta, gamma, delta, rms, explained, len(rows))


def out_of_sample(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Fit without the largest size, the longest contexts, or the narrowest width; tell those.

    Returns
    -------
    list of dict
        ``held_out``, ``points``, ``error`` (mean relative error of the perplexity there) and
        ``naive``, that of the mean of ln P by width instead of a law.
    """
    largest = max(row["size"] for row in rows)
    longest = sorted({row["context"] for row in rows})[-2:]
    narrowest = min(row["bits"] for row in rows)
    parts: list[tuple[str, Callable[[Row], bool]]] = [
        (f"largest model, {largest:,} parameters", lambda row: row["size"] == largest),
        (f"contexts {' and '.join(map(str, longest))}", lambda row: row["context"] in longest),
        (f"narrowest width, {narrowest} bits", lambda row: row["bits"] == narrowest),
    ]
    found = []
    for name, is_held in parts:
        held = [row for row in rows if is_held(row)]
        kept = [row for row in rows if not is_held(row)]
        if len(kept) < 9 or not held:
            continue
        law = fit(kept)
        told = [law(row["size"], row["context"], row["bits"]) for row in held]
        found.append(
            {
                **{"held_out": name, "points": len(held), "error": _relative(told, held)},
                "naive": _relative([_mean(kept, row["bits"]) for row in held], held),
            }
        )
    return found


def minima(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Where perplexity is lowest over context, for every model, width and way of making windows.

    Returns
    -------
    list of dict
        ``mode``, ``size``, ``bits``, ``context`` (of the lowest), ``perplexity``, and ``longest``
        (the perplexity at the longest context).
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["mode"], row["size"], row["bits"]), []).append(row)
    found = []
    for (mode, size, bits), group in sorted(groups.items()):
        lowest = min(group, key=lambda row: (row["perplexity"], row["context"]))
        last = max(group, key=lambda row: row["context"])
        found.append(
            {
                **{"mode": mode, "size": size, "bits": bits, "context": lowest["context"]},
                **{"perplexity": lowest["perplexity"], "longest": last["perplexity"]},
            }
        )
    return found


def masking_effect(rows: Sequence[Row]) -> list[dict[str, float]]:
    """By context: how many percent counting the padding adds to the perplexity, over all pairs."""
    known = {(r["mode"], r["size"], r["bits"], r["context"], r.get("seed")): r for r in rows}
    gaps: dict[int, list[float]] = {}
    for (mode, *rest), row in known.items():
        if mode == "padded" and ("masked", *rest) in known:
            other = known["masked", *rest]
            gaps.setdefault(row["context"], []).append(
                math.log(row["perplexity"] / other["perplexity"])
            )
    return [
        {
            **{"context": context, "pairs": len(found)},
            "percent": 100 * (math.exp(sum(found) / len(found)) - 1),
        }
        for context, found in sorted(gaps.items())
    ]


def _terms(
    n: NDArray[np.float64],
    c: NDArray[np.float64],
    x: NDArray[np.float64],
    exponents: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The law's four terms: float64 of (choices of exponents, rows, 4)."""
    alpha, beta, gamma, delta = (column[:, None] for column in exponents.T)
    size = n[None] / _UNIT
    ones = np.ones((len(exponents), len(n)))
    bits = size**-delta * 2 ** (-gamma * x[None])
    return np.stack((ones, size**-alpha, c[None] ** -beta, bits), 2)


def _errors(terms: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared error that the best coefficients leave, for every choice of exponents."""
    scale = np.sqrt(np.square(terms).sum(1, keepdims=True))
    terms = terms / scale
    gram = terms.transpose(0, 2, 1) @ terms + _RIDGE * np.eye(terms.shape[2])
    found = np.linalg.solve(gram, terms.transpose(0, 2, 1) @ y[:, None])
    return np.asarray(np.square((terms @ found)[..., 0] - y).sum(1), np.float64)


def _column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    return np.array([row[name] for row in rows], np.float64)


def _mean(rows: Sequence[Row], bits: int) -> float:
    same = [row for row in rows if row["bits"] == bits] or rows
    logs = [math.log(row["perplexity"]) for row in same]
    return math.exp(sum(logs) / len(logs))


def _relative(told: Sequence[float], rows: Sequence[Row]) -> float:
    gaps: list[float] = [abs(t / row["perplexity"] - 1) for t, row in zip(told, rows, strict=True)]
    return sum(gaps) / len(gaps)
