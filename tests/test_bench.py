"""The benchmarks' command lines: what they write, and what they say about a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", name, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


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
        ("bench.simulators", ["--rows", "40"], "rows must be 1 to 32, not 40"),
        ("sim.machine_random", ["--bits", "x"], "--bits: invalid int value: 'x'"),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_status_2(name, arguments, message):
    ran = run(name, *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith(f"{name}: ")
    assert message in ran.stderr


def test_the_matmul_benchmark_writes_every_row(tmp_path):
    path = tmp_path / "new" / "matmul.json"
    ran = run("bench.matmul", "--size", "16", "--repeats", "1", "-o", str(path))
    assert ran.returncode == 0, ran.stderr
    rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
    assert rows["float32 @"]["speed_to_float32"] == 1
    assert {f"SF{bits}" for bits in range(3, 17)} <= set(rows)
    assert [p.name for p in path.parent.iterdir()] == ["matmul.json"]
