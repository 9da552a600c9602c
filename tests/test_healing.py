"""Healing: the float stand-in computes what the array computes, and training it helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from sw.compiler.graph import Graph, Input, Node, Ref
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Download,
    Function,
    HostOutput,
    HostStep,
    LayerStep,
    Plan,
    Upload,
    View,
    WordsOutput,
)
from sw.compiler.options import CompileOptions
from sw.compiler.quantize import quantize_weights
from sw.config import MachineConfig
from sw.fake_network import FakeQuantizedNetwork, with_weights
from sw.healing import HealingOptions, heal
from sw.runtime.layer import compute, to_host, upload
from sw.tensor import exponents

BATCH, CLASSES = 16, 4


def make_graph(seed: int) -> Graph:
    """Convolution and ReLU, convolution with a residual and ReLU, linear, doubled on the host."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.4

    constants = {
        "w1": random(6, 2, 3, 3),
        "b1": random(6),
        "w2": random(6, 6, 3, 3) * 0.5,
        "w3": random(CLASSES, 54) * 0.5,
        "b3": random(CLASSES),
        "unused": random(3),
    }

    def convolution(name: str, value: str, weight: str, bias: str | None) -> Node:
        arguments = (Ref(value), Ref(weight), Ref(bias) if bias else None, (1, 1), (1, 1), (1, 1))
        return Node(name, "aten.convolution.default", (*arguments, False, (0, 0), 1))

    nodes = (
        convolution("c1", "x", "w1", "b1"),
        Node("r1", "aten.relu.default", (Ref("c1"),)),
        convolution("c2", "r1", "w2", None),
        Node("a2", "aten.add.Tensor", (Ref("c2"), Ref("r1"))),
        Node("r2", "aten.relu.default", (Ref("a2"),)),
        Node("f", "aten.reshape.default", (Ref("r2"), (BATCH, 54))),
        Node("c3", "aten.linear.default", (Ref("f"), Ref("w3"), Ref("b3"))),
        Node("y", "aten.mul.Tensor", (Ref("c3"), 2.0)),
    )
    inputs = (Input("x", (BATCH, 2, 3, 3), torch.float32),)
    return Graph(inputs, nodes, ("y",), constants)


def float_logits(graph: Graph, x: torch.Tensor) -> torch.Tensor:
    c = graph.constants
    first = torch.relu(functional.conv2d(x, c["w1"], c["b1"], padding=1))
    second = torch.relu(functional.conv2d(first, c["w2"], padding=1) + first)
    return 2 * functional.linear(second.flatten(1), c["w3"], c["b3"])


def make_plan(graph: Graph, bits: int, x: torch.Tensor) -> Plan:
    config = MachineConfig(bits=bits, bias_bits=16)
    options, c = CompileOptions(config), graph.constants
    first = functional.conv2d(x, c["w1"], c["b1"], padding=1).relu()
    inner = functional.conv2d(first, c["w2"], padding=1)

    def exponent(value: torch.Tensor) -> int:
        return int(exponents(value, config.format))

    plane = (BATCH, 3, 3, 6)
    tensors = {
        "tx": ArrayTensor("tx", (BATCH, 3, 3, 2), exponent(x), border=(1, 1, 1, 1)),
        "t1": ArrayTensor("t1", plane, exponent(first), border=(1, 1, 1, 1)),
        "t2": ArrayTensor("t2", plane, exponent(inner)),
        "t3": ArrayTensor("t3", plane, exponent(torch.relu(inner + first))),
        "tf": ArrayTensor("tf", (1, 1, BATCH, 54), exponent(torch.relu(inner + first))),
    }
    linear = c["w3"].reshape(CLASSES, 54, 1, 1)
    weights = {
        "c1": quantize_weights(c["w1"], c["b1"], 1, options, "c1"),
        "c2": quantize_weights(c["w2"], None, 1, options, "c2"),
        "c3": quantize_weights(linear, c["b3"], 1, options, "c3"),
    }
    around = {"padding": (1, 1, 1, 1)}
    host = HostOutput("c3", View((BATCH, CLASSES), (0, 1)))
    layers = {
        "c1": Convolution(
            "c1", "tx", weights["c1"], WordsOutput("t1", Function.RELU), **around, nodes=("c1",)
        ),
        "c2": Convolution("c2", "t1", weights["c2"], WordsOutput("t2"), **around, nodes=("c2",)),
        "a2": Add("a2", "t2", "t1", WordsOutput("t3", Function.RELU)),
        "c3": Convolution("c3", "tf", weights["c3"], host, nodes=("c3",)),
    }
    steps = (
        Upload("x", "tx", View((BATCH, 2, 3, 3), (0, 2, 3, 1))),
        *(LayerStep(name) for name in ("c1", "c2", "a2")),
        Download("t3", "r2", View((BATCH, 6, 3, 3), (0, 2, 3, 1))),
        HostStep(("f",)),
        Upload("f", "tf", View((BATCH, 54), (0, 1))),
        LayerStep("c3"),
        HostStep(("y",)),
    )
    return Plan(graph, config, tensors, layers, steps)


def words_logits(plan: Plan, x: torch.Tensor) -> torch.Tensor:
    """The plan on words, by the definition of its layers."""
    words = {"tx": upload(x.permute(0, 2, 3, 1), plan.tensors["tx"], plan.config)[0]}
    for name in ("c1", "c2", "a2"):
        output = plan.layers[name].output
        assert isinstance(output, WordsOutput)
        words[output.tensor] = compute(plan.layers[name], plan, words)
    words["tf"] = words["t3"].permute(0, 3, 1, 2).reshape(plan.tensors["tf"].shape)
    sums = compute(plan.layers["c3"], plan, words)
    exponent = torch.tensor(plan.tensors["tf"].exponent)
    return 2 * to_host(plan.layers["c3"], sums, exponent, None, plan.config).reshape(BATCH, -1)


@pytest.fixture
def samples() -> torch.Tensor:
    return torch.rand((128, 2, 3, 3), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_floats_are_rounded_exactly_as_words(bits: int, samples: torch.Tensor) -> None:
    graph = make_graph(1)
    plan = make_plan(graph, bits, samples[:64])
    got = FakeQuantizedNetwork(plan)(samples[64 : 64 + BATCH])[0].detach()
    want = words_logits(plan, samples[64 : 64 + BATCH])
    # Sums of words and the bias are rounded once; the last operation of both is in binary32.
    assert torch.allclose(got, want, rtol=1e-6, atol=1e-6)
    inexact = float_logits(graph, samples[64 : 64 + BATCH])
    assert not torch.allclose(got, inexact, rtol=1e-3, atol=1e-3)


def test_training_starts_from_the_weights_before_rounding(samples: torch.Tensor) -> None:
    graph = make_graph(1)
    network = FakeQuantizedNetwork(make_plan(graph, 4, samples))
    for weight, name in zip(network.weights, ("w1", "w2", "w3"), strict=True):
        assert weight.detach().reshape(graph.constants[name].shape).equal(graph.constants[name])
        assert weight.requires_grad


def test_training_starts_from_the_words_where_their_order_is_another(samples: torch.Tensor) -> None:
    plan = make_plan(make_graph(1), 4, samples)
    layer = plan.layers["c3"]
    assert isinstance(layer, Convolution)
    reordered = replace(layer.weights, words=layer.weights.words.flip(3))
    network = FakeQuantizedNetwork(replace(plan, layers={"c3": replace(layer, weights=reordered)}))
    assert network.weights[0].requires_grad
    assert network.quantized()["c3"].words.equal(reordered.words)


def test_weights_that_the_graph_does_not_have_are_not_trained(samples: torch.Tensor) -> None:
    plan = make_plan(make_graph(1), 4, samples)
    first = replace(plan.layers["c1"], name="pool", nodes=("r1",))
    plan = replace(plan, layers={"pool": first})
    network = FakeQuantizedNetwork(plan)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.quantized()["pool"] is first.weights


def test_words_of_untrained_weights_are_the_plans(samples: torch.Tensor) -> None:
    plan = make_plan(make_graph(2), 5, samples)
    for name, weights in FakeQuantizedNetwork(plan).quantized().items():
        layer = plan.layers[name]
        assert isinstance(layer, Convolution)
        assert weights.words.equal(layer.weights.words)
        assert weights.exponents.equal(layer.weights.exponents)


def divergence(logits: torch.Tensor, target: torch.Tensor) -> float:
    logs = functional.log_softmax(logits, 1), functional.log_softmax(target, 1)
    return float(functional.kl_div(*logs, reduction="batchmean", log_target=True))


def test_healing_brings_the_words_closer_to_the_float_network(samples: torch.Tensor) -> None:
    graph = make_graph(3)
    train, test = samples[:112], samples[112:]
    plan = make_plan(graph, 3, train)
    seen: list[int] = []
    healed = heal(
        plan,
        lambda x: float_logits(graph, x),
        train,
        options=HealingOptions(epochs=15, learning_rate=1e-2),
        progress=lambda epoch, loss: seen.append(epoch),
    )
    assert seen == list(range(1, 16))
    assert healed.losses[-1] < 0.6 * healed.losses[0]
    want = float_logits(graph, test)
    before, after = words_logits(plan, test), words_logits(healed.plan, test)
    assert divergence(after, want) < 0.6 * divergence(before, want)
    exponent = {name: tensor.exponent for name, tensor in plan.tensors.items()}
    assert {name: tensor.exponent for name, tensor in healed.plan.tensors.items()} == exponent


def test_same_seed_gives_the_same_words(samples: torch.Tensor) -> None:
    graph = make_graph(3)
    plan = make_plan(graph, 4, samples)
    labels = float_logits(graph, samples).argmax(1)

    def words(seed: int) -> list[torch.Tensor]:
        options = HealingOptions(epochs=2, learning_rate=1e-2, seed=seed)
        healed = heal(plan, lambda x: float_logits(graph, x), samples, labels, options)
        return [weights.words for weights in healed.weights.values()]

    first, again, other = words(1), words(1), words(2)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))


def test_weights_of_another_network_are_refused(samples: torch.Tensor) -> None:
    plan = make_plan(make_graph(3), 4, samples)
    other = FakeQuantizedNetwork(make_plan(make_graph(4), 4, samples)).quantized()
    with pytest.raises(ValueError, match="exponents of the plan"):
        with_weights(plan, other)
    with pytest.raises(ValueError, match="convolutions of the plan, not 'a2'"):
        with_weights(plan, {"a2": other["c1"]})
    with pytest.raises(ValueError, match="weights of c2 must have the shape"):
        with_weights(plan, {"c2": other["c1"]})


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", -1), ("learning_rate", 0.0), ("distillation", 1.5), ("temperature", -1.0)],
)
def test_options_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*, not {value}"):
        HealingOptions(**{name: value})


def test_samples_that_do_not_fit_are_refused(samples: torch.Tensor) -> None:
    plan = make_plan(make_graph(3), 4, samples)
    with pytest.raises(ValueError, match="samples must be at least 16"):
        heal(plan, lambda x: x, samples[:3])
    with pytest.raises(ValueError, match="labels must be 128, not 2"):
        heal(plan, lambda x: x, samples, torch.zeros(2, dtype=torch.int64))
