"""Results of a log (:mod:`sw.wasq.records`) as the page groups and names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sw.wasq.records import Record

Row = dict[str, Any]
#: Bits of what stays float.
FLOAT: Final = 32


def evaluations(rows: Iterable[Mapping[str, Any]], mistakes: list[str] | None = None) -> list[Row]:
    """Rows that are results, studies and overflown perplexities left out.

    Parameters
    ----------
    rows : iterable of mapping
    mistakes : list of str, optional
        Gets a sentence per row that is neither a study nor a result.

    Returns
    -------
    list of dict
        The fields of :class:`Record`, and ``text`` (data and split), ``bits`` (of weights; 32:
        float), ``scale`` (of weights), ``label`` (method, activations and scale).
    """
    found = []
    for row in rows:
        if "study" in row:
            continue
        try:
            record = Record.from_json(dict(row)).to_json()
        except ValueError as error:
            if mistakes is not None:
                mistakes.append(str(error))
            continue
        if record["perplexity"] is not None:
            found.append({**record, **_named(record)})
    return found


def groups(rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows that may be compared: of one model, text and number of windows of one length."""
    names = ("model", "model_sha256", "text", "data_sha256", "window", "windows")
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def reference(rows: Iterable[Row]) -> float | None:
    """The float network's perplexity among comparable rows."""
    rows = list(rows)
    own = [row["perplexity"] for row in rows if row["bits"] >= FLOAT]
    told = [row["reference_perplexity"] for row in rows if row["reference_perplexity"]]
    return next(iter(own + told), None)


def _named(record: Row) -> Row:
    bits = record["weight_bits"] or FLOAT
    config = record["config"] or {}
    scale = config.get("weight_scale", "") if bits < FLOAT else ""
    activations = record["activation_bits"]
    told = f"A{activations}" if activations else "A float"
    parts = [record["method"], told, scale]
    if record["extra"].get("label"):
        parts.append(str(record["extra"]["label"]))
    return {
        **{"text": f"{record['data']}:{record['split']}", "bits": bits, "scale": scale},
        "label": ", ".join(part for part in parts if part) if bits < FLOAT else "float",
        "effective_bits": record["effective_bits"] or float(bits),
    }
