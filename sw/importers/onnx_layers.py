"""ONNX operators that compute over dimensions: products, norms, reductions, resizing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from sw.importers.onnx_file import Call
from sw.importers.onnx_resize import resize


def _gemm(call: Call) -> None:
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    transposed = bool(call.attribute("transA", 0)), bool(call.attribute("transB", 0))
    plain = alpha == 1 and beta == 1 and not transposed[0]
    fits = not call.has(2) or call.shape(2) == (call.shape(1)[0 if transposed[1] else 1],)
    if plain and fits:
        call.emit(functional.linear if transposed[1] else _linear_transposed)
    else:
        call.emit(partial(_product, alpha=alpha, beta=beta, transposed=transposed))


def _linear_transposed(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return functional.linear(x, weight.t(), bias)


def _product(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    transposed: tuple[bool, bool],
) -> torch.Tensor:
    product = torch.matmul(a.t() if transposed[0] else a, b.t() if transposed[1] else b) * alpha
    return product if c is None else product + c * beta


def _matmul(call: Call) -> None:
    """A product; with a constant matrix a linear layer, its weights laid out once."""
    if len(call.shape(1)) == 2 and call.is_constant(1) and not call.is_constant(0):
        name = f"{call.inputs[1]}_transposed"
        if not call.builder.is_known(name):
            call.builder.add("weights", torch.t, [call.inputs[1]], [name])
        call.inputs[1] = name
        call.emit(functional.linear)
    else:
        call.emit(torch.matmul)


def _batch_norm(call: Call) -> None:
    if call.attribute("training_mode", 0):
        raise call.error("must not be in training mode")
    call.outputs = call.outputs[:1]
    epsilon = call.attribute("epsilon", 1e-5)
    call.emit(partial(_normalized, epsilon=epsilon))


def _normalized(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)


def _instance_norm(call: Call) -> None:
    call.emit(partial(_instances, epsilon=call.attribute("epsilon", 1e-5)))


def _instances(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> torch.Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _layer_norm(call: Call) -> None:
    axis = call.axis(call.attribute("axis", -1))
    shape = list(call.shape()[axis:])
    call.outputs = call.outputs[:1]
    if call.shape(1) != tuple(shape) or (call.has(2) and call.shape(2) != tuple(shape)):
        raise call.error(f"must have a scale of {shape}, not {list(call.shape(1))}")
    epsilon = call.attribute("epsilon", 1e-5)
    call.emit(partial(_layer_normalized, shape=shape, epsilon=epsilon))


def _layer_normalized(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    shape: list[int],
    epsilon: float,
) -> torch.Tensor:
    return functional.layer_norm(x, shape, scale, bias, epsilon)


def _reduction(call: Call, function: Callable[..., torch.Tensor]) -> None:
    keep = bool(call.attribute("keepdims", 1))
    axes = call.integers("axes", 1)
    if not axes and call.attribute("noop_with_empty_axes", 0):
        call.emit(torch.clone, 0)
        return
    rank = len(call.shape())
    chosen = tuple(call.axis(a) for a in axes) if axes else tuple(range(rank))
    call.emit(partial(function, dim=chosen, keepdim=keep), 0)


def _arg_max(call: Call) -> None:
    if call.attribute("select_last_index", 0):
        raise call.error("must select the first of equals")
    axis = call.axis(call.attribute("axis", 0))
    keep = bool(call.attribute("keepdims", 1))
    call.emit(partial(torch.argmax, dim=axis, keepdim=keep))


def _lp_norm(call: Call) -> None:
    if call.attribute("p", 2) not in (1, 2):
        raise call.error(f"must have p of 1 or 2, not {call.attribute('p')}")
    axis = call.axis(call.attribute("axis", -1))
    call.emit(partial(_divided_by_norm, order=call.attribute("p", 2), axis=axis))


def _divided_by_norm(x: torch.Tensor, order: int, axis: int) -> torch.Tensor:
    if order == 1:
        return x / x.abs().sum(axis, keepdim=True)
    return x / x.pow(2).sum(axis, keepdim=True).sqrt()


OPERATORS: Final[Mapping[str, Callable[[Call], None]]] = {
    "ArgMax": _arg_max,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": _matmul,
    "ReduceMax": partial(_reduction, function=torch.amax),
    "ReduceMean": partial(_reduction, function=torch.mean),
    "ReduceMin": partial(_reduction, function=torch.amin),
    "ReduceSum": partial(_reduction, function=torch.sum),
    "Resize": resize,
    "Upsample": resize,
}
