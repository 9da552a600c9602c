"""The report that lies beside a bitstream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_report(bitstream: Path) -> dict[str, Any]:
    """What `atreides build` wrote beside a bitstream, found by that or by its own name.

    Raises
    ------
    ValueError
        If there is none, or no such report; the message is one sentence.
    """
    path = bitstream.with_suffix(".json")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        report = None
    named = isinstance(report, dict) and all(
        isinstance(report.get(key), str) for key in ("board", "build")
    )
    if not named:
        raise ValueError(f"{path} must be the report of a bitstream")
    return dict(report)
