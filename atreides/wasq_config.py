"""A configuration of quantization as the command line takes it: a file, options, overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sw.wasq.config import OVERRIDABLE, SFConfig
from sw.wasq.tokens import read_json

#: Fields whose value is a width: a number, or ``float``.
_WIDTHS: Final = (
    *("weights", "activations", "output"),
    *("products", "head", "embedding", "norms"),
)
FLOAT: Final = "float"


def read_config(
    file: Path | None, options: Mapping[str, object], overrides: Sequence[str]
) -> SFConfig:
    """The configuration that a user asks for.

    Parameters
    ----------
    file : Path or None
        JSON of :meth:`SFConfig.to_json`, any of its fields; the defaults if None.
    options : mapping of str to object
        By field, what was given; None: not given. Widths are texts: a number, or ``float``.
    overrides : sequence of str
        ``PATTERN:field=value,field=value``; the same pattern again adds to it.

    Raises
    ------
    ValueError, TypeError
        If the file or a value is not what it should be.
    """
    base = SFConfig()
    if file is not None:
        try:
            base = SFConfig.from_json(read_json(file))
        except (TypeError, ValueError) as error:
            place = "" if str(file) in str(error) else f"{file}: "
            raise ValueError(f"{place}{error}") from None
    changes: dict[str, Any] = {
        name: _value(name, value) for name, value in options.items() if value is not None
    }
    found: dict[str, dict[str, Any]] = {p: dict(c) for p, c in base.overrides.items()}
    for text in overrides:
        pattern, given = _override(text)
        found[pattern] = {**found.get(pattern, {}), **given}
    return replace(base, **changes, overrides=found)


def _override(text: str) -> tuple[str, dict[str, Any]]:
    pattern, colon, rest = text.rpartition(":")
    if not colon or not pattern or not rest:
        raise ValueError(f"override must be PATTERN:field=value, not {text!r}")
    given = {}
    for part in rest.split(","):
        name, equals, value = part.partition("=")
        if not equals or name not in OVERRIDABLE:
            raise ValueError(
                f"override {text!r} must set {', '.join(OVERRIDABLE)}, not {name or part!r}"
            )
        given[name] = _value(name, value)
    return pattern, given


def _value(name: str, value: object) -> Any:
    if name not in _WIDTHS or not isinstance(value, str):
        return value
    if value == FLOAT:
        return None
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} must be a width in bits or {FLOAT}, not {value!r}") from None
