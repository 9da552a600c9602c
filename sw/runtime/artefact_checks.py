"""Whether a plan and a schedule that were read from a file make sense: names, shapes, ranges."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch

from sw.compiler.graph import Graph
from sw.compiler.layers import (
    Add,
    ArrayTensor,
    Convolution,
    Download,
    HostOutput,
    HostStep,
    Layer,
    LayerStep,
    Matmul,
    Plan,
    Shape,
    Upload,
    View,
)
from sw.compiler.operations import GETITEM, operation
from sw.compiler.options import EXPONENT_LIMIT
from sw.compiler.schedule import Collect, Drain, ReadWords, Run, Schedule, WriteColumns, WriteWords
from sw.runtime.shapes import output_shape
from sw.words import check_words

#: More than any memory has: sizes of a damaged file must not become allocations.
_MAX_WORDS = 1 << 36


class DamagedArtefact(ValueError):
    """An artefact that is not what the compiler wrote; the message is one sentence."""


def check_graph(graph: Graph) -> None:
    """Names are unique, values made before they are used, operations the host's.

    Constants that only the array needs may be missing; :func:`check_plan` sees to the others.
    """
    known: set[str] = set()
    later = {node.name for node in graph.nodes}
    for name in (*(spec.name for spec in graph.inputs), *graph.constants):
        _require(name not in known, f"name {name!r} must be there once")
        known.add(name)
    for node in graph.nodes:
        _require(node.name not in known, f"name {node.name!r} must be there once")
        for name in node.references():
            _require(name not in later, f"{node.name} must read values before it, not {name!r}")
        if node.target != GETITEM:
            operation(node.target)
        known.add(node.name)
        later.remove(node.name)
    for name in graph.outputs:
        _require(name in known, f"output must be a value of the graph, not {name!r}")


def check_plan(plan: Plan) -> None:
    """Layers fit their tensors, and steps read what steps before them made."""
    for name, tensor in plan.tensors.items():
        _require(name == tensor.name, f"tensor {name} must have its own name")
        _check_tensor(tensor)
    for name, layer in plan.layers.items():
        _require(name == layer.name, f"layer {name} must have its own name")
        _check_layer(layer, plan)
    _check_steps(plan)


def check_schedule(schedule: Schedule, plan: Plan) -> None:
    """Commands are within memories, sources and outputs."""
    _require(
        len(schedule.steps) == len(plan.steps),
        f"schedule must have {len(plan.steps)} steps, not {len(schedule.steps)}",
    )
    for command in (*schedule.setup, *(c for step in schedule.steps for c in step)):
        match command:
            case WriteWords():
                _check_words_moved(command, _source_words(command.source, schedule, plan), schedule)
            case ReadWords():
                _require(command.tensor in plan.tensors, f"{command.tensor!r} must be a tensor")
                size = prod(plan.tensors[command.tensor].shape)
                _check_words_moved(command, size, schedule)
            case WriteColumns():
                _check_columns(command, schedule)
            case Run():
                _check_run(command, plan)
            case Drain():
                _require(command.layer in plan.layers, f"{command.layer!r} must be a layer")
    limit = schedule.config.memory_words
    for name, place in schedule.places.items():
        _require(name in plan.tensors, f"place of {name!r} must be a tensor's")
        n, h, w, c = plan.tensors[name].shape
        end = place.address + (n - 1) * place.image + (h - 1) * place.line
        end += (w - 1) * place.pixel + c
        numbers = (place.address, place.image, place.line, place.pixel)
        _require(min(numbers) >= 0 and end <= limit, f"{name} must lie within {limit} words")


def _require(holds: bool, sentence: str) -> None:
    if not holds:
        raise DamagedArtefact(sentence)


def _check_tensor(tensor: ArrayTensor) -> None:
    name = tensor.name
    _require(min(tensor.shape) >= 1, f"{name} must have sizes of at least 1")
    _require(min(tensor.border) >= 0, f"{name} must have a border of at least 0")
    _require(prod(tensor.shape) <= _MAX_WORDS, f"{name} must have at most {_MAX_WORDS} words")
    if tensor.exponent is not None:
        _check_exponents(name, torch.tensor(tensor.exponent))


def _check_exponents(name: str, exponents: torch.Tensor) -> None:
    largest = int(exponents.abs().max()) if exponents.numel() else 0
    limit = 2 * EXPONENT_LIMIT
    _require(largest <= limit, f"{name} must have exponents of -{limit} to {limit}, not {largest}")


def _check_layer(layer: Layer, plan: Plan) -> None:
    name = layer.name
    for operand in (layer.a,) if isinstance(layer, Convolution) else (layer.a, layer.b):
        _require(operand in plan.tensors, f"{name} must read tensors of the plan, not {operand!r}")
    if isinstance(layer, Convolution):
        _check_convolution(layer, plan)
    elif isinstance(layer, Matmul):
        _check_matmul(layer, plan.tensors[layer.a].shape, plan.tensors[layer.b].shape)
    else:
        _check_add(layer, plan.tensors[layer.a], plan.tensors[layer.b])
    shape = output_shape(layer, plan.tensors)
    _require(min(shape) >= 1, f"{name} must have a result of at least 1 x 1, not {shape}")
    if isinstance(layer.output, HostOutput):
        _check_view(name, layer.output.view, shape)
        return
    tensor = plan.tensors.get(layer.output.tensor)
    _require(tensor is not None, f"{name} must make a tensor, not {layer.output.tensor!r}")
    assert tensor is not None
    _require(tensor.shape == shape, f"{name} must make the shape {tensor.shape}, not {shape}")
    _require(tensor.exponent is not None, f"{tensor.name} must have an exponent")


def _check_convolution(layer: Convolution, plan: Plan) -> None:
    name, words = layer.name, layer.weights.words
    _require(words.dim() == 5 and words.numel() > 0, f"{name} must have weights of 5 dimensions")
    groups, _, _, inner, out = words.shape
    channels = plan.tensors[layer.a].shape[3]
    _require(groups * inner == channels, f"{name} must have weights for {channels} channels")
    exponents, bias = layer.weights.exponents, layer.weights.bias
    count = groups * out
    _require(tuple(exponents.shape) == (count,), f"{name} must have {count} exponents")
    _require(exponents.dtype == torch.int64, f"{name} must have exponents of int64")
    _check_exponents(name, exponents)
    if bias is not None:
        fits = bias.dtype == torch.float32 and tuple(bias.shape) == (count,)
        _require(fits, f"{name} must have a float32 bias per channel")
        _require(bool(torch.isfinite(bias).all()), f"{name} must have a finite bias")
    _require(min(*layer.stride, *layer.dilation) >= 1, f"{name} must have strides of at least 1")
    _require(min(layer.padding) >= 0, f"{name} must have a padding of at least 0")
    try:
        check_words(f"weights of {name}", words, plan.config.format)
    except ValueError as error:
        raise DamagedArtefact(str(error)) from None


def _check_matmul(layer: Matmul, a: Shape, b: Shape) -> None:
    inner = b[3] if layer.transposed else b[2]
    fits = layer.repeat >= 1 and a[0] == b[0] * layer.repeat and a[3] == inner
    _require(fits and a[1] == b[1] == 1, f"{layer.name} must have operands that fit, not {a}, {b}")


def _check_add(layer: Add, a: ArrayTensor, b: ArrayTensor) -> None:
    fits = a.shape == b.shape and a.exponent is not None and b.exponent is not None
    _require(fits, f"{layer.name} must add static tensors of one shape")


def _check_view(name: str, view: View, shape: Shape) -> None:
    fits = sorted(view.permute) == list(range(len(view.shape))) and prod(view.shape) == prod(shape)
    _require(fits, f"{name} must have a view of {shape}, not {view.shape}")


def _check_steps(plan: Plan) -> None:
    values = {spec.name for spec in plan.graph.inputs} | set(plan.graph.constants)
    nodes = {node.name: node for node in plan.graph.nodes}
    tensors: set[str] = set()
    for step in plan.steps:
        match step:
            case HostStep():
                for name in step.nodes:
                    _require(name in nodes, f"step must run nodes of the graph, not {name!r}")
                    _need(nodes[name].references(), values, name)
                    values.add(name)
            case Upload() | Download():
                _require(
                    step.tensor in plan.tensors, f"step must move tensors, not {step.tensor!r}"
                )
                _check_view(step.tensor, step.view, plan.tensors[step.tensor].shape)
                if isinstance(step, Upload):
                    _need([step.value], values, step.tensor)
                    tensors.add(step.tensor)
                else:
                    _need([step.tensor], tensors, step.value)
                    values.add(step.value)
            case LayerStep():
                _require(step.layer in plan.layers, f"step must run layers, not {step.layer!r}")
                layer = plan.layers[step.layer]
                b = [] if isinstance(layer, Convolution) else [layer.b]
                _need([layer.a, *b], tensors, layer.name)
                if isinstance(layer.output, HostOutput):
                    values.add(layer.output.value)
                else:
                    tensors.add(layer.output.tensor)
    _need(plan.graph.outputs, values, "the outputs")


def _need(names: Iterable[str], known: set[str], reader: str) -> None:
    for name in names:
        _require(name in known, f"{reader} must read what steps before it made, not {name!r}")


def _source_words(source: str, schedule: Schedule, plan: Plan) -> int:
    if source == "zeros":
        return _MAX_WORDS
    if source in plan.tensors:
        return prod(plan.tensors[source].shape)
    _require(source in schedule.constants, f"source of a write must be known, not {source!r}")
    constants: Any = schedule.constants
    size: int = constants.size(source) if hasattr(constants, "size") else constants[source].size
    return size


def _check_words_moved(command: WriteWords | ReadWords, words: int, schedule: Schedule) -> None:
    rows, count = command.rows, command.count
    numbers = (command.address, command.stride, command.start, command.pitch)
    last = (rows - 1) * command.stride + count + command.address
    source = (rows - 1) * command.pitch + count + command.start
    limit = schedule.config.memory_words
    fits = min(numbers) >= 0 and min(rows, count) >= 1 and last <= limit and source <= words
    _require(fits, f"{command} must stay within {limit} words of memory and {words} of its source")


def _check_columns(command: WriteColumns, schedule: Schedule) -> None:
    values: Any = schedule.constants.get(command.source)
    columns, depth = schedule.config.columns, schedule.config.parameters
    fits = values is not None and values.ndim == 3 and values.shape[1:] == (columns, 2)
    _require(fits, f"{command.source!r} must be parameters of {columns} columns")
    fits = (
        min(command.start, command.entry) >= 0
        and command.entries >= 1
        and command.start + command.entries <= len(values)
        and command.entry + command.entries <= depth
    )
    _require(fits, f"{command} must stay within {depth} entries and {len(values)} of its source")


def _check_run(run: Run, plan: Plan) -> None:
    ends = [section.end for section in run.sections]
    rising = all(a < b for a, b in zip([0, *ends], ends, strict=False))
    _require(
        bool(ends) and rising and ends[-1] == len(run.words), "sections must make up a program"
    )
    for section in run.sections:
        _require(section.layer in plan.layers, f"section must be a layer's, not {section.layer!r}")
        for collect in section.collects:
            _check_collect(collect, plan)


def _check_collect(collect: Collect, plan: Plan) -> None:
    _require(collect.layer in plan.layers, f"results must be a layer's, not {collect.layer!r}")
    n, h, w, c = output_shape(plan.layers[collect.layer], plan.tensors)
    numbers = (collect.batch, collect.row, collect.column, collect.pitch)
    sizes = (collect.batches, collect.rows, collect.columns)
    last = collect.batch * h * w + collect.row + collect.rows
    last += (collect.batches - 1) * (collect.pitch or h * w)
    fits = min(numbers) >= 0 and min(sizes) >= 1 and last <= n * h * w
    _require(fits and collect.column + collect.columns <= c, f"{collect} must fit its layer")
