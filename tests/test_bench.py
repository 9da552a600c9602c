"""The benchmarks' command lines: what they write, and what they say about a mistake."""

from __future__ import annotations

import importlib
import json
import sys

import pytest


def run(name: str, *arguments: str) -> int:
    """The exit status of a benchmark, in this process: each loads torch anew in one of its own."""
    module = importlib.import_module(f"{name}.__main__" if name == "bench" else name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        try:
            given = [list(arguments)] if name == "bench" else []
            return int(module.main(*given) or 0)
        except SystemExit as end:
            return int(end.code or 0)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bench", ["nosuch"], "bench: benchmark must be one of tensor, matmul, hardware, "),
        ("bench.tensor", ["--millions", "0"], "--millions: must be a positive integer, not '0'"),
        ("bench.tensor", ["--wrong"], "unrecognized arguments: --wrong; options are --help, --m"),
        ("bench.matmul", ["--size", "x"], "--size: must be a positive integer, not 'x'"),
        ("bench.matmul", ["--repeats"], "bench.matmul: --repeats: expected one argument"),
        ("bench.matmul", ["-o", "/proc/x/y"], "must be a file in a writable directory, not"),
        ("bench.hardware", ["--widths", "2-4"], "must be numbers from 3 to 16, not '2-4'"),
        ("bench.hardware", ["--target", "asic"], "--target: must be one of"),
        ("bench.machine", ["--size", "17"], "size must be a multiple of 16, not 17"),
        ("bench.utilisation", ["--bits", "99"], "bits must be 3 to 16, not 99"),
        ("bench.networks", ["--bits", "99"], "bits must be 3 to 16, not 99"),
        ("bench.networks", ["--model", "vgg"], "--model: invalid choice: 'vgg' (choose from "),
        ("bench.wasq_language", ["--rows", "x"], "--rows must match a name that --list prints"),
        ("bench.gptq", ["--public", "nosuch"], "--public must be a folder of installed packages, "),
        ("bench.simulators", ["--rows", "40"], "rows must be 1 to 32, not 40"),
        ("sim.machine_random", ["--bits", "x"], "--bits: invalid int value: 'x'"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_2(name, arguments, message, capsys):
    assert run(name, *arguments) == 2
    said, complaint = capsys.readouterr()
    assert said == ""
    assert complaint.count("\n") == 1, complaint
    assert complaint.startswith(f"{name}: ")
    assert message in complaint


def test_the_matmul_benchmark_writes_every_row(tmp_path):
    path = tmp_path / "new" / "matmul.json"
    assert run("bench.matmul", "--size", "16", "--repeats", "1", "-o", str(path)) == 0
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["float32 @"]["speed_to_float32"] == 1
    assert {f"SF{bits}" for bits in range(3, 17)} <= set(rows)
    assert [p.name for p in path.parent.iterdir()] == ["matmul.json"]


@pytest.mark.parametrize("missing", ["library", "OpenSTA"])
def test_a_missing_library_is_said_before_hours_of_synthesis(
    missing, tmp_path, monkeypatch, capsys
):
    library = tmp_path / "cells.lib"
    if missing != "library":
        library.touch()
    monkeypatch.setattr("hw.synthesis.LIBERTY", library)
    monkeypatch.setattr("shutil.which", lambda name: None if missing == "OpenSTA" else f"/{name}")
    assert run("bench.hardware", "--target", "osu018", "--widths", "4") == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("bench.hardware: ")
    assert complaint.endswith("must be installed: apt-get install qflow-tech-osu018 opensta\n")
    assert complaint.count("\n") == 1
