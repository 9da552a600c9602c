"""A traced network: nodes of ATen operations in order, with their constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch


@dataclass(frozen=True, slots=True)
class Ref:
    """The value that an input, a constant or a node of this name has."""

    name: str


#: What a node can be given: values, plain data, dtypes, and lists of these.
Argument: TypeAlias = (
    Ref | bool | int | float | str | torch.dtype | torch.device | tuple["Argument", ...] | None
)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Parameters
    ----------
    name : str
        Unique among inputs, constants and nodes; the name of its value.
    target : str
        ``aten.relu.default``; or ``getitem`` with (Ref, index) for one of several results.
    args : tuple
    kwargs : mapping
    shape : tuple of int
        Of its value; empty also for several results.
    dtype : torch.dtype or None
        None for several results.
    source : str
        The module it came from, as in ``layers.0.attention``; empty if unknown.
    """

    name: str
    target: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    source: str = ""

    def references(self) -> Iterator[str]:
        """Names of the values it reads, in order, repeated if read twice."""
        yield from _references(self.args)
        yield from _references(tuple(self.kwargs.values()))


@dataclass(frozen=True, slots=True)
class Input:
    """A value that whoever runs the network gives.

    Parameters
    ----------
    name : str
    shape : tuple of int
    dtype : torch.dtype
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A network.

    Parameters
    ----------
    inputs : tuple of Input
    nodes : tuple of Node
        In an order in which each can be run after the ones before.
    outputs : tuple of str
        Names of values: of nodes, inputs or constants.
    constants : mapping of str to torch.Tensor
        Parameters and buffers, on the CPU, without gradient.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, torch.Tensor]

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value; a node that reads it twice is there once."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.references()):
                found.setdefault(name, []).append(node)
        return found


def _references(argument: Argument) -> Iterator[str]:
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, tuple):
        for part in argument:
            yield from _references(part)
