"""A small network as the compiler would leave it, made by hand: two linear layers and a softmax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sw.compiler.graph import Graph, Input, Node, Ref
from sw.compiler.layers import (
    ArrayTensor,
    Convolution,
    Function,
    HostOutput,
    HostStep,
    LayerStep,
    Placement,
    Plan,
    Upload,
    View,
    Weights,
    WordsOutput,
)
from sw.compiler.program import Operation, ProgramBuilder
from sw.compiler.schedule import Collect, Place, Schedule, WriteColumns, WriteWords
from sw.config import MachineConfig
from sw.isa import Destination, Flag, Instruction, Opcode
from sw.isa import Function as Activation
from sw.registers import Register
from sw.runtime.artefact import Artefact
from sw.runtime.artefact_files import packed_weights
from sw.tensor import encode, exponents

ROWS, INNER, HIDDEN, OUT = 6, 5, 7, 3
CONFIG = MachineConfig(bits=8, rows=4, columns=4, slots=16)
#: Where things lie in tile memory.
A, W1, H, W2 = 0, 32, 80, 128


def network(config: MachineConfig = CONFIG, seed: int = 0, scale: int = 1) -> Plan:
    """softmax(relu(x W1 + b1) W2 + b2), its graph's nodes placed on the array but for softmax."""
    torch.manual_seed(seed)
    w1, b1 = torch.randn(INNER, HIDDEN) * scale, torch.randn(HIDDEN) / 4
    w2, b2 = torch.randn(HIDDEN, OUT), torch.randn(OUT)
    graph = Graph(
        inputs=(Input("x", (ROWS, INNER), torch.float32),),
        nodes=(
            Node("m1", "aten.matmul.default", (Ref("x"), Ref("w1")), {}, (ROWS, HIDDEN)),
            Node("a1", "aten.add.Tensor", (Ref("m1"), Ref("b1")), {}, (ROWS, HIDDEN)),
            Node("h", "aten.relu.default", (Ref("a1"),), {}, (ROWS, HIDDEN), torch.float32),
            Node("m2", "aten.matmul.default", (Ref("h"), Ref("w2")), {}, (ROWS, OUT)),
            Node("y", "aten.add.Tensor", (Ref("m2"), Ref("b2")), {}, (ROWS, OUT)),
            Node("p", "aten.softmax.int", (Ref("y"), 1, None), {}, (ROWS, OUT), torch.float32),
        ),
        outputs=("p", "y"),
        constants={"w1": w1, "b1": b1, "w2": w2, "b2": b2},
    )
    tensors = {
        "x": ArrayTensor("x", (1, 1, ROWS, INNER), 2),
        "h": ArrayTensor("h", (1, 1, ROWS, HIDDEN), 3),
    }
    layers = {
        "first": Convolution(
            "first",
            "x",
            weights(w1, b1, config),
            WordsOutput("h", Function.RELU),
            nodes=("m1", "a1", "h"),
        ),
        "second": Convolution(
            "second",
            "h",
            weights(w2, b2, config),
            HostOutput("y", View((ROWS, OUT), (0, 1))),
            nodes=("m2", "y"),
        ),
    }
    steps = (
        Upload("x", "x", View((ROWS, INNER), (0, 1))),
        LayerStep("first"),
        LayerStep("second"),
        HostStep(("p",)),
    )
    placements = tuple(
        Placement(node.name, node.name != "p", "by hand", layer="") for node in graph.nodes
    )
    return Plan(graph, config, tensors, layers, steps, placements)


def weights(matrix: torch.Tensor, bias: torch.Tensor, config: MachineConfig) -> Weights:
    found = exponents(matrix, config.format, dim=0)
    words = encode(matrix, config.format, found)
    return Weights(words.reshape(1, 1, 1, *matrix.shape), found.reshape(-1), bias)


def commands(plan: Plan) -> Schedule:
    """Both layers in one program, the weights resident."""
    config = plan.config
    first, second = plan.layers["first"], plan.layers["second"]
    assert isinstance(first, Convolution)
    assert isinstance(second, Convolution)
    constants = {f"weights.{n}": packed_weights(plan.layers[n], 4) for n in ("first", "second")}
    constants["parameters.first"] = parameters(plan)
    builder = ProgramBuilder(config)
    builder.section("first", [gemm(config, A, INNER, W1, HIDDEN, Destination.MEMORY)])
    collect = Collect("second", 0, 1, 0, ROWS, 0, OUT)
    exact = gemm(config, H, HIDDEN, W2, OUT, Destination.EXACT)
    builder.section("second", [replace(exact, collect=collect)])
    return Schedule(
        config,
        setup=(
            WriteWords("weights.first", W1, 1, 2 * INNER * 4, 0, 0, 0),
            WriteWords("weights.second", W2, 1, HIDDEN * 4, 0, 0, 0),
            WriteColumns("parameters.first", 0, 0, 2),
        ),
        steps=((WriteWords("x", A, ROWS, INNER, INNER, 0, INNER),), (builder.run(),), (), ()),
        places={"x": Place(A, 0, 0, INNER), "h": Place(H, 0, 0, HIDDEN)},
        constants=constants,
    )


def parameters(plan: Plan) -> np.ndarray:
    """Biases in the output's scale and shifts of the first layer, ``[tiles, columns, 2]``."""
    layer = plan.layers["first"]
    assert isinstance(layer, Convolution)
    assert layer.weights.bias is not None
    e_in, e_out = plan.tensors["x"].exponent, plan.tensors["h"].exponent
    assert e_in is not None
    assert e_out is not None
    found = np.zeros((2, 4, 2), np.int32)
    bias = encode(layer.weights.bias, plan.config.bias_format, e_out)
    found.reshape(8, 2)[:HIDDEN, 0] = bias.numpy()
    found.reshape(8, 2)[:HIDDEN, 1] = e_out - e_in - layer.weights.exponents.numpy()
    return found


def gemm(
    config: MachineConfig, a: int, inner: int, b: int, columns: int, destination: Destination
) -> Operation:
    memory = destination == Destination.MEMORY
    tiles = -(-columns // 4)
    registers = {
        Register.MX: ROWS,
        Register.K0: inner,
        Register.NT: tiles,
        Register.NL: columns - (tiles - 1) * 4,
        Register.A_BASE: a,
        Register.A_X: inner,
        Register.B_BASE: b,
        Register.B_K0: 4,
        Register.B_N: 4 * inner,
        Register.O_BASE: H,
        Register.O_X: columns,
        Register.O_N: 4,
    }
    act, flags = (Activation.RELU, Flag.COLUMN) if memory else (Activation.LINEAR, 0)
    return Operation(Instruction(Opcode.GEMM, (destination, act, flags)), registers)


def artefact(config: MachineConfig = CONFIG, seed: int = 0) -> Artefact:
    plan = network(config, seed)
    return Artefact(plan, commands(plan))


def float_result(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    """The network in floating point, without the compiler's parts."""
    c = plan.graph.constants
    return torch.relu(x @ c["w1"] + c["b1"]) @ c["w2"] + c["b2"]
