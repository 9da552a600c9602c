"""Carry-propagate adders: parallel-prefix networks written out for standard cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from amaranth.hdl import Cat, Module, Signal, Value

#: A prefix network for n bits: levels of (i, j), "combine the group that ends at i with the one
#: that ends at j", after which position i covers all that both covered.
Network = list[list[tuple[int, int]]]


def ripple(width: int) -> Network:
    """One combination after the other: least area, ``width - 1`` levels."""
    return [[(i, i - 1)] for i in range(1, width)]


def sklansky(width: int) -> Network:
    """Least levels with least combinations, at the price of fan-out (J. Sklansky, 1960)."""
    levels = []
    span = 1
    while span < width:
        levels.append([(i, (i & ~(span - 1)) - 1) for i in range(width) if i & span])
        span *= 2
    return levels


def kogge_stone(width: int) -> Network:
    """Least levels with fan-out two (P. Kogge and H. Stone, 1973)."""
    levels = []
    span = 1
    while span < width:
        levels.append([(i, i - span) for i in range(span, width)])
        span *= 2
    return levels


def brent_kung(width: int) -> Network:
    """Twice the levels of the others with about ``2 * width`` combinations (1982)."""
    levels = []
    span = 1
    while span < width:
        levels.append([(i, i - span) for i in range(2 * span - 1, width, 2 * span)])
        span *= 2
    while span > 1:
        span //= 2
        levels.append([(i, i - span) for i in range(3 * span - 1, width, 2 * span)])
    return [level for level in levels if level]


NETWORKS: Final[dict[str, Callable[[int], Network]]] = {
    "ripple": ripple,
    "brent_kung": brent_kung,
    "sklansky": sklansky,
    "kogge_stone": kogge_stone,
}
#: ``plain`` is ``+``, left to the synthesiser.
ADDERS: Final = ("plain", *NETWORKS)


def add_columns(m: Module, columns: Sequence[Sequence[Value]], adder: str) -> Value:
    """The sum of columns of at most two bits each, modulo ``2**len(columns)``.

    Parameters
    ----------
    m : Module
        Receives the statements.
    columns : sequence of sequences of Value
        One-bit values, least significant first.
    adder : {"plain", "ripple", "brent_kung", "sklansky", "kogge_stone"}
        Low columns of a single bit pass by it.

    Returns
    -------
    Value
        ``len(columns)`` bits.
    """
    low = 0
    while low < len(columns) and len(columns[low]) < 2:
        low += 1
    passed = [column[0] if column else 0 for column in columns[:low]]
    width = len(columns) - low
    if width == 0:
        return Cat(*(Cat(bit)[:1] for bit in passed))
    x, y, total = Signal(width, name="addend_x"), Signal(width, name="addend_y"), None
    m.d.comb += [
        x.eq(Cat(column[0] if column else 0 for column in columns[low:])),
        y.eq(Cat(column[1] if len(column) > 1 else 0 for column in columns[low:])),
    ]
    total = Signal(width, name="addend_sum")
    if adder == "plain":
        m.d.comb += total.eq(x + y)
    else:
        m.d.comb += total.eq((x ^ y) ^ (_carries(m, x, y, NETWORKS[adder](width)) << 1))
    return Cat(*passed, total)


def _carries(m: Module, x: Signal, y: Signal, network: Network) -> Value:
    """The carry out of each bit of ``x + y``, all but the last."""
    width = len(x)
    generate = [x[i] & y[i] for i in range(width)]
    propagate: list[Value] = [x[i] ^ y[i] for i in range(width)]
    for number, level in enumerate(network):
        pairs = [(i, j) for i, j in level if i < width - 1]
        if not pairs:
            continue
        new_generate = Signal(len(pairs), name=f"generate_{number}")
        new_propagate = Signal(len(pairs), name=f"propagate_{number}")
        m.d.comb += [
            new_generate.eq(Cat(generate[i] | propagate[i] & generate[j] for i, j in pairs)),
            new_propagate.eq(Cat(propagate[i] & propagate[j] for i, j in pairs)),
        ]
        for position, (i, _) in enumerate(pairs):
            generate[i], propagate[i] = new_generate[position], new_propagate[position]
    return Cat(generate[: width - 1])
