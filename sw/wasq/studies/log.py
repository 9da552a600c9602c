"""A log of rows of plain data, one JSON object a line, that a broken run can go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_log(path: Path, mistakes: list[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a log; none if there is no file.

    Parameters
    ----------
    path : Path
    mistakes : list of str, optional
        Gets a sentence per line that is no JSON object, such as one that was cut short.

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise ValueError(f"{path} must be a log that can be read: {error.strerror}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif mistakes is not None:
            mistakes.append(f"{path}:{number}: row must be a JSON object, not {line[:40]!r}")
    return rows


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write one row behind the others, on disk when this returns; ends a line cut short first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dict(row), ensure_ascii=False) + "\n"
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                _drop_last_line(file)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def has_row(rows: Iterable[Mapping[str, Any]], **fields: Any) -> bool:
    """Whether a row has all these fields."""
    return any(all(row.get(name) == value for name, value in fields.items()) for row in rows)


def _drop_last_line(file: Any) -> None:
    file.seek(0)
    whole = file.read()
    file.truncate(whole.rfind(b"\n") + 1)
