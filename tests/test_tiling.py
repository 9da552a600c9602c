"""Layers that memory does not hold: every kind of cut, exact, in as few loads as promised."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sw.compiler import tiling
from sw.compiler.layers import Function, LayerStep
from sw.compiler.operands import describe
from sw.compiler.schedule import Drain, Schedule, WriteColumns, WriteWords
from sw.compiler.scheduler import schedule
from sw.compiler.tiling import LOOPS, Staged, Tiler
from sw.config import MachineConfig
from tests.array_plans import Network, assert_exact


def commands(found: Schedule, kind: type) -> list[object]:
    return [c for step in found.steps for c in step if isinstance(c, kind)]


def convolution(slots: int, host: bool = False, **options: object) -> Network:
    net = Network(MachineConfig(bits=8, rows=2, columns=4, slots=slots, **options))
    net.upload("x", 2, 6, 5, 6, border=(1, 1, 1, 1))
    to = None if host else net.tensor("y", 2, 6, 5, 10, exponent=1, border=(0, 1, 0, 1))
    net.convolution(
        "conv",
        "x",
        10,
        (3, 3),
        to,
        padding=(1, 1, 1, 1),
        function=Function.LINEAR if host else Function.RELU,
    )
    if to:
        net.download(to)
    return net


@pytest.mark.parametrize("slots", [4, 16, 64, 128])
@pytest.mark.parametrize("host", [True, False])
def test_a_convolution_in_any_memory(slots: int, host: bool) -> None:
    net = convolution(slots, host)
    assert_exact(net, schedule(net.plan()), times=1)


def test_sums_that_are_cut_are_drained_by_the_host() -> None:
    net = convolution(512, max_terms=20)
    found = schedule(net.plan())
    assert commands(found, Drain) == [Drain("conv")]
    assert_exact(net, found, times=1)
    assert not commands(schedule(convolution(512).plan()), Drain)


def test_weights_are_loaded_once_if_the_input_stays() -> None:
    net = convolution(120)
    found = schedule(net.plan())
    assert_exact(net, found, times=1)
    writes = [*found.setup, *commands(found, WriteWords)]
    writes = [c for c in writes if getattr(c, "source", "") == "weights.conv"]
    assert sum(c.rows * c.count for c in writes) == found.constants["weights.conv"].size


def test_parameters_in_parts() -> None:
    net = convolution(512, parameters=1)
    found = schedule(net.plan())
    assert [c.entries for c in commands(found, WriteColumns)] == [1, 1, 1]
    assert_exact(net, found, times=1)


@pytest.mark.parametrize("slots", [2, 10])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("host", [True, False])
def test_products_of_tensors_in_any_memory(slots: int, transposed: bool, host: bool) -> None:
    net = Network(MachineConfig(bits=4, rows=2, columns=4, slots=slots))
    net.upload("a", 4, 1, 5, 11)
    net.upload("b", 2, 1, *((9, 11) if transposed else (11, 9)))
    to = None if host else net.tensor("y", 4, 1, 5, 9, exponent=3)
    net.matmul("product", "a", "b", to, transposed=transposed, repeat=2)
    if to:
        net.download(to)
    assert_exact(net, schedule(net.plan()), times=1)


@pytest.mark.parametrize("slots", [6, 40])
@pytest.mark.parametrize("groups", [12, 4])
def test_groups_and_sums_in_any_memory(slots: int, groups: int) -> None:
    net = Network(MachineConfig(bits=16, rows=2, columns=5, slots=slots, parameters=2))
    net.upload("x", 1, 4, 5, 12, border=(1, 1, 1, 1))
    net.tensor("y", 1, 4, 5, 12, border=(0, 0, 1, 0))
    net.convolution("conv", "x", 12, (3, 3), "y", groups=groups, padding=(1, 1, 1, 1))
    net.tensor("z", 1, 4, 5, 12, exponent=1)
    net.add("sum", "x", "y", "z")
    net.download("z")
    assert_exact(net, schedule(net.plan()))


def test_an_addition_with_short_sums_uses_fewer_columns() -> None:
    net = Network(MachineConfig(bits=8, max_terms=8, slots=64))
    net.upload("x", 1, 3, 3, 13)
    net.add("sum", "x", "x", net.tensor("y", 1, 3, 3, 13, exponent=1))
    net.download("y")
    assert_exact(net, schedule(net.plan()), times=1)


def test_what_nothing_can_hold_is_refused_in_one_sentence() -> None:
    net = Network(MachineConfig(bits=8, rows=1, columns=2, slots=1, max_terms=2))
    net.upload("x", 1, 1, 1, 2)
    net.tensor("y", 1, 1, 1, 2)
    net.add("sum", "x", "x", "y")
    with pytest.raises(ValueError, match=r"^tile memory must hold \d+ words .* sum, not 4$"):
        schedule(net.plan())


def test_far_too_many_pieces_are_refused_in_one_sentence(monkeypatch) -> None:
    monkeypatch.setattr(tiling, "MAX_PIECES", 2)
    message = r"^conv must be cut into at most 2 pieces, not \d+: \d+ words .* are too few$"
    with pytest.raises(ValueError, match=message):
        schedule(convolution(32).plan())


@given(st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_pieces_cover_every_product_once(data: st.DataObject) -> None:
    net = convolution(512)
    plan = net.plan()
    index = next(i for i, s in enumerate(plan.steps) if isinstance(s, LayerStep))
    described = describe(plan.layers["conv"], index, plan)
    tiler = Tiler(described, Staged(True, True, True), plan.config)
    least = tiler.smallest().room
    cut = tiler.best(data.draw(st.integers(least, 3000)))
    seen = set()
    for piece in tiler.pieces(cut):
        sizes = 1
        for name in LOOPS:
            sizes *= len(getattr(piece, name))
        corner = tuple((getattr(piece, name).start, getattr(piece, name).stop) for name in LOOPS)
        assert corner not in seen
        seen.add((corner, sizes))
    assert sum(size for _, size in seen) == 2 * 6 * 5 * 10 * 9 * 6


@given(st.integers(0, 10**6), st.sampled_from([17, 60, 200]))
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_chains_in_small_memories(seed: int, slots: int) -> None:
    config = MachineConfig(bits=8, rows=3, columns=4, slots=slots, parameters=4)
    net = Network(config, seed, zeros=0.5)
    random = net.random
    a = net.upload("x", 2, 5, 4, int(random.integers(1, 7)), border=(1, 1, 1, 1))
    for index in range(3):
        kernel, channels = int(random.choice([1, 3])), int(random.integers(1, 9))
        b = net.tensor(f"t{index}", 2, 5, 4, channels, border=(1, 1, 1, 1), exponent=1)
        net.convolution(
            f"conv{index}", a, channels, (kernel, kernel), b, padding=(kernel // 2,) * 4
        )
        a = b
    net.download(a)
    assert_exact(net, schedule(net.plan()))
