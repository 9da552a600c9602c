"""A graph as plain data and back: what a network's file goes through."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from networks import network, traced

from sw.compiler.fold import fold
from sw.compiler.graph import Graph, Input, Node, Ref
from sw.compiler.operations import ALLOWED, DTYPES
from sw.runtime.artefact_checks import check_graph
from sw.runtime.host import reference
from sw.runtime.records import from_plain, to_plain

FLOATS = st.floats() | st.sampled_from([math.inf, -math.inf, math.nan, -0.0])
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FLOATS | st.text(max_size=5)
TARGETS = st.sampled_from(["aten.add.Tensor", "aten.relu.default", "aten.cat.default", "getitem"])
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
KINDS = st.sampled_from(list(DTYPES.values()))


def written(graph: Graph) -> tuple[str, dict[str, torch.Tensor]]:
    """JSON text, and the tensors that go elsewhere by their places."""
    kept: dict[str, torch.Tensor] = {}

    def keep(path: str, value: torch.Tensor) -> str:
        kept[path] = value
        return path

    return json.dumps(to_plain(graph, keep), allow_nan=False), kept


def read(data: Any, kept: dict[str, torch.Tensor]) -> Graph:
    def find(path: str, name: Any) -> torch.Tensor:
        if not isinstance(name, str) or name not in kept:
            raise ValueError(f"{path} must be a tensor that is there, not {name!r}")
        return kept[name]

    graph: Graph = from_plain(Graph, data, find)
    check_graph(graph)
    return graph


def text(graph: Graph) -> str:
    return repr((graph.inputs, graph.nodes, graph.outputs, list(graph.constants)))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs that are well formed, though most of them cannot be run."""
    names = draw(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=8, unique=True))
    cut = draw(st.integers(1, len(names) - 1))
    inputs = tuple(Input(n, draw(SHAPES), draw(KINDS)) for n in names[:cut])
    nodes = []
    for index in range(cut, len(names)):
        values = PLAIN | KINDS | st.sampled_from(names[:index]).map(Ref)
        argument = st.recursive(
            values | st.just(torch.device("cpu")),
            lambda inner: st.lists(inner, max_size=3).map(tuple),
            max_leaves=5,
        )
        args = tuple(draw(st.lists(argument, max_size=3)))
        kwargs = draw(st.dictionaries(st.text(max_size=4), argument, max_size=2))
        kind = draw(KINDS | st.none())
        nodes.append(
            Node(names[index], draw(TARGETS), args, kwargs, draw(SHAPES), kind, draw(st.text()))
        )
    outputs = tuple(draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)))
    return Graph(inputs, tuple(nodes), outputs, {})


@given(graphs())
@settings(max_examples=50, deadline=None)
def test_every_graph_comes_back_as_it_was(graph: Graph) -> None:
    data, kept = written(graph)
    assert text(read(json.loads(data), kept)) == text(graph)


@pytest.mark.parametrize("name", ["cnn", "causal", "recurrent", "layouts"])
def test_networks_come_back_as_they_were_and_compute_the_same(name: str) -> None:
    graph = fold(traced(name))
    data, kept = written(graph)
    again = read(json.loads(data), kept)
    assert text(again) == text(graph)
    assert written(again)[0] == data
    _, inputs = network(name)
    for got, want in zip(reference(again, inputs), reference(graph, inputs), strict=True):
        assert torch.equal(got, want)


# Numbers between the two sizes would only take memory and time.
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 40)
    | st.sampled_from([2**62, 2**80, -(2**62), 1e300, 0.5, -1.0])
    | st.sampled_from(["", "x", "inputs_0", "cpu", "aten.relu.default", "aten.relu_.default"])
    | st.sampled_from(["getitem", "float32", "int64", "complex64", "Node", "Graph", "add"])
    | st.sampled_from([f"aten.{name}.default" for name in sorted(ALLOWED)])
    | st.sampled_from([{"ref": "x"}, {"ref": "inputs_0"}, {"dtype": "int64"}, {"device": "cuda"}])
    | st.sampled_from([{"float": "inf"}, {"float": "1"}, {"ref": 1}, {"is": "Node"}, {}]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in nested lists and dicts."""
    parts = data.items() if isinstance(data, dict) else enumerate(data)
    found = []
    for key, part in parts:
        found.append((*path, key))
        if isinstance(part, dict | list):
            found += places(part, (*path, key))
    return found


@pytest.mark.parametrize("name", ["cnn", "causal"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_a_value_error_or_harmless(name: str, data: st.DataObject) -> None:
    _, inputs = network(name)
    document, kept = written(fold(traced(name)))
    damaged = json.loads(document)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(damaged)))
        place = damaged
        for key in way:
            place = place[key]
        match data.draw(st.sampled_from(["replace", "remove", "repeat"])):
            case "remove":
                del place[last]
            case "repeat" if isinstance(place, list):
                place.insert(last, deepcopy(place[last]))
            case _:
                place[last] = deepcopy(data.draw(VALUES))
    try:
        graph = read(damaged, kept)
        reference(graph, inputs)
    except ValueError:
        return


@pytest.mark.parametrize("document", [None, [], {}, "graph", {"is": "Graph"}, {"is": "Node"}, 3])
def test_other_documents_are_value_errors(document: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        read(document, {})
