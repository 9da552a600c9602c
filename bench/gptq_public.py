"""Public implementations of GPTQ as packages of PyPI have them, for :mod:`bench.gptq`.

Each is the package's own step, called with its own defaults, and only the modules that the step
needs are imported: what a package imports besides to load, export or serve whole models is left
out, by parents that stand in ``sys.modules`` without having been run.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

#: A step: weight float32 ``[N, K]``, Hessian float32 ``[K, K]``, columns per scale (None: the row)
#: to the quantized weight as float32 ``[N, K]``. Neither argument is changed.
Step = Callable[[torch.Tensor, torch.Tensor, int | None], torch.Tensor]
BITS: Final = 4
#: Rows that a Hessian is said to have been summed over: some ask whether there were any.
ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class Public:
    """One implementation.

    Parameters
    ----------
    name : str
        Of the package, as PyPI has it.
    needs : tuple of str
        What ``pip install --no-deps`` must be given, besides torch, numpy and transformers.
    make : callable
        Imports the package and returns its step; an ImportError where that cannot be done.
    """

    name: str
    needs: tuple[str, ...]
    make: Callable[[], Step]


def stand_in(*names: str) -> None:
    """Put packages into ``sys.modules`` whose submodules can be imported, but are not yet."""
    for name in names:
        if name in sys.modules:
            continue
        parent, _, last = name.rpartition(".")
        if parent:
            places = [str(Path(p) / last) for p in sys.modules[parent].__path__]
        else:
            found = importlib.util.find_spec(name)
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            places = list(found.submodule_search_locations or ())
        module = types.ModuleType(name)
        module.__path__ = places
        sys.modules[name] = module
        if parent:
            setattr(sys.modules[parent], last, module)


def make_llmcompressor() -> Step:
    """``quantize_weight`` of the GPTQ modifier, with scales by maximum from the same package."""
    stand_in("llmcompressor", "llmcompressor.modifiers", "llmcompressor.modifiers.gptq")
    step = importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize").quantize_weight
    quantization = importlib.import_module("compressed_tensors.quantization")
    find = importlib.import_module("compressed_tensors.quantization.utils").calculate_qparams

    def run(weight: torch.Tensor, hessian: torch.Tensor, group: int | None) -> torch.Tensor:
        many = weight if weight.dim() == 3 else weight[None]
        arguments = quantization.QuantizationArgs(
            num_bits=BITS,
            type="int",
            symmetric=True,
            strategy="group" if group else "channel",
            group_size=group,
            actorder="static",
        )
        groups = many.unflatten(-1, (-1, group or many.shape[-1]))
        scale, zero = find(groups.amin(-1), groups.amax(-1), arguments)
        hessians = hessian.expand(len(many), -1, -1).clone()
        quantized, _, failed = step(many.clone(), hessians, scale, zero, None, arguments)
        if bool(failed.any()):
            raise ArithmeticError("the Hessian could not be inverted")
        return quantized if weight.dim() == 3 else quantized[0]

    return run


def make_gptqmodel() -> Step:
    """``GPTQ.quantize`` as quantizing a model calls it."""
    stand_in("gptqmodel")
    sys.modules["gptqmodel"].__dict__.setdefault("DEBUG_ON", False)
    stand_in("gptqmodel.looper", "gptqmodel.models")
    method = importlib.import_module("gptqmodel.quantization.gptq").GPTQ
    config = importlib.import_module("gptqmodel.quantization").QuantizeConfig

    def run(weight: torch.Tensor, hessian: torch.Tensor, group: int | None) -> torch.Tensor:
        # Its own order, which keeps groups together, is not for rows that share one scale.
        own = {"group_size": group} if group else {"group_size": -1, "act_group_aware": False}
        task = method(layer_of(weight), config(bits=BITS, sym=True, offload_to_disk=False, **own))
        task.quantizer.configure(perchannel=True)
        task.H, task.nsamples = hessian.clone(), ROWS
        task._hessian_total_samples = ROWS
        quantized: torch.Tensor = task.quantize()[0]
        return quantized

    return run


def make_neural_compressor() -> Step:
    """``GPTQ.fasterquant`` of the algorithms for weights only."""
    base = "neural_compressor.torch.algorithms"
    stand_in("neural_compressor", "neural_compressor.torch", base, f"{base}.weight_only")
    quantizer = importlib.import_module(f"{base}.base_algorithm").Quantizer
    sys.modules[base].__dict__.setdefault("Quantizer", quantizer)
    method = importlib.import_module(f"{base}.weight_only.gptq").GPTQ
    settings = {
        **{"bits": BITS, "sym": True, "mse": False, "perchannel": True, "dtype": "int"},
        **{"use_double_quant": False, "double_quant_sym": True, "double_quant_bits": 8},
        **{"double_quant_group_size": 256, "double_quant_dtype": "int"},
    }

    def run(weight: torch.Tensor, hessian: torch.Tensor, group: int | None) -> torch.Tensor:
        copy = weight.clone()
        task = method(layer_of(weight), copy, device=str(weight.device))
        task.quantizer.configure({**settings, "group_size": group or -1})
        task.H, task.nsamples = hessian.clone(), ROWS
        quantized: torch.Tensor = task.fasterquant(copy, groupsize=group or -1)[-1]
        return quantized

    return run


def make_quark() -> Step:
    """``GPTQ.quantize``, with CUDA graphs where the package would use them."""
    importlib.import_module("quark")
    stand_in("quark.torch", "quark.torch.algorithm", "quark.torch.algorithm.gptq")
    method = importlib.import_module("quark.torch.algorithm.gptq.gptq").GPTQ
    specs = importlib.import_module("quark.torch.quantization.config.config")
    fakes = importlib.import_module("quark.torch.quantization.tensor_quantize").FakeQuantizeBase
    graphs: dict[str, Any] = {}

    def run(weight: torch.Tensor, hessian: torch.Tensor, group: int | None) -> torch.Tensor:
        layer = layer_of(weight)
        if group:
            spec = specs.Int4PerGroupSpec(ch_axis=1, group_size=group).to_quantization_spec()
        else:
            spec = specs.Int4PerChannelSpec(ch_axis=0).to_quantization_spec()
        layer._weight_quantizer = fakes.get_fake_quantize(spec, weight.device)
        task = method(layer)
        task.H, task.nsamples = hessian.clone(), ROWS
        task.quantize(128, 0.01, group or -1, True, True, weight.is_cuda, graphs)
        return layer.weight.data

    return run


def layer_of(weight: torch.Tensor) -> nn.Linear:
    """A layer with a copy of a weight."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer


PUBLIC: Final = (
    Public(
        "llmcompressor",
        ("llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "loguru==0.7.3"),
        make_llmcompressor,
    ),
    Public(
        "gptqmodel",
        ("gptqmodel==7.7.0", "logbar==0.4.15", "device-smi==0.5.7", "pypcre==0.6.4"),
        make_gptqmodel,
    ),
    Public(
        "neural-compressor-pt",
        ("neural-compressor-pt==3.10", "prettytable==3.18.0", "accelerate", "psutil", "py-cpuinfo"),
        make_neural_compressor,
    ),
    Public("amd-quark", ("amd-quark==0.13",), make_quark),
)


def quiet() -> None:
    """No log lines between the rows: what a package says of its progress goes nowhere."""
    logging.disable(logging.WARNING)
    try:
        from loguru import logger
    except ImportError:
        return
    logger.remove()
