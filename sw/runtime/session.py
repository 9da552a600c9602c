"""Runs an artefact: host nodes on torch, layers on an engine, the same call on every back end."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from sw.compiler.graph import Graph, Input
from sw.compiler.layers import Download, HostOutput, HostStep, LayerStep, Plan, Upload
from sw.compiler.operations import evaluate
from sw.runtime.device import Device
from sw.runtime.device_engine import DeviceEngine
from sw.runtime.engine import Engine, Observer, Tallies, TensorEngine
from sw.runtime.layer import download, to_host, upload
from sw.runtime.model_device import ModelDevice

if TYPE_CHECKING:
    from sw.runtime.artefact import Artefact

#: Back ends that need no simulator; for others a :class:`Device` is given.
BACK_ENDS: Final = ("tensor", "model")
#: Told of steps done and how many there are.
Progress = Callable[[int, int], None]


class Session:
    """An artefact ready to run, with weights in their place.

    Parameters
    ----------
    artefact : Artefact
    backend : {"tensor", "model"}, Device or Engine
        ``tensor`` computes layers by their meaning; a device plays the schedule's commands.
    observer : callable, optional
        Told of every layer's result, a :class:`sw.runtime.checksums.Boundary`; slower.
    stepwise : bool
        On a device: run layer by layer, so that each has its own counters.
    progress : callable, optional
        Called with the steps done and their number.

    Raises
    ------
    ValueError
        For an unknown back end, or a device of another configuration.
    """

    def __init__(
        self,
        artefact: Artefact,
        backend: str | Device | Engine = "tensor",
        *,
        observer: Observer | None = None,
        stepwise: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.artefact, self.plan = artefact, artefact.plan
        self._progress = progress
        self._nodes = {node.name: node for node in self.plan.graph.nodes}
        self._spent = _last_uses(self.plan)
        self._engine = make_engine(artefact, backend, observer, stepwise)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what the engine holds; the session cannot be used after it."""
        self._engine.close()

    @property
    def tallies(self) -> Tallies:
        """Counters by the layers whose sections ran as one program, summed over all runs."""
        return self._engine.tallies

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        """The network's outputs.

        Parameters
        ----------
        *inputs : numpy arrays or torch tensors
            One per input of the graph, of its shape; or, if the first dimension of every input and
            output is the batch, with any number of samples in it. The last batch is filled up with
            its last sample.

        Returns
        -------
        tuple
            One per output of the graph: numpy arrays if the first input is one, else tensors.

        Raises
        ------
        TypeError, ValueError
            For inputs of another number, type or shape, and for NaN where words are needed.
        """
        values, samples = checked_inputs(self.plan.graph, inputs)
        if samples is None:
            outputs = self._infer(values, 0, len(self.plan.steps))
        else:
            outputs = self._in_batches(values, samples)
        as_numpy = bool(inputs) and isinstance(inputs[0], np.ndarray)
        return tuple(output.numpy() if as_numpy else output for output in outputs)

    def _in_batches(self, values: Sequence[torch.Tensor], samples: int) -> list[torch.Tensor]:
        steps = len(self.plan.steps)
        chunks = in_batches(self.plan.graph, values)
        parts = [
            self._infer(chunk, number * steps, len(chunks) * steps)
            for number, chunk in enumerate(chunks)
        ]
        return [torch.cat(outputs)[:samples] for outputs in zip(*parts, strict=True)]

    def _infer(self, inputs: Sequence[torch.Tensor], done: int, total: int) -> list[torch.Tensor]:
        graph = self.plan.graph
        values: dict[str, Any]
        values = {spec.name: value for spec, value in zip(graph.inputs, inputs, strict=True)}
        everything = ChainMap(values, dict(graph.constants))
        scales = {
            name: torch.tensor(tensor.exponent)
            for name, tensor in self.plan.tensors.items()
            if tensor.exponent is not None
        }
        self._engine.clear()
        for index, step in enumerate(self.plan.steps):
            match step:
                case HostStep():
                    for name in step.nodes:
                        values[name] = evaluate(self._nodes[name], everything)
                case Upload():
                    self._upload(step, everything, scales)
                    self._engine.step(index)
                case LayerStep():
                    self._engine.step(index)
                    self._finish_layer(step.layer, values, scales)
                case Download():
                    self._engine.step(index)
                    tensor = self.plan.tensors[step.tensor]
                    floats = download(self._engine.words(tensor.name), tensor, self.plan.config)
                    values[step.value] = step.view.to_host(floats).contiguous()
            for name in self._spent.get(index, ()):
                values.pop(name, None)
            if self._progress is not None:
                self._progress(done + index + 1, total)
        return [everything[name] for name in graph.outputs]

    def _upload(
        self, step: Upload, values: Mapping[str, Any], scales: dict[str, torch.Tensor]
    ) -> None:
        tensor = self.plan.tensors[step.tensor]
        laid_out = step.view.to_array(values[step.value], tensor.shape)
        words, scales[tensor.name] = upload(laid_out, tensor, self.plan.config)
        self._engine.put(tensor.name, words)

    def _finish_layer(
        self, name: str, values: dict[str, Any], scales: Mapping[str, torch.Tensor]
    ) -> None:
        layer = self.plan.layers[name]
        if isinstance(layer.output, HostOutput):
            b = getattr(layer, "b", None)
            floats = to_host(
                layer,
                self._engine.sums(name),
                scales[layer.a],
                None if b is None else scales[b],
                self.plan.config,
            )
            values[layer.output.value] = layer.output.view.to_host(floats).contiguous()


def checked_inputs(graph: Graph, inputs: Sequence[Any]) -> tuple[list[torch.Tensor], int | None]:
    """Inputs as tensors of the graph's dtypes, and how many samples if they come in batches.

    Raises
    ------
    TypeError, ValueError
        If their number, a type or a shape is not the graph's.
    """
    specs = graph.inputs
    if len(inputs) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise ValueError(f"inputs must be {len(specs)} ({names}), not {len(inputs)}")
    values = [_as_tensor(spec, value) for spec, value in zip(specs, inputs, strict=True)]
    if all(tuple(v.shape) == s.shape for s, v in zip(specs, values, strict=True)):
        return values, None
    batched = _batch(graph) is not None
    for spec, value in zip(specs, values, strict=True):
        shape = tuple(value.shape)
        fits = batched and len(shape) == len(spec.shape) and shape[1:] == spec.shape[1:]
        if not (fits and shape[0]) and shape != spec.shape:
            wanted = f"(N{''.join(f', {size}' for size in spec.shape[1:])})" if batched else ""
            wanted = wanted or f"{spec.shape}"
            raise ValueError(f"input {spec.name} must have the shape {wanted}, not {shape}")
    counts = sorted({value.shape[0] for value in values})
    if len(counts) > 1:
        raise ValueError(f"inputs must have one number of samples, not {counts}")
    return values, counts[0]


def in_batches(graph: Graph, values: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Samples in batches of the graph's size, the last one filled up with the last sample.

    Repeated samples change no maximum that a dynamic exponent is taken from.
    """
    batch, samples = graph.inputs[0].shape[0], values[0].shape[0]
    chunks = []
    for start in range(0, samples, batch):
        rows = torch.arange(start, start + batch).clamp(max=samples - 1)
        chunks.append([value[rows] for value in values])
    return chunks


def _batch(graph: Graph) -> int | None:
    """The first dimension of all inputs and outputs, None if it is not one number."""
    shapes = {spec.name: spec.shape for spec in graph.inputs}
    shapes |= {node.name: node.shape for node in graph.nodes}
    names = [*(spec.name for spec in graph.inputs), *graph.outputs]
    first = {shapes[name][:1] for name in names if name in shapes}
    if len(first) != 1 or any(name not in shapes for name in names):
        return None
    (shape,) = first
    return shape[0] if shape else None


def _as_tensor(spec: Input, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor | np.ndarray):
        kind = type(value).__name__
        raise TypeError(f"input {spec.name} must be a numpy array or torch tensor, not {kind}")
    try:
        tensor = torch.as_tensor(value).detach().cpu()
    except TypeError:
        dtype = getattr(value, "dtype", None)
        raise TypeError(f"input {spec.name} must be {spec.dtype}, not {dtype}") from None
    fits = (
        tensor.is_floating_point()
        if spec.dtype.is_floating_point
        else not tensor.is_floating_point()
        and not tensor.is_complex()
        and (tensor.dtype == torch.bool) == (spec.dtype == torch.bool)
    )
    if not fits:
        wanted, given = (str(kind).removeprefix("torch.") for kind in (spec.dtype, tensor.dtype))
        raise TypeError(f"input {spec.name} must be {wanted}, not {given}")
    return tensor.to(spec.dtype)


def make_engine(
    artefact: Artefact, backend: str | Device | Engine, observer: Observer | None, stepwise: bool
) -> Engine:
    """The engine of a back end: see :class:`Session`."""
    if backend == "tensor":
        return TensorEngine(artefact.plan, observer)
    if backend == "model":
        backend = ModelDevice(artefact.plan.config)
    if isinstance(backend, str):
        choices = ", ".join(BACK_ENDS)
        raise ValueError(f"backend must be one of {choices} or a device, not {backend!r}")
    if isinstance(backend, Device):
        return DeviceEngine(artefact.plan, artefact.schedule, backend, observer, stepwise)
    return backend


def _last_uses(plan: Plan) -> dict[int, list[str]]:
    """Which values of the host no step after this one reads; constants stay with the graph."""
    nodes = {node.name: node for node in plan.graph.nodes}
    last: dict[str, int] = {}
    for index, step in enumerate(plan.steps):
        if isinstance(step, HostStep):
            for name in step.nodes:
                last[name] = index
                last.update(dict.fromkeys(nodes[name].references(), index))
        elif isinstance(step, Upload):
            last[step.value] = index
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in plan.graph.outputs:
            found.setdefault(index, []).append(name)
    return found
