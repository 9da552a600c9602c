"""Recorded toggles against counts by hand, and outputs against what the unit computes."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from hw.gate_netlist import gate_netlist
from hw.mac import MultiplyAccumulate
from hw.synthesis import LIBERTY, component_source
from sim.activity import record
from sw.format import SFx
from tests.gate_library import chain, hazard

MISSING = [tool for tool in ("sta", "iverilog") if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} not installed")


def changes(values: list[int]) -> int:
    return sum(a != b for a, b in pairwise(values))


def test_every_change_is_counted_once(tmp_path: Path) -> None:
    values = [random.Random(1).randrange(2) for _ in range(50)]
    found = record(chain(tmp_path), {"a": values}, clock=10.0)
    assert found.cycles == 50
    assert found.toggles["n1"] == found.toggles["n2"] == changes(values)
    # the register, and all behind it, is a cycle late: the first operand was there before
    for net in ("n3", "n4", "n5"):
        assert found.toggles[net] == changes(values[:-1])
    assert found.outputs["y"] == tuple(1 - v for v in (values[0], *values[:-1]))
    assert found.rate("n1") == changes(values) / 50
    assert found.rate("1'b0") == 0


def test_hazards_count_where_gates_take_time_and_last_long_enough(tmp_path: Path) -> None:
    values = [0, 1] * 10
    rises = sum(b > a for a, b in pairwise(values))
    late = hazard(tmp_path, 5)
    assert record(late, {"a": values}, clock=10.0).toggles["out"] == 2 * rises
    assert record(late, {"a": values}, clock=10.0, delays=False).toggles["out"] == 0
    # one inverter lets through a pulse of 200 ps to a gate that takes 100 ps to rise: a pulse too
    assert record(hazard(tmp_path, 1), {"a": values}, clock=10.0).toggles["out"] == 2 * rises


@pytest.mark.parametrize(
    ("operands", "sentence"),
    [
        ({"b": [0]}, "operands must be of a, not 'b'"),
        ({"a": []}, "operands must be of one length"),
        ({}, "operands must be of one length"),
        ({"a": [2]}, "a must have values of 1 bits, not 2"),
    ],
)
def test_operands_must_fit_the_unit(
    tmp_path: Path, operands: dict[str, list[int]], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        record(chain(tmp_path), operands)


@pytest.mark.skipif(not LIBERTY.is_file(), reason="osu018 is not installed")
@pytest.mark.parametrize("delays", [True, False])
def test_a_mapped_unit_computes_while_it_is_recorded(delays: bool) -> None:
    format = SFx(4, False)
    netlist = gate_netlist(component_source(MultiplyAccumulate(format, target="osu018")))
    chance = random.Random(2)
    a, b = ([chance.randrange(16) for _ in range(60)] for _ in "ab")
    first = [int(k % 7 == 0) for k in range(60)]
    found = record(netlist, {"a": a, "b": b, "first": first, "valid": [1] * 60}, delays=delays)
    width = len(netlist.outputs["accumulator"])
    sums, total = [], 0
    for x, y, new in zip(a, b, first, strict=True):
        total = (0 if new else total) + format.operand(x) * format.operand(y)
        sums.append(total % (1 << width))
    # what a cycle ends with is the sum up to the one before
    assert list(found.outputs["accumulator"][1:]) == sums[:-1]
    assert 0 < found.total(netlist) < 3 * len(netlist.nets)
