"""Plans of small networks: what is where and why, and that they still compute the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from sw.compiler.calibrate import Calibration, calibrate
from sw.compiler.fold import fold
from sw.compiler.graph import Graph
from sw.compiler.layers import (
    Add,
    Convolution,
    Download,
    Function,
    Granularity,
    HostOutput,
    HostStep,
    LayerStep,
    Matmul,
    Plan,
    Upload,
    WordsOutput,
)
from sw.compiler.options import CompileOptions
from sw.compiler.order import operand_names
from sw.compiler.place import place
from sw.compiler.trace import trace
from sw.config import MachineConfig
from sw.runtime.host import reference
from tests.plan_reference import run_plan

Inputs = tuple[torch.Tensor, ...]


class Function_(nn.Module):
    """A network whose forward is a function of its own parts and inputs."""

    def __init__(self, forward, **parts: nn.Module) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._forward(self, *inputs)


def graph_of(model: nn.Module, inputs: Inputs) -> Graph:
    """Tracing takes most of the time of these tests: residual networks are traced once."""
    key = repr(model), tuple(i.shape for i in inputs)
    if not isinstance(model, Residual):
        return traced(model, inputs)
    if key not in _GRAPHS:
        _GRAPHS[key] = traced(model, inputs)
    return _GRAPHS[key]


_GRAPHS: dict[object, Graph] = {}


def traced(model: nn.Module, inputs: Inputs) -> Graph:
    torch.manual_seed(len(list(model.parameters())))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / max(parameter[0].numel(), 1) ** 0.5)
    return fold(trace(model.eval(), inputs))


def planned(
    model: nn.Module, inputs: Inputs, bits: int = 16, unity: bool = True, **options: object
) -> Plan:
    """A plan whose words compute the network to about the last bits of the format."""
    graph = graph_of(model, inputs)
    machine = MachineConfig(bits=bits, unity=unity)
    settings = CompileOptions(machine, **options)  # type: ignore[arg-type]
    plan = place(graph, settings, calibrate(graph, settings, [inputs]))
    check_plan(plan)
    for got, want in zip(run_plan(plan, inputs), reference(graph, inputs), strict=True):
        assert got.shape == want.shape
        assert float((got - want).abs().max()) <= 2.0 ** (6 - bits) * float(want.abs().max())
    return plan


def check_plan(plan: Plan) -> None:
    """What layers.py says of every plan."""
    assert [step.layer for step in plan.steps if isinstance(step, LayerStep)] == list(plan.layers)
    assert [p.node for p in plan.placements] == [n.name for n in plan.graph.nodes]
    assert all(p.reason for p in plan.placements)
    made: set[str] = set()
    for step in plan.steps:
        if isinstance(step, Upload):
            assert step.tensor not in made
            made.add(step.tensor)
        elif isinstance(step, LayerStep):
            layer = plan.layers[step.layer]
            assert set(operand_names(layer)) <= made
            check_operands(layer, plan)
            if isinstance(layer.output, WordsOutput):
                assert plan.tensors[layer.output.tensor].exponent is not None
                made.add(layer.output.tensor)
    assert made == set(plan.tensors)


def check_operands(layer: Convolution | Matmul | Add, plan: Plan) -> None:
    a = plan.tensors[layer.a]
    exact = isinstance(layer.output, HostOutput)
    assert a.granularity in (Granularity.TENSOR, Granularity.ROW)
    assert exact or a.granularity == Granularity.TENSOR
    if isinstance(layer, Convolution) and a.granularity == Granularity.ROW:
        assert tuple(layer.weights.words.shape[1:3]) == (1, 1)
    if isinstance(layer, Matmul):
        kinds = {Granularity.TENSOR, Granularity.ROW if layer.transposed else Granularity.COLUMN}
        assert plan.tensors[layer.b].granularity in kinds


def kinds(plan: Plan) -> list[str]:
    return [type(step).__name__ for step in plan.steps]


def reasons(plan: Plan) -> dict[str, str]:
    return {p.node: p.reason for p in plan.placements if not p.on_array}


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, groups=4, dilation=2, padding=(2, 1)),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8, stride=(1, 2)),
        nn.BatchNorm2d(8),
        nn.Hardtanh(0.0, 1.5),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 1, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    )


def test_a_convolutional_network_is_one_upload_and_a_row_of_layers() -> None:
    plan = planned(convolutional(), (torch.randn(2, 3, 12, 12),))
    assert kinds(plan) == ["Upload"] + ["LayerStep"] * 6
    layers = list(plan.layers.values())
    assert all(isinstance(layer, Convolution) for layer in layers)
    functions = [layer.output.function for layer in layers if isinstance(layer.output, WordsOutput)]
    relu, clamp = Function.RELU, Function.CLAMP
    assert functions == [relu, clamp, clamp, relu, relu]
    assert isinstance(layers[-1].output, HostOutput)
    shapes = [tuple(layer.weights.words.shape) for layer in layers]  # type: ignore[union-attr]
    assert shapes[0] == (1, 3, 3, 3, 4)
    assert shapes[1] == (4, 3, 3, 1, 2)
    assert shapes[2] == (8, 3, 3, 1, 1)
    assert shapes[4] == (1, 4, 1, 6, 10)
    assert not reasons(plan)
    # Padding at the end that no window reaches needs no border.
    assert plan.tensors["input"].border == (1, 0, 1, 0)


def test_a_flattened_image_keeps_its_meaning_when_its_pixels_are_permuted() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).permute(0, 3, 1, 2)  # type: ignore[operator]
        return self.second(x.reshape(2, -1))  # type: ignore[operator]

    model = Function_(forward, first=nn.Conv2d(3, 4, 2), second=nn.Linear(4 * 3 * 5, 7))
    plan = planned(model, (torch.randn(2, 3, 4, 6),))
    assert kinds(plan) == ["Upload", "LayerStep", "LayerStep"]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.stem(x))
        y = self.second(functional.relu(self.first(x)))
        x = functional.relu(x + y)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("unity", [True, False])
def test_residual_additions_and_mean_pooling_stay_among_words(unity: bool) -> None:
    plan = planned(Residual(), (torch.randn(2, 3, 8, 8),), unity=unity)
    assert kinds(plan) == ["Upload"] + ["LayerStep"] * 6
    layers = list(plan.layers.values())
    add, pool = layers[3], layers[4]
    assert isinstance(add, Add)
    assert add.output.function == Function.RELU
    assert isinstance(pool, Convolution)
    assert tuple(pool.weights.words.shape) == (8, 8, 8, 1, 1)
    power = 0 if unity else 1
    assert set(pool.weights.exponents.tolist()) == {power - 6}
    assert set(pool.weights.words.flatten().tolist()) == {0x7FFF if unity else 0x4000}


def test_without_a_layer_that_reads_words_additions_stay_on_the_host() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) + self.second(x)  # type: ignore[operator]

    model = Function_(forward, first=nn.Conv2d(2, 3, 1), second=nn.Conv2d(2, 3, 3, padding=1))
    plan = planned(model, (torch.randn(1, 2, 5, 5),))
    assert reasons(plan) == {"add": "its result is not read as words by the array"}
    assert kinds(plan)[-1] == "HostStep"


def test_words_that_the_host_reads_too_are_downloaded() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = functional.relu(self.first(x) + self.second(x))  # type: ignore[operator]
        return self.third(total), functional.silu(total)  # type: ignore[operator]

    parts = {name: nn.Conv2d(2, 2, 3, padding=1) for name in ("first", "second", "third")}
    plan = planned(Function_(forward, **parts), (torch.randn(1, 2, 5, 5),))
    downloads = [step for step in plan.steps if isinstance(step, Download)]
    assert [d.value for d in downloads] == ["relu"]
    assert kinds(plan) == ["Upload", *["LayerStep"] * 4, "Download", "HostStep"]


def test_exponents_too_far_apart_keep_an_addition_on_the_host() -> None:
    inputs = (torch.randn(2, 3, 8, 8),)
    graph = graph_of(Residual(), inputs)
    options = CompileOptions(MachineConfig(bits=8), exponents={"relu": 3, "convolution_2": -6})
    plan = place(graph, options, calibrate(graph, options, [inputs]))
    assert "3 and -6, lie too far apart" in reasons(plan)["add"]


class Attention(nn.Module):
    def __init__(self, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared = heads, shared
        self.query = nn.Linear(12, heads * 4, bias=False)
        self.key = nn.Linear(12, shared * 4, bias=False)
        self.value = nn.Linear(12, shared * 4)
        self.out = nn.Linear(heads * 4, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q = self.query(x).view(n, t, self.heads, 4).transpose(1, 2)
        k = torch.sin(self.key(x).view(n, t, self.shared, 4)).transpose(1, 2)
        v = self.value(x).view(n, t, self.shared, 4).transpose(1, 2)
        y = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.heads != self.shared
        )
        return self.out(y.transpose(1, 2).reshape(n, t, -1))


@pytest.mark.parametrize(("heads", "shared"), [(3, 3), (6, 2)])
def test_both_products_of_attention_are_on_the_array(heads: int, shared: int) -> None:
    plan = planned(Attention(heads, shared), (torch.randn(2, 5, 12),))
    products = [layer for layer in plan.layers.values() if isinstance(layer, Matmul)]
    assert len(products) == 2
    assert len(plan.layers) == 6
    scores, mixed = products
    assert scores.transposed
    assert not mixed.transposed
    assert scores.repeat == mixed.repeat == heads // shared
    assert plan.tensors[scores.b].shape == (2 * shared, 1, 5, 4)
    assert plan.tensors[scores.a].shape == (2 * heads, 1, 5, 4)
    for layer in products:
        a, b = plan.tensors[layer.a], plan.tensors[layer.b]
        assert a.granularity == Granularity.ROW
        assert b.granularity == (Granularity.ROW if layer.transposed else Granularity.COLUMN)
    assert "expand" not in reasons(plan)
    assert reasons(plan)["softmax"] == "softmax has no unit in the array"


@pytest.mark.parametrize("activations", ["auto", "static", "dynamic"])
def test_modes_of_activations(activations: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(-1))
    plan = planned(model, (torch.randn(3, 6),), activations=activations)
    upload = plan.tensors["input"]
    first, _ = plan.layers.values()
    if activations == "dynamic":
        assert upload.granularity == Granularity.ROW
        assert upload.exponent is None
        assert isinstance(first.output, HostOutput)
    else:
        assert upload.exponent is not None
        assert isinstance(first.output, WordsOutput)
    last = plan.tensors[list(plan.layers.values())[1].a]
    assert (last.exponent is None) == (activations == "dynamic")


def test_dynamic_exponents_leave_convolutions_static() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(),
                          nn.Linear(8, 3))  # fmt: skip
    plan = planned(model, (torch.randn(1, 2, 6, 6),), activations="dynamic")
    first, second, last = plan.layers.values()
    assert isinstance(first.output, WordsOutput)
    assert isinstance(second.output, HostOutput)
    assert plan.tensors[last.a].granularity == Granularity.ROW


def several(*functions) -> nn.Module:  # type: ignore[no-untyped-def]
    return Function_(lambda self, *x: tuple(f(*x) for f in functions))


def test_products_of_two_values_in_all_their_shapes() -> None:
    shapes = (
        ((5,), (5,)),
        ((4, 5), (5,)),
        ((5, 1), (1, 3)),
        ((2, 3, 5), (5, 4)),
        ((2, 4, 5), (2, 5, 3)),
        ((1, 2, 4, 5), (2, 5, 3)),
        ((3, 2, 4, 5), (1, 1, 5, 3)),
    )
    pairs = [(torch.randn(left), torch.randn(right)) for left, right in shapes]

    def forward(self: nn.Module, *x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.matmul(a, b) for a, b in zip(x[::2], x[1::2], strict=True))

    plan = planned(Function_(forward), tuple(value for pair in pairs for value in pair))
    layers = list(plan.layers.values())
    assert all(isinstance(layer, Matmul) for layer in layers)
    assert [p.macs for p in plan.placements if p.layer] == [
        torch.matmul(a, b).numel() * a.shape[-1] for a, b in pairs
    ]


def test_a_constant_second_operand_is_a_weight_and_a_constant_sum_its_bias() -> None:
    weight, bias = torch.randn(5, 3), torch.randn(3)
    plan = planned(several(lambda x: torch.relu(x @ weight + bias) @ weight.T),
                   (torch.randn(2, 4, 5),))  # fmt: skip
    first, second = plan.layers.values()
    assert isinstance(first, Convolution)
    assert first.weights.bias is not None
    assert torch.equal(first.weights.bias, bias)
    assert isinstance(second, Convolution)
    assert kinds(plan) == ["Upload", "LayerStep", "LayerStep"]


@pytest.mark.parametrize(
    ("model", "shape", "reason"),
    [
        (nn.ConvTranspose2d(2, 3, 3), (1, 2, 4, 4), "transposed convolution"),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4), "no convolution of 3 dimensions"),
        (several(lambda x: torch.matmul(x, x[:, :1])), (2, 3, 4, 4), "are broadcast in a way"),
        (several(lambda x: functional.conv2d(x, x)), (2, 3, 4, 4), "computed by the network"),
        (several(lambda x: x.double() @ x.double().mT), (3, 4), "not float32"),
        (several(lambda x: torch.linalg.vector_norm(x)), (3, 4), "the array has no"),
    ],
)
def test_what_does_not_fit_runs_on_the_host_with_a_reason(
    model: nn.Module, shape: tuple[int, ...], reason: str
) -> None:
    inputs = (torch.randn(shape),)
    graph = graph_of(model, inputs)
    plan = place(graph, CompileOptions(MachineConfig(bits=8)))
    assert not plan.layers
    assert any(reason in why for why in reasons(plan).values()), reasons(plan)
    for got, want in zip(run_plan(plan, inputs), reference(graph, inputs), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_other_paddings_are_the_hosts_and_the_convolution_is_not(mode: str) -> None:
    plan = planned(nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), (torch.randn(1, 2, 5, 5),))
    (layer,) = plan.layers.values()
    assert isinstance(layer, Convolution)
    assert layer.padding == (0, 0, 0, 0)
    assert len(plan.graph.nodes) > 1


def test_zeros_around_an_image_are_the_convolutions_padding() -> None:
    model = several(
        lambda x: functional.conv2d(
            functional.pad(x, (0, 1, 2, 3)), torch.ones(3, 2, 3, 3), stride=2
        )
    )
    plan = planned(model, (torch.randn(1, 2, 6, 6),))
    (layer,) = plan.layers.values()
    assert isinstance(layer, Convolution)
    assert layer.padding == (2, 3, 0, 1)
    assert not reasons(plan)


def test_one_dimensional_convolutions_have_one_row() -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 2, stride=2))
    plan = planned(model, (torch.randn(2, 3, 9),))
    assert kinds(plan) == ["Upload", "LayerStep", "LayerStep"]
    assert plan.tensors["relu"].shape == (2, 1, 9, 4)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1),
        nn.AvgPool2d((2, 1), divisor_override=3),
        nn.AdaptiveAvgPool2d((2, 4)),
    ],
)
def test_mean_pooling_between_layers_is_a_convolution(pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), pool, nn.Conv2d(3, 2, 2), nn.Flatten())
    plan = planned(model, (torch.randn(1, 2, 8, 8),))
    assert [type(layer) for layer in plan.layers.values()] == [Convolution] * 3
    assert kinds(plan).count("Upload") == 1


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, stride=2, ceil_mode=True),
        nn.AdaptiveAvgPool2d((3, 3)),
    ],
)
def test_other_pooling_is_the_hosts(pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), pool, nn.Conv2d(3, 2, 2))
    plan = planned(model, (torch.randn(1, 2, 8, 8),))
    assert kinds(plan) == ["Upload", "LayerStep", "HostStep", "Upload", "LayerStep"]
    assert len(reasons(plan)) == 2  # the activation, too
    assert reasons(plan)["relu"] == "convolution gives exact sums"


def test_an_activation_is_fused_only_where_nothing_else_reads_what_is_before_it() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)  # type: ignore[operator]
        return self.second(functional.relu(y)) + self.third(y)  # type: ignore[operator]

    parts = {name: nn.Conv2d(2, 2, 1) for name in ("first", "second", "third")}
    plan = planned(Function_(forward, **parts), (torch.randn(1, 2, 3, 3),))
    assert isinstance(plan.layers["convolution"].output, HostOutput)


def test_given_exponents_override_calibration_and_host_only_is_respected() -> None:
    inputs = (torch.randn(2, 3, 8, 8),)
    graph = graph_of(Residual(), inputs)
    options = CompileOptions(
        MachineConfig(bits=8), exponents={"x": 5, "relu_1": 7}, host_only=frozenset({"head"})
    )
    plan = place(graph, options, calibrate(graph, options, [inputs]))
    assert plan.tensors["x"].exponent == 5
    assert plan.tensors["relu_1"].exponent == 7
    assert reasons(plan)["linear"] == "it was asked to stay on the host"
    assert next(p for p in plan.placements if p.node == "linear").macs == 2 * 8 * 5
    check_plan(plan)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"host_only": frozenset({"heads"})}, "heads"), ({"exponents": {"relu_9": 0}}, "relu_9")],
)
def test_options_for_what_the_graph_has_not_are_refused(given: dict[str, Any], named: str) -> None:
    graph = graph_of(Residual(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(ValueError, match=f"must .* of the network, not .*{named!r}"):
        place(graph, CompileOptions(MachineConfig(bits=8), **given))


def test_exponents_of_words_cover_the_bias() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.second(functional.relu(self.first(x)))  # type: ignore[operator]

    model = Function_(forward, first=nn.Linear(4, 4), second=nn.Linear(4, 4))
    inputs = (torch.randn(3, 4),)
    graph = graph_of(model, inputs)
    graph.constants["first.bias"][:] = torch.tensor([-40.0, 0.1, 0.1, 0.1])
    options = CompileOptions(MachineConfig(bits=8))
    plan = place(graph, options, calibrate(graph, options, [inputs]))
    assert plan.tensors["relu"].exponent == 6


def test_what_calibration_does_not_know_is_named() -> None:
    graph = graph_of(nn.Conv2d(2, 3, 3), (torch.randn(1, 2, 4, 4),))
    with pytest.raises(ValueError, match="exponent of input must be given or calibrated"):
        place(graph, CompileOptions(MachineConfig(bits=8)))
    other = Calibration(CompileOptions(MachineConfig(bits=4)).machine.format, "maximum", {}, {})
    with pytest.raises(ValueError, match="calibration must be for SF8, not SF4"):
        place(graph, CompileOptions(MachineConfig(bits=8)), other)


def test_steps_change_sides_as_little_as_they_can() -> None:
    plan = planned(Attention(6, 2), (torch.randn(1, 5, 12),))
    found = kinds(plan)
    sides = ["host" if kind in ("HostStep", "Download") else kind for kind in found]
    assert sides.count("host") == 2  # after the projections and for the softmax
    assert found[:4] == ["Upload", "LayerStep", "LayerStep", "LayerStep"]


def test_views_before_an_upload_are_the_uploads_own() -> None:
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.first(x.permute(0, 3, 1, 2))  # type: ignore[operator]

    plan = planned(Function_(forward, first=nn.Conv2d(3, 2, 2)), (torch.randn(2, 4, 5, 3),))
    assert kinds(plan) == ["Upload", "LayerStep"]
    (upload,) = (step for step in plan.steps if isinstance(step, Upload))
    assert upload.value == plan.graph.inputs[0].name
    assert upload.view.permute == (0, 1, 2, 3)


def test_constants_of_the_array_alone_leave_the_graph() -> None:
    plan = planned(Residual(), (torch.randn(2, 3, 8, 8),))
    assert not plan.graph.constants
    assert not any(isinstance(step, HostStep) for step in plan.steps)


def test_macs_are_counted_per_node() -> None:
    plan = planned(convolutional(), (torch.randn(2, 3, 12, 12),))
    macs = {p.layer: p.macs for p in plan.placements if p.macs}
    assert macs["convolution"] == 2 * 6 * 6 * 4 * 27
    assert macs["convolution_1"] == 2 * 6 * 4 * 8 * 9
    assert math.prod(macs.values()) > 0


def test_the_same_graph_gives_the_same_plan() -> None:
    def described(plan: Plan) -> Sequence[object]:
        words = [
            layer.weights.words.flatten().tolist()
            for layer in plan.layers.values()
            if isinstance(layer, Convolution)
        ]
        return plan.steps, dict(plan.tensors), plan.placements, words, list(plan.layers)

    inputs = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
    model = Residual()
    assert described(planned(model, inputs)) == described(planned(model, inputs))
