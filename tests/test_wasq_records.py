"""The log of results: rows come back as they were, whatever else lies in the file."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from sw.wasq import SFConfig, quantize_
from sw.wasq.corpus import Corpus
from sw.wasq.evaluation import Evaluation
from sw.wasq.records import Record, append_record, read_records
from sw.wasq.results import effective_bits, make_record

ROW = Record(
    **{"model": "m", "model_sha256": "00", "data": "d", "split": "s", "data_sha256": "11"},
    **{"window": 8, "windows": 2, "predicted": 14, "loss": 1.5, "perplexity": 4.5},
    interval=(4.0, 5.0),
    config=SFConfig().to_json(),
    extra={"rho": 0.05},
)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.jsonl"
    other = Record(**{**ROW.to_json(), "seed": 3, "interval": None})
    append_record(log, ROW)
    append_record(log, other)
    assert read_records(log).records == (ROW, other)
    assert read_records(log).mistakes == ()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line must be JSON"),
        ("[1]", "result must be a JSON object, not list"),
        (json.dumps({**ROW.to_json(), "bits": 8}), "result must have known fields, not 'bits'"),
        (json.dumps({**ROW.to_json(), "window": "8"}), "window must be a whole number, not '8'"),
        (json.dumps({**ROW.to_json(), "window": True}), "window must be a whole number, not True"),
        (
            json.dumps({**ROW.to_json(), "interval": [1]}),
            "interval must be two finite numbers or null, not [1]",
        ),
        ('{"model": "m"}', "result must have model_sha256"),
        (json.dumps({**ROW.to_json(), "loss": float("nan")}), "loss must be a finite number"),
    ],
)
def test_a_malformed_line_is_told_by_its_number(tmp_path: Path, line: str, sentence: str) -> None:
    log = tmp_path / "log.jsonl"
    append_record(log, ROW)
    with open(log, "a") as file:
        file.write(line + "\n")
    append_record(log, ROW)
    found = read_records(log)
    assert found.records == (ROW, ROW)
    assert len(found.mistakes) == 1
    assert found.mistakes[0].startswith(f"{log}:2: {sentence}")


def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    append_record(log, ROW)
    log.write_bytes(log.read_bytes() + b'{"model": "to')
    append_record(log, ROW)
    found = read_records(log)
    assert found.records == (ROW, ROW)
    assert found.mistakes == (f"{log}:2: line must be JSON",)


def test_numbers_that_json_has_not_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match="finite numbers"):
        append_record(log, Record(**{**ROW.to_json(), "loss": float("inf")}))
    assert not log.exists()
    with pytest.raises(ValueError, match="must be a file that can be added to"):
        append_record(tmp_path, ROW)
    with pytest.raises(ValueError, match="must be a log that can be read"):
        read_records(log)


def _append_many(path: Path, seed: int) -> None:
    for _ in range(20):
        append_record(path, Record(**{**ROW.to_json(), "seed": seed, "model": "m" * 9000}))


def test_processes_append_without_mixing_lines(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append_many, args=(log, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    found = read_records(log)
    assert found.mistakes == ()
    assert sorted(record.seed for record in found.records) == [0] * 20 + [1] * 20 + [2] * 20


def test_a_row_says_what_the_evaluation_found() -> None:
    corpus = Corpus.of("text", "valid", torch.arange(9))
    evaluation = Evaluation((4.0, 6.0), (2, 3), (3.0, 5.0), (0.5, 0.25), 4, 1.0)
    row = make_record("m", "00", corpus, evaluation, vanilla_perplexity=10.0, method="opt", seed=2)
    plain, float_one = 2.718281828459045**2, 2.718281828459045**1.6
    assert row.perplexity == pytest.approx(plain, rel=1e-12)
    assert row.reference_perplexity == pytest.approx(float_one, rel=1e-12)
    assert row.ratio == pytest.approx(plain / float_one, rel=1e-12)
    assert row.divergence == pytest.approx(0.15)
    assert row.recovery == pytest.approx((10 - plain) / (10 - float_one))
    assert (row.data, row.split, row.seed, row.method) == ("text", "valid", 2, "opt")
    assert Record.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize(
    ("scale", "want"),
    [
        ("none", 8.0),
        ("tensor", 8 + 8 / 160),
        ("channel", 8 + 4 * 8 / 160),
        ("block", 8 + 8 * 8 / 160),
    ],
)
def test_effective_bits_count_the_exponents(scale: str, want: float) -> None:
    model = nn.Sequential(nn.Linear(40, 4))
    quantize_(model, SFConfig(weight_scale=scale))  # type: ignore[arg-type]
    assert effective_bits(model) == pytest.approx(want)
    assert effective_bits(nn.Linear(2, 2)) is None
