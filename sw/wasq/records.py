"""Results as a log: one JSON object a line, appended whole, checked as it is read."""

from __future__ import annotations

import fcntl
import json
import math
import os
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from sw.wasq.evaluation import POLICY

_MAX_LINE: Final = 1 << 22

Pair = tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One result.

    Parameters
    ----------
    model, model_sha256 : str
    data, split, data_sha256 : str
        What was evaluated on.
    window, windows, predicted : int
        Tokens of a window, windows, predicted tokens.
    policy : str
        Of the first token of a window.
    method : str
        ``float``, or what made the words.
    config : dict or None
        :meth:`SFConfig.to_json`; None: float.
    weight_bits, activation_bits : int or None
        Of most layers; None: float.
    effective_bits : float or None
        Per quantized weight, exponents included; None: float.
    calibration, calibration_sha256 : str or None
        The text that was calibrated or healed on.
    seed : int
    tokens : int
        Spent by the method on calibration and healing.
    seconds : float
        Spent by the method.
    trained : float
        Fraction of all parameters that the method retrained.
    loss : float
        Nats per predicted token.
    perplexity : float or None
        None: too large for a float64. ``interval``: its 95 %.
    reference_perplexity : float or None
        Of the unquantized model on the same windows. ``ratio``: to it, ``ratio_interval``: paired.
    divergence : float or None
        Mean KL(unquantized || quantized) in nats, with ``divergence_interval``.
    recovery : float or None
        ``(P_vanilla - P) / (P_vanilla - P_float)``.
    device, version, time : str
        Where, of the program, and when (UTC).
    evaluation_seconds : float
    extra : dict
        Whatever a study adds.
    """

    model: str
    model_sha256: str
    data: str
    split: str
    data_sha256: str
    window: int
    windows: int
    predicted: int
    policy: str = POLICY
    method: str = "float"
    config: dict[str, Any] | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    effective_bits: float | None = None
    calibration: str | None = None
    calibration_sha256: str | None = None
    seed: int = 0
    tokens: int = 0
    seconds: float = 0.0
    trained: float = 0.0
    loss: float
    perplexity: float | None
    interval: Pair = None
    reference_perplexity: float | None = None
    ratio: float | None = None
    ratio_interval: Pair = None
    divergence: float | None = None
    divergence_interval: Pair = None
    recovery: float | None = None
    device: str = ""
    version: str = ""
    time: str = ""
    evaluation_seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Record:
        """The inverse of :meth:`to_json`.

        Raises
        ------
        ValueError
            If a field is missing, unknown or of another kind.
        """
        if not isinstance(data, dict):
            raise ValueError(f"result must be a JSON object, not {type(data).__name__}")
        hints = get_type_hints(cls)
        unknown = sorted(set(data) - set(hints))
        if unknown:
            raise ValueError(f"result must have known fields, not {unknown[0]!r}")
        found = {}
        for name, value in data.items():
            if isinstance(value, list) and len(value) == 2:
                value = tuple(value)
            if not _fits(value, hints[name]):
                raise ValueError(f"{name} must be {_kind(hints[name])}, not {value!r}"[:200])
            found[name] = value
        missing = [
            f.name
            for f in fields(cls)
            if f.name not in found and f.default is MISSING and f.default_factory is MISSING
        ]
        if missing:
            raise ValueError(f"result must have {missing[0]}")
        return cls(**found)


@dataclass(frozen=True, slots=True)
class Log:
    """What a log holds.

    Parameters
    ----------
    records : tuple of Record
        In the order of the file.
    mistakes : tuple of str
        One sentence per line that is no result, with the file and the line's number.
    """

    records: tuple[Record, ...]
    mistakes: tuple[str, ...]


def append_record(path: Path, record: Record) -> None:
    """Add a line to a log, which other processes may be adding to.

    Raises
    ------
    ValueError
        If the file cannot be written, or a number is not finite.
    """
    try:
        line = json.dumps(record.to_json(), allow_nan=False, ensure_ascii=False)
    except ValueError:
        raise ValueError("result must hold finite numbers alone") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            content = (("\n" if torn else "") + line + "\n").encode()
            if os.write(descriptor, content) != len(content):
                os.ftruncate(descriptor, size)
                raise OSError(0, "it was not written whole")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be added to: {error.strerror}") from None


def read_records(path: Path) -> Log:
    """Every result of a log; lines that are none are told, not dropped in silence.

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    records, mistakes = [], []
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    records.append(_parsed(line))
                except ValueError as error:
                    mistakes.append(f"{path}:{number}: {error}")
    except OSError as error:
        raise ValueError(f"{path} must be a log that can be read: {error.strerror}") from None
    return Log(tuple(records), tuple(mistakes))


def _parsed(line: bytes) -> Record:
    if len(line) > _MAX_LINE:
        raise ValueError(f"line must have at most {_MAX_LINE} bytes")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("line must be JSON") from None
    return Record.from_json(data)


def _fits(value: object, hint: Any) -> bool:
    if hint is type(None):
        return value is None
    if hint is Any:
        return True
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    if hint is int:
        return type(value) is int
    origin = get_origin(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(x, float) for x in value)
    if origin is dict:
        return isinstance(value, dict)
    if get_args(hint):
        return any(_fits(value, choice) for choice in get_args(hint))
    return isinstance(value, hint)


def _kind(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", str: "a text", type(None): "null"}
    if hint in names:
        return names[hint]
    origin = get_origin(hint)
    if origin is tuple:
        return "two finite numbers"
    if origin is dict:
        return "an object"
    return " or ".join(_kind(choice) for choice in get_args(hint))
