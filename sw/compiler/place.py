"""From a graph to a plan: what the array does, what the host does, and what passes between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from sw.compiler.calibrate import Calibration
from sw.compiler.candidates import Kind, Match, Matches, Operand, Values, first_reference
from sw.compiler.edges import Edges, decide, needs_static
from sw.compiler.graph import Graph, Node
from sw.compiler.indexing import PERMUTATIONS, find_origin
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Download,
    Granularity,
    HostOutput,
    Layer,
    LayerStep,
    Matmul,
    Output,
    Plan,
    Shape,
    Upload,
    View,
    Weights,
    WordsOutput,
)
from sw.compiler.match import check_names, find_matches
from sw.compiler.options import CompileOptions
from sw.compiler.order import needed_nodes, order_steps
from sw.compiler.quantize import quantize_weights
from sw.compiler.reasons import placements
from sw.tensor import exponents as find_exponents


def place(graph: Graph, options: CompileOptions, calibration: Calibration | None = None) -> Plan:
    """Put every product of a graph on the array, and the rest on the host.

    Parameters
    ----------
    graph : Graph
        After folding.
    options : CompileOptions
    calibration : Calibration, optional
        Of this graph and format; not needed for what ``options.exponents`` gives, nor where the
        host finds exponents as it encodes.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If a weight or bias is not finite, the calibration is for another format, an option names
        what the graph has not, or the exponent of a value that needs one is neither given nor
        calibrated.
    """
    check_names(graph, options)
    if calibration is not None and calibration.format != options.machine.format:
        raise ValueError(
            f"calibration must be for {options.machine.format}, not {calibration.format}"
        )
    return _Placer(graph, options, calibration).plan()


@dataclass(slots=True)
class _Tensors:
    """Tensors of words under unique names."""

    found: dict[str, ArrayTensor] = field(default_factory=dict)

    def add(
        self,
        name: str,
        shape: Shape,
        exponent: int | None,
        granularity: Granularity = Granularity.TENSOR,
    ) -> str:
        unique, count = name, 1
        # "zeros" and "weights." are sources of writes in a schedule.
        while unique in self.found or unique == "zeros" or unique.startswith("weights."):
            unique = f"{name}:{count}"
            count += 1
        self.found[unique] = ArrayTensor(unique, shape, exponent, granularity)
        return unique

    def widen(self, name: str, border: tuple[int, int, int, int]) -> None:
        """Let a tensor have at least this border."""
        old = self.found[name]
        most = tuple(max(a, b) for a, b in zip(old.border, border, strict=True))
        self.found[name] = replace(old, border=(most[0], most[1], most[2], most[3]))


class _Placer:
    """Makes one plan."""

    def __init__(
        self, graph: Graph, options: CompileOptions, calibration: Calibration | None
    ) -> None:
        self.graph, self.options, self.calibration = graph, options, calibration
        self.values = Values(graph)
        self.matches: Matches = find_matches(graph, options)
        found = self.matches.found.items()
        known = {name: self._words_exponent(match) for name, match in found}
        self.exponents = {name: e for name, e in known.items() if e is not None}
        self.edges: Edges = decide(self.matches, self.values, options, self.exponents)
        self.tensors = _Tensors()
        self.uploads: dict[str, Upload] = {}
        self.downloads: dict[str, Download] = {}
        self.layers: dict[str, Layer] = {}

    def plan(self) -> Plan:
        """The plan."""
        made = {
            name: self.tensors.add(
                self.edges.active[name].final, layout.shape, self.exponents[name]
            )
            for name, layout in self.edges.words.items()
        }
        read = self._uploads()
        for use, reading in self.edges.readings.items():
            read[use] = made[reading.maker]
        for name in sorted(self.edges.downloads):
            value = self.edges.active[name].final
            self.downloads[made[name]] = Download(made[name], value, self.edges.words[name].view)
        for match in self.edges.active.values():
            self.layers[match.name] = self._layer(match, read, made.get(match.name))
        return self._assembled()

    # Exponents

    def _exponent(self, value: str) -> int | None:
        if value in self.options.exponents:
            return self.options.exponents[value]
        return None if self.calibration is None else self.calibration.exponents.get(value)

    def _words_exponent(self, match: Match) -> int | None:
        """Of a result as words: it also covers the bias, which is encoded in its scale."""
        found = self._exponent(match.final)
        if found is None or match.bias is None or match.final in self.options.exponents:
            return found
        bias = find_exponents(
            match.bias.float(), self.options.machine.bias_format, name=f"bias of {match.name}"
        )
        return max(found, int(bias)) if bool(match.bias.any()) else found

    # Uploads

    def _uploads(self) -> dict[tuple[str, int], str]:
        """Tensors for what is not words already, by match and number of the operand."""
        readers: dict[Operand, list[tuple[Match, int]]] = {}
        for match in self.edges.active.values():
            for number, operand in enumerate(match.operands):
                if (match.name, number) not in self.edges.readings:
                    readers.setdefault(self._origin(operand), []).append((match, number))
        read = {}
        for operand, who in readers.items():
            static = self.options.activations == "static" or any(
                needs_static(match, self.edges) for match, _ in who
            )
            names: dict[Granularity, str] = {}
            for match, number in who:
                kind = Granularity.TENSOR if static else _granularity(match, number)
                if kind not in names:
                    exponent = self._upload_exponent(match.operands[number]) if static else None
                    names[kind] = self._upload(operand, kind, exponent)
                read[match.name, number] = names[kind]
        return read

    def _origin(self, operand: Operand) -> Operand:
        """The value of which an operand is a view, so that the host need not make the view."""
        found, value = operand, operand.value
        steps: list[Node] = []
        while (node := self.values.nodes.get(value)) and node.target in PERMUTATIONS:
            steps.insert(0, node)
            value = first_reference(node)
            shape = self.values.shape(value)
            view = find_origin(shape, steps, operand.view, operand.shape)
            if view is not None:
                found = Operand(value, operand.shape, view)
        return found

    def _upload_exponent(self, operand: Operand) -> int:
        exponent = self._exponent(operand.value)
        if exponent is None:
            raise ValueError(f"exponent of {operand.value} must be given or calibrated")
        return exponent

    def _upload(self, operand: Operand, kind: Granularity, exponent: int | None) -> str:
        name = self.tensors.add(operand.value, operand.shape, exponent, kind)
        self.uploads[name] = Upload(operand.value, name, operand.view)
        return name

    # Layers

    def _layer(self, match: Match, read: Mapping[tuple[str, int], str], made: str | None) -> Layer:
        a = read[match.name, 0]
        output: Output
        if made is None:
            output = HostOutput(match.value, _result_view(match))
            nodes = match.nodes
        else:
            output = WordsOutput(made, match.function, match.clamp)
            nodes = match.fused
        if match.kind == Kind.ADD:
            assert isinstance(output, WordsOutput)
            return Add(match.name, a, read[match.name, 1], output, match.source, nodes)
        if match.kind == Kind.MATMUL:
            return Matmul(
                match.name,
                a,
                read[match.name, 1],
                output,
                match.transposed,
                match.repeat,
                match.source,
                nodes,
            )
        weights = self._weights(match)
        self.tensors.widen(a, _border(match, weights, self.tensors.found[a].shape))
        return Convolution(
            match.name,
            a,
            weights,
            output,
            match.stride,
            match.padding,
            match.dilation,
            match.source,
            nodes,
        )

    def _weights(self, match: Match) -> Weights:
        if match.kind == Kind.POOL:
            # Each pixel counts alike; a power of two of them is exact.
            mean = torch.full((match.groups, 1, *match.kernel), 1 / match.area)
            options = replace(self.options, weight_bits=None)
            return quantize_weights(mean, None, match.groups, options, match.name)
        assert match.weight is not None
        weight = match.weight
        reading = self.edges.readings.get((match.name, 0))
        if match.kind == Kind.LINEAR and reading is not None:
            assert reading.order is not None
            moved = torch.empty_like(weight)
            moved[:, reading.order] = weight
            out, inner = weight.shape[:2]
            height, width = reading.kernel
            weight = moved.reshape(out, height, width, inner // (height * width))
            weight = weight.permute(0, 3, 1, 2)
        return quantize_weights(weight, match.bias, match.groups, self.options, match.name)

    # What is left

    def _assembled(self) -> Plan:
        given = {d.value for d in self.downloads.values()}
        for layer in self.layers.values():
            if isinstance(layer.output, HostOutput):
                given.add(layer.output.value)
        wanted = [*self.graph.outputs, *(u.value for u in self.uploads.values())]
        host = needed_nodes(self.graph, wanted, given)
        steps = order_steps(self.graph, host, self.uploads, self.layers, self.downloads)
        order = [step.layer for step in steps if isinstance(step, LayerStep)]
        read = {name for node in host for name in node.references()} | {*wanted}
        constants = {n: c for n, c in self.graph.constants.items() if n in read}
        return Plan(
            graph=replace(self.graph, constants=constants),
            config=self.options.machine,
            tensors=dict(self.tensors.found),
            layers={name: self.layers[name] for name in order},
            steps=steps,
            placements=tuple(
                placements(
                    self.values, self.matches, self.edges, self.layers, {n.name for n in host}
                )
            ),
        )


def _granularity(match: Match, number: int) -> Granularity:
    """How an operand that is not static shares exponents: per row or column of the product."""
    if number == 0 or match.transposed:
        return Granularity.ROW
    return Granularity.COLUMN


def _result_view(match: Match) -> View:
    """The host's view of a result."""
    shape = match.shape
    if match.kind == Kind.CONVOLUTION:
        return View(shape, (0, *range(2, len(shape)), 1))
    return View(shape, tuple(range(len(shape))))


def _border(match: Match, weights: Weights, shape: Shape) -> tuple[int, int, int, int]:
    """The zeros that a convolution really reads: its last window may end before its padding."""
    sides = []
    for axis in (0, 1):
        size, before, after = shape[1 + axis], *match.padding[2 * axis : 2 * axis + 2]
        reach = match.dilation[axis] * (weights.words.shape[1 + axis] - 1) + 1
        count = (size + before + after - reach) // match.stride[axis] + 1
        end = (count - 1) * match.stride[axis] + reach - before
        sides += [before, max(end - size, 0)]
    return sides[0], sides[1], sides[2], sides[3]
