"""Runs a plan step by step on words, for tests: host nodes by torch, layers by their meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sw.compiler.layers import (
    Convolution,
    Download,
    HostOutput,
    HostStep,
    LayerStep,
    Plan,
    Upload,
    WordsOutput,
)
from sw.runtime.host import bind, run_nodes
from sw.runtime.layer import compute, download, to_host, upload


def run_plan(plan: Plan, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs of a plan; a value or tensor that is not there yet is a KeyError."""
    values: dict[str, Any] = {**plan.graph.constants, **bind(plan.graph, inputs)}
    words: dict[str, torch.Tensor] = {}
    scales = {
        t.name: torch.tensor(t.exponent) for t in plan.tensors.values() if t.exponent is not None
    }
    for step in plan.steps:
        if isinstance(step, HostStep):
            run_nodes(plan.graph, step.nodes, values)
        elif isinstance(step, Upload):
            tensor = plan.tensors[step.tensor]
            value = step.view.to_array(values[step.value], tensor.shape)
            words[step.tensor], scales[step.tensor] = upload(value, tensor, plan.config)
        elif isinstance(step, Download):
            tensor = plan.tensors[step.tensor]
            values[step.value] = step.view.to_host(
                download(words[step.tensor], tensor, plan.config)
            )
        elif isinstance(step, LayerStep):
            layer = plan.layers[step.layer]
            result = compute(layer, plan, words)
            if isinstance(layer.output, WordsOutput):
                assert tuple(result.shape) == plan.tensors[layer.output.tensor].shape
                words[layer.output.tensor] = result
                continue
            assert isinstance(layer.output, HostOutput)
            second = None if isinstance(layer, Convolution) else scales[layer.b]  # type: ignore[union-attr]
            value = to_host(layer, result, scales[layer.a], second, plan.config)
            values[layer.output.value] = layer.output.view.to_host(value)
    return tuple(values[name] for name in plan.graph.outputs)
