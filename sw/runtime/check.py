"""Two back ends in lockstep, compared layer by layer, and one against the stored checksums.

Checksums are those of :mod:`sw.runtime.checksums`: CRC-32 over words, or exact sums, little-endian
in index order of ``[n, h, w, c]``. Where they differ, the first element that does is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sw.compiler.layers import Add, Convolution, Matmul, Plan, WordsOutput
from sw.runtime.checksums import Boundary, checksum
from sw.runtime.device import Device
from sw.runtime.engine import Engine, Observer, Tallies
from sw.runtime.session import Progress, Session, make_engine
from sw.words import widen

if TYPE_CHECKING:
    from sw.runtime.artefact import Artefact, Example

#: Operand words that are shown at most.
_SHOWN = 256


@dataclass(frozen=True, slots=True)
class Difference:
    """The first element, in index order, in which two back ends differ.

    Parameters
    ----------
    layer, source : str
        The layer and the module that it came from.
    names : tuple of str
        The two back ends.
    element : tuple of int
        ``(n, h, w, c)`` in the layer's result.
    tile : tuple of int
        Batch, row tile, column tile: which pass of the array it came from.
    exact : bool
        Whether values are exact sums.
    values : tuple of int
        What each has there.
    checksums : tuple of int
        Of the whole results.
    count : int
        How many elements differ.
    a, b : tuple of int
        The words whose products the element sums, term by term; for an addition the one word each.
    """

    layer: str
    source: str
    names: tuple[str, str]
    element: tuple[int, int, int, int]
    tile: tuple[int, int, int]
    exact: bool
    values: tuple[int, int]
    checksums: tuple[int, int]
    count: int
    a: tuple[int, ...]
    b: tuple[int, ...]

    def __str__(self) -> str:
        form = "d" if self.exact else "#06x"
        (one, other), (first, second) = self.names, self.values
        where = f" ({self.source})" if self.source else ""
        what = "exact sum" if self.exact else "word"
        return "\n".join(
            (
                f"layer {self.layer}{where}: {self.count} elements differ, checksums "
                f"{self.checksums[0]:08x} on {one}, {self.checksums[1]:08x} on {other}",
                f"first in tile (batch {self.tile[0]}, row tile {self.tile[1]}, column tile "
                f"{self.tile[2]}), element n {self.element[0]}, h {self.element[1]}, "
                f"w {self.element[2]}, c {self.element[3]}",
                f"{what}: {first:{form}} on {one}, {second:{form}} on {other}",
                f"A row: {_hexadecimal(self.a)}",
                f"B column: {_hexadecimal(self.b)}",
            )
        )


class Mismatch(RuntimeError):
    """Two back ends that must agree do not.

    Attributes
    ----------
    difference : Difference
    """

    def __init__(self, difference: Difference) -> None:
        super().__init__(str(difference))
        self.difference = difference


class Lockstep:
    """Two engines as one: both do every step, and every layer's results must be equal.

    Parameters
    ----------
    plan : Plan
    names : tuple of str
        What a difference calls them.
    first, second : callable
        Make an engine that tells an observer of every layer.
    observer : callable, optional
        Told of every result on which both agree.
    """

    def __init__(
        self,
        plan: Plan,
        names: tuple[str, str],
        first: Callable[[Observer], Engine],
        second: Callable[[Observer], Engine],
        observer: Observer | None = None,
    ) -> None:
        self.plan, self.names, self._observer = plan, names, observer
        self._waiting: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
        self._known: dict[str, torch.Tensor] = {}
        self._first, self._second = first(self._keeper(0)), second(self._keeper(1))
        self.agreed: dict[str, int] = {}

    @property
    def tallies(self) -> Tallies:
        """Of the second engine."""
        return self._second.tallies

    def put(self, tensor: str, words: torch.Tensor) -> None:
        self._known[tensor] = words
        self._first.put(tensor, words)
        self._second.put(tensor, words)

    def step(self, index: int) -> None:
        self._first.step(index)
        self._second.step(index)
        one, other = self._waiting
        for layer in [name for name in one if name in other]:
            self._compare(layer, one.pop(layer), other.pop(layer))

    def words(self, tensor: str) -> torch.Tensor:
        one, other = self._first.words(tensor), self._second.words(tensor)
        maker = next(
            layer.name
            for layer in self.plan.layers.values()
            if isinstance(layer.output, WordsOutput) and layer.output.tensor == tensor
        )
        self._require(maker, one, other)
        return one

    def sums(self, layer: str) -> torch.Tensor:
        one, other = self._first.sums(layer), self._second.sums(layer)
        self._require(layer, one, other)
        return one

    def clear(self) -> None:
        self._known.clear()
        for waiting in self._waiting:
            waiting.clear()
        self._first.clear()
        self._second.clear()

    def close(self) -> None:
        try:
            self._first.close()
        finally:
            self._second.close()

    def _keeper(self, side: int) -> Observer:
        def keep(boundary: Boundary) -> None:
            self._waiting[side][boundary.layer] = boundary.values

        return keep

    def _compare(self, layer: str, one: torch.Tensor, other: torch.Tensor) -> None:
        self._require(layer, one, other)
        self.agreed[layer] = self.agreed.get(layer, 0) + 1
        output = self.plan.layers[layer].output
        if isinstance(output, WordsOutput):
            self._known[output.tensor] = one
        if self._observer is not None:
            self._observer(Boundary(layer, one))

    def _require(self, layer: str, one: torch.Tensor, other: torch.Tensor) -> None:
        if checksum(one) != checksum(other):
            raise Mismatch(difference(layer, self.plan, self.names, (one, other), self._known))


def difference(
    name: str,
    plan: Plan,
    names: tuple[str, str],
    results: tuple[torch.Tensor, torch.Tensor],
    words: Mapping[str, torch.Tensor],
) -> Difference:
    """Where two results of a layer differ first, and what was multiplied there.

    Parameters
    ----------
    name : str
        The layer.
    plan : Plan
    names : tuple of str
        Of the back ends.
    results : tuple of torch.Tensor ``[n, h, w, c]``
    words : mapping of str to torch.Tensor
        The operands.
    """
    layer = plan.layers[name]
    one, other = (widen(r) if r.dtype != torch.int64 else r for r in results)
    wrong = (one != other).nonzero()
    n, h, w, c = element = _four(wrong[0].tolist())
    pixel = h * one.shape[2] + w
    a, b = operand_words(plan, name, element, words)
    return Difference(
        name,
        layer.source,
        names,
        element,
        (n, pixel // plan.config.rows, c // plan.config.columns),
        results[0].dtype == torch.int64,
        (int(one[element]), int(other[element])),
        (checksum(results[0]), checksum(results[1])),
        len(wrong),
        a,
        b,
    )


def operand_words(
    plan: Plan,
    name: str,
    element: tuple[int, int, int, int],
    words: Mapping[str, torch.Tensor],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The words of A and of B whose products an element of a result sums, term by term."""
    layer, (n, h, w, c) = plan.layers[name], element
    a = words[layer.a]
    if isinstance(layer, Add):
        return (int(a[element]),), (int(words[layer.b][element]),)
    if isinstance(layer, Matmul):
        b = words[layer.b][n // layer.repeat, 0]
        column = b[c] if layer.transposed else b[:, c]
        return tuple(a[n, h, w].tolist()), tuple(column.tolist())
    return _patch(layer, a, element), _filter(layer, c)


def _patch(
    layer: Convolution, a: torch.Tensor, element: tuple[int, int, int, int]
) -> tuple[int, ...]:
    n, h, w, c = element
    _, rows, columns, inner, out = layer.weights.words.shape
    first = c // out * inner
    found: list[int] = []
    for i in range(rows):
        for j in range(columns):
            y = h * layer.stride[0] - layer.padding[0] + i * layer.dilation[0]
            x = w * layer.stride[1] - layer.padding[2] + j * layer.dilation[1]
            inside = 0 <= y < a.shape[1] and 0 <= x < a.shape[2]
            found += a[n, y, x, first : first + inner].tolist() if inside else [0] * inner
    return tuple(found)


def _filter(layer: Convolution, channel: int) -> tuple[int, ...]:
    out = layer.weights.words.shape[4]
    words = layer.weights.words[channel // out, :, :, :, channel % out]
    return tuple(words.reshape(-1).tolist())


def lockstep(
    artefact: Artefact,
    first: str | Device,
    second: str | Device,
    names: tuple[str, str] | None = None,
    observer: Observer | None = None,
    progress: Progress | None = None,
) -> Session:
    """A session on two back ends at once, which raises :class:`Mismatch` at the first difference.

    Parameters
    ----------
    artefact : Artefact
    first, second : str or Device
        As for a :class:`Session`; outputs are made of the first's results, counters the second's.
    names : tuple of str, optional
        Of the two in a report.
    observer, progress : callable, optional
    """
    engine = Lockstep(
        artefact.plan,
        names or (_name(first), _name(second)),
        lambda keep: make_engine(artefact, first, keep, True),
        lambda keep: make_engine(artefact, second, keep, True),
        observer,
    )
    return Session(artefact, engine, progress=progress)


def record_example(artefact: Artefact, inputs: tuple[torch.Tensor, ...]) -> Example:
    """What the tensor back end makes of inputs of the graph's own shapes, as checksums."""
    from sw.runtime.artefact import Example

    layers: dict[str, int] = {}
    with Session(artefact, observer=lambda b: layers.update({b.layer: b.checksum})) as session:
        outputs = session.run(*inputs)
    return Example(tuple(inputs), layers, tuple(checksum(output) for output in outputs))


def compare_example(example: Example, layers: Mapping[str, int]) -> list[str]:
    """One sentence per layer whose checksum is not the stored one, in order."""
    return [
        f"layer {name} must have checksum {want:08x}, not "
        + (f"{layers[name]:08x}" if name in layers else "none")
        for name, want in example.layers.items()
        if layers.get(name) != want
    ]


def _four(values: list[int]) -> tuple[int, int, int, int]:
    n, h, w, c = values
    return n, h, w, c


def _name(backend: str | Device) -> str:
    return backend if isinstance(backend, str) else type(backend).__name__


def _hexadecimal(words: tuple[int, ...]) -> str:
    shown = " ".join(f"{word:04x}" for word in words[:_SHOWN])
    rest = len(words) - _SHOWN
    return f"{shown} ... and {rest} more" if rest > 0 else shown
