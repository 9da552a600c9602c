"""The tests notice when a unit is broken: mutants of every unit must die."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim import mutate
from sim.mutate import REQUIRED, choose, mutations, run_all, select_cases, summarize
from sim.units import UNITS

SOURCE = """\
module original(a, o);
  input [3:0] a;
  output o;
  assign o = a[1] & ~a[2];
  assign p = s ? 4'h3 : a + 4'h1;
  always @(posedge clk)
    if (enable) q <= a;
endmodule
"""


def test_mutations_change_operators_constants_selects_and_conditions_but_no_declarations() -> None:
    found = mutations(SOURCE)
    assert {m.line for m in found} == {4, 5, 7}
    after = {m.after.strip() for m in found}
    assert {
        "assign o = a[1] | ~a[2];",
        "assign o = a[1] & a[2];",
        "assign o = a[0] & ~a[2];",
        "assign p = !s ? 4'h3 : a + 4'h1;",
        "assign p = s ? 4'h2 : a + 4'h1;",
        "assign p = s ? 4'h3 : a - 4'h1;",
        "if (!(enable)) q <= a;",
        "if (1'h1) q <= a;",
    } <= after
    assert all(m.after != m.before for m in found)


def test_the_same_seed_chooses_the_same_mutants() -> None:
    from random import Random

    assert choose(SOURCE, 6, Random(1)) == choose(SOURCE, 6, Random(1))
    assert choose(SOURCE, 6, Random(1)) != choose(SOURCE, 6, Random(2))


def test_a_sample_of_mutants_dies() -> None:
    cases = select_cases(["fma", "operand-hold", "fma-stream"], [4], 1)
    outcomes = run_all(cases, 8, 1, 1)
    summary = summarize(outcomes)
    survivors = [f"{o.case}: {o.mutation}: {o.reason}" for o in outcomes if o.verdict == "survived"]
    assert summary["killed"] >= 12
    assert len(survivors) <= 2, "\n".join(survivors)


@pytest.mark.slow
def test_at_least_95_percent_of_all_mutants_die() -> None:
    outcomes = run_all(select_cases(list(UNITS), [5, 8], mutate.DEFAULT_SEED), 15, 1, 2)
    survivors = [f"{o.case}: {o.mutation}: {o.reason}" for o in outcomes if o.verdict == "survived"]
    assert summarize(outcomes)["rate"] >= REQUIRED, "\n".join(survivors)
    assert all(any(o.case.startswith(unit) for o in outcomes) for unit in UNITS)


def test_report_lists_every_mutant_and_status_says_whether_the_rate_is_met(tmp_path: Path) -> None:
    report = tmp_path / "mutants.json"
    arguments = ["activation", "--bits", "5", "--count", "4", "--report", str(report)]
    status = mutate.run(arguments)
    data = json.loads(report.read_text())
    assert status == (0 if data["rate"] >= REQUIRED else 1)
    assert len(data["outcomes"]) == 4
    assert list(tmp_path.iterdir()) == [report]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], r"mutate: unit must be one of multiplier, .*, not 'nosuch'"),
        (["fma", "--bits", "17"], r"mutate: bits must be 3 to 16, not 17"),
        (
            ["fma", "--bits", "x"],
            r"mutate: Invalid value for '--bits': Input should be a valid integer.*",
        ),
        (
            ["--count", "0"],
            r"mutate: Invalid value for '--count': Input should be greater than or equal to 1",
        ),
        (["--wrong"], r"mutate: No such option: --wrong.*; options are --bits, --count, .*"),
        (["fma", "--bits"], r"mutate: Option '--bits' requires an argument"),
        (["--report", "/dev/null/r.json"], r"mutate: report must be in a writable directory, .*"),
    ],
)
def test_bad_input_ends_with_one_sentence_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mutate.run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(message + "\n", printed.err), printed.err


def test_the_module_ends_with_the_status_of_its_command_line() -> None:
    command = [sys.executable, "-m", "sim.mutate", "nosuch"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert ran.stdout == ""
