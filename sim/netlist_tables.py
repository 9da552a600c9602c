"""Truth tables as short Verilog expressions of single bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

#: An expression, a brace and number per input, and how many operators it has.
_Found = tuple[str, int]
_CONSTANTS: Final = ("1'b0", "1'b1")


def expression(table: int, inputs: Sequence[str]) -> str:
    """The function of a truth table.

    Parameters
    ----------
    table : int
        Bit ``n`` is the output where input ``k`` has bit ``k`` of ``n``, of ``2**len(inputs)``.
    inputs : sequence of str
        Names of single bits; the constants ``1'b0`` and ``1'b1`` are seen through.

    Raises
    ------
    ValueError
        For a table with more rows than the inputs have.
    """
    if not 0 <= table < 1 << (1 << len(inputs)):
        raise ValueError(f"table must have {1 << len(inputs)} rows, not {table:#x}")
    names = list(inputs)
    for place in reversed(range(len(names))):
        same = names.index(names[place])
        if names[place] in _CONSTANTS:
            table = _cofactors(table, len(names), place)[_CONSTANTS.index(names[place])]
        elif same < place:  # one net at two pins
            low, high = _cofactors(table, len(names), place)
            mask = _columns(len(names) - 1)[same]
            table = low & ~mask | high & mask
        else:
            continue
        del names[place]
    return _shortest(table, len(names))[0].format(*names)


@cache
def _columns(count: int) -> tuple[int, ...]:
    """The table of each input by itself."""
    rows = range(1 << count)
    return tuple(sum(1 << row for row in rows if row >> place & 1) for place in range(count))


def _cofactors(table: int, count: int, place: int) -> tuple[int, int]:
    """The tables of the other inputs where one is 0 and where it is 1."""
    step, found = 1 << place, [0, 0]
    for row in range(1 << count):
        bit = row >> place & 1
        found[bit] |= (table >> row & 1) << (row >> place + 1 << place | row & step - 1)
    return found[0], found[1]


@cache
def _shortest(table: int, count: int) -> _Found:
    ones = (1 << (1 << count)) - 1
    if table in (0, ones):
        return _CONSTANTS[table != 0], 0
    return min((_split(table, count, place) for place in range(count)), key=lambda found: found[1])


def _split(table: int, count: int, place: int) -> _Found:
    """Shannon's expansion at one input, as one operator where that is enough."""
    low, high = _cofactors(table, count, place)
    ones = (1 << (1 << count - 1)) - 1
    name = f"{{{place}}}"

    def rest(part: int) -> _Found:
        text, cost = _shortest(part, count - 1)
        for number in reversed(range(place, count - 1)):  # those behind the one that was taken out
            text = text.replace(f"{{{number}}}", f"{{{number + 1}}}")
        return text, cost

    if low == high:
        return rest(low)
    if (low, high) in ((0, ones), (ones, 0)):
        return (name if high else f"~{name}"), int(not high)
    for condition, operator, inverted, part in (
        (low == 0, "&", "", high),
        (high == 0, "&", "~", low),
        (high == ones, "|", "", low),
        (low == ones, "|", "~", high),
        (low == high ^ ones, "^", "", low),
    ):
        if condition:
            text, cost = rest(part)
            return f"({inverted}{name} {operator} {text})", cost + 1 + len(inverted)
    (zero, zero_cost), (one, one_cost) = rest(low), rest(high)
    return f"({name} ? {one} : {zero})", zero_cost + one_cost + 3
