"""How sure a figure is: bootstrap intervals over windows, and recovery.

B. Efron, R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: the percentile
interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

RESAMPLES: Final = 10_000
_LEVEL: Final = (2.5, 97.5)
#: Resamples at a time.
_CHUNK: Final = 500

Interval = tuple[float, float]


def bootstrap(
    numerators: Sequence[float],
    denominators: Sequence[float],
    exponential: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """The 95 % percentile interval of ``sum(numerators) / sum(denominators)``.

    Parameters
    ----------
    numerators, denominators : sequence of float
        Per window, which are what is resampled.
    exponential : bool
        Of the quotient's exponential: perplexities, and their ratios, where the numerators are
        differences between two models on the same windows (paired).
    seed, resamples : int

    Returns
    -------
    (float, float) or None
        None if there are fewer than two windows.
    """
    count = len(numerators)
    if count < 2:
        return None
    random = np.random.default_rng(seed)
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    found = []
    for first in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - first)
        times = random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        found.append((times @ top) / (times @ bottom))
    quotients = np.concatenate(found)
    with np.errstate(over="ignore"):
        values = np.exp(quotients) if exponential else quotients
    low, high = np.percentile(values, _LEVEL)
    return float(low), float(high)


def recovery(vanilla: float, quantized: float, reference: float) -> float | None:
    """``(P_vanilla - P) / (P_vanilla - P_fp)``: 1 where nothing is lost; None if nothing was."""
    lost = vanilla - reference
    if not math.isfinite(lost) or lost == 0:
        return None
    return (vanilla - quantized) / lost


def exponential(nats: float) -> float:
    """``exp`` that becomes infinite."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf
