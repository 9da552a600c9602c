"""How accurate a network is at each width: the best that a WASQ log has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sw.wasq.records import Record, read_records

#: Figures of a WASQ log that say how accurate a network is: less is better.
METRICS: Final = ("perplexity", "ratio", "divergence", "loss")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The best of a log by bits of weights.

    Parameters
    ----------
    metric : str
    best : mapping of int to (float, str)
        The figure, and the method that reached it.
    told : tuple of str
        Sentences for the user: what the log has that was passed over.
    """

    metric: str
    best: Mapping[int, tuple[float, str]]
    told: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, metric: str, model: str | None) -> Accuracy:
        """The best of every width.

        Parameters
        ----------
        path : Path
            A WASQ log.
        metric : {"perplexity", "ratio", "divergence", "loss"}
        model : str or None
            Whose results; needed where the log has several.

        Raises
        ------
        ValueError
            If the log cannot be read, or has no results or those of several networks or texts.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
        log = read_records(path)
        records = [r for r in log.records if model is None or r.model == model]
        _only(path, "model", [r.model for r in records], "--log-model")
        _only(path, "text", [f"{r.data} {r.split} {r.window}" for r in records], "another log")
        best: dict[int, tuple[float, str]] = {}
        for record in records:
            value = _figure(record, metric)
            bits = record.weight_bits
            if bits is None or value is None or record.activation_bits not in (None, bits):
                continue
            if bits not in best or value < best[bits][0]:
                best[bits] = value, record.method
        return cls(metric, best, log.mistakes)


def _figure(record: Record, metric: str) -> float | None:
    value: float | None = getattr(record, metric)
    return value


def _only(path: Path, what: str, found: Sequence[str], way: str) -> None:
    several = sorted(set(found))
    if not several:
        raise ValueError(f"{path} must have results of that {what}, not none")
    if len(several) > 1:
        raise ValueError(f"{path} must be of one {what} or be asked with {way}: {several}")
