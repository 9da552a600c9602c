"""First fit: nothing that lives at the same time overlaps, what follows reuses room."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sw.compiler.memory import Item, choose, largest_gap, overload, pack
from sw.compiler.scheduler import schedule
from sw.config import MachineConfig
from tests.array_plans import Network, assert_exact

ITEMS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(0, 6), st.integers(0, 4), st.sampled_from([1, 4])),
    max_size=12,
)


@given(ITEMS, st.integers(10, 120))
def test_what_lives_at_the_same_time_does_not_overlap(
    parts: list[tuple[int, int, int, int]], capacity: int
) -> None:
    items = [
        Item(f"i{k}", size, first, first + length, align)
        for k, (size, first, length, align) in enumerate(parts)
    ]
    found = pack(items, capacity)
    owner = np.full((11, capacity), -1)
    for index, item in enumerate(items):
        if item.name in found.offsets:
            at = found.offsets[item.name]
            assert at % item.align == 0
            assert at + item.size <= min(capacity, found.height)
            part = owner[item.first : item.last + 1, at : at + item.size]
            assert (part == -1).all()
            part[...] = index
    if found.failed is None:
        assert len(found.offsets) == len(items)
        assert overload(items, capacity) is None


def test_sums_do_not_lie_between_what_is_added() -> None:
    items = [Item("a", 10, 0, 1), Item("c", 9, 1, 2), Item("b", 8, 0, 1)]
    assert pack(items, 40).offsets["c"] == 10
    at = pack(items, 40, 0, [("a", "b", "c")]).offsets
    assert not min(at["a"], at["b"]) < at["c"] < max(at["a"], at["b"])


def test_rooms_and_choices() -> None:
    assert largest_gap([(8, 12), (0, 3), (10, 20)], 30) == (20, 10)
    assert largest_gap([(0, 30)], 30) == (0, 0)
    assert choose({"a": 5, "b": 9, "c": 4}, 10) == ["b"]
    assert choose({"a": 5, "b": 9, "c": 4}, 9) == ["b"]
    assert choose({"a": 5, "b": 11, "c": 4}, 9) == ["a", "c"]


def network(slots: int) -> Network:
    net = Network(MachineConfig(bits=8, rows=4, columns=4, slots=slots))
    a = net.upload("x", 1, 8, 8, 4, border=(1, 1, 1, 1))
    for index in range(4):
        b = net.tensor(f"t{index}", 1, 8, 8, 4, border=(1, 1, 1, 1), exponent=1)
        net.convolution(f"conv{index}", a, 4, (3, 3), b, padding=(1, 1, 1, 1))
        a = b
    net.convolution("last", a, 4)
    return net


@pytest.mark.parametrize(
    ("slots", "programs", "loads_weights", "clears"),
    [(200, 1, False, False), (100, 1, False, True), (70, 5, True, True)],
)
def test_memory_decides_what_stays(
    slots: int, programs: int, loads_weights: bool, clears: bool
) -> None:
    net = network(slots)
    found = schedule(net.plan())
    host = assert_exact(net, found)
    sources = [getattr(c, "source", "") for commands in found.steps for c in commands]
    assert any(s.startswith("weights") for s in sources) == loads_weights
    assert host.programs <= 2 * programs
    assert any(getattr(c, "source", "") == "zeros" for c in found.steps[0]) == clears
