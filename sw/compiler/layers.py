"""What the array does in a network: tensors of words, layers, and the steps around them.

This is what placement leaves and what everything behind it reads: the tensor back end computes
layers from here by their meaning, the scheduler lays their operands out in tile memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import torch

from sw.compiler.graph import Graph
from sw.config import MachineConfig

Shape: TypeAlias = tuple[int, int, int, int]


class Granularity(StrEnum):
    """Which words of an :class:`ArrayTensor` share an exponent."""

    TENSOR = "tensor"
    ROW = "row"  # one per (n, h, w)
    COLUMN = "column"  # one per (n, c)


@dataclass(frozen=True, slots=True)
class ArrayTensor:
    """A tensor of words of the machine's format, ``[n, h, w, c]``, c contiguous.

    A matrix of M rows is ``[1, 1, M, c]``, a batch of matrices ``[n, 1, M, c]``, a sequence
    ``[n, 1, length, channels]``.

    Parameters
    ----------
    name : str
        Unique.
    shape : tuple of int
    exponent : int or None
        The words stand for their value times ``2**exponent``; None: the host finds the exponents
        as it encodes (by maximum), in groups of ``granularity``.
    granularity : Granularity
        TENSOR if there is an exponent.
    border : tuple of int
        Rows and columns of zeros that consumers read around each image: top, bottom, left, right.
    """

    name: str
    shape: Shape
    exponent: int | None
    granularity: Granularity = Granularity.TENSOR
    border: tuple[int, int, int, int] = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        if self.exponent is not None and self.granularity != Granularity.TENSOR:
            raise ValueError(f"{self.name} must have one exponent per tensor if it is static")


@dataclass(frozen=True, slots=True)
class View:
    """How a host's tensor becomes ``[n, h, w, c]`` and back.

    ``value.permute(permute).reshape(array shape)``; back: ``words.reshape(permuted shape)`` and the
    inverse permutation.

    Parameters
    ----------
    shape : tuple of int
        The host's.
    permute : tuple of int
        One entry per dimension of the host's shape.
    """

    shape: tuple[int, ...]
    permute: tuple[int, ...]

    def to_array(self, value: torch.Tensor, shape: Shape) -> torch.Tensor:
        """The host's tensor as ``[n, h, w, c]``."""
        return value.reshape(self.shape).permute(self.permute).reshape(shape)

    def to_host(self, value: torch.Tensor) -> torch.Tensor:
        """The array's ``[n, h, w, c]`` as the host has it."""
        permuted = [self.shape[d] for d in self.permute]
        inverse = sorted(range(len(self.permute)), key=self.permute.__getitem__)
        return value.reshape(permuted).permute(inverse)


class Function(StrEnum):
    """What the drain does after the bias."""

    LINEAR = "linear"
    RELU = "relu"
    CLAMP = "clamp"


@dataclass(frozen=True, slots=True)
class WordsOutput:
    """Results are rounded to words and stay where the array can read them.

    ``act(sum * 2**(e_a + e_b) + bias)`` encoded with the tensor's static exponent.

    Parameters
    ----------
    tensor : str
        Name of an :class:`ArrayTensor` with an exponent.
    function : Function
    clamp : float
        Largest value for CLAMP, in real units; the smallest is 0.
    """

    tensor: str
    function: Function = Function.LINEAR
    clamp: float = 0.0


@dataclass(frozen=True, slots=True)
class HostOutput:
    """Exact sums go to the host, which scales them, adds the bias and rounds once to binary32.

    Parameters
    ----------
    value : str
        Name of the host value that this makes, a value of the graph.
    view : View
    """

    value: str
    view: View


Output: TypeAlias = WordsOutput | HostOutput


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Constant operand of a :class:`Convolution`.

    Parameters
    ----------
    words : torch.Tensor of uint8 or uint16
        ``[groups, kernel height, kernel width, in channels / groups, out channels / groups]``,
        already of the machine's format.
    exponents : torch.Tensor of int64
        ``[out channels]``.
    bias : torch.Tensor of float32 or None
        ``[out channels]``, in real units. For a WordsOutput it is encoded in the output's scale,
        in ``config.bias_format``, nearest.
    """

    words: torch.Tensor
    exponents: torch.Tensor
    bias: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Convolution:
    """Convolution, and with a kernel of 1 x 1 every Linear: A is a tensor, B are weights.

    Output pixel (y, x) reads input rows ``y * stride[0] - padding[0] + i * dilation[0]``; what lies
    outside is zero (it is in the tensor's border). Output: ``[n, out height, out width,
    out channels]``, group g's channels from ``g * out / groups`` on.

    Parameters
    ----------
    name : str
        Of the graph's node it came from; unique.
    a : str
        Name of an ArrayTensor with granularity TENSOR or ROW (ROW only if the kernel is 1 x 1, and
        then with a HostOutput).
    weights : Weights
    output : Output
    stride, padding, dilation : tuple of int
        Height, width. Padding is symmetric, or (top, bottom), (left, right) in ``padding`` as four
        numbers: top, bottom, left, right.
    source : str
        The module, for reports.
    nodes : tuple of str
        All graph nodes that this layer does (convolution, batch norm, activation, ...).
    """

    name: str
    a: str
    weights: Weights
    output: Output
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    source: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Matmul:
    """A batched product of two tensors: ``a [n, 1, M, K]``, ``b [n, 1, K, N]``.

    Parameters
    ----------
    name, output, source, nodes
        As for a convolution. Output ``[n, 1, M, N]``.
    a, b : str
        Names of ArrayTensors. A has granularity TENSOR or ROW; B TENSOR, or COLUMN (ROW if
        transposed). Other than TENSOR only with a HostOutput.
    transposed : bool
        Whether b is ``[n, 1, N, K]``.
    repeat : int
        How many batches of A in a row share one of B (grouped-query attention): b has n / repeat.
    """

    name: str
    a: str
    b: str
    output: Output
    transposed: bool = False
    repeat: int = 1
    source: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Add:
    """The sum of two tensors of one shape with static exponents, to words.

    ``act(a * 2**e_a + b * 2**e_b)``. With M the larger exponent, M - e_a and M - e_b are at most
    the format's fraction bits (and at most 15), and both at least 1 without unity: M is then one
    more.

    Parameters
    ----------
    name, source, nodes
        As for a convolution.
    a, b : str
    output : WordsOutput
    """

    name: str
    a: str
    b: str
    output: WordsOutput
    source: str = ""
    nodes: tuple[str, ...] = ()


Layer: TypeAlias = Convolution | Matmul | Add


@dataclass(frozen=True, slots=True)
class HostStep:
    """Nodes that the host runs, in order.

    Parameters
    ----------
    nodes : tuple of str
        Names of graph nodes.
    """

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """The host encodes a value, and its words become a tensor of the array.

    Parameters
    ----------
    value : str
        A value of the graph.
    tensor : str
        Name of an ArrayTensor.
    view : View
    """

    value: str
    tensor: str
    view: View


@dataclass(frozen=True, slots=True)
class Download:
    """Words of a tensor, decoded to float32, become a value of the host."""

    tensor: str
    value: str
    view: View


@dataclass(frozen=True, slots=True)
class LayerStep:
    """The array computes a layer.

    Parameters
    ----------
    layer : str
        Name of a layer of the plan.
    """

    layer: str


Step: TypeAlias = HostStep | Upload | Download | LayerStep


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a node runs, and why.

    Parameters
    ----------
    node : str
    on_array : bool
    reason : str
        Half a sentence: "constant weights", "softmax has no unit in the array".
    layer : str
        The layer that does it, empty on the host.
    macs : int
        Multiplications that the operation needs (of the array's nodes and of the host's products).
    """

    node: str
    on_array: bool
    reason: str
    layer: str = ""
    macs: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A placed and quantized network.

    Parameters
    ----------
    graph : Graph
        After folding. Its constants that only the array needs may be left out.
    config : MachineConfig
    tensors : mapping of str to ArrayTensor
    layers : mapping of str to Layer
        In the order of their steps.
    steps : tuple of Step
    placements : tuple of Placement
        One per node of the graph.
    """

    graph: Graph
    config: MachineConfig
    tensors: Mapping[str, ArrayTensor]
    layers: Mapping[str, Layer]
    steps: tuple[Step, ...]
    placements: tuple[Placement, ...] = field(default=())
