from __future__ import annotations

import math

import pytest
import torch
from networks import traced

from sw.compiler.graph import Argument, Graph, Input, Node, Ref
from sw.compiler.operations import ALLOWED, GETITEM, operation
from sw.runtime.host import bind, reference, run_node, run_nodes

FLOAT = torch.float32
BAG = "aten.embedding_bag.default"


def node(target: str, *args: Argument, **kwargs: Argument) -> Node:
    return Node("y", target, args, kwargs, (2,), FLOAT)


def chain() -> Graph:
    """x -> a = x + c -> b = a * a -> d = b - a."""
    nodes = (
        Node("a", "aten.add.Tensor", (Ref("x"), Ref("c")), {}, (2,), FLOAT),
        Node("b", "aten.mul.Tensor", (Ref("a"), Ref("a")), {}, (2,), FLOAT),
        Node("d", "aten.sub.Tensor", (Ref("b"), Ref("a")), {"alpha": 2}, (2,), FLOAT),
    )
    constants = {"c": torch.tensor([1.0, 2.0])}
    return Graph((Input("x", (2,), FLOAT),), nodes, ("d",), constants)


HOSTILE = [
    *("aten.relu_.default", "aten.add.out", "aten.copy_.default", "aten.set_.source_Tensor"),
    *("aten.rand.default", "aten.bernoulli.default", "aten.randperm.default"),
    *("aten.native_dropout.default", "aten.multinomial.default", "aten.normal.float_float"),
    *("aten.from_file.default", "aten.empty.memory_format", "aten.empty_like.default"),
    *("aten._sparse_coo_tensor_unsafe.default", "aten._unsafe_index.Tensor"),
    *("aten.save.default", "aten.load.default", "aten.resize_.default", "aten.nonzero.default"),
    *("aten.__class__.default", "aten.__init__.default", "aten._dir.append", "aten.__dict__.x"),
    *("aten.relu.__class__", "aten.relu.__call__", "aten.relu._schema", "aten.relu.op"),
    *("aten.relu", "aten", "", "relu", "aten.relu.default.default", "aten..default", "aten.relu."),
    *("aten.relu.default ", " aten.relu.default", "aten.relu.default\n", "aten.rélu.default"),
    *("prim.device.default", "prims.add.default", "quantized.add.default", "os.system.default"),
    *("torch.ops.aten.relu.default", "builtins.eval.default", "__import__('os').system.x"),
    *(
        "aten.relu.nothing",
        "aten.nothing.default",
        "getitem.default",
        "getattr",
        "_operator.getitem",
    ),
    *("profiler._record_function_enter.default", "inductor.accumulate_grad_.default"),
    *("aten/../relu.default", "aten.relu.defaul\x00t", "ATEN.relu.default", "aten.RELU.default"),
]


@pytest.mark.parametrize("target", HOSTILE)
def test_names_that_are_not_allowed_are_refused_in_one_sentence(target: str) -> None:
    with pytest.raises(ValueError, match="operation must be") as caught:
        run_node(node(target, Ref("x")), {"x": torch.ones(2)})
    assert "\n" not in str(caught.value)


def test_no_allowed_operation_writes_to_what_it_is_given_or_is_random() -> None:
    count = 0
    for name in sorted(ALLOWED):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            try:
                found = operation(f"aten.{name}.{overload}")
            except ValueError:
                continue
            count += 1
            schema = found._schema
            assert not any(a.alias_info and a.alias_info.is_write for a in schema.arguments)
            assert torch.Tag.nondeterministic_seeded not in found.tags
            assert not {"Generator", "Storage", "Stream"} & {str(a.type) for a in schema.arguments}
    assert count > 300


def test_every_allowed_name_is_one_that_torch_has() -> None:
    assert [name for name in ALLOWED if not hasattr(torch.ops.aten, name)] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (node("aten.relu.default"), "refuses its arguments"),
        (node("aten.relu.default", "x"), "refuses its arguments"),
        (node("aten.relu.default", Ref("x"), nothing=1), "refuses its arguments"),
        (node("aten.relu.default", Ref("z")), "'z' must be there before it is read"),
        (node("aten.mul.Tensor", Ref("x"), Ref("two")), "refuses|must be"),
        (node("aten.reshape.default", Ref("x"), (2, 1)), "must be .* of shape .2., not"),
        (node("aten.gt.Scalar", Ref("x"), 0), "must be torch.float32 .* not torch.bool"),
        (node("aten.split.Tensor", Ref("x"), 1), "must make tensors"),
        (node("aten.index.Tensor", Ref("x"), (Ref("far"),)), "refuses .* out of bounds"),
        (node("aten.gather.default", Ref("x"), 0, Ref("far")), "refuses its arguments"),
        (node("aten.embedding.default", Ref("x"), Ref("far")), "refuses its arguments"),
        (node("aten.as_strided.default", Ref("x"), (2,), (1,), 9), "refuses its arguments"),
        (node("aten.zeros.default", (1 << 60,)), "refuses its arguments"),
        (node(BAG, Ref("table"), Ref("some"), Ref("far")), "offsets of .* must rise from 0 to 3"),
        (node(BAG, Ref("table"), Ref("some"), Ref("falling")), "offsets of .* must rise from 0"),
        (node(BAG, Ref("table"), Ref("some")), "must have indices and offsets"),
        (node(BAG, Ref("table"), Ref("far"), Ref("two_places")), "refuses its arguments"),
        (node("aten.to.device", Ref("x"), torch.device("cuda"), FLOAT), "device must be the CPU"),
        (node(GETITEM, Ref("x"), 0), "getitem must have several results"),
        (node(GETITEM, Ref("two"), 2), "getitem must have several results"),
        (node(GETITEM, Ref("two"), -1), "getitem must have several results"),
        (node(GETITEM, Ref("two"), True), "getitem must have several results"),
        (node(GETITEM, Ref("two"), "0"), "getitem must have several results"),
        (node(GETITEM), "getitem must have several results"),
        (node(GETITEM, 1, 2), "getitem must have several results"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_sentence(wrong: Node, message: str) -> None:
    x = torch.ones(2)
    values = {
        **{"x": x, "two": (x, x), "far": torch.tensor([0, 1 << 40]), "table": torch.ones(4, 2)},
        **{"some": torch.tensor([0, 1, 2]), "falling": torch.tensor([0, 2, -1])},
        "two_places": torch.tensor([0, 1]),
    }
    with pytest.raises(ValueError, match=message) as caught:
        run_node(wrong, values)
    assert "\n" not in str(caught.value)


def test_nodes_run_in_order_and_leave_their_values() -> None:
    values = {"x": torch.tensor([1.0, 1.0])}
    run_nodes(chain(), ["a", "b"], values)
    assert {k: v.tolist() for k, v in values.items()} == {"x": [1, 1], "a": [2, 3], "b": [4, 9]}


def test_values_are_freed_after_their_last_reader_unless_kept() -> None:
    values = {"x": torch.tensor([1.0, 1.0])}
    run_nodes(chain(), ["a", "b", "d"], values, keep=["b", "d"])
    assert {k: v.tolist() for k, v in values.items()} == {"b": [4, 9], "d": [0, 3]}
    values = {"x": torch.tensor([1.0, 1.0])}
    run_nodes(chain(), ["a"], values, keep=["x"])
    assert set(values) == {"x"}


def test_constants_are_not_written_to_the_values_nor_freed_from_the_graph() -> None:
    graph, values = chain(), {"x": torch.ones(2)}
    run_nodes(graph, ["a"], values, keep=["a"])
    assert set(values) == {"a"}
    assert set(graph.constants) == {"c"}


def test_nodes_that_are_not_in_the_graph_are_refused() -> None:
    with pytest.raises(ValueError, match="node must be one of the graph, not 'e'"):
        run_nodes(chain(), ["a", "e"], {"x": torch.ones(2)})


def test_several_results_are_picked_one_by_one() -> None:
    nodes = (
        Node("s", "aten.split.Tensor", (Ref("x"), 1)),
        Node("p", GETITEM, (Ref("s"), 1), {}, (1,), FLOAT),
    )
    graph = Graph((Input("x", (2,), FLOAT),), nodes, ("p", "x"), {})
    assert [v.tolist() for v in reference(graph, [torch.tensor([1.0, 2.0])])] == [[2], [1, 2]]


def test_infinity_and_dtypes_reach_the_operation() -> None:
    x = torch.tensor([1.0, 2.0])
    assert run_node(node("aten.full.default", (2,), -math.inf, dtype=FLOAT), {})[0] == -math.inf
    made = run_node(node("aten._to_copy.default", Ref("x"), dtype=FLOAT), {"x": x.double()})
    assert made.dtype == FLOAT


def test_strided_reads_go_by_the_value_and_not_by_its_memory() -> None:
    x = torch.arange(4.0).reshape(2, 2).t()
    got = run_node(node("aten.as_strided.default", Ref("x"), (2,), (1,), 0), {"x": x})
    assert got.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "inputs must be 1 tensors, not 0"),
        ([torch.ones(3)], r"input x must be torch.float32 of shape \[2\], not .* \[3\]"),
        ([torch.ones(2).double()], "input x must be torch.float32 .* not torch.float64"),
    ],
)
def test_inputs_of_another_number_shape_or_dtype_are_refused(
    inputs: list[torch.Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bind(chain(), inputs)


def test_no_gradient_is_kept() -> None:
    graph = traced("cnn")
    result = reference(graph, [torch.randn(2, 3, 7, 7, requires_grad=True)])[0]
    assert not result.requires_grad
