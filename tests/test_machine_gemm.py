"""Products on the machine model: what one GEMM computes, skips and counts."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sw import native
from sw.config import MachineConfig
from sw.format import SFx
from sw.isa import Destination, Fault, Flag, Function, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_operands import ResultRows
from sw.machine_report import Report
from sw.machine_state import TileMemory
from sw.registers import AMode, BMode, Counter, Register
from sw.tensor import decode, matmul
from tests.machine_programs import CONFIGS, ProgramMaker, fill

LARGE = MachineConfig(bits=8, rows=4, columns=8, slots=512, output_bits=16)


def gemm(
    destination: Destination = Destination.MEMORY,
    function: Function = Function.LINEAR,
    flags: int = 0,
    opcode: Opcode = Opcode.GEMM,
    **registers: int,
) -> list[int]:
    """SETs by name and a GEMM."""
    program: list[int] = []
    for name, value in registers.items():
        program += encode(Instruction(Opcode.SET, (Register[name], value)))
    return program + list(encode(Instruction(opcode, (destination, function, flags))))


def run(machine: Machine, program: list[int]) -> Report:
    report = machine.run(program)
    assert report.fault == Fault.NONE, report.meaning
    return report


def random_words(config: MachineConfig, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    dtype = np.uint8 if config.bits <= 8 else np.uint16
    return generator.integers(0, 1 << config.bits, shape).astype(dtype)


def place(machine: Machine, parts: dict[int, np.ndarray]) -> None:
    """Load memory with matrices at addresses, zeros elsewhere."""
    memory = np.zeros(machine.config.memory_words, dtype=np.int64)
    for address, words in parts.items():
        memory[address : address + words.size] = words.ravel()
    machine.load(memory)


def panels(b: np.ndarray, lanes: int) -> np.ndarray:
    """B as panels of ``lanes`` columns, padded with zeros."""
    padded = np.pad(b, ((0, 0), (0, -b.shape[1] % lanes)))
    return np.concatenate(np.split(padded, padded.shape[1] // lanes, axis=1))


@pytest.mark.parametrize(("m", "k", "n"), [(13, 37, 21), (1, 100, 8), (30, 1, 1), (8, 16, 24)])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_instruction_multiplies_matrices_of_any_shape(
    m: int, k: int, n: int, transposed: bool
) -> None:
    machine = Machine(LARGE)
    f = LARGE.format
    a, b = random_words(LARGE, (m, k), 1), random_words(LARGE, (k, n), 2)
    place(machine, {0: a.T if transposed else a, 4096: b.T if transposed else panels(b, 8)})
    where = {"MX": m, "K0": k, "NT": -(-n // 8), "NL": (n - 1) % 8 + 1, "B_BASE": 4096}
    if transposed:  # Q K^T: a column of B is a row in memory
        where |= {"A_MODE": AMode.SLICES, "A_K0": m, "B_MODE": BMode.LANES, "B_X": k, "B_N": 8 * k}
    else:
        where |= {"A_X": k, "B_K0": 8, "B_N": 8 * k}
    stream = run(machine, gemm(Destination.STREAM, Function.RELU, **where))
    assert stream[Counter.MACS] == m * k * n
    want = matmul(a, b, f, activation="relu", output=LARGE.output)
    rows = iter(stream.results)
    for row in range(0, m, 4):
        for column in range(0, n, 8):
            for i in range(row, min(row + 4, m)):
                assert list(next(rows).data) == want[i, column : column + 8].tolist(), (i, column)
    run(machine, gemm(O_BASE=8192, O_X=n, O_N=8, **where))
    got = machine.memory.words[8192 : 8192 + m * n].reshape(m, n)
    assert (got == matmul(a, b, f)).all()


def test_a_convolution_needs_no_reshuffling() -> None:
    """Valid, 3 x 3, stride 1: rows of pixels with channels side by side."""
    machine = Machine(LARGE)
    height, width, channels, outputs = 6, 7, 3, 5
    image = random_words(LARGE, (height, width, channels), 3)
    kernel = random_words(LARGE, (3, 3, channels, outputs), 4)
    place(machine, {0: image, 4096: panels(kernel.reshape(-1, outputs), 8)})
    line = width * channels
    run(
        machine,
        gemm(
            **{"MX": width - 2, "MY": height - 2, "A_X": channels, "A_Y": line},
            **{"K0": 3 * channels, "K1": 1, "K2": 3, "A_K2": line, "NL": outputs},
            **{"B_BASE": 4096, "B_K0": 8, "B_K2": 8 * 3 * channels},
            **{"O_BASE": 8192, "O_X": outputs, "O_Y": outputs * (width - 2)},
        ),
    )
    got = machine.memory.words[8192:][: (height - 2) * (width - 2) * outputs]
    patches = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(0, 1))
    a = np.ascontiguousarray(patches.transpose(0, 1, 3, 4, 2)).reshape(-1, 9 * channels)
    assert (
        got.reshape(len(a), outputs) == matmul(a, kernel.reshape(-1, outputs), LARGE.format)
    ).all()


def test_add_sums_tiles_with_shifts() -> None:
    machine = Machine(LARGE)
    f = LARGE.format
    x, y = random_words(LARGE, (10, 16), 5), random_words(LARGE, (10, 16), 6)
    place(machine, {0: x, 1024: y})
    where = {"MX": 10, "K0": 8, "K1": 2, "A_X": 16, "A_K1": 1024, "NT": 2, "A_N": 8}
    where |= {"B_K0": 1, "B_K1": 3, "O_BASE": 2048, "O_X": 16, "O_N": 8}
    run(machine, gemm(opcode=Opcode.ADD, **where))
    got = machine.memory.words[2048 : 2048 + 160].reshape(10, 16)
    for i in range(10):
        for j in range(16):
            exact = f.decode(int(x[i, j])) / 2 + f.decode(int(y[i, j])) / 8
            assert int(got[i, j]) == f.encode(exact)


def test_slices_that_are_zero_are_skipped_and_change_nothing() -> None:
    machine = Machine(LARGE)
    a, b = random_words(LARGE, (9, 60), 7), random_words(LARGE, (60, 20), 8)
    b[5:40] = LARGE.format.sign_bit  # minus zero
    b[:, 8:16] = 0
    place(machine, {0: a, 4096: panels(b, 8)})
    where = {"MX": 9, "K0": 60, "A_X": 60, "NT": 3, "NL": 4, "B_BASE": 4096, "B_K0": 8}
    where |= {"B_N": 480, "O_BASE": 8192, "O_X": 20, "O_N": 8}
    dense = run(machine, gemm(**where))
    want = machine.memory.words.copy()
    sparse = run(machine, gemm(flags=Flag.SKIP, **where))
    assert (machine.memory.words == want).all()
    assert (dense[Counter.SLICES], dense[Counter.SKIPPED_SLICES]) == (540, 0)
    # of three row tiles: 25 slices of the outer columns, one of the column of zeros
    assert (sparse[Counter.SLICES], sparse[Counter.SKIPPED_SLICES]) == (153, 387)
    assert sparse[Counter.MACS] == 9 * (25 * 12 + 8)
    assert sparse.cycles < dense.cycles / 2
    shifted = run(machine, gemm(flags=Flag.SKIP, **where | {"B_BASE": 4097}))
    assert shifted[Counter.SKIPPED_SLICES] == 0  # not aligned: the flag has no effect


def test_a_partial_write_of_zeros_does_not_set_the_flag_of_its_segment() -> None:
    memory = TileMemory(LARGE)
    assert memory.zero_segments.all()
    memory.write(16, [0] * 7)
    memory.write(28, [0] * 8)
    assert np.flatnonzero(~memory.zero_segments).tolist() == [2, 3, 4]
    memory.write(16, [0] * 7 + [LARGE.format.sign_bit])
    assert np.flatnonzero(~memory.zero_segments).tolist() == [3, 4]


@pytest.mark.parametrize("name", ["base", "small", "no_unity"])
def test_rows_written_together_equal_rows_written_in_turn(name: str) -> None:
    config = CONFIGS[name]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        together, in_turn = TileMemory(config), TileMemory(config)
        words = random_words(config, (12, config.columns), seed).astype(np.int64)
        words[generator.random(12) < 0.5] = 0
        counts = generator.integers(1, config.columns + 1, 12)
        counts[::2] = config.columns
        addresses = generator.integers(0, 40, 12)
        addresses[::3] -= addresses[::3] % config.columns
        for row, count in enumerate(counts):
            words[row, count:] = 0
            in_turn.write(int(addresses[row]), words[row, :count].tolist())
        together.write_rows(ResultRows(words, counts, addresses))
        assert (together.words == in_turn.words).all(), seed
        assert (together.zero_segments == in_turn.zero_segments).all(), seed


def test_parameters_are_taken_per_row_column_tile_and_batch() -> None:
    machine = Machine(LARGE)
    f = LARGE.format
    fill(machine, random.Random(9))
    where = {"MX": 5, "K0": 12, "A_X": 12, "A_G": 100, "NT": 2, "NL": 3, "G": 3, "B_BASE": 1000}
    where |= {"B_K0": 8, "B_N": 200, "P_COLUMN": 254, "P_COLUMN_G": 7, "P_ROW": 1020, "P_ROW_G": 2}
    report = run(machine, gemm(Destination.STREAM, flags=Flag.ROW | Flag.COLUMN, **where))
    rows = iter(report.results)
    memory, given = machine.memory.words.astype(int), machine.parameters
    for g in range(3):
        for low, high in ((0, 4), (4, 5)):
            for t, lanes in ((0, 8), (1, 3)):
                for i in range(low, high):
                    found = next(rows).data
                    row, column = (1020 + 2 * g + i) % 1024, (254 + 7 * g + t) % 256
                    for j in range(lanes):
                        a = [memory[100 * g + 12 * i + k] for k in range(12)]
                        b = [memory[1000 + 200 * t + 8 * k + j] for k in range(12)]
                        assert found[j] == f.drain(
                            f.dot(a, b),
                            row_shift=int(given.row_shifts[row]),
                            column_shift=int(given.column_shifts[column, j]),
                            bias=int(given.biases[column, j]),
                            bias_format=LARGE.bias_format,
                            output=LARGE.output,
                        ), (g, i, t, j)
    assert next(rows, None) is None


def test_clamp_limits_from_both_sides() -> None:
    machine = Machine(LARGE)
    fill(machine, random.Random(10))
    where = {"MX": 20, "K0": 2, "A_X": 3, "NT": 3, "B_BASE": 999, "B_K0": 8, "B_N": 17}
    free = run(machine, gemm(Destination.STREAM, **where)).results
    limit = SFx(8).decode(60)
    kept = run(machine, gemm(Destination.STREAM, Function.CLAMP, CLAMP=60, **where)).results
    seen = set()
    for before, after in zip(free, kept, strict=True):
        values = decode(np.array(before.data, dtype=np.uint16), LARGE.output)
        for value, word in zip(values.tolist(), after.data, strict=True):
            inside = min(max(value, 0.0), float(limit))
            assert word == LARGE.output.encode(inside)
            seen.add((value > inside, value < inside))
    assert len(seen) == 3


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_is_the_same_without_a_compiler(name: str) -> None:
    config = CONFIGS[name]
    chance = random.Random(11)
    compiled, plain = Machine(config), Machine(config)
    fill(compiled, chance)
    plain.load(compiled.memory.words)
    plain.parameters = compiled.parameters
    program = ProgramMaker(config, chance).program(6)
    want = compiled.run(program)
    with native.plain():
        got = plain.run(program)
    assert got == want
    assert (plain.memory.words == compiled.memory.words).all()
