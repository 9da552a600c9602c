"""A real layer on the whole machine, in RTL: what its ports hold in every cycle."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

import numpy as np
from amaranth.hdl import ClockDomain, Module
from amaranth.sim import Simulator

from atreides.ppa_layer import Layer
from atreides.ppa_work import Words, Work, layer_words
from hw.multiplier import OPERATOR
from hw.power import Activity
from hw.tops import Options
from sim.bus import AmaranthBus
from sim.lanes import Lanes
from sim.machine_design import machine
from sim.machine_job import Job, MachineFailed
from sim.machine_model import run_model
from sim.machine_ports import SINKS, SOURCES, Ports
from sim.machine_pump import RESET_CYCLES, Pump
from sim.machine_session import Recording, Session
from sim.runner import SimulationFailed
from sw.config import MachineConfig
from sw.isa import Destination, Flag, Function, Instruction, Opcode, encode
from sw.machine_state import Parameters
from sw.registers import Register

#: Cycles that any phase may last.
_LIMIT: Final = 1 << 20


class _Recorder(AmaranthBus):
    """A bus that keeps what was driven and what was seen, cycle by cycle."""

    def __init__(self, context: Any, lanes: Any, reset: Any) -> None:
        super().__init__(context, lanes, reset)
        self.given: list[int] = []
        self.seen: list[int] = []

    def write(self, value: int) -> None:
        super().write(value)
        self.given.append(value)

    def read(self) -> tuple[int, int]:
        found = super().read()
        self.seen.append(found[0])
        return found


def core_work(options: Options, layer: Layer) -> Work:
    """The layer's matrix product on the machine: from the program's first word to its status.

    Loading the memory and reading it back do not count. The RTL's results are compared with the
    machine model's, and the gates' outputs with the RTL's in every cycle.

    Raises
    ------
    MachineFailed
        If the RTL differs from the model.
    """
    config = replace(options.machine, multiplier=OPERATOR)
    a, b = layer_words(config.format, layer)
    job = Job(config, *_program(config, a, b))
    unit = machine(config)
    ports = Ports.of(unit)
    session = Session(ports, [job])
    recorder, recording, marks = _run(unit, ports, session)
    (found,) = session.results(recording)
    differences = found.differences(run_model(job))
    if differences:
        raise MachineFailed(f"RTL must do what the model does: {differences[0]}")
    end = marks[1]
    names = {field.name: _port(field.name) for field in ports.layout.inputs}
    inputs = {
        names[field.name]: [field.extract(value) for value in recorder.given[:end]]
        for field in ports.layout.inputs
    }
    seen = {
        _port(field.name): tuple(field.extract(value) for value in recorder.seen[:end])
        for field in ports.layout.outputs
    }
    macs = a.shape[0] * a.shape[1] * b.shape[0]
    return Work(inputs, macs, lambda activity: _check(activity, seen), skip=marks[0])


def _check(activity: Activity, seen: dict[str, tuple[int, ...]]) -> None:
    """Payloads count where they are valid only: elsewhere they may be anything."""
    for name, want in seen.items():
        valid = seen.get(name.replace("__payload", "__valid"))
        for cycle, value in enumerate(want):
            counts = valid is None or valid[cycle] or not name.endswith("__payload")
            if counts and activity.outputs[name][cycle] != value:
                got = activity.outputs[name][cycle]
                raise SimulationFailed(f"{name} must be {value:#x} in cycle {cycle}, not {got:#x}")


def _program(config: MachineConfig, a: Words, b: Words) -> tuple[tuple[int, ...], Any, Parameters]:
    """One GEMM with a shift per column and ReLU; its memory and parameters."""
    rows, terms = a.shape
    tiles = -(-len(b) // config.columns)
    at_b, at_output = a.size, a.size + b.size
    memory = np.zeros(config.memory_words, np.uint16)
    memory[:at_b] = a.ravel()
    memory[at_b:at_output] = b.T.ravel()
    numbers = [np.vectorize(config.format.operand)(part) for part in (a, b)]
    peak = int(np.abs(numbers[0] @ numbers[1].T).max())
    parameters = Parameters(config)
    shift = max(0, math.ceil(math.log2(max(1, peak))) - 2 * config.format.fraction_bits)
    parameters.column_shifts[:] = shift
    registers = {
        Register.MX: rows,
        Register.K0: terms,
        Register.NT: tiles,
        Register.NL: len(b) - (tiles - 1) * config.columns,
        Register.A_X: terms,
        Register.B_BASE: at_b,
        Register.B_K0: len(b),
        Register.B_N: config.columns,
        Register.O_BASE: at_output,
        Register.O_X: len(b),
        Register.O_N: config.columns,
    }
    code = [w for item in registers.items() for w in encode(Instruction(Opcode.SET, item))]
    final = (Destination.MEMORY, Function.RELU, Flag.COLUMN)
    return (*code, *encode(Instruction(Opcode.GEMM, final))), memory, parameters


def _run(unit: Any, ports: Ports, session: Session) -> tuple[_Recorder, Recording, tuple[int, int]]:
    """What the ports held after the reset, what came back, the program's first and last cycle."""
    lanes = Lanes([unit])
    top = Module()
    top.submodules.lanes = lanes
    domain = ClockDomain("sync")
    top.domains += domain
    found: list[Any] = []

    async def testbench(context: object) -> None:
        bus = _Recorder(context, lanes, domain.rst)
        pump = Pump(ports, None, _LIMIT)
        load, compute, read = session.phases()
        await pump.run(bus, [load])
        start = pump.recording.cycles - RESET_CYCLES
        await pump.run(bus, [compute])
        end = pump.recording.cycles - RESET_CYCLES
        recording = await pump.run(bus, [read])
        del bus.given[0]  # what was driven during the reset
        found.append((bus, recording, (start, end)))

    simulator = Simulator(top)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    recorder, recording, marks = found[0]
    return recorder, recording, marks


def _port(name: str) -> str:
    """The name of a port in RTLIL."""
    for stream in (*SOURCES, *SINKS):
        if name.startswith(f"{stream}_"):
            return f"{stream}__{name.removeprefix(f'{stream}_')}"
    return name
