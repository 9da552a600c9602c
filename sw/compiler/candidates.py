"""What the array could do in a graph, as matching finds it, and the graph as matching sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

import torch

from sw.compiler.graph import Argument, Graph, Node, Ref
from sw.compiler.indexing import VIEWS, apply_view
from sw.compiler.layers import Function, Shape, View


class Kind(StrEnum):
    """What a match computes."""

    CONVOLUTION = "convolution"
    LINEAR = "linear layer"
    MATMUL = "product of two activations"
    ADD = "addition"
    POOL = "average pooling"


@dataclass(frozen=True, slots=True)
class Operand:
    """A value that a match reads, and as what: ``[n, h, w, c]`` by a view."""

    value: str
    shape: Shape
    view: View


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """An operation that the array can do.

    Parameters
    ----------
    name, source : str
        Of the graph's node.
    kind : Kind
    nodes : tuple of str
        What the layer does if exact sums leave: the operation, padding before, a bias after it.
    a : Operand
    value : str
        What is then left: the last of these.
    shape : tuple of int
        Of it.
    b : Operand, optional
        Of MATMUL and ADD.
    final : str
        What is left if words stay: the activation after it, or ``value``.
    function, clamp
        The activation.
    weight : torch.Tensor, optional
        ``[out channels, in channels / groups, kernel height, kernel width]``; None for POOL.
    bias : torch.Tensor, optional
        ``[out channels]``.
    stride, padding, dilation, groups
        As for a Convolution.
    kernel : tuple of int
        Of CONVOLUTION and POOL.
    area : int
        What POOL divides by.
    transposed, repeat
        As for a Matmul.
    macs : int
    """

    name: str
    kind: Kind
    nodes: tuple[str, ...]
    a: Operand
    value: str
    shape: tuple[int, ...]
    source: str = ""
    b: Operand | None = None
    final: str = ""
    function: Function = Function.LINEAR
    clamp: float = 0.0
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    area: int = 1
    transposed: bool = False
    repeat: int = 1
    macs: int = 0

    @property
    def operands(self) -> tuple[Operand, ...]:
        return (self.a,) if self.b is None else (self.a, self.b)

    @property
    def fused(self) -> tuple[str, ...]:
        """What the layer does if words stay."""
        return self.nodes if self.final == self.value else (*self.nodes, self.final)

    @property
    def channels(self) -> int:
        """Out channels of a match with a weight."""
        assert self.weight is not None
        return self.weight.shape[0]


@dataclass(frozen=True, slots=True)
class Matches:
    """What was found.

    Parameters
    ----------
    found : mapping of str to Match
        By name of the operation's node, in the graph's order.
    refused : mapping of str to str
        Why a node that is a product stays on the host, half a sentence.
    macs : mapping of str to int
        Multiplications of products that stay on the host.
    """

    found: dict[str, Match] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)


class Refusal(Exception):
    """Why an operation does not fit the array, half a sentence."""


class Values:
    """A graph's values: who makes and reads them, which are known.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = {node.name: node for node in graph.nodes}
        self.readers = graph.consumers()
        self._shapes = {i.name: (i.shape, i.dtype) for i in graph.inputs}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._described(name)[0]

    def is_real(self, name: str) -> bool:
        """Whether a value is a float32 tensor."""
        return self._described(name)[1] == torch.float32

    def _described(self, name: str) -> tuple[tuple[int, ...], torch.dtype | None]:
        if name in self.graph.constants:
            constant = self.graph.constants[name]
            return tuple(constant.shape), constant.dtype
        if name in self.nodes:
            return self.nodes[name].shape, self.nodes[name].dtype
        return self._shapes[name]

    def constant(self, name: str) -> torch.Tensor | None:
        """A value known before any input, also through views."""
        if name in self.graph.constants:
            return self.graph.constants[name]
        node = self.nodes.get(name)
        if node is None or node.target not in VIEWS:
            return None
        source = self.constant(first_reference(node))
        return None if source is None else apply_view(node, source)

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads a value that is no output."""
        readers = self.readers.get(name, [])
        if name in self.graph.outputs or len(readers) != 1:
            return None
        return readers[0] if list(readers[0].references()).count(name) == 1 else None


def first_reference(node: Node) -> str:
    return next(node.references(), "")


def reference(node: Node, index: int) -> str:
    argument = node.args[index]
    if not isinstance(argument, Ref):
        raise Refusal("an operand is a plain number")
    return argument.name


def integers(argument: Argument, count: int) -> tuple[int, ...]:
    values = argument if isinstance(argument, tuple) else (argument,) * count
    found = tuple(v for v in values if isinstance(v, int))
    return found * count if len(found) == 1 else found


def matrix(name: str, values: Values, batches: int = 1) -> Operand:
    """Rows along the last dimension, in batches of matrices."""
    shape = values.shape(name)
    rows = math.prod(shape[:-1]) // batches
    return Operand(name, (batches, 1, rows, shape[-1]), View(shape, tuple(range(len(shape)))))
