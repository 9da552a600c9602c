"""Devices: what stays from program to program, and that every kind of device gives the same."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sim.machine_backends import RTL
from sim.machine_device import SimulatedDevice, make_device
from sim.machine_job import MachineFailed
from sim.machine_session import Stalls
from sim.machine_stimulus import Stimulus
from sim.machine_trace import Trace
from sim.runner import SimulationFailed
from sw.config import MachineConfig
from sw.isa import Destination, Fault, Flag, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_state import TileMemory
from sw.registers import Counter, Register
from sw.runtime.device import Outcome
from sw.runtime.model_device import DATA_COUNTERS, ModelDevice
from tests.test_machine_backends import CONFIG as SMALL

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


#: Its build alone takes as long as all else.
BACK_ENDS = [b if b != "cocotb-verilator" else pytest.param(b, marks=pytest.mark.slow) for b in RTL]
#: Programs per back end, as many as fit in some seconds.
PROGRAMS = {"amaranth": 2, "icarus": 3, "cocotb-verilator": 4, "verilator": 60}


def random_command(generator: np.random.Generator, config: MachineConfig) -> tuple[str, tuple]:
    """A call of a device: its method and what it is given."""
    kind = generator.choice(
        ["write", "write", "write_columns", "read", "reset"], p=[0.3, 0.3, 0.2, 0.15, 0.05]
    )
    start = int(generator.integers(0, config.memory_words))
    count = int(generator.integers(0, config.memory_words - start + 1))
    if kind == "read":
        return kind, (start, count)
    if kind == "write":
        words = generator.integers(0, 1 << config.bits, count)
        return kind, (start, words * (generator.random(count) < 0.5))
    if kind == "reset":
        return kind, ()
    entry = int(generator.integers(0, config.parameters))
    shape = int(generator.integers(1, config.parameters - entry + 1)), config.columns
    biases = generator.integers(0, 1 << config.bias_format.bits, shape)
    return kind, (entry, biases, generator.integers(-4, 4, shape))


def differences(got: Outcome, want: Outcome) -> list[str]:
    """What differs between two outcomes."""
    names = ("fault", "counter", "counters")
    found = [n for n in names if getattr(got, n) != getattr(want, n)]
    return found + [
        n for n in ("rows", "counts") if not np.array_equal(getattr(got, n), getattr(want, n))
    ]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_simulated_device_is_as_the_model_from_program_to_program(back_end: str) -> None:
    generator = np.random.default_rng(5)
    with SimulatedDevice(SMALL, back_end) as device:
        model = ModelDevice(SMALL)
        for number in range(PROGRAMS[back_end]):
            for _ in range(3):
                method, given = random_command(generator, SMALL)
                got, want = (getattr(d, method)(*given) for d in (device, model))
                assert np.array_equal(got, want), (number, method, given)
            words = Stimulus(SMALL, number).job(8).words
            got, want = device.run(words), model.run(words)
            assert not differences(got, want), (number, words, got, want)
        everything = 0, SMALL.memory_words
        assert np.array_equal(device.read(*everything), model.read(*everything))


def test_exact_sums_and_words_come_as_rows() -> None:
    generator = np.random.default_rng(6)
    words = generator.integers(0, 16, SMALL.memory_words)
    sizes = {
        "MX": 5,
        "K0": 4,
        "NT": 2,
        "NL": 1,
        "A_X": 4,
        "B_BASE": 32,
        "B_K0": 2,
        "B_N": 8,
        "G": 3,
    }
    found = []
    with make_device(SMALL, "verilator") as device:
        for machine in (device, make_device(SMALL, "model")):
            machine.write(0, words)
            made = [program(d, **sizes) for d in (Destination.EXACT, Destination.STREAM)]
            found.append([machine.run(m) for m in made])
    for got, want in zip(*found, strict=True):
        assert not differences(got, want)
        assert len(want.rows) == 30
    assert (found[1][0].rows < 0).any()


def test_stalls_change_cycles_alone() -> None:
    words = tuple(words_of(Opcode.NOP) * 20)
    with SimulatedDevice(SMALL, "verilator", stalls=Stalls(1, 30, 30)) as slow:
        got = slow.run(words)
    want = ModelDevice(SMALL).run(words)
    assert differences(got, want) == ["counters"]
    assert got.counters[Counter.CYCLES] > want.counters[Counter.CYCLES]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_device_that_is_not_done_in_time_is_given_up(back_end: str) -> None:
    with SimulatedDevice(SMALL, back_end, limit=200) as device:
        with pytest.raises(MachineFailed, match="must be done within 200 cycles"):
            device.run(tuple(words_of(Opcode.NOP) * 300))
        with pytest.raises(SimulationFailed, match="the device failed before"):
            device.read(0, 1)


def words_of(opcode: Opcode) -> list[int]:
    return list(encode(Instruction(opcode)))


@pytest.mark.parametrize("back_end", ["icarus", "verilator"])
def test_a_simulator_that_dies_is_told(back_end: str) -> None:
    with SimulatedDevice(SMALL, back_end) as device:
        device.run(tuple(words_of(Opcode.NOP)))
        os.killpg(device._link.process.pid, signal.SIGKILL)
        with pytest.raises(SimulationFailed, match="died"):
            device.run(tuple(words_of(Opcode.NOP)))


def living(group: int) -> list[str]:
    """Processes of a group, but for those that have ended and that nobody has asked about."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, leader = file.read_text().rpartition(")")[2].split()[:3]
            if int(leader) == group and state != "Z":
                found.append(file.parent.name)
    return found


@pytest.mark.parametrize("back_end", ["icarus", "verilator"])
@pytest.mark.parametrize("how", ["close", "forget"])
def test_no_process_is_left(back_end: str, how: str) -> None:
    device = SimulatedDevice(SMALL, back_end)
    device.run(tuple(words_of(Opcode.NOP)))
    process = device._link.process
    group = process.pid
    if how == "close":
        device.close()
        with pytest.raises(ValueError, match="device must be open"):
            device.read(0, 1)
    del device
    gc.collect()
    process.wait(20)
    assert not living(group)


def test_a_simulator_ends_when_python_is_killed() -> None:
    """Within a program that never ends by itself in time."""
    text = """
from sim.machine_device import SimulatedDevice
from tests.test_device import SMALL, words_of, Opcode
device = SimulatedDevice(SMALL, "verilator")
print(device._link.process.pid, flush=True)
device._codec.program = lambda words: device._codec._pack("instructions", 1, word=0, last=0)
device.run((0,))
"""
    owner = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    simulator = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    for _ in range(200):
        if (
            not Path(f"/proc/{simulator}").exists()
            or " Z " in Path(f"/proc/{simulator}/stat").read_text()
        ):
            return
        time.sleep(0.1)
    raise AssertionError("the simulator still runs")


@pytest.mark.slow
def test_a_trace_is_whole_when_the_device_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "wave.vcd"
    with SimulatedDevice(SMALL, "verilator", trace=Trace(path, 0, 40)) as device:
        device.run(tuple(words_of(Opcode.NOP)))
        assert not path.exists()
    assert "status_valid" in path.read_text()
    assert {p.name for p in tmp_path.iterdir()} == {f"wave.vcd{v}" for v in ("", ".gtkw", ".sucl")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("spice",), "back end must be one of model, amaranth"),
        (("model", Stalls(1)), "model must have neither stalls nor a trace"),
    ],
)
def test_devices_that_there_are_not_are_refused(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_device(SMALL, given[0], stalls=given[1] if given[1:] else None)
    with pytest.raises(ValueError, match="trace must be omitted for icarus"):
        SimulatedDevice(SMALL, "icarus", trace=Trace(Path("wave.vcd")))
