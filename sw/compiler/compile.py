"""The whole way from a PyTorch module to an artefact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import nn

from sw.compiler.calibrate import Calibration, calibrate, is_calibration_needed
from sw.compiler.fold import fold
from sw.compiler.graph import Graph
from sw.compiler.layers import Plan
from sw.compiler.options import CompileOptions
from sw.compiler.place import place
from sw.compiler.report import describe, describe_text
from sw.compiler.scheduler import schedule
from sw.compiler.trace import trace
from sw.config import MachineConfig
from sw.runtime.artefact import Artefact
from sw.runtime.check import record_example

#: What takes time, in order; told to whoever shows progress.
STAGES: Final = ("trace", "fold", "calibrate", "place", "schedule", "report", "checksums")
#: The machine if none is given: SF8 on 8 x 8 with 256 Ki words of tile memory.
DEFAULT_MACHINE: Final = MachineConfig(bits=8, slots=4096, bias_bits=16, parameters=1024)
#: Called with the name of each stage as it begins.
Stage = Callable[[str], None]
#: Inputs of the network, one tuple per run, each like the example inputs.
Samples = Iterable[Sequence[torch.Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """A network as the compiler reads it.

    Parameters
    ----------
    graph : Graph
        Folded.
    example : tuple of torch.Tensor
        Its inputs' example values.
    """

    graph: Graph
    example: tuple[torch.Tensor, ...]


def compile(
    model: nn.Module,
    example_inputs: tuple[object, ...],
    config: MachineConfig = DEFAULT_MACHINE,
    *,
    calibration: Calibration | Samples | None = None,
    example: Sequence[torch.Tensor] | None = None,
    source: Mapping[str, Any] | None = None,
    options: CompileOptions | None = None,
    stage: Stage | None = None,
) -> Artefact:
    """Compile a network for a machine.

    Parameters
    ----------
    model : torch.nn.Module
        A float one, or one of :func:`sw.wasq.quantize_`, whose layers keep their words: it is not
        calibrated, and takes no options.
    example_inputs : tuple
        What its ``forward`` takes by position; the shapes become the artefact's.
    config : MachineConfig
    calibration : Calibration, or iterable of tuples of torch.Tensor, optional
        Exponents of activations, or inputs to find them with; the example inputs if omitted. Not
        looked at where the host finds all exponents as it encodes.
    example : sequence of torch.Tensor, optional
        Inputs for which every layer's checksum is stored; the example inputs if omitted.
    source : mapping of str to plain data, optional
        What is known of the model, for the report.
    options : CompileOptions, optional
        Widths and rules; its machine is replaced by ``config``.
    stage : callable, optional
        Called with the name of each of ``STAGES`` as it begins.

    Returns
    -------
    Artefact
        In memory; ``save(directory)`` writes it.

    Raises
    ------
    TypeError, ValueError
        If the model cannot be traced, a weight is not finite, an exponent is missing, or a layer
        cannot be cut to fit the machine: one sentence each.
    """
    from sw.wasq.compiled import compile_quantized, is_quantized

    if isinstance(model, nn.Module) and is_quantized(model):
        if options is not None:
            raise ValueError("options must be left out for a quantized model: it says how")
        return compile_quantized(
            model, example_inputs, config, example=example, source=source, stage=stage
        )
    traced = trace_model(model, example_inputs, stage)
    return compile_traced(
        traced,
        config,
        calibration=calibration,
        example=example,
        source=source,
        options=options,
        stage=stage,
    )


def compile_traced(
    traced: Traced,
    config: MachineConfig = DEFAULT_MACHINE,
    *,
    calibration: Calibration | Samples | None = None,
    example: Sequence[torch.Tensor] | None = None,
    source: Mapping[str, Any] | None = None,
    options: CompileOptions | None = None,
    stage: Stage | None = None,
) -> Artefact:
    """Compile what :func:`trace_model` gives; arguments as for :func:`compile`."""
    told = stage or _nothing
    options = replace(options or CompileOptions(), machine=config)
    if not isinstance(calibration, Calibration) and not is_calibration_needed(
        traced.graph, options
    ):
        calibration = None
    elif not isinstance(calibration, Calibration):
        told("calibrate")
        samples = [traced.example] if calibration is None else calibration
        calibration = calibrate(traced.graph, options, samples)
    told("place")
    plan = place(traced.graph, options, calibration)
    shown = traced.example if example is None else graph_inputs(traced.graph, example)
    return compile_plan(plan, shown, source=source, stage=told)


def trace_model(
    model: nn.Module, example_inputs: tuple[object, ...], stage: Stage | None = None
) -> Traced:
    """A model's graph, folded, and its example inputs as the graph takes them."""
    told = stage or _nothing
    told("trace")
    graph = trace(model, example_inputs)
    told("fold")
    return Traced(fold(graph), graph_inputs(graph, example_inputs))


def graph_inputs(graph: Graph, inputs: Sequence[object]) -> tuple[torch.Tensor, ...]:
    """The tensors among a model's inputs, in the dtypes of the graph's.

    Raises
    ------
    ValueError
        If their number or a shape is not the graph's.
    """
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if len(tensors) != len(graph.inputs):
        raise ValueError(f"inputs must be {len(graph.inputs)} tensors, not {len(tensors)}")
    for spec, value in zip(graph.inputs, tensors, strict=True):
        if tuple(value.shape) != spec.shape:
            raise ValueError(
                f"input {spec.name} must have the shape {spec.shape}, not {tuple(value.shape)}"
            )
    return tuple(
        value.detach().cpu().to(spec.dtype).contiguous()
        for spec, value in zip(graph.inputs, tensors, strict=True)
    )


def compile_plan(
    plan: Plan,
    example: tuple[torch.Tensor, ...] | None = None,
    *,
    source: Mapping[str, Any] | None = None,
    stage: Stage | None = None,
) -> Artefact:
    """Schedule a plan, say what it costs, and run the example.

    Parameters
    ----------
    plan : Plan
        From :func:`sw.compiler.place.place`, or healed.
    example : tuple of torch.Tensor, optional
        Inputs whose layers' checksums are stored.
    source : mapping, optional
        What is known of the network, for the report.
    stage : callable, optional
        As for :func:`compile`.
    """
    told = stage or _nothing
    told("schedule")
    commands = schedule(plan)
    told("report")
    report = describe(plan, commands, source)
    made = Artefact(plan, commands, None, report, describe_text(report))
    if example is None:
        return made
    told("checksums")
    return replace(made, example=record_example(made, example))


def _nothing(_: str) -> None:
    pass
