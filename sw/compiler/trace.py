"""From a PyTorch module to a graph of ATen operations, through ``torch.export``."""

from __future__ import annotations

import copy
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from sw.compiler.decompositions import decompositions
from sw.compiler.graph import Graph
from sw.compiler.graph_reader import read_program
from sw.compiler.operations import DTYPES


def trace(model: nn.Module, example_inputs: tuple[object, ...]) -> Graph:
    """The operations that a network does on inputs of these shapes, in evaluation mode.

    Operations are functional and in the spelling of :mod:`sw.compiler.canonical`; both products of
    an attention are visible as ``aten.matmul.default`` around a softmax, recurrent layers are
    unrolled, batch norm, layer norm, RMS norm, activations, pooling and embedding stay whole.
    The same module and shapes give the same graph, name by name.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is. Parameters and buffers of float64, float16 and bfloat16 (or on another
        device) are traced from a copy in float32 on the CPU, for that is what the host computes in.
    example_inputs : tuple
        What its ``forward`` takes by position: tensors, whose shapes become fixed (floating ones
        become float32), and plain numbers, which become part of the graph.

    Returns
    -------
    Graph
        Constants have the dotted names of the parameters and buffers.

    Raises
    ------
    TypeError
        If the model is no module or an input is neither tensor nor number.
    ValueError
        If control flow or shapes depend on data, inputs do not fit the model, it changes its
        buffers, a dtype is not supported, a weight is not finite, or an operation is not ATen's.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    if not isinstance(example_inputs, tuple):
        raise TypeError(f"example inputs must be a tuple, not {type(example_inputs).__name__}")
    inputs = tuple(_input(i, value) for i, value in enumerate(example_inputs))
    with _ready(model) as network, _silence(), torch.no_grad():
        program = _export(network, inputs)
        _check_unchanged(program)
        return read_program(program)


def _input(index: int, value: object) -> object:
    if isinstance(value, torch.Tensor):
        if str(value.dtype).removeprefix("torch.") not in DTYPES:
            raise ValueError(f"input {index} must be of a supported dtype, not {value.dtype}")
        value = value.detach().cpu()
        return value.float() if value.is_floating_point() else value
    if value is None or isinstance(value, bool | int | float):
        return value
    raise TypeError(f"input {index} must be a tensor or a number, not {type(value).__name__}")


@contextmanager
def _silence() -> Iterator[None]:
    """Without what torch.export prints and logs of mistakes that are reported anyway."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def _ready(model: nn.Module) -> Iterator[nn.Module]:
    """The module in evaluation mode and float32; afterwards its modes are as they were."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES or tensor.is_sparse:
            raise ValueError(f"{name} must be of a supported dtype, not {tensor.dtype}")
        if tensor.device.type == "meta":
            raise ValueError(f"{name} must have values, not only a shape")
    if any(
        (t.is_floating_point() and t.dtype != torch.float32) or t.device.type != "cpu"
        for _, t in tensors
    ):
        model = copy.deepcopy(model).cpu().float()
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def _export(model: nn.Module, inputs: tuple[Any, ...]) -> ExportedProgram:
    try:
        program: ExportedProgram = torch.export.export(model, inputs, strict=False)
    except Exception as error:  # torch.export raises all kinds
        raise _explained(model, inputs, error) from error
    try:
        lowered: ExportedProgram = program.run_decompositions(decompositions())
        return lowered
    except Exception as error:
        raise ValueError(
            f"model must be one that torch.export can lower: {_line(error)}"
        ) from error


def _explained(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> ValueError:
    """What is wrong with a model or its inputs, from what torch.export says of it."""
    text = str(error)
    if "data-dependent" in text or "DataDependent" in type(error).__name__ or "unbacked" in text:
        where = _place(error) or _line(error)
        return ValueError(f"model must have no control flow or shape that depends on data: {where}")
    try:
        scratch = copy.deepcopy(model)  # it may change its buffers
    except Exception:  # not every module can be copied
        scratch = model
    try:
        scratch(*inputs)
    except Exception as refused:
        return ValueError(f"example inputs must fit the model: {_line(refused)}")
    return ValueError(f"model must be one that torch.export can trace: {_line(error)}")


def _place(error: Exception) -> str:
    """The line of a model that raised, empty if it is none outside of torch."""
    own = Path(torch.__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if own not in Path(f.filename).parents]
    if not outside or Path(outside[-1].filename) == Path(__file__):
        return ""
    return f"{Path(outside[-1].filename).name}:{outside[-1].lineno}: {outside[-1].line}"


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _check_unchanged(program: ExportedProgram) -> None:
    for spec in program.graph_signature.output_specs:
        if spec.kind == OutputKind.BUFFER_MUTATION:
            raise ValueError(f"model must not change its buffers, as it does with {spec.target}")
        if spec.kind == OutputKind.USER_INPUT_MUTATION:
            raise ValueError(f"model must not change its inputs, as it does with {spec.target}")
        if spec.kind != OutputKind.USER_OUTPUT:
            raise ValueError(f"model must only make outputs, not {spec.kind.name.lower()}")
