"""The multiplier socket, the components that fit it, and the table behind ``auto``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sw.config import AUTO, DSP, MULTIPLIER_NAMES, OPERATOR
from sw.config import MULTIPLIERS as MULTIPLIERS
from sw.format import MAX_BITS, MIN_BITS

#: What the logic will become: plain Verilog for any tool, Lattice ECP5 or iCE40, osu018 gates.
TARGETS: Final = ("generic", "ecp5", "ice40", "osu018")
#: Those with multiplier blocks; ``generic`` stands for ECP5's as an operator.
DSP_TARGETS: Final = ("generic", "ecp5", "ice40")
MIN_WIDTH: Final = MIN_BITS - 1
MAX_WIDTH: Final = MAX_BITS - 1
#: Measured by ``python -m bench.hardware --write-table``, never edited.
TABLE_PATH: Final = Path(__file__).with_name("multiplier_table.json")


class Multiplier(wiring.Component):
    """The socket of an unsigned multiplier of two magnitudes. Combinational, latency 0.

    Parameters
    ----------
    width : int
        F, the width of each operand in bits, 2 to 15.
    more : mapping of str to Member, optional
        Members beside those of the socket.

    Members
    -------
    a, b : In(width)
        Magnitudes.
    product : Out(2 * width)
        ``a * b``, exact.

    Raises
    ------
    TypeError
        If ``width`` is not an integer.
    ValueError
        If ``width`` is outside 2..15.
    """

    def __init__(self, width: int, more: Mapping[str, wiring.Member] | None = None) -> None:
        check_width(width)
        self.width = width
        members = {"a": In(width), "b": In(width), "product": Out(2 * width)}
        super().__init__(members | dict(more or {}))


def make_multiplier(name: str, width: int, target: str = "generic") -> Multiplier:
    """A multiplier by name, built for what the logic will become.

    Parameters
    ----------
    name : {"array", "dadda", "chain", "operator", "dsp", "auto"}
        ``auto`` takes the measured best for ``target`` and ``width`` that is made of logic:
        ``dsp``, a block of which a device has few, is taken only where it is asked for.
    width : int
        F, 2 to 15 bits.
    target : {"generic", "ecp5", "ice40", "osu018"}
        Chooses parameters, and primitives where a target has fitting ones; the product is the same.

    Raises
    ------
    ValueError
        If a name, width or target is unknown, or ``target`` has no blocks for ``dsp``.
    """
    from hw.array_multiplier import ArrayMultiplier  # here: they import the socket above
    from hw.chain_multiplier import ChainMultiplier
    from hw.dadda_multiplier import DaddaMultiplier
    from hw.operator_multiplier import OperatorMultiplier
    from hw.packed_multiplier import DspMultiplier

    check_multiplier(name)
    check_width(width)
    check_target(target)
    entry = table_entry(target, width)
    if name == AUTO:
        name = entry[AUTO]
    if name == OPERATOR:
        return OperatorMultiplier(width)
    if name == DSP:
        return DspMultiplier(width, target)
    if name == "array":
        return ArrayMultiplier(width)
    if name == "dadda":
        return DaddaMultiplier(width, **entry["dadda"])
    return ChainMultiplier(width, target=target, **entry["chain"])


def table_entry(target: str, width: int) -> Mapping[str, Any]:
    """The table's row: the choice under ``auto``, the measured best parameters of each."""
    check_target(target)
    check_width(width)
    return _table()[target][str(width)]


def check_multiplier(name: str) -> None:
    """Raise ValueError unless ``name`` is a multiplier or ``auto``."""
    if name not in MULTIPLIER_NAMES:
        raise ValueError(f"multiplier must be one of {', '.join(MULTIPLIER_NAMES)}, not {name!r}")


def check_target(target: str) -> None:
    """Raise ValueError unless ``target`` is known."""
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")


def check_width(width: int) -> None:
    """Raise TypeError or ValueError unless ``width`` is an integer from 2 to 15."""
    if isinstance(width, bool) or not isinstance(width, int):
        raise TypeError(f"width must be an integer, not {width!r}")
    if not MIN_WIDTH <= width <= MAX_WIDTH:
        raise ValueError(f"width must be {MIN_WIDTH} to {MAX_WIDTH}, not {width!r}")


@cache
def _table() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    return json.loads(TABLE_PATH.read_text(encoding="utf-8"))["targets"]
