"""Where things lie while they live: first fit, the largest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


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


def pack(items: Iterable[Item], capacity: int, start: int = 0) -> Packing:
    """Lay out items so that none that live in one step overlap.

    The largest come first, each at the lowest offset with room (first fit decreasing): what lives
    side by side is packed as if by size, what follows reuses it.

    Parameters
    ----------
    items : iterable of Item
        Names are unique.
    capacity : int
    start : int
        Offsets below are not used.
    """
    placed: list[tuple[int, Item]] = []  # ascending offsets
    for item in sorted(items, key=lambda i: (-i.size, i.first, i.name)):
        offset = _aligned(start, item.align)
        for at, other in placed:
            if not other.meets(item):
                continue
            if offset + item.size <= at:
                break
            offset = max(offset, _aligned(at + other.size, item.align))
        if offset + item.size > capacity:
            return Packing({i.name: at for at, i in placed}, _height(placed, start), item)
        placed.append((offset, item))
        placed.sort(key=lambda pair: pair[0])
    return Packing({i.name: at for at, i in placed}, _height(placed, start))


def largest_gap(
    items: Iterable[Item], offsets: Mapping[str, int], step: int, start: int, capacity: int
) -> tuple[int, int]:
    """The offset and size of the largest room that a step leaves between what lives in it."""
    living = sorted(
        (offsets[i.name], offsets[i.name] + i.size) for i in items if i.first <= step <= i.last
    )
    best, at = (start, 0), start
    for first, end in [*living, (capacity, capacity)]:
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
