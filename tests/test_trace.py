from __future__ import annotations

import math

import pytest
import torch
from networks import NETWORKS, Formula, eager, network, traced
from torch import Tensor, nn
from torch.nn import functional as F

from sw.compiler.graph import Graph, Ref
from sw.compiler.operations import DTYPES
from sw.compiler.trace import trace
from sw.runtime.host import reference

FLOAT8 = torch.float8_e5m2
X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


def targets(graph: Graph) -> list[str]:
    return [node.target.removeprefix("aten.") for node in graph.nodes]


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_graph_computes_what_the_module_does(name: str) -> None:
    model, inputs = network(name)
    graph = traced(name)
    for got, want in zip(reference(graph, inputs), eager(model, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cnn", "causal"])
def test_tracing_twice_gives_the_same_names_arguments_and_order(name: str) -> None:
    model, inputs = network(name)
    first, second = traced(name), trace(model, inputs)
    assert repr((first.inputs, first.nodes, first.outputs)) == repr(
        (second.inputs, second.nodes, second.outputs)
    )
    assert list(first.constants) == list(second.constants)


def test_convolutions_have_one_form_and_normalisation_stays_whole() -> None:
    graph = traced("conv1d")
    assert targets(graph).count("convolution.default") == 1
    assert targets(graph).count("batch_norm.default") == 2
    convolution = next(n for n in graph.nodes if "convolution" in n.target)
    assert convolution.args[1:] == (
        *(Ref("0.weight"), Ref("0.bias"), (1,), (1,), (1,), False, (0,), 1),
    )
    assert (convolution.source, convolution.shape) == ("0", (2, 8, 10))


@pytest.mark.parametrize("name", ["encoder", "heads", "causal"])
def test_both_products_of_an_attention_are_visible(name: str) -> None:
    found = targets(traced(name))
    first, second = (i for i, t in enumerate(found) if t == "matmul.default")
    assert "softmax.int" in found[first:second]
    assert not any("attention" in target for target in found)


def test_products_become_matmul_or_linear() -> None:
    found = targets(traced("products"))
    assert not {"mm.default", "bmm.default", "addmm.default", "mv.default"} & set(found)
    assert found.count("matmul.default") == 6
    assert found.count("linear.default") == 1


def test_recurrent_layers_are_unrolled() -> None:
    found = targets(traced("recurrent"))
    assert not any(t.startswith(("gru", "lstm")) for t in found)
    assert sum(t in ("linear.default", "matmul.default") for t in found) >= 8


def test_layout_operations_have_two_forms() -> None:
    found = {t.split(".")[0] for t in targets(traced("layouts"))}
    assert not found & {"view", "unsqueeze", "squeeze", "t", "transpose", "flatten", "contiguous"}
    assert not any(t.endswith("_") for t in found)


def test_values_of_one_number_are_fills_of_a_shape_and_a_dtype() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x.new_ones(2, dtype=torch.int64) + torch.zeros_like(x, dtype=torch.bool)[0, :2]
        return torch.full_like(x, 2.5) * x.new_full((4,), 3) + torch.ones(4) + y.sum()

    graph = trace(Formula(forward), (X,))
    assert {t for t in targets(graph) if t.startswith(("full", "ones", "new", "zeros"))} == {
        "full.default"
    }
    assert torch.equal(reference(graph, [X])[0], torch.full((2, 4), 7.5 + 1 + 2))


def test_every_value_has_a_shape_and_a_dtype_and_comes_before_it_is_read() -> None:
    for name in NETWORKS:
        graph = traced(name)
        known = {i.name for i in graph.inputs} | set(graph.constants)
        for node in graph.nodes:
            assert set(node.references()) <= known
            assert node.name not in known
            assert node.dtype in (None, *DTYPES.values())
            known.add(node.name)
        assert set(graph.outputs) <= known


def test_constants_have_the_names_of_parameters_and_nodes_give_way_to_them() -> None:
    model = Formula(lambda m, x: m.linear(x), linear=nn.Linear(4, 4), weight=torch.ones(4))
    model.register_parameter("relu", nn.Parameter(torch.ones(4)))
    model.formula = lambda m, x: F.relu(m.linear(x)) * m.relu
    graph = trace(model, (X,))
    assert set(graph.constants) == {"linear.weight", "linear.bias", "relu"}
    assert [n.name for n in graph.nodes] == ["linear", "relu_1", "mul"]
    assert [n.source for n in graph.nodes] == ["linear", "", ""]


def test_module_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4))
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, (X,))
    assert [m.training for m in model] == [True, False, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_traced_in_float32(dtype: torch.dtype) -> None:
    model = nn.Linear(4, 3).to(dtype)
    graph = trace(model, (X.to(dtype),))
    assert {v.dtype for v in graph.constants.values()} == {torch.float32}
    assert (graph.inputs[0].dtype, graph.nodes[0].dtype) == (torch.float32, torch.float32)
    assert model.weight.dtype == dtype


def test_numbers_among_the_inputs_become_part_of_the_graph() -> None:
    graph = trace(Formula(lambda m, x, n, f: x * n + f), (X, 3, 0.5))
    assert [i.name for i in graph.inputs] == ["inputs_0"]
    assert torch.equal(reference(graph, [X])[0], X * 3 + 0.5)


def test_outputs_are_flattened_and_may_be_inputs_or_constants() -> None:
    graph = trace(Formula(lambda m, x: {"a": [x, m.c], "b": None, "c": x + 1}, c=X), (X,))
    assert graph.outputs == ("inputs_0", "c", "add")


def test_masks_of_infinity_are_allowed_in_buffers() -> None:
    mask = torch.full((4,), -math.inf)
    graph = trace(Formula(lambda m, x: x + m.mask, mask=mask), (X,))
    assert torch.equal(graph.constants["mask"], mask)


def test_parts_without_gradient_or_autocast_are_taken_in() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = m.layer(x)
        with torch.autocast("cpu", enabled=False):
            return m.layer(y)

    graph = trace(Formula(forward, layer=nn.Linear(4, 4)), (X,))
    assert targets(graph).count("linear.default") == 2


def branch(m: nn.Module, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def weights(value: float, count: int) -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight.data.flatten()[:count] = value
    return layer


def add_in_place(m: nn.Module, x: Tensor) -> Tensor:
    m.count.add_(1)
    return x + m.count


def condition(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,))


BAD: dict[str, tuple[nn.Module, tuple[object, ...], str]] = {
    "branch": (Formula(branch), (X,), "no control flow or shape that depends.*test_trace.py:"),
    "cond": (Formula(condition), (X,), "no control flow that depends on data, not cond"),
    "shape": (Formula(lambda m, x: x.nonzero()), (X,), "no shape that depends on data"),
    "item": (Formula(lambda m, x: x[: int(x.sum())]), (X,), "depends on data"),
    "buffer": (Formula(add_in_place, count=torch.ones(4)), (X,), "not change its buffers.*count"),
    "input": (Formula(lambda m, x: x.add_(1)), (X,), "must not change its inputs"),
    "float8": (Formula(lambda m, x: x.to(FLOAT8).float()), (X,), "supported dtype.*float8_e5m2"),
    "float8 weight": (
        Formula(lambda m, x: x, c=X.to(FLOAT8)),
        (X,),
        "^c must be of.*float8_e5m2",
    ),
    "float8 input": (Formula(lambda m, x: x.float()), (X.to(FLOAT8),), "input 0 must.*float8_e5"),
    "random": (Formula(lambda m, x: x + torch.rand(4)), (X,), "not use random numbers.*aten.rand"),
    "dropout": (Formula(lambda m, x: F.dropout(x, 0.5, True)), (X,), "not use random numbers"),
    "nan": (weights(math.nan, 3), (X,), "^weight must be finite.* 3 of its 16 elements"),
    "inf": (weights(math.inf, 1), (X,), "^weight must be finite.* 1 of its 16 elements"),
    "nan buffer": (Formula(lambda m, x: x + m.b, b=X * math.nan), (X,), "^b must be.* 8 of its 8"),
    "shapes": (nn.Linear(5, 4), (X,), "example inputs must fit the model: .*2x4 and 5x4"),
    "too many": (nn.Linear(4, 4), (X, X), "example inputs must fit the model: .*3 were given"),
    "too few": (nn.Linear(4, 4), (), "example inputs must fit the model: .*missing 1"),
    "nothing": (Formula(lambda m, x: None), (X,), "must have an output"),
    "number": (Formula(lambda m, x: (x + 1, 3)), (X,), "outputs must be tensors, not 3"),
    "meta": (nn.Linear(4, 4, device="meta"), (X,), "^weight must have values"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_traced_is_refused_in_one_sentence(
    case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model, inputs, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        trace(model, inputs)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "inputs"),
    [(lambda x: x, (X,)), (nn.ReLU(), X), (nn.ReLU(), ("x",)), (nn.ReLU(), ([X],))],
)
def test_other_kinds_are_type_errors(model: nn.Module, inputs: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="must be a"):
        trace(model, inputs)
