"""What the compiler's schedules cost is what the machine model counts as it carries them out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sw.checks import Gemm, State, initial_state
from sw.compiler.cost import cost
from sw.compiler.layer_cost import Kind, Loss
from sw.compiler.layers import Function
from sw.compiler.program_cost import ProgramTimer
from sw.compiler.schedule import Run, Schedule
from sw.compiler.scheduler import schedule
from sw.config import MachineConfig
from sw.estimate import Product, compute_cycles
from sw.isa import Opcode, decode_at
from sw.machine_gemm import Walk
from sw.registers import AMode, BMode, Counter
from sw.runtime.device import Outcome
from sw.runtime.model_device import DATA_COUNTERS, ModelDevice
from tests import array_plans
from tests.array_plans import Host, Network

CONFIGS = [
    MachineConfig(bits=8, rows=8, columns=8, slots=512, bias_bits=16),
    MachineConfig(bits=8, rows=4, columns=4, slots=300, bias_bits=16),
    MachineConfig(bits=6, rows=3, columns=5, slots=1200, bias_bits=16),
]


class Recorder(ModelDevice):
    """Keeps what the counters are after every instruction of every program."""

    programs: list[list[tuple[int, dict[Counter, int]]]]

    def run(self, words: tuple[int, ...]) -> Outcome:
        if not hasattr(self, "programs"):
            self.programs = []
        machine = self.machine
        machine.start(words)
        seen = [(0, dict(machine.counters))]
        going = True
        while going:
            going = machine.step()
            seen.append((machine.program_counter, dict(machine.counters)))
        self.programs.append(seen)
        rows, counts = self._sent()
        return Outcome(machine.fault, machine.program_counter, machine.counters, rows, counts)


def network(config: MachineConfig) -> Network:
    """A layer of every kind, with zeros among the weights."""
    net = Network(config, seed=3)
    net.upload("x", 1, 9, 9, 6, border=(1, 1, 1, 1))
    kernel = net.words(1, 3, 3, 6, 8)
    kernel[:, 1] = 0
    net.tensor("c", 1, 9, 9, 8, border=(1, 1, 1, 1))
    relu = {"function": Function.RELU}
    net.convolution("conv", "x", 8, (3, 3), "c", words=kernel, padding=(1, 1, 1, 1), **relu)
    net.convolution("strided", "c", 8, (3, 3), net.tensor("s", 1, 4, 4, 8), stride=(2, 2), **relu)
    net.convolution("depthwise", "s", 8, (2, 2), net.tensor("d", 1, 3, 3, 8), groups=8)
    net.convolution("grouped", "d", 8, (1, 1), net.tensor("g", 1, 3, 3, 8), groups=2)
    net.add("add", "g", "d", net.tensor("a", 1, 3, 3, 8))
    pool = np.full((8, 3, 3, 1, 1), 5, np.uint8)
    net.convolution("pool", "a", 8, (3, 3), net.tensor("p", 1, 1, 1, 8), words=pool, groups=8)
    net.convolution("linear", "p", 11)
    net.upload("q", 2, 1, 9, 12)
    net.upload("k", 2, 1, 7, 12)
    net.matmul("scores", "q", "k", transposed=True)
    net.upload("v", 2, 1, 12, 10)
    net.matmul("mixed", "q", "v")
    return net


def counted(made: Schedule, device: Recorder) -> dict[str, dict[Counter, int]]:
    """The counters of each layer's sections, in the programs that a device ran."""
    found: dict[str, dict[Counter, int]] = {}
    runs = [c for commands in made.steps for c in commands if isinstance(c, Run)]
    for run, seen in zip(runs, device.programs, strict=True):
        at: dict[int, dict[Counter, int]] = dict(seen)
        before = dict.fromkeys(Counter, 0)
        for section in run.sections:
            after = at[section.end]
            layer = found.setdefault(section.layer, dict.fromkeys(Counter, 0))
            for counter in Counter:
                layer[counter] += after[counter] - before[counter]
            before = after
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.rows}x{c.columns}")
def test_every_kind_of_layer_costs_what_the_machine_model_counts(
    config: MachineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_plans, "ModelDevice", Recorder)
    net = network(config)
    plan = net.plan()
    made = schedule(plan)
    host = Host(plan, made)
    host.infer(net.inputs())
    device: Any = host.device
    want = counted(made, device)
    layers = cost(plan, made)
    assert {layer.name for layer in layers} == set(want)
    for layer in layers:
        for counter in Counter:
            if counter in DATA_COUNTERS or counter == Counter.MATMUL_CYCLES:
                continue
            got = getattr(layer.program, counter.name.lower())
            assert got == want[layer.name][counter], (layer.name, counter)
        assert layer.program.guesses == 0
        assert sum(layer.losses().values()) + layer.needed / layer.cells == pytest.approx(
            layer.time
        )
        assert layer.bound_cycles <= layer.time
    kinds = {layer.name: layer.kind for layer in layers}
    assert kinds["pool"] == Kind.AVERAGE
    assert kinds["depthwise"] == Kind.DEPTHWISE
    assert kinds["grouped"] == Kind.GROUPED
    skipped = {layer.name: layer.program.skipped_slices for layer in layers}
    assert (skipped["conv"] > 0) == config.skips


def test_depthwise_layers_say_that_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS[0]
    net = Network(config)
    net.upload("x", 1, 16, 16, 16)
    net.convolution("depthwise", "x", 16, (3, 3), net.tensor("y", 1, 14, 14, 16), groups=16)
    plan = net.plan()
    (layer,) = cost(plan, schedule(plan))
    assert layer.kind == Kind.DEPTHWISE
    assert layer.utilisation < 1 / 7
    assert layer.reason().startswith("depthwise: products of a channel with the others' zeros")
    assert max(layer.losses(), key=layer.losses().__getitem__) == Loss.REDUNDANT


def gemms(words: tuple[int, ...], config: MachineConfig) -> Iterator[tuple[int, Walk]]:
    """The products of a program, each with the word after it."""
    state, counter = initial_state(config), 0
    while counter < len(words):
        instruction, length = decode_at(words, counter, config)
        assert instruction is not None
        counter += length
        if instruction.opcode in (Opcode.GEMM, Opcode.ADD):
            yield counter, Walk(Gemm(instruction, state.registers, config))
        after = state.after(instruction, config)
        assert isinstance(after, State)
        state = after


def closed_form(walk: Walk, config: MachineConfig) -> int:
    runs = walk["K1"] * walk["K2"]
    lanes = walk.a_mode == AMode.LANES, walk.b_mode == BMode.LANES
    product = Product(walk.rows, walk.columns, walk["K0"], runs, *lanes, walk.destination)
    return compute_cycles(config, product)


def test_closed_form_is_near_the_cycles_of_products_that_skip_nothing() -> None:
    """The form knows sizes alone: it never walks a chunk or a slice."""
    config = CONFIGS[0]
    runs = [c for part in schedule(network(config).plan()).steps for c in part]
    compared = 0
    for run in runs:
        if not isinstance(run, Run):
            continue
        found = list(gemms(run.words, config))
        costs = ProgramTimer(config).run(run.words, [end for end, _ in found])
        for (_, walk), section in zip(found, costs, strict=True):
            if section.total.skipped_slices or walk["G"] > 1:
                continue
            cycles = section.total.compute_cycles
            near = 0.25 if min(walk.rows, walk.terms) < config.rows else 0.03
            assert abs(closed_form(walk, config) - cycles) <= near * cycles, walk.gemm
            compared += 1
    assert compared >= 5
