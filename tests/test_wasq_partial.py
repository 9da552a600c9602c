"""Windows that are done: they come back bit for bit, and of no other evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sw.wasq.partial import COLUMNS, Partial, identity

CPU = torch.device("cpu")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.tuples(*[NUMBERS] * COLUMNS).map(list), min_size=1, max_size=6)


def interrupt(partial: Partial, rows: dict[int, list[float]]) -> None:
    """An evaluation that is interrupted after these windows."""
    with partial:
        partial.put(list(rows), list(rows.values()))
        raise KeyboardInterrupt


def leave(path: Path, count: int, rows: dict[int, list[float]]) -> None:
    """What is left of an interrupted evaluation of so many windows."""
    with pytest.raises(KeyboardInterrupt):
        interrupt(Partial(count, path, "me"), rows)


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, cut=st.integers(1, 6))
def test_rows_come_back_bit_for_bit(rows: list[list[float]], cut: int, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    before = dict(list(enumerate(rows))[:cut])
    leave(path, len(rows), before)
    again = Partial(len(rows), path, "me")
    assert again.done == len(before)
    assert all(again.has([number]) == (number in before) for number in range(len(rows)))
    rest = [number for number in range(len(rows)) if number not in before]
    again.put(rest, [rows[number] for number in rest])
    found = again.gather(CPU)
    want = torch.tensor(rows, dtype=torch.float64)
    assert found.numpy().tobytes() == want.numpy().tobytes()


def test_files_of_other_ranks_count_and_no_neighbour_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    leave(path, 3, {0: [1.0, 2.0, 3.0]})
    other = json.loads((tmp_path / "state.json.0").read_text())
    other["rows"] = [[2, [4.0, 5.0, 6.0]]]
    (tmp_path / "state.json.7").write_text(json.dumps(other))
    kept = [tmp_path / name for name in ("state.json", "state.json.old", "state.jsonl.0")]
    for neighbour in kept:
        neighbour.write_text("mine")
    partial = Partial(3, path, "me")
    assert partial.has([0, 2])
    assert not partial.has([0, 1])
    partial.remove()
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    partial = Partial(2, None, "")
    with pytest.raises(KeyboardInterrupt):
        interrupt(partial, {0: [1.0, 2.0, 3.0]})
    assert partial.gather(CPU).tolist() == [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:-1], "must be the state of an evaluation"),
        (lambda _: "[]", "must be the state of an evaluation"),
        (lambda _: "\udcff", "must be the state of an evaluation"),
        (lambda data: data.replace('"me"', '"you"'), "must be of the same model, text and windows"),
        (lambda data: data.replace("[0, [", "[9, ["), "must have rows of 3 by window, not 9"),
        (lambda data: data.replace("2.0, ", ""), "must have rows of 3 by window, not 0"),
        (lambda data: data.replace("2.0", "NaN"), "must hold finite numbers"),
    ],
)
def test_a_file_that_is_no_state_of_this_evaluation_is_refused(
    tmp_path: Path, change: Callable[[str], str], sentence: str
) -> None:
    path = tmp_path / "state.json"
    leave(path, 2, {0: [1.0, 2.0, 3.0]})
    file = tmp_path / "state.json.0"
    file.write_bytes(change(file.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=sentence) as caught:
        Partial(2, path, "me")
    assert "\n" not in str(caught.value)


def test_a_place_that_holds_no_file_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a file, not a folder"):
        Partial(2, tmp_path, "me")
    with pytest.raises(ValueError, match="must be in a folder that exists"):
        Partial(2, tmp_path / "nosuch" / "state", "me")


def test_a_state_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "state"
    partial = Partial(2, path, "me")
    (tmp_path / "state.0").mkdir()
    with pytest.raises(ValueError, match=r"state\.0 must be writable: Is a directory"):
        interrupt(partial, {0: [1.0, 2.0, 3.0]})
    assert [file.name for file in tmp_path.iterdir()] == ["state.0"]


def test_an_identity_changes_with_all_that_an_evaluation_depends_on() -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(3, 3), nn.Linear(3, 3)
    parts = [torch.arange(4), torch.arange(4, 8)]
    found = identity(model, None, parts, 1)
    assert found == identity(model, None, [part.clone() for part in parts], 1)
    changed = [
        identity(other, None, parts, 1),
        identity(model, other, parts, 1),
        identity(model, model.forward, parts, 1),
        identity(model, None, parts[::-1], 1),
        identity(model, None, parts[:1], 1),
        identity(model, None, parts, 2),
        identity(nn.Sequential(model), None, parts, 1),
    ]
    assert len({found, *changed}) == 1 + len(changed)
