"""What single methods of healing take besides their options: names, kinds and ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Final

from sw.wasq.healing.annealed import SEARCHES
from sw.wasq.healing.masks import GROUPS, RULES
from sw.wasq.healing.measured import GROUPINGS
from sw.wasq.healing.options import HealingError
from sw.wasq.healing.selective import KINDS, SCOPES
from sw.wasq.opt import OptOptions


@dataclass(frozen=True, slots=True)
class Setting:
    """One entry of ``HealOptions.extra``.

    Parameters
    ----------
    wanted : str
        What a value must be, as the end of a sentence.
    fits : callable
        Whether a value is that.
    """

    wanted: str
    fits: Callable[[Any], bool]


def check_settings(settings: Mapping[str, Any], method: str | None = None) -> None:
    """Refuse what a method does not take, or not of this kind.

    Parameters
    ----------
    settings : mapping of str to value
        As of ``HealOptions.extra``.
    method : str, optional
        One of ``METHODS``; if omitted, what any of them takes may be there.

    Raises
    ------
    HealingError
        If a name is not in :data:`SETTINGS`, or its value is not what it says.
    """
    found = SETTINGS.values() if method is None else (SETTINGS[method],)
    known = {name: setting for part in found for name, setting in part.items()}
    for name, value in settings.items():
        if name not in known:
            names = ", ".join(sorted(known))
            told = "" if method is None else f" of {method}"
            raise HealingError(f"set{told} must be one of {names}, not {name!r}")
        if not known[name].fits(value):
            raise HealingError(f"{name} must be {known[name].wanted}, not {value!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_integer(value) or isinstance(value, float)


def _integer(least: int) -> Setting:
    return Setting(
        f"an integer of at least {least}", lambda value: _is_integer(value) and value >= least
    )


def _number(least: float = -math.inf, most: float = math.inf) -> Setting:
    wanted = "a finite number"
    if least > -math.inf:
        wanted = f"a number from {least} to {most}" if most < math.inf else f"at least {least}"
    return Setting(
        wanted,
        lambda value: _is_number(value) and math.isfinite(value) and least <= value <= most,
    )


def _one_of(choices: Sequence[str]) -> Setting:
    return Setting(f"one of {', '.join(choices)}", lambda value: value in choices)


def _are_widths(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) > 0
        and all(_is_integer(bits) and 3 <= bits <= 16 for bits in value)
    )


def _are_prizes(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) > 0
        and all(isinstance(prize, Sequence) and len(prize) == 2 for prize in value)
        and all(_is_number(rho) and 0 <= rho <= 1 and group in GROUPS for rho, group in value)
    )


def _are_opt_options(value: Any) -> bool:
    """Whether fields of OptOptions are of the kinds of their defaults."""
    kinds = {field.name: type(field.default) for field in fields(OptOptions)}
    return isinstance(value, Mapping) and all(
        type(part) is kinds.get(name) or (kinds.get(name) is float and _is_number(part))
        for name, part in value.items()
    )


_ALL: Final = {"calibration": _integer(1)}
_TICKETS: Final = {**_ALL, "mask": _one_of(RULES), "clusters": _integer(1)}
_SEARCH: Final = {
    **_ALL,
    "bits": Setting("widths of 3 to 16 bits", _are_widths),
    "budget": _number(0),
    "grouping": _one_of(GROUPINGS),
    **{name: _integer(1) for name in ("measurements", "chains", "measured")},
    "scout_steps": _integer(0),
}
#: What each method takes; see the modules for what it means.
SETTINGS: Final[Mapping[str, Mapping[str, Setting]]] = MappingProxyType(
    {
        "fpm": _ALL,
        "lth": {**_TICKETS, "group": _one_of(GROUPS), "rounds": _integer(1)},
        "mplth": {
            **_TICKETS,
            "prizes": Setting("pairs of a share and a group", _are_prizes),
            **{"scout_steps": _integer(0), "held_out": _integer(1), "price": _number()},
        },
        "sa-mplth": _SEARCH,
        "mixed": {**_SEARCH, "search": _one_of(SEARCHES)},
        "selective": {
            **_ALL,
            "percentile": _number(0, 100),
            **{"scope": _one_of(SCOPES), "kept": _one_of(KINDS), "epsilon": _number(0)},
        },
        "opt": {**_ALL, "opt": Setting("fields of OptOptions by name", _are_opt_options)},
        "vanilla": _ALL,
    }
)
