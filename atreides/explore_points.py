"""Machines on boards: what can be swept."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product as combinations
from typing import Any, Final

from atreides import sweep
from hw.boards import find_board
from hw.multiplier import check_multiplier
from sw.config import MachineConfig

#: What can be swept, besides the sizes of :mod:`atreides.sweep`.
TEXTS: Final = ("board", "multiplier", "array")
NAMES: Final = (*TEXTS, *sweep.NAMES)
MOST: Final = 5000


@dataclass(frozen=True, slots=True)
class Point:
    """A machine on a board."""

    board: str
    config: MachineConfig

    @property
    def label(self) -> str:
        """In a few characters."""
        c = self.config
        more = "" if c.multiplier == "auto" else f", {c.multiplier}"
        return f"SF{c.bits} {c.rows} x {c.columns}, {c.slots} slots{more} on {self.board}"


def parse_axes(words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """``board=ulx3s-85f bits=4,8 array=4x4,8x8`` as values by name.

    Raises
    ------
    ValueError
        For a name that cannot be swept, one that is there twice, or a value that there is not.
    """
    texts: dict[str, tuple[Any, ...]] = {}
    numbers = []
    for word in words:
        name, _, values = word.partition("=")
        if name not in NAMES:
            raise ValueError(f"axis must be one of {', '.join(NAMES)}, not {word!r}")
        if name not in TEXTS:
            numbers.append(word)
            continue
        if name in texts:
            raise ValueError(f"axes must name {name} once, not again in {word!r}")
        found = tuple(dict.fromkeys(values.split(",")))
        for value in found:
            _ = _CHECKS[name](value)
        texts[name] = found
    axes = {**texts, **sweep.parse_axes(numbers)}
    both = sorted({"rows", "columns"} & set(axes))
    if "array" in axes and both:
        raise ValueError(f"axes must have array or {both[0]}, not both")
    return axes


def _sides(text: str) -> dict[str, int]:
    """``4x8`` as rows and columns."""
    found = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text)
    if found is None:
        raise ValueError(f"array must be as in 4x8, not {text!r}")
    return {"rows": int(found[1]), "columns": int(found[2])}


#: What refuses a value that is no number, by axis.
_CHECKS: Final[Mapping[str, Callable[[str], object]]] = {
    "board": find_board,
    "multiplier": check_multiplier,
    "array": _sides,
}


def points(base: MachineConfig, axes: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    """All combinations.

    Raises
    ------
    TypeError, ValueError
        If no board is named, a size is out of range, or there are too many.
    """
    if "board" not in axes:
        raise ValueError("axes must have a board, as in board=ulx3s-85f")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST:
        raise ValueError(f"axes must have at most {MOST} combinations, not {count}")
    found = []
    for values in combinations(*axes.values()):
        sizes = dict(zip(axes, values, strict=True))
        board = sizes.pop("board")
        sizes |= _sides(sizes.pop("array")) if "array" in sizes else {}
        found.append(Point(board, replace(base, **sizes)))
    return found
