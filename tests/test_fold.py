from __future__ import annotations

import pytest
import torch
from networks import NETWORKS, Formula, network, settled, traced
from torch import Tensor, nn
from torch.nn import functional as F

from sw.compiler.fold import LARGEST_BYTES, fold
from sw.compiler.graph import Graph, Input, Node, Ref
from sw.compiler.trace import trace
from sw.runtime.host import reference

# Networks in which folding computes new weights; in the others it only leaves out.
NEW_WEIGHTS = {
    *("cnn", "depthwise", "groups", "transposed", "conv1d", "residual", "shared", "products"),
}


def targets(graph: Graph) -> list[str]:
    return [node.target.removeprefix("aten.") for node in graph.nodes]


def folded(formula: object, *inputs: Tensor, **parts: nn.Module | Tensor) -> Graph:
    return fold(trace(Formula(formula, **parts), inputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_does_not_change_what_is_computed(name: str) -> None:
    _, inputs = network(name)
    graph = traced(name)
    for got, want in zip(reference(fold(graph), inputs), reference(graph, inputs), strict=True):
        if name in NEW_WEIGHTS:
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_again_changes_nothing(name: str) -> None:
    once = fold(traced(name))
    twice = fold(once)
    assert (twice.nodes, twice.outputs) == (once.nodes, once.outputs)
    assert list(twice.constants) == list(once.constants)


@pytest.mark.parametrize("name", NETWORKS)
def test_constants_are_float32_contiguous_and_all_read(name: str) -> None:
    graph = fold(traced(name))
    read = {n for node in graph.nodes for n in node.references()} | set(graph.outputs)
    assert set(graph.constants) <= read
    for value in graph.constants.values():
        assert value.is_contiguous()
        assert value.untyped_storage().nbytes() == value.nbytes
        assert value.dtype in (torch.float32, torch.bool, torch.int64)
    assert graph.inputs == traced(name).inputs


@pytest.mark.parametrize("name", ["cnn", "depthwise", "groups", "transposed", "conv1d", "residual"])
def test_batch_norm_goes_into_the_layer_before_it(name: str) -> None:
    assert "batch_norm.default" in targets(traced(name))
    assert "batch_norm.default" not in targets(fold(traced(name)))


def test_batch_norm_stays_behind_what_others_read_too() -> None:
    found = targets(fold(traced("shared")))
    assert found.count("convolution.default") == 2
    assert found.count("batch_norm.default") == 1


def test_batch_norm_over_another_dimension_than_the_layers_channels_stays() -> None:
    model = settled(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)))
    x = torch.randn(2, 5, 5)
    graph = trace(model, (x,))
    assert targets(fold(graph)) == ["linear.default", "batch_norm.default"]
    assert torch.equal(reference(fold(graph), [x])[0], reference(graph, [x])[0])


def test_weights_of_batch_norm_without_scale_are_exact() -> None:
    layer, norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False, eps=0.0)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    norm.running_var[:] = torch.tensor([4.0, 0.25])
    norm.running_mean[:] = torch.tensor([1.0, -1.0])
    graph = fold(trace(nn.Sequential(layer, norm), (torch.randn(1, 1, 2, 2),)))
    weight, bias = (graph.constants[n] for n in ("0.weight.folded", "0.bias.folded"))
    scale = torch.tensor([0.5, 2.0])
    assert torch.equal(weight, layer.weight * scale.reshape(2, 1, 1, 1))
    want = (layer.bias.double() - torch.tensor([1.0, -1.0])) * scale
    assert torch.equal(bias, want.float())


def test_operations_that_change_nothing_are_gone() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = F.dropout(x.clone().contiguous().detach(), 0.5, False).to(torch.float32)
        y = F.pad(torch.cat([y.expand(2, 6)[:, 0:]], 1), (0, 0)).reshape(2, 6).permute(0, 1)
        return F.relu(y.view(3, 4).unsqueeze(0).flatten().view(2, 6))

    graph = folded(forward, torch.randn(2, 6))
    assert targets(graph) == ["relu.default"]
    assert graph.nodes[0].args == (Ref("inputs_0"),)


def test_operations_that_change_a_little_stay() -> None:
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        return x[:, 1:], x.t().t()[::2], x.double(), x.expand(3, 2, 2), F.pad(x, (1, -1)), x.t()

    found = targets(folded(forward, torch.randn(2, 2)))
    assert found == [
        *("slice.Tensor", "slice.Tensor", "_to_copy.default", "expand.default"),
        *("constant_pad_nd.default", "permute.default"),
    ]


def test_runs_of_permutations_and_reshapes_are_merged() -> None:
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.permute(2, 0, 1).permute(1, 0, 2)
        z = x.unsqueeze(0).transpose(0, 1).flatten(1).view(2, 4, 3)
        return y, z

    x = torch.randn(2, 3, 4)
    graph = folded(forward, x)
    assert targets(graph) == ["permute.default", "reshape.default"]
    assert [n.args for n in graph.nodes] == [
        *((Ref("inputs_0"), (0, 2, 1)), (Ref("inputs_0"), (2, 4, 3))),
    ]
    assert torch.equal(reference(graph, [x])[0], x.transpose(1, 2))


def test_an_output_that_was_a_copy_of_an_input_names_the_input() -> None:
    graph = folded(lambda m, x: (x.clone(), x + 1), torch.ones(2))
    assert graph.outputs == ("inputs_0", "add")


def test_tables_and_masks_are_computed_once() -> None:
    graph = fold(traced("causal"))
    assert not {"arange", "cos", "sin", "outer", "ones", "triu"} & {
        t.split(".")[0] for t in targets(graph)
    }
    assert torch.equal(graph.constants["triu"], torch.ones(6, 6).triu(1).bool())


def test_large_constants_are_made_only_of_constants_as_large() -> None:
    size = LARGEST_BYTES // 4 + 1

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return x + torch.zeros(size) + m.one.expand(size) + m.large.flip(0)

    graph = folded(forward, torch.ones(1), one=torch.ones(1), large=torch.ones(size))
    assert sorted(targets(graph)) == [
        *("add.Tensor", "add.Tensor", "add.Tensor", "expand.default", "full.default"),
    ]
    assert sorted(graph.constants) == ["flip", "one"]


def test_several_results_of_a_constant_are_constants() -> None:
    graph = folded(lambda m, x: x * m.c.chunk(2)[1], torch.ones(2), c=torch.arange(4.0))
    assert targets(graph) == ["mul.Tensor"]
    assert [v.tolist() for v in graph.constants.values()] == [[2.0, 3.0]]


def test_products_with_constant_matrices_are_linear_layers_with_their_bias() -> None:
    w, b, x = torch.randn(4, 3), torch.randn(3), torch.randn(2, 4)
    graph = folded(lambda m, x: m.b + x @ m.w, x, w=w, b=b)
    assert targets(graph) == ["linear.default"]
    assert torch.equal(graph.constants["w.transposed"], w.t())
    torch.testing.assert_close(reference(graph, [x])[0], x @ w + b)


def test_a_bias_per_row_stays_an_addition() -> None:
    parts = {"w": torch.ones(4, 3), "b": torch.ones(3, 1)}
    graph = folded(lambda m, x: x @ m.w + m.b, torch.ones(3, 4), **parts)
    assert targets(graph) == ["linear.default", "add.Tensor"]


def test_a_bias_per_channel_goes_into_a_convolution_and_one_per_column_does_not() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.layer(m.layer(x) + m.channel) + m.column

    parts = {"channel": torch.randn(3, 1, 1), "column": torch.randn(3)}
    x = torch.randn(1, 3, 3, 3)
    graph = folded(forward, x, layer=nn.Conv2d(3, 3, 1, bias=False), **parts)
    assert targets(graph) == ["convolution.default", "convolution.default", "add.Tensor"]
    assert set(graph.constants) == {"layer.weight", "convolution.bias.folded", "column"}


def test_equal_constants_are_shared_and_signs_of_zero_kept() -> None:
    zeros = {"a": torch.zeros(2), "b": torch.zeros(2), "c": -torch.zeros(2)}
    graph = folded(lambda m, x: x / m.a + x / m.b + x / m.c, torch.ones(2), **zeros)
    assert list(graph.constants) == ["a", "c"]
    assert reference(graph, [torch.ones(2)])[0].isnan().all()


def test_nodes_that_nothing_reads_and_their_constants_are_removed() -> None:
    graph = folded(lambda m, x: (m.layer(x), x + 1)[1], torch.ones(2), layer=nn.Linear(2, 2))
    assert targets(graph) == ["add.Tensor"]
    assert not graph.constants


def test_the_graph_that_is_given_stays_as_it_is() -> None:
    one = Input("x", (2,), torch.float32)
    node = Node("y", "aten.clone.default", (Ref("x"),), shape=(2,), dtype=torch.float32)
    graph = Graph((one,), (node,), ("y",), {"unused": torch.ones(1)})
    assert fold(graph).outputs == ("x",)
    assert (graph.nodes, graph.outputs, list(graph.constants)) == ((node,), ("y",), ["unused"])
