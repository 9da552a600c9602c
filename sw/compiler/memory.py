"""Where things lie while they live: first fit, the largest first."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Outside: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """Something that needs neighbouring places for some steps.

    Parameters
    ----------
    name : str
    size : int
    first, last : int
        Steps in which it lives, both included.
    align : int
        Its offset is a multiple of this.
    """

    name: str
    size: int
    first: int
    last: int
    align: int = 1

    def meets(self, other: Item) -> bool:
        """Whether there is a step in which both live."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True, slots=True)
class Packing:
    """Offsets of items.

    Parameters
    ----------
    offsets : mapping of str to int
    height : int
        The first offset beyond all items.
    failed : Item or None
        The first item for which there is no room; offsets are then of those before it.
    """

    offsets: Mapping[str, int]
    height: int
    failed: Item | None = None


def pack(
    items: Sequence[Item], capacity: int, start: int = 0, apart: Sequence[Outside] = ()
) -> Packing:
    """Lay out items so that none that live in one step overlap.

    The largest come first, each at the lowest offset with room (first fit decreasing): what lives
    side by side is packed as if by size, what follows reuses it. If that fails other orders are
    tried: by when they begin to live, by when they end. Where more words live in a step than there
    is room for, none is.

    Parameters
    ----------
    items : sequence of Item
        Names are unique.
    capacity : int
    start : int
        Offsets below are not used.
    apart : sequence of tuple of str
        Names ``(a, b, c)``: c must not lie between a and b.
    """
    orders: tuple[Callable[[Item], tuple[int, int, str]], ...] = (
        lambda i: (-i.size, i.first, i.name),
        lambda i: (i.first, -i.size, i.name),
        lambda i: (-i.last, -i.size, i.name),
    )
    found = [_pack(sorted(items, key=orders[0]), capacity, start, apart)]
    for order in orders[1:]:
        if found[-1].failed is None or overload(items, capacity - start) is not None:
            return found[-1]
        found.append(_pack(sorted(items, key=order), capacity, start, apart))
    return found[-1] if found[-1].failed is None else found[0]


def overload(items: Iterable[Item], capacity: int) -> int | None:
    """The first step in which more words live than there is room for, None if there is none."""
    changes: dict[int, int] = {}
    for item in items:
        changes[item.first] = changes.get(item.first, 0) + item.size
        changes[item.last + 1] = changes.get(item.last + 1, 0) - item.size
    living = 0
    for step in sorted(changes):
        living += changes[step]
        if living > capacity:
            return step
    return None


def _pack(items: list[Item], capacity: int, start: int, apart: Sequence[Outside]) -> Packing:
    placed: list[tuple[int, Item]] = []  # ascending offsets
    rules: dict[str, list[Outside]] = {}
    for rule in apart:
        for name in set(rule):
            rules.setdefault(name, []).append(rule)
    at: dict[str, Item] = {}
    offsets: dict[str, int] = {}
    for item in items:
        beside = [(offset, other) for offset, other in placed if other.meets(item)]
        limit = capacity - item.size
        for offset in _candidates(item, beside, start):
            fits = offset <= limit and _obeys(item, offset, offsets, at, rules.get(item.name, ()))
            if fits or offset > limit:
                break
        else:
            fits = False
        if not fits:
            return Packing(offsets, _height(placed, start), item)
        offsets[item.name], at[item.name] = offset, item
        insort(placed, (offset, item), key=lambda pair: pair[0])
    return Packing(offsets, _height(placed, start))


def _candidates(item: Item, beside: Sequence[tuple[int, Item]], start: int) -> Iterator[int]:
    """The lowest offset of every room between what lives beside an item, ascending."""
    offset = _aligned(start, item.align)
    for at, other in beside:
        if offset + item.size <= at:
            yield offset
        offset = max(offset, _aligned(at + other.size, item.align))
    yield offset


def _obeys(
    item: Item,
    offset: int,
    offsets: Mapping[str, int],
    at: Mapping[str, Item],
    rules: Sequence[Outside],
) -> bool:
    """Whether an item at an offset leaves the last of each rule outside of the others."""
    for rule in rules:
        spans = []
        for name in rule:
            if name == item.name:
                spans.append((offset, offset + item.size))
            elif name in offsets:
                spans.append((offsets[name], offsets[name] + at[name].size))
        if len(spans) == len(rule):
            (a, a_end), (b, b_end), (c, c_end) = spans
            if min(a, b) < c_end and c < max(a_end, b_end):
                return False
    return True


def largest_gap(taken: Iterable[tuple[int, int]], capacity: int) -> tuple[int, int]:
    """The offset and size of the largest room between what is taken: first offsets and ends."""
    best, at = (0, 0), 0
    for first, end in [*sorted(taken), (capacity, capacity)]:
        if first - at > best[1]:
            best = at, first - at
        at = max(at, end)
    return best


def choose(sizes: Mapping[str, int], room: int) -> list[str]:
    """What to keep in some room: the largest that still fits, again and again."""
    kept = []
    for name, size in sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0])):
        if size <= room:
            kept.append(name)
            room -= size
    return kept


def overlaps(item: Item, items: Sequence[Item], offsets: Mapping[str, int]) -> bool:
    """Whether another item ever lies where this one does."""
    first = offsets[item.name]
    return any(
        other.name != item.name
        and offsets[other.name] < first + item.size
        and first < offsets[other.name] + other.size
        for other in items
    )


def _aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align


def _height(placed: Sequence[tuple[int, Item]], start: int) -> int:
    return max((at + item.size for at, item in placed), default=start)
