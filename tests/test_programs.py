"""The programs in ``programs/`` on the model and on RTL, against their own integer reference."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from atreides.machine_files import load_memory, load_program
from sim.machine_backends import RTL, execute
from sim.machine_job import Job, Result
from sw.config import MachineConfig
from sw.registers import Counter, ResultKind

#: Of an 8 x 8 machine these simulate few cycles per second, and cocotb's build takes long.
SLOW = ("amaranth", "icarus", "cocotb-verilator")
QUICK_RTL = [pytest.param(b, marks=[pytest.mark.slow] * (b in SLOW)) for b in RTL]

FOLDER = Path(__file__).parent.parent / "programs"
CONFIG = MachineConfig()
NAMES = ("hello", "gemm", "perceptron", "convolution", "attention")
#: Sizes M, N and K of all products of a program.
SIZES = {
    "hello": [(8, 8, 8)],
    "gemm": [(12, 19, 20)],
    "perceptron": [(4, 24, 16), (4, 10, 24)],
    "convolution": [(36, 8, 36)],
    "attention": [(12, 12, 16), (12, 16, 12)],
}


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job(name: str) -> Job:
    words = load_program(FOLDER / f"{name}.s", CONFIG)
    return Job(CONFIG, words, *load_memory(FOLDER / f"{name}.npz", CONFIG))


@cache
def results(back_end: str) -> dict[str, Result]:
    """All programs in one simulation."""
    return dict(zip(NAMES, execute([job(name) for name in NAMES], back_end), strict=True))


def test_every_program_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.s")} == set(NAMES) == set(reference().PROGRAMS)


def test_images_are_what_their_maker_makes() -> None:
    for name, content in reference().files().items():
        assert (FOLDER / name).read_bytes() == content, name


def stream(result: Result, columns: int) -> list[list[int]]:
    """The matrix that left on the stream: tiles of rows, each with its column tiles in turn."""
    rows = [row.data for row in result.report.results]
    tiles = -(-columns // CONFIG.columns)
    matrix: list[list[int]] = []
    while rows:
        count = min(CONFIG.rows, len(rows) // tiles)
        parts = [rows[t * count : (t + 1) * count] for t in range(tiles)]
        matrix += [[v for part in parts for v in part[i]] for i in range(count)]
        rows = rows[tiles * count :]
    return matrix


@pytest.mark.parametrize("back_end", ["model", *QUICK_RTL])
def test_programs_leave_what_the_reference_computes(back_end: str) -> None:
    for name in NAMES:
        assert_as_the_reference(name, back_end)
        found = results(back_end)[name].differences(results("model")[name])
        assert not found, (name, found)


def assert_as_the_reference(name: str, back_end: str) -> None:
    result = results(back_end)[name]
    expected = np.load(FOLDER / f"{name}.expected.npz")
    assert result.report.fault == 0, name
    tiles = result.memory[: expected["tiles"].size].reshape(expected["tiles"].shape)
    assert (tiles == expected["tiles"]).all(), name
    if "stream" in expected.files:
        assert all(row.kind == ResultKind.EXACT for row in result.report.results)
        assert stream(result, expected["stream"].shape[1]) == expected["stream"].tolist()
    else:
        assert not result.report.results
    assert result.report[Counter.MACS] == sum(m * n * k for m, n, k in SIZES[name])


def test_hello_takes_the_published_cycles() -> None:
    assert results("model")["hello"].report[Counter.MATMUL_CYCLES] == 8 + 8 + 8 - 2


def test_programs_would_differ_on_another_image() -> None:
    words, parameters = load_memory(FOLDER / "gemm.npz", CONFIG)
    words[0] ^= 1 << 14
    (result,) = execute([Job(CONFIG, job("gemm").words, words, parameters)], "model")
    wrong = result.memory != results("model")["gemm"].memory
    assert wrong[656:].any()
