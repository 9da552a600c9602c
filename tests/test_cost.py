"""What a network costs: each layer's cycles, where they go, what it could not be faster than."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sim.machine_backends import execute
from sim.machine_job import Job
from sw.compiler.cost import cost, kind_of
from sw.compiler.graph import Graph
from sw.compiler.layer_cost import Bound, Kind, LayerCost, Link, Loss, total
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Download,
    HostOutput,
    LayerStep,
    Plan,
    Upload,
    View,
    Weights,
    WordsOutput,
)
from sw.compiler.program_cost import ProgramCost, SectionCost
from sw.compiler.schedule import (
    Collect,
    ReadWords,
    Run,
    Schedule,
    Section,
    WriteColumns,
    WriteWords,
)
from sw.compiler.traffic import Traffic, setup_traffic
from sw.config import MachineConfig
from sw.isa import Destination, Flag, Instruction, Opcode, encode
from sw.machine import Machine
from sw.machine_state import Parameters
from sw.registers import Counter, Register

CONFIG = MachineConfig(bits=8, rows=8, columns=8, slots=128)
VIEW = View((1,), (0,))


def tensor(name: str, *shape: int, border: int = 0) -> ArrayTensor:
    return ArrayTensor(name, shape, 0, border=(border,) * 4)  # type: ignore[arg-type]


def convolution(
    name: str, a: str, weights: np.ndarray, output: object, **options: object
) -> object:
    words = torch.from_numpy(weights)
    exponents = torch.zeros(words.shape[0] * words.shape[4], dtype=torch.int64)
    return Convolution(name, a, Weights(words, exponents), output, **options)  # type: ignore[arg-type]


def network() -> Plan:
    """A 3 x 3 convolution of 6 x 6 x 4 to 8 channels, its result twice, a matrix of 288 x 10."""
    chance = np.random.default_rng(0)
    kernel = chance.integers(1, 127, (1, 3, 3, 4, 8), dtype=np.uint8)
    kernel[0, 1] = 0  # the middle row of the kernel
    matrix = chance.integers(1, 127, (1, 1, 1, 288, 10), dtype=np.uint8)
    layers = (
        convolution("conv", "x", kernel, WordsOutput("y"), padding=(1, 1, 1, 1)),
        Add("add", "y", "y", WordsOutput("z")),
        convolution("fc", "flat", matrix, HostOutput("logits", VIEW)),
    )
    tensors = (
        tensor("x", 1, 6, 6, 4, border=1),
        *(tensor(name, 1, 6, 6, 8) for name in "yz"),
        tensor("flat", 1, 1, 1, 288),
    )
    return Plan(
        Graph((), (), (), {}),
        CONFIG,
        {t.name: t for t in tensors},
        {layer.name: layer for layer in layers},  # type: ignore[attr-defined, misc]
        (
            Upload("input", "x", VIEW),
            LayerStep("conv"),
            LayerStep("add"),
            LayerStep("fc"),
            Download("z", "z", VIEW),
        ),
    )


X, KERNEL, Y, Z, MATRIX = 0, 256, 1024, 2048, 3072


def program(opcode: Opcode, fields: tuple[int, ...], **registers: int) -> tuple[int, ...]:
    """Every register set, then the instruction."""
    defaults = {r.name: CONFIG.columns if r == Register.NL else int(r < 8) for r in Register}
    words: list[int] = []
    for name, value in (defaults | registers).items():
        words += encode(Instruction(Opcode.SET, (Register[name], value)))
    return (*words, *encode(Instruction(opcode, fields)))


def compiled(plan: Plan) -> Schedule:
    """By hand: image, convolution, addition and matrix in one program."""
    convolve = program(
        Opcode.GEMM,
        (Destination.MEMORY, 1, Flag.SKIP | Flag.COLUMN),
        **{"MX": 6, "MY": 6, "K0": 12, "K1": 3, "A_BASE": X, "A_X": 4, "A_Y": 32, "A_K1": 32},
        **{"B_BASE": KERNEL, "B_K0": 8, "B_K1": 96, "O_BASE": Y, "O_X": 8, "O_Y": 48},
    )
    add = program(
        Opcode.ADD,
        (Destination.MEMORY, 0, 0),
        **{"MX": 36, "K0": 8, "K1": 2, "A_BASE": Y, "A_X": 8, "O_BASE": Z, "O_X": 8},
        **{"B_K0": 1, "B_K1": 1},
    )
    multiply = program(
        Opcode.GEMM,
        (Destination.EXACT, 0, 0),
        **{"K0": 288, "A_BASE": Z, "B_BASE": MATRIX, "B_K0": 8, "B_N": 288 * 8},
        **{"NT": 2, "NL": 2},
    )
    ends = np.cumsum([len(convolve), len(add), len(multiply)]).tolist()
    sections = (
        Section("conv", ends[0]),
        Section("add", ends[1]),
        Section("fc", ends[2], (Collect("fc", 0, 1, 0, 1, 0, 10),)),
    )
    kernel, matrix = (plan.layers[n].weights.words.numpy() for n in ("conv", "fc"))  # type: ignore[union-attr]
    columns = np.zeros((288, 16), np.uint8)
    columns[:, :10] = matrix[0, 0, 0]
    return Schedule(
        CONFIG,
        (
            WriteWords("zeros", X, 8, 32, 32, 0, 0),
            WriteWords("weights.conv", KERNEL, 1, 288, 288, 0, 288),
            WriteColumns("parameters.conv", 0, 0, 1),
        ),
        (
            (WriteWords("x", X + 36, 6, 24, 32, 0, 24),),
            (
                WriteWords("weights.fc", MATRIX, 1, 4608, 4608, 0, 4608),
                Run((*convolve, *add, *multiply), sections),
            ),
            (),
            (),
            (ReadWords("z", Z, 1, 288, 288, 0, 288),),
        ),
        {},
        {
            "weights.conv": kernel.reshape(-1),
            "weights.fc": columns.reshape(288, 2, 8).swapaxes(0, 1).reshape(-1),
            "parameters.conv": np.zeros((1, 8, 2), np.int32),
        },
    )


@pytest.fixture(scope="module")
def layers() -> dict[str, LayerCost]:
    plan = network()
    return {found.name: found for found in cost(plan, compiled(plan))}


def test_counters_of_each_layer_are_those_of_its_section_on_the_machine_model(
    layers: dict[str, LayerCost],
) -> None:
    plan = network()
    schedule = compiled(plan)
    machine = Machine(CONFIG)
    memory = np.random.default_rng(1).integers(1, 127, CONFIG.memory_words)
    memory[KERNEL : KERNEL + 288] = schedule.constants["weights.conv"]
    memory[MATRIX : MATRIX + 4608] = schedule.constants["weights.fc"]
    machine.load(memory)
    run = schedule.steps[1][1]
    assert isinstance(run, Run)
    before = dict.fromkeys(Counter, 0)
    machine.start(run.words)
    for section in run.sections:
        while machine.program_counter < section.end:
            machine.step()
        after = dict(machine.report().counters)
        for counter in Counter:
            if counter not in UNKNOWN:
                got = getattr(layers[section.layer].program, counter.name.lower())
                assert got == after[counter] - before[counter], (section.layer, counter)
        before = after
    assert layers["conv"].program.skipped_slices == 5 * 12


@pytest.mark.slow
def test_counters_are_those_of_the_rtl(layers: dict[str, LayerCost]) -> None:
    schedule = compiled(network())
    memory = np.zeros(CONFIG.memory_words, np.uint16)
    memory[KERNEL : KERNEL + 288] = schedule.constants["weights.conv"]
    memory[MATRIX : MATRIX + 4608] = schedule.constants["weights.fc"]
    memory[X + 36 : X + 200] = 3
    run = schedule.steps[1][1]
    assert isinstance(run, Run)
    job = Job(CONFIG, run.words, memory, Parameters(CONFIG))
    (found,) = execute([job], "verilator")
    whole = total(list(layers.values())).program
    for counter in Counter:
        if counter not in UNKNOWN:
            assert getattr(whole, counter.name.lower()) == found.report[counter], counter


UNKNOWN = (
    *(Counter.MATMUL_CYCLES, Counter.ZERO_OPERANDS),
    *(Counter.HELD_OPERANDS, Counter.UNITY_OPERANDS),
)


def test_needed_multiplications_are_those_of_the_operation(layers: dict[str, LayerCost]) -> None:
    assert [layers[n].macs for n in ("conv", "add", "fc")] == [36 * 8 * 36, 0, 2880]
    assert [layers[n].kind for n in ("conv", "add", "fc")] == [
        Kind.CONVOLUTION,
        Kind.ADD,
        Kind.LINEAR,
    ]


def test_needed_products_and_losses_add_to_the_time(layers: dict[str, LayerCost]) -> None:
    for link in (None, Link(50e6, 1e6)):
        plan = network()
        for layer in cost(plan, compiled(plan), link):
            losses = layer.losses()
            assert min(losses.values()) >= 0
            assert math.isclose(sum(losses.values()) + layer.needed / 64, layer.time)
            rest = sum(layer.excess().values())
            assert math.isclose(rest, layer.time - layer.bound_cycles, abs_tol=1)
            assert min(layer.excess().values()) >= 0
    assert layers["conv"].losses()[Loss.IDLE_ROWS] == 24 * 4 / 8  # the last of five tiles has 4
    assert layers["fc"].losses()[Loss.IDLE_COLUMNS] > 0


def test_bounds_follow_from_sizes_and_the_link(layers: dict[str, LayerCost]) -> None:
    assert layers["fc"].bounds == {
        Bound.COMPUTE: 45,
        Bound.A: 36,
        Bound.B: 360,
        Bound.OUTPUT: 2,
        Bound.HOST: 0,
    }
    assert layers["fc"].bound == Bound.B
    assert layers["add"].bound == Bound.A
    assert layers["conv"].bound_cycles == 36 * 8 * 24 // 64  # the middle of the kernel is zero
    plan = network()
    slow = {c.name: c for c in cost(plan, compiled(plan), Link(50e6, 1e6))}
    assert slow["fc"].bound == Bound.HOST
    assert slow["fc"].host_cycles == 50 * slow["fc"].traffic.bytes
    assert slow["fc"].cycles == layers["fc"].cycles
    for layer in (*layers.values(), *slow.values()):
        assert layer.bound_cycles <= layer.time


def made(kind: Kind, bound: int, **figures: int) -> LayerCost:
    program = ProgramCost(cycles=1000, timed_cycles=1000, possible_macs=64000, **figures)
    section = SectionCost(program)
    return LayerCost("one", kind, 32000, 64, 1, section, Traffic(), {Bound.COMPUTE: bound})


def test_reasons_name_the_largest_causes_and_their_shares(layers: dict[str, LayerCost]) -> None:
    assert layers["conv"].reason().startswith(f"{Loss.CONTROL} ")
    assert made(Kind.LINEAR, 990, macs=64000).reason() == "at its bound"
    half = {"macs": 51200, "idle_columns": 12800}
    assert made(Kind.DEPTHWISE, 400, **half).reason() == (
        "depthwise: products of a channel with the others' zeros 40%, ragged tiles of columns 20%"
    )
    waiting = {"macs": 64000, "stall_a": 300, "stall_b": 10, "fill": 10, "stall_drain": 100}
    assert made(Kind.MATMUL, 500, **waiting).reason() == (
        "products with zeros that the layout needs 50%, operands that come late: runs shorter than "
        "lanes 30%, sums shorter than the array has rows 10%"
    )


def test_traffic_is_that_of_each_layers_own_words(layers: dict[str, LayerCost]) -> None:
    plan = network()
    words = {s.layer: s.end for s in compiled(plan).steps[1][1].sections}  # type: ignore[union-attr]
    conv, add, fc = (layers[n].traffic for n in ("conv", "add", "fc"))
    assert (conv.words_in, conv.words_out) == (144, 0)
    assert conv.bits_in == 144 * 8 + 16 * words["conv"]
    assert (add.words_in, add.words_out) == (0, 288)
    assert fc.words_in == 4608
    assert (fc.words_out, fc.bits_out) == (10, 10 * CONFIG.accumulator_bits)
    assert fc.accesses == 576 + 2
    once = setup_traffic(compiled(plan))
    assert once.words_in == 256 + 288
    assert once.bits_in == 8 * (256 + 288) + 8 * (8 + 8)


def test_total_adds_layers(layers: dict[str, LayerCost]) -> None:
    whole = total(list(layers.values()))
    assert whole.cycles == sum(layer.cycles for layer in layers.values())
    assert whole.macs == 36 * 8 * 36 + 2880
    assert whole.traffic.bytes > layers["fc"].traffic.bytes
    assert total([]).cycles == 0


def test_depthwise_convolutions_are_called_so() -> None:
    plan = network()
    kernel = np.arange(72, dtype=np.uint8).reshape(8, 3, 3, 1, 1)
    depthwise = convolution("dw", "y", kernel, WordsOutput("z"))
    other = Plan(plan.graph, CONFIG, plan.tensors, {"dw": depthwise}, ())  # type: ignore[dict-item]
    (found,) = cost(other, Schedule(CONFIG, (), (), {}, {}))
    assert found.kind == Kind.DEPTHWISE
    assert found.macs == 4 * 4 * 8 * 9
    assert found.words == 288 + 72 + 4 * 4 * 8
    average = convolution("dw", "y", np.full_like(kernel, 7), WordsOutput("z"))
    assert kind_of(average) == Kind.AVERAGE  # type: ignore[arg-type]
    assert found.cycles == 0
