"""Settings of phase-locked loops: never beyond a limit, never above the goal, never far below."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.boards import BOARDS
from hw.pll import LIMITS, choose, loop_kind
from hw.pll import settings as all_settings

REFERENCES = {
    "ecp5": (12, 25, 48, 50, 100),
    "ice40": (12, 16, 100),
    "GW1NR-9C": (27,),
    "GW2A-18C": (27,),
}
#: The largest step between settings, as part of the frequency; on Gowin a ninth, just below the
#: reference, whose divider goes to 9.
STEPS = {"ecp5": 0.021, "ice40": 0.03}
PAIRS = [(kind, mhz * 10**6) for kind, found in REFERENCES.items() for mhz in found]


def formula(kind: str, reference: int, dividers: tuple[int, ...]) -> tuple[Fraction, Fraction]:
    """Oscillator and output as the data sheets give them."""
    if kind == "ecp5":
        divider, feedback, first, second = dividers
        oscillator = Fraction(reference * feedback * first, divider)
        return oscillator, oscillator / second
    divider, feedback, last = dividers
    if kind == "ice40":
        oscillator = Fraction(reference * feedback, divider)
        return oscillator, oscillator / 2**last
    output = Fraction(reference * feedback, divider)
    return output * last, output


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(PAIRS), st.integers(17_000_000, 250_000_000))
def test_a_setting_is_within_all_limits_and_at_most_the_goal(pair, goal: int) -> None:
    kind, reference = pair
    chosen, limits = choose(kind, reference, goal), LIMITS[kind]
    oscillator, output = formula(kind, reference, chosen.dividers)
    assert (oscillator, output) == (chosen.oscillator, chosen.output)
    assert limits.output[0] <= output <= goal
    assert limits.oscillator[0] <= oscillator <= limits.oscillator[1]
    assert limits.detector[0] <= Fraction(reference, chosen.dividers[0]) <= limits.detector[1]
    assert goal - output <= STEPS.get(kind, 1 / 9) * goal


@pytest.mark.parametrize(("kind", "reference"), PAIRS[1:2] + PAIRS[5:8])
def test_no_other_setting_is_nearer_below(kind: str, reference: int) -> None:
    outputs = {setting.output for setting in all_settings(kind, reference)}
    for goal in (20_000_000, 33_333_333, 61_700_000, 99_999_999, 143_000_001):
        below = max(output for output in outputs if output <= goal)
        assert choose(kind, reference, goal).output == below


@pytest.mark.parametrize("goal", [24, 31, 40.5, 57])
def test_ice40_is_as_near_as_icepll(goal: float) -> None:
    tool = Path(sys.executable).with_name("yowasp-icepll")
    said = subprocess.run(
        [tool, "-i", "12", "-o", str(goal)], capture_output=True, text=True, check=True
    ).stdout
    words = {n: int(v) for n, v in re.findall(r"(DIV[RFQ]|FILTER_RANGE): +(\d+)", said)}
    found = formula("ice40", 12_000_000, (words["DIVR"] + 1, words["DIVF"] + 1, words["DIVQ"]))[1]
    chosen = choose("ice40", 12_000_000, round(goal * 1e6))
    if found <= goal * 1e6:  # icepll takes the nearest, above too
        assert chosen.output == found
    else:
        assert chosen.output < found


def test_ecp5_is_at_least_as_near_as_ecppll() -> None:
    tool = Path(sys.executable).with_name("yowasp-ecppll")
    for goal in (50, 63, 80, 96, 100):
        said = subprocess.run(
            [tool, "-i", "25", "-o", str(goal)], capture_output=True, text=True, check=True
        ).stdout
        (found,) = re.findall(r"clkout0 frequency: ([\d.]+) MHz", said)
        if float(found) <= goal:
            assert choose("ecp5", 25_000_000, goal * 10**6).output >= float(found) * 1e6


def test_what_no_loop_can_do_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^frequency must be at least .* MHz, not 1$"):
        choose("ice40", 12_000_000, 1_000_000)
    with pytest.raises(ValueError, match=r"^reference must be 10 to 133 MHz, not 3\.3$"):
        choose("ice40", 3_300_000, 50_000_000)


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_can_run_from_its_loop(name: str) -> None:
    board = BOARDS[name]
    kind = loop_kind(board.device.name, board.device.family)
    assert choose(kind, board.oscillator, 30_000_000).output > 27_000_000
