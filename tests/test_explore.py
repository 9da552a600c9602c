"""Explorations: what is swept, what is kept, what beats what, here and with dask."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atreides import explore as command
from atreides import explore_figures, explore_picture
from atreides.cli import main
from atreides.explore_accuracy import Accuracy
from atreides.explore_figures import Figures, Work
from atreides.explore_picture import picture
from atreides.explore_points import Point, parse_axes, points
from atreides.explore_results import front, notes
from atreides.explore_run import Notes, Outcome, explore
from hw import board_flow, fit_search
from hw.board_tools import Placement
from hw.boards import find_board
from hw.fit import Need
from sw.config import MachineConfig
from sw.wasq.records import Record, append_record

BASE = MachineConfig(bits=8)
calls: list[str] = []


def pretend(point: Point, work: Work) -> dict[str, Any]:
    """Figures without any tool; SF5 always fails."""
    calls.append(point.label)
    config = point.config
    if config.bits == 5:
        raise ValueError("SF5 is\nnot built")
    luts = config.bits * config.rows * config.columns
    cycles = 10_000 // (config.rows * config.columns)
    return {"area": "modelled", "luts": luts, "block_rams": 1, "dsps": 0, "cycles": cycles}


def interrupted(point: Point, work: Work) -> dict[str, Any]:
    if point.config.bits == 8:
        raise KeyboardInterrupt
    return pretend(point, work)


def some(*axes: str) -> list[Point]:
    return points(BASE, parse_axes(["board=ulx3s-85f", *axes]))


def outcome(bits: int, luts: int, cycles: int, board: str = "a", **more: Any) -> Outcome:
    figures = Figures(area="modelled", luts=luts, block_rams=1, dsps=0, cycles=cycles, **more)
    return Outcome(Point(board, MachineConfig(bits=bits)), figures)


def record(bits: int | None, perplexity: float, **more: Any) -> Record:
    fields: dict[str, Any] = {
        **{"model": "m", "model_sha256": "0", "data": "text", "split": "test", "data_sha256": "1"},
        **{"window": 8, "windows": 1, "predicted": 7, "loss": 1.0, "perplexity": perplexity},
        **{"weight_bits": bits, "activation_bits": bits, "method": "vanilla"},
    }
    return Record(**fields | more)


def test_all_combinations_are_points() -> None:
    found = some("bits=4,8", "multiplier=auto,dsp", "rows=2,4")
    assert len(found) == len(set(found)) == 8
    assert {(p.config.bits, p.config.multiplier, p.config.rows) for p in found} == {
        (bits, name, rows) for bits in (4, 8) for name in ("auto", "dsp") for rows in (2, 4)
    }


def test_arrays_are_rows_by_columns() -> None:
    found = some("array=2x4,8x8", "bits=4")
    assert [(p.config.rows, p.config.columns) for p in found] == [(2, 4), (8, 8)]


def test_what_was_built_from_other_hardware_is_built_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    point = some("bits=4")[0]
    keys = set()
    for source in ("one", "two"):
        monkeypatch.setattr(explore_figures, "sources", lambda source=source: source)
        keys |= {Work(synthesize=True).key(point), Work(place=True).key(point), Work().key(point)}
    assert len(keys) == 5  # the model looks at its table instead


def test_a_placed_area_is_what_the_placer_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {"LUT4": 80, "TRELLIS_FF": 5, "DP16KD": 2}
    placement = Placement(50.5, {"TRELLIS_COMB": (100, 24288)})
    built = SimpleNamespace(cells=cells, placement=placement)
    monkeypatch.setattr(board_flow, "Flow", lambda *_: SimpleNamespace(build=lambda _: built))
    found = explore_figures._placed(find_board("ulx3s-12f"), BASE, 1)
    assert found == (Need(100, 2, 0, 5), 50.5)


def test_what_certainly_does_not_fit_is_not_synthesised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit_search, "need", lambda *_: Need(1_000_000, 1))
    monkeypatch.setattr(fit_search, "nearest", lambda *_: None)
    monkeypatch.setattr(explore_figures, "_synthesised", None)
    with pytest.raises(fit_search.Refusal, match="1,000,000 look-up tables of 83,640"):
        explore_figures.evaluate(some("bits=4")[0], Work(synthesize=True))


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (["board=nope"], "board must be one of"),
        (["board=ulx3s-85f", "multiplier=fast"], "multiplier must be"),
        (["board=ulx3s-85f", "bits=2"], "bits"),
        (["board=ulx3s-85f", "color=red"], "axis must be one of"),
        (["board=ulx3s-85f", "board=icebreaker"], "once"),
        (["bits=4"], "axes must have a board"),
        (["board=ulx3s-85f", "bits=x"], "sweep must be as in"),
        (["board=ulx3s-85f", "array=4"], "array must be as in 4x8, not '4'"),
        (["board=ulx3s-85f", "array=4x99"], "columns must be 1 to 32"),
        (["board=ulx3s-85f", "array=4x4", "rows=4"], "axes must have array or rows, not both"),
    ],
)
def test_wrong_axes_are_one_sentence_and_status_2(
    axes: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", *axes, "-o", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_a_failure_is_noted_and_stops_nothing_and_nothing_is_done_twice(tmp_path: Path) -> None:
    found, notes_file = some("bits=4,5,8"), tmp_path / "points.jsonl"
    calls.clear()
    first = explore(found, Work(), Notes(notes_file), pretend)
    assert len(calls) == 3
    assert [one.failure for one in first] == ["", "SF5 is not built", ""]
    again = explore(found, Work(), Notes(notes_file), pretend)
    assert len(calls) == 3
    assert again == first
    explore(some("bits=4,5,8,16"), Work(), Notes(notes_file), pretend)
    assert calls[3:] == [some("bits=16")[0].label]
    explore(found, Work(), Notes(notes_file), pretend, retry=True)
    assert calls[4:] == [found[1].label]
    explore(found, Work(product=(8, 8, 8)), Notes(notes_file), pretend)  # another question
    assert len(calls) == 8


def test_a_line_cut_short_is_done_again(tmp_path: Path) -> None:
    found, path = some("bits=4,8"), tmp_path / "points.jsonl"
    want = explore(found, Work(), Notes(path), pretend)
    path.write_text(path.read_text()[:-20])
    calls.clear()
    assert explore(found, Work(), Notes(path), pretend) == want
    assert calls == [found[1].label]
    assert explore(found, Work(), Notes(path), pretend) == want
    assert len(calls) == 1


def test_what_is_done_stays_when_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    with pytest.raises(KeyboardInterrupt):
        explore(some("bits=4,8,16"), Work(), Notes(path), interrupted)
    assert len(Notes(path).known) == 1


def test_the_command_says_where_what_is_done_is_and_ends_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.explore_figures, "evaluate", interrupted)
    words = ["explore", "board=ulx3s-85f", "bits=4,8", "-o", str(tmp_path)]
    assert main(words) == 130
    assert f"what was done is in {tmp_path}; run again to go on" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_of_dask_give_what_one_process_gives(tmp_path: Path) -> None:
    found = some("bits=4,5,8", "rows=2,4")
    want = explore(found, Work(), Notes(tmp_path / "one.jsonl"), pretend)
    got = explore(found, Work(), Notes(tmp_path / "two.jsonl"), pretend, jobs=2)
    assert got == want


def test_a_scheduler_that_does_not_answer_is_one_sentence_soon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    words = ["explore", "board=ulx3s-85f", "bits=4", "-o", str(tmp_path)]
    assert main([*words, "--scheduler", "tcp://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err.strip()
    assert "scheduler must answer within 5s at tcp://127.0.0.1:9" in error
    assert "\n" not in error
    assert time.monotonic() - started < 30


def test_a_scheduler_elsewhere_is_used(tmp_path: Path) -> None:
    from distributed import LocalCluster

    found = some("bits=4,8")
    want = explore(found, Work(), Notes(tmp_path / "one.jsonl"), pretend)
    sizes: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**sizes, processes=False, protocol="tcp") as cluster:
        address = cluster.scheduler_address
        notes_ = Notes(tmp_path / "two.jsonl")
        assert explore(found, Work(), notes_, pretend, scheduler=address) == want


def test_accuracy_is_the_best_of_a_width_and_what_is_mixed_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    for one in (
        record(None, 9.0, method="float"),
        record(8, 10.0),
        record(8, 9.5, method="compensate"),
        record(4, 20.0),
        record(4, 1.0, activation_bits=16),
    ):
        append_record(log, one)
    found = Accuracy.read(log, "perplexity", None)
    assert found.best == {8: (9.5, "compensate"), 4: (20.0, "vanilla")}
    append_record(log, record(8, 1.0, model="other"))
    with pytest.raises(ValueError, match="--log-model"):
        Accuracy.read(log, "perplexity", None)
    assert Accuracy.read(log, "perplexity", "m") == found
    with pytest.raises(ValueError, match="metric must be one of perplexity"):
        Accuracy.read(log, "speed", None)
    with pytest.raises(ValueError, match="log that can be read"):
        Accuracy.read(tmp_path / "none.jsonl", "loss", None)


def test_the_front_has_what_none_beats_by_board() -> None:
    small, fast, beaten = outcome(8, 100, 50), outcome(8, 200, 20), outcome(8, 250, 30)
    elsewhere = outcome(8, 900, 900, "b")
    assert front([small, fast, beaten, elsewhere], None) == [small, fast, elsewhere]
    wide = outcome(16, 300, 50)  # more bits are better as long as no log says otherwise
    assert wide in front([small, fast, wide], None)
    log = Accuracy("perplexity", {8: (9.0, "a"), 16: (9.0, "a")})
    assert wide not in front([small, fast, wide], log)


def test_time_decides_once_all_frequencies_are_known() -> None:
    few_cycles, fast = outcome(8, 100, 50, megahertz=10.0), outcome(8, 100, 60, megahertz=100.0)
    assert front([few_cycles, fast], None) == [fast]
    unknown = outcome(8, 100, 50)
    assert front([unknown, fast], None) == [unknown]


def test_a_width_that_the_log_lacks_is_shown_and_told() -> None:
    log = Accuracy("perplexity", {8: (9.0, "vanilla")})
    found = [outcome(8, 100, 50), outcome(4, 50, 50)]
    assert front(found, log) == found
    said = list(notes(found, log))
    assert "SF4: the log has no perplexity, so these count as least accurate." in said
    for format, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        assert picture(found, found, log, format).startswith(start)


def test_a_trifle_is_not_drawn_as_a_difference() -> None:
    axis = SimpleNamespace(set_major_locator=lambda _: None)
    low, high = explore_picture._wide_enough(axis, 99.0, 100.0)
    assert high / low == pytest.approx(explore_picture.LEAST)
    assert low < 99 < 100 < high
    assert explore_picture._wide_enough(axis, 10.0, 100.0) == (10.0, 100.0)


def test_the_command_writes_table_json_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_search, "nearest", lambda *_: None)
    append_record(tmp_path / "log.jsonl", record(8, 9.5))
    files = {"--plot": "front.svg", "--json": "front.json", "--log": "log.jsonl"}
    given = [word for name, file in files.items() for word in (name, str(tmp_path / file))]
    words = ["board=ulx3s-12f", "bits=4,8", "rows=2", "columns=2", "slots=16,65536"]
    words += ["-o", str(tmp_path)]
    assert main(["explore", *words, *given]) == 0
    rows = json.loads((tmp_path / "front.json").read_text())["points"]
    assert [row["figures"] is None for row in rows] == [False, True, False, True]
    assert "block RAMs of 56" in rows[1]["failure"]
    assert rows[2]["perplexity"] == 9.5
    assert rows[0]["perplexity"] is None
    assert (tmp_path / "front.svg").read_bytes().startswith(b"<?xml")
    assert "SF4: the log has no perplexity" in capsys.readouterr().out
