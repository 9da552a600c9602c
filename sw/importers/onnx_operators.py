"""What each ONNX operator computes, as torch functions: the table, and what is elementwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, Final

import torch
from torch.nn import functional

from sw.importers import onnx_layers, onnx_shapes, onnx_windows
from sw.importers.onnx_file import DTYPES, Call

Handler = Callable[[Call], None]


def _apply(call: Call, function: Callable[..., torch.Tensor]) -> None:
    call.emit(function)


def _divide(call: Call) -> None:
    integer = not call.builder.dtype(call.kind, call.inputs[0]).is_floating_point
    call.emit(partial(torch.div, rounding_mode="trunc") if integer else torch.div)


def _clip(call: Call) -> None:
    low, high = call.number("min", 1), call.number("max", 2)
    if low is None and high is None:
        call.emit(_same, 0)
    else:
        call.emit(partial(torch.clamp, min=low, max=high), 0)


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


def _extreme(call: Call, function: Callable[..., torch.Tensor]) -> None:
    call.emit(partial(_reduce, function=function))


def _reduce(*values: torch.Tensor, function: Callable[..., torch.Tensor]) -> torch.Tensor:
    return reduce(function, values)


def _leaky_relu(call: Call) -> None:
    call.emit(partial(functional.leaky_relu, negative_slope=call.attribute("alpha", 0.01)))


def _elu(call: Call) -> None:
    call.emit(partial(functional.elu, alpha=call.attribute("alpha", 1.0)))


def _hard_sigmoid(call: Call) -> None:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    call.emit(partial(_clamped_line, alpha=alpha, beta=beta))


def _clamped_line(x: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _gelu(call: Call) -> None:
    call.emit(partial(functional.gelu, approximate=call.attribute("approximate", "none")))


def _prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x * slope, x)


def _softmax(call: Call, function: Callable[..., torch.Tensor]) -> None:
    rank = len(call.shape())
    axis = call.axis(call.attribute("axis", -1 if call.opset >= 13 else 1))
    if call.opset >= 13 or axis == rank - 1:
        call.emit(partial(function, dim=axis))
    else:
        call.emit(partial(_flat_softmax, axis=axis, function=function))


def _flat_softmax(
    x: torch.Tensor, axis: int, function: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """Before opset 13: over all dimensions from the axis on."""
    return function(x.flatten(axis), dim=-1).reshape(x.shape)


def _cast(call: Call) -> None:
    to = call.attribute("to")
    if to not in DTYPES:
        raise call.error(f"must be to a supported type, not {to}")
    call.emit(partial(_to, dtype=DTYPES[to]), 0)


def _to(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype)


def _dropout(call: Call) -> None:
    call.outputs = call.outputs[:1]
    call.emit(_same, 0)


def _power(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    return torch.pow(x, exponent).to(x.dtype)


def _pow(call: Call) -> None:
    if call.is_constant(1) and call.constant(1).numel() == 1 and call.constant(1).dim() == 0:
        call.emit(partial(_scalar_power, exponent=float(call.constant(1))), 0)
    else:
        call.emit(_power)


def _scalar_power(x: torch.Tensor, exponent: float) -> torch.Tensor:
    return torch.pow(x, exponent).to(x.dtype)


#: One torch function of all inputs.
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSwish": functional.hardswish,
    "Identity": _same,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "Mish": functional.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": _prelu,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softplus": functional.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
_ELEMENTWISE: Final[Mapping[str, Handler]] = {
    **{name: partial(_apply, function=f) for name, f in _FUNCTIONS.items()},
    "Cast": _cast,
    "Clip": _clip,
    "Div": _divide,
    "Dropout": _dropout,
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": partial(_softmax, function=torch.log_softmax),
    "Max": partial(_extreme, function=torch.maximum),
    "Min": partial(_extreme, function=torch.minimum),
    "Pow": _pow,
    "Softmax": partial(_softmax, function=torch.softmax),
}
OPERATORS: Final[Mapping[str, Handler]] = {
    **_ELEMENTWISE,
    **onnx_layers.OPERATORS,
    **onnx_shapes.OPERATORS,
    **onnx_windows.OPERATORS,
}
