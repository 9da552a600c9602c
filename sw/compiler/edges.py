"""Decides what the array does and which results stay there as words.

A result stays as words if everything that reads it is on the array and can read it as it lies.
Additions and poolings are on the array only between layers: they read words and make words, of
which the host may have a copy. All that is possible is assumed at first, and taken back until
nothing contradicts itself: what is left is the most that holds together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from sw.compiler.candidates import Kind, Match, Matches, Values, first_reference
from sw.compiler.graph import Node
from sw.compiler.indexing import PERMUTATIONS, apply_view, find_view, is_small, numbers
from sw.compiler.layers import Shape, View
from sw.compiler.options import CompileOptions

#: Kinds that only lie between layers.
BETWEEN = (Kind.ADD, Kind.POOL)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the words of a match's result lie: ``[n, h, w, c]``, and the host's view of them."""

    shape: Shape
    view: View


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How a match reads words that another one made.

    Parameters
    ----------
    maker : str
        Name of the match that made them.
    kernel : tuple of int
        Of a linear layer: (1, 1) if it reads pixel by pixel, else the size of the image.
    order : torch.Tensor or None
        Of a linear layer: where its k-th input lies within what it reads at once.
    """

    maker: str
    kernel: tuple[int, int] = (1, 1)
    order: torch.Tensor | None = None


@dataclass(slots=True)
class Edges:
    """What was decided.

    Parameters
    ----------
    active : dict of str to Match
        What the array does.
    words : dict of str to Layout
        Of these, what stays as words.
    readings : dict of (str, int) to Reading
        Operands that are words already, by match and number of the operand.
    downloads : set of str
        Words of which the host gets a copy.
    refused : dict of str to str
        Why additions and poolings are not on the array.
    """

    active: dict[str, Match]
    words: dict[str, Layout] = field(default_factory=dict)
    readings: dict[tuple[str, int], Reading] = field(default_factory=dict)
    downloads: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def decide(
    matches: Matches, values: Values, options: CompileOptions, exponents: Mapping[str, int]
) -> Edges:
    """Choose between words and exact sums for every match.

    Parameters
    ----------
    matches : Matches
    values : Values
    options : CompileOptions
    exponents : mapping of str to int
        Of the results of matches, by match; what has none does not stay as words.
    """
    edges = Edges(dict(matches.found))
    possible = {name for name in matches.found if name in exponents}
    if options.activations == "dynamic":
        possible -= {n for n in possible if not _is_static(matches.found[n])}
    owners = _owners(matches)
    uses = {name: _uses(match, values, owners) for name, match in matches.found.items()}
    possible -= {n for n in possible if matches.found[n].kind not in BETWEEN and None in uses[n]}
    while True:
        _lay_out(edges, possible, values, options)
        doubtful = {n for n in possible if not _stays(edges, n, uses[n])}
        refused = {
            name: reason
            for name, match in edges.active.items()
            if match.kind in BETWEEN
            and (reason := _doubt(edges, match, possible - doubtful, exponents, options))
        }
        if not doubtful and not refused:
            break
        possible -= doubtful | refused.keys()
        edges.refused |= refused
        edges.active = {n: m for n, m in edges.active.items() if n not in refused}
    edges.downloads = {n for n in possible if not uses[n] <= edges.readings.keys()}
    return edges


def needs_static(match: Match, edges: Edges) -> bool:
    """Whether what a match reads must have a static exponent: if it makes words or has windows."""
    if match.name in edges.words:
        return True
    plain = match.kernel == match.stride == (1, 1) and not any(match.padding)
    return match.kind == Kind.CONVOLUTION and not plain


#: An operand of a match, by its number; None for whatever the host does.
_Use: TypeAlias = "tuple[str, int] | None"


def _is_static(match: Match) -> bool:
    return match.kind not in (Kind.LINEAR, Kind.MATMUL)


def root(value: str, values: Values) -> tuple[str, list[Node]]:
    """The value that a value is a view of, and the nodes between them, in order."""
    steps: list[Node] = []
    while (node := values.nodes.get(value)) and node.target in PERMUTATIONS:
        steps.append(node)
        value = first_reference(node)
    return value, steps[::-1]


def _owners(matches: Matches) -> dict[str, list[Match]]:
    """The matches that a node belongs to."""
    owners: dict[str, list[Match]] = {}
    for match in matches.found.values():
        for node in match.nodes:
            owners.setdefault(node, []).append(match)
    return owners


def _uses(match: Match, values: Values, owners: Mapping[str, list[Match]]) -> set[_Use]:
    """The operands of matches that a result is, also through views; None for the host."""
    found: set[_Use] = set()
    pending = [match.final]
    while pending:
        value = pending.pop()
        if value in values.graph.outputs:
            found.add(None)
        for node in values.readers.get(value, []):
            if node.target in PERMUTATIONS:
                pending.append(node.name)
                continue
            readers: set[_Use] = {
                (other.name, number)
                for other in owners.get(node.name, [])
                for number, operand in enumerate(other.operands)
                if root(operand.value, values)[0] == match.final
            }
            found |= readers or {None}
    return found


def _lay_out(edges: Edges, possible: set[str], values: Values, options: CompileOptions) -> None:
    """Layouts of all words, and how they are read, in the order of the graph."""
    edges.words, edges.readings = {}, {}
    makers = {edges.active[n].final: n for n in possible}
    for match in edges.active.values():
        places = []
        for number, operand in enumerate(match.operands):
            value, steps = root(operand.value, values)
            layout = edges.words.get(makers.get(value, ""))
            if layout is None or not is_small(layout.shape):
                continue
            index = numbers(layout.view, layout.shape)
            for node in steps:
                index = apply_view(node, index)
            places.append((layout, index))
            if options.activations == "dynamic" and not _is_static(match):
                continue
            reading = _read(match, number, layout, index, makers[value])
            if reading is not None:
                edges.readings[match.name, number] = reading
        if match.name in possible:
            layout = _result(match, edges.readings.get((match.name, 0)), places)
            if layout is not None:
                edges.words[match.name] = layout


def _read(
    match: Match, number: int, layout: Layout, index: torch.Tensor, maker: str
) -> Reading | None:
    """How a match reads words whose numbers ``index`` has in the shape of the value it reads."""
    if match.kind == Kind.LINEAR:
        return _read_rows(layout.shape, index.reshape(-1, index.shape[-1]), maker)
    if match.kind == Kind.ADD:
        return Reading(maker)
    operand = match.operands[number]
    if operand.shape != layout.shape:
        return None
    flat = operand.view.to_array(index, operand.shape).reshape(-1)
    return Reading(maker) if torch.equal(flat, torch.arange(flat.numel())) else None


def _read_rows(shape: Shape, index: torch.Tensor, maker: str) -> Reading | None:
    """A matrix whose rows are pixels, or whole images in any order of their elements."""
    n, h, w, c = shape
    rows, inner = index.shape
    kernel = {(n * h * w, c): (1, 1), (n, h * w * c): (h, w)}.get((rows, inner))
    order = index[0].clone()
    if kernel is None or not torch.equal(order.sort().values, torch.arange(inner)):
        return None
    if not torch.equal(index, order + torch.arange(rows)[:, None] * inner):
        return None
    return Reading(maker, kernel, order)


def _result(
    match: Match, reading: Reading | None, places: list[tuple[Layout, torch.Tensor]]
) -> Layout | None:
    """The layout of a match's words."""
    shape = match.shape
    flat = View(shape, tuple(range(len(shape))))
    if match.kind == Kind.ADD:
        if len(places) != 2:
            return None
        (first, index), (second, other) = places
        view = find_view(index)
        same = first.shape == second.shape and torch.equal(index, other)
        return Layout(first.shape, view) if same and view is not None else None
    if match.kind in (Kind.CONVOLUTION, Kind.POOL):
        if len(shape) == 4:
            n, c, h, w = shape
            return Layout((n, h, w, c), View(shape, (0, 2, 3, 1)))
        if len(shape) == 3:
            n, c, w = shape
            return Layout((n, 1, w, c), View(shape, (0, 2, 1)))
        n, c = shape
        return Layout((n, 1, 1, c), flat)
    n, h, w, _ = match.a.shape
    if reading is not None and match.kind == Kind.LINEAR:
        n, h, w, _ = places[0][0].shape
        if reading.kernel == (h, w):
            h = w = 1
    return Layout((n, h, w, shape[-1] if match.b is None else _columns(match)), flat)


def _columns(match: Match) -> int:
    assert match.b is not None
    return match.b.shape[2] if match.transposed else match.b.shape[3]


def _stays(edges: Edges, name: str, uses: set[_Use]) -> bool:
    """Whether a result can stay as words, as things are."""
    match = edges.active.get(name)
    if match is None or name not in edges.words:
        return False
    read = {use for use in uses if use and use in edges.readings and use[0] in edges.active}
    return bool(read) and (match.kind in BETWEEN or read == uses)


def _doubt(
    edges: Edges,
    match: Match,
    possible: set[str],
    exponents: Mapping[str, int],
    options: CompileOptions,
) -> str:
    """Why an addition or pooling cannot be on the array, as things are; empty if it can."""
    makers = []
    for number in range(len(match.operands)):
        reading = edges.readings.get((match.name, number))
        if reading is None or reading.maker not in possible:
            return "its input is not words on the array"
        makers.append(reading.maker)
    if match.name not in possible:
        return "its result is not read as words by the array"
    if match.kind == Kind.ADD:
        both = [exponents[maker] for maker in makers]
        apart = max(both) - min(both) + (0 if options.machine.unity else 1)
        if apart > options.machine.format.fraction_bits:
            return f"the exponents of its inputs, {both[0]} and {both[1]}, lie too far apart"
    return ""
