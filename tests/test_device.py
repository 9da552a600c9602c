"""Devices: what stays from program to program, and that every kind of device gives the same."""

from __future__ import annotations

import numpy as np
import pytest

from sw.config import MachineConfig
from sw.isa import Destination, Fault, Flag, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_state import TileMemory
from sw.registers import Counter, Register
from sw.runtime.model_device import DATA_COUNTERS, ModelDevice

CONFIG = MachineConfig(bits=8, rows=4, columns=4, slots=64, parameters=16)


def program(destination: Destination, flags: int = 0, **registers: int) -> tuple[int, ...]:
    """SETs by name and a GEMM."""
    words: list[int] = []
    for name, value in registers.items():
        words += encode(Instruction(Opcode.SET, (Register[name], value)))
    return (*words, *encode(Instruction(Opcode.GEMM, (destination, 0, flags))))


SIZES = {"MX": 9, "K0": 7, "NT": 2, "NL": 3, "A_X": 7, "B_BASE": 128, "B_K0": 4, "B_N": 28}


def test_writes_cut_into_accesses_decide_the_zero_flags() -> None:
    generator = np.random.default_rng(1)
    fast, slow = ModelDevice(CONFIG), TileMemory(CONFIG)
    slow.zero_segments[:] = True
    for _ in range(200):
        start = int(generator.integers(0, CONFIG.memory_words))
        count = int(generator.integers(0, min(40, CONFIG.memory_words - start) + 1))
        words = generator.integers(0, 256, count) * (generator.random(count) < 0.1)
        fast.write(start, words)
        while len(words):
            piece = CONFIG.columns - start % CONFIG.columns
            slow.write(start, words[:piece].tolist())
            start, words = start + len(words[:piece]), words[piece:]
        assert (fast.machine.memory.words == slow.words).all()
        assert (fast.machine.memory.zero_segments == slow.zero_segments).all()


def test_model_device_is_the_machine() -> None:
    generator = np.random.default_rng(2)
    words = generator.integers(0, 256, CONFIG.memory_words)
    device, machine = ModelDevice(CONFIG), Machine(CONFIG)
    device.write(0, words)
    machine.load(words)
    biases, shifts = generator.integers(0, 256, (3, 4)), generator.integers(-3, 4, (3, 4))
    device.write_columns(1, biases, shifts)
    for (entry, column), bias in np.ndenumerate(biases):
        shift = int(shifts[entry, column])
        machine.parameters.write_column(entry + 1, column, bias=int(bias), shift=shift)
    for destination in Destination:
        made = program(destination, Flag.COLUMN, P_COLUMN=1, O_BASE=512, O_X=8, O_N=4, **SIZES)
        got, want = device.run(made), machine.run(made)
        assert (got.fault, got.counter, got.counters) == (want.fault, want.counter, want.counters)
        rows = [row[:count] for row, count in zip(got.rows.tolist(), got.counts, strict=True)]
        assert rows == [list(row.data) for row in want.results]
    assert (device.read(500, 200) == machine.memory.words[500:700]).all()


def test_reset_clears_memory_and_parameters() -> None:
    device = ModelDevice(CONFIG)
    device.write(3, np.arange(9))
    device.write_columns(0, np.ones((1, 4), int), np.ones((1, 4), int))
    device.reset()
    assert not device.read(0, 20).any()
    made = program(Destination.STREAM, Flag.COLUMN)
    assert not device.run(made).rows.any()


def test_without_values_all_that_needs_no_words_is_counted() -> None:
    generator = np.random.default_rng(3)
    words = generator.integers(0, 256, CONFIG.memory_words)
    words[128:].reshape(-1, 4)[generator.random(224) < 0.5] = 0
    model, clock = ModelDevice(CONFIG), ModelDevice(CONFIG, values=False)
    places = {"O_BASE": 512, "O_X": 8, "O_N": 4}
    for device in (model, clock):
        device.write(0, words)
    for made in (
        program(Destination.MEMORY, Flag.SKIP, **places, **SIZES),
        program(Destination.STREAM, Flag.SKIP, G=2, A_G=2, B_G=32, **SIZES),
        (*program(Destination.MEMORY, **places, **SIZES), 0xFFFF),
    ):
        want, got = model.run(made), clock.run(made)
        assert (want.fault, want.counter) == (got.fault, got.counter)
        assert set(want.counters) - set(got.counters) == set(DATA_COUNTERS)
        assert got.counters == {c: n for c, n in want.counters.items() if c in got.counters}
        assert not len(got.rows)
    assert want.fault == Fault.ENCODING
    assert model.run(made).counters[Counter.SKIPPED_SLICES] == 0
    # What the program wrote is taken as not zero.
    again = program(Destination.STREAM, Flag.SKIP, **{**SIZES, "B_BASE": 512})
    assert clock.run(again).counters[Counter.SKIPPED_SLICES] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.write(1020, np.zeros(5, int)), "address must be 0 to 1019 for 5 words"),
        (lambda d: d.write(0, np.array([256])), "words from 0 to 255"),
        (lambda d: d.read(1024, 1), "address must be 0 to 1023"),
        (lambda d: d.write_columns(16, *np.zeros((2, 1, 4), int)), "entries must be 0 to 15"),
        (lambda d: d.write_columns(0, *np.zeros((2, 1, 3), int)), r"biases must be \[entries, 4\]"),
        (lambda d: d.write_columns(0, *np.full((2, 1, 4), 128)), "shifts must be -128 to 127"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, message: str) -> None:
    device = ModelDevice(CONFIG)
    with pytest.raises(ValueError, match=message):
        call(device)  # type: ignore[operator]
