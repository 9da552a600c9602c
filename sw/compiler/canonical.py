"""One spelling per meaning: the forms in which tracing leaves operations.

==============================================  ==================================================
what a network says                             what the graph says
==============================================  ==================================================
conv1d, conv2d, conv3d, transposed              ``aten.convolution.default`` (9 arguments)
mm, bmm, mv, dot, addmm, einsum, ...            ``aten.matmul.default`` (and mul, add)
view, flatten, squeeze, unsqueeze, ...          ``aten.reshape.default`` (value, full shape)
transpose, t, movedim, mT, ...                  ``aten.permute.default`` (value, all dimensions)
expand, expand_as, broadcast_to                 ``aten.expand.default`` (value, full shape)
relu6, clamp to two numbers                     ``aten.hardtanh.default`` (value, low, high)
clamp from below at 0                           ``aten.relu.default``
softmax, special_softmax                        ``aten.softmax.int`` (value, dimension, dtype)
pad with a constant                             ``aten.constant_pad_nd.default``
zeros, ones_like, new_full, empty (0), ...      ``aten.full.default``
==============================================  ==================================================

Every positional argument is there, defaults too; keyword arguments only where they are not the
default; ``device``, ``layout``, ``pin_memory`` and ``memory_format`` never. Dimensions of softmax,
select, slice, cat and mean are not negative, and a slice's bounds are within the value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sw.compiler.graph import Argument

_DROPPED = {"device", "layout", "pin_memory", "memory_format"}
_RESHAPES = (
    *("view", "reshape", "_unsafe_view", "view_as", "reshape_as", "_reshape_alias", "flatten"),
    *("unflatten", "ravel", "squeeze", "unsqueeze", "view_copy", "squeeze_copy", "unsqueeze_copy"),
)
_PERMUTATIONS = (
    *("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "numpy_T", "mT", "mH"),
    "adjoint",
)
_FILLED = (
    *("empty", "empty_like", "new_empty", "empty_strided", "empty_permuted", "new_empty_strided"),
    *("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones"),
    *("full", "full_like", "new_full"),
)
_COPIES = {"clone", "contiguous", "alias", "detach", "lift_fresh", "lift_fresh_copy"}


@dataclass(frozen=True, slots=True)
class Call:
    """An operation as it is being rewritten.

    Parameters
    ----------
    name, overload : str
        ``add``, ``Tensor``.
    args : tuple
        All positional arguments.
    kwargs : mapping
    operands : tuple of torch.Size or None
        Shapes of the positional arguments that are values.
    result : torch.Tensor or None
        Fake; None for several results.
    """

    name: str
    overload: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    operands: tuple[tuple[int, ...] | None, ...]
    result: torch.Tensor | None


def canonical(call: Call) -> tuple[str, tuple[Argument, ...], Mapping[str, Argument]]:
    """Target, arguments and keyword arguments in the graph's spelling.

    Parameters
    ----------
    call : Call

    Returns
    -------
    str, tuple, mapping
    """
    kwargs = {k: v for k, v in call.kwargs.items() if k not in _DROPPED and v is not None}
    rule = _RULES.get(call.name)
    found = rule(call) if rule and call.result is not None else None
    if found is not None and call.result is not None:
        dtype: dict[str, Argument] = {"dtype": call.result.dtype} if rule is _full else {}
        return found[0], found[1], dtype
    if call.result is not None and not any(o is not None for o in call.operands):
        schema = getattr(getattr(torch.ops.aten, call.name), call.overload)._schema
        if any(a.name == "dtype" and a.kwarg_only for a in schema.arguments):
            kwargs["dtype"] = call.result.dtype
    return f"aten.{call.name}.{call.overload}", call.args, kwargs


def complete(op: torch._ops.OpOverload, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positional arguments with the defaults of those that are not given."""
    found = []
    for index, argument in enumerate(a for a in op._schema.arguments if not a.kwarg_only):
        if index >= len(args) and not argument.has_default_value():
            break  # given by keyword
        value = args[index] if index < len(args) else argument.default_value
        length = getattr(argument, "N", None)
        if length and type(value) is int:
            value = [value] * length
        found.append(value)
    return tuple(found)


_Found = tuple[str, tuple[Argument, ...]] | None


def _shape(call: Call) -> tuple[int, ...]:
    assert call.result is not None
    return tuple(call.result.shape)


def _reshape(call: Call) -> _Found:
    if call.overload == "dtype":
        return None
    return "aten.reshape.default", (call.args[0], _shape(call))


def _permute(call: Call) -> _Found:
    operand = call.operands[0]
    assert operand is not None
    rank = len(operand)
    # Where each dimension comes from: permute a shape of their own numbers.
    probe = torch.empty(tuple(range(2, rank + 2)), device="meta")
    moved = getattr(getattr(torch.ops.aten, call.name), call.overload)(probe, *call.args[1:])
    return "aten.permute.default", (call.args[0], tuple(size - 2 for size in moved.shape))


def _expand(call: Call) -> _Found:
    return "aten.expand.default", (call.args[0], _shape(call))


def _matmul(call: Call) -> _Found:
    return ("aten.matmul.default", call.args[:2]) if call.overload == "default" else None


def _real(call: Call) -> bool:
    return call.result is not None and call.result.dtype.is_floating_point


def _clamp(call: Call) -> _Found:
    bounds = {"relu6": (0.0, 6.0), "clamp_min": (*call.args[1:2], None)}.get(
        call.name, tuple(call.args[1:3])
    )
    low, high = (*bounds, None, None)[:2]
    if not _real(call) or call.overload == "Tensor" or isinstance(low, bool):
        return None
    if isinstance(low, int | float) and isinstance(high, int | float) and low <= high:
        return "aten.hardtanh.default", (call.args[0], float(low), float(high))
    if low == 0 and isinstance(low, int | float) and high is None:
        return "aten.relu.default", (call.args[0],)
    return None


def _softmax(call: Call) -> _Found:
    if call.overload not in ("int", "default") or not isinstance(call.args[1], int):
        return None
    operand = call.operands[0]
    assert operand is not None
    dtype = None if call.overload == "default" else call.args[2]
    return "aten.softmax.int", (call.args[0], call.args[1] % max(len(operand), 1), dtype)


def _dimension(call: Call) -> _Found:
    operand = call.operands[0]
    if call.name == "cat" or operand is None:
        operand = _shape(call)
    dim = call.args[1] if len(call.args) > 1 else None
    if dim is None:
        return None
    rank = max(len(operand), 1)
    if isinstance(dim, tuple):
        dim = tuple(d % rank if isinstance(d, int) else d for d in dim)
    elif isinstance(dim, int):
        dim = dim % rank
    args = (call.args[0], dim, *call.args[2:])
    if call.kwargs.get("dtype") is not None:
        return None
    return f"aten.{call.name}.{call.overload}", args


def _slice(call: Call) -> _Found:
    operand = call.operands[0]
    assert operand is not None
    value, dim, start, end, step = call.args
    assert isinstance(dim, int)
    assert isinstance(start, int | None)
    assert isinstance(end, int | None)
    dim %= len(operand)
    size = operand[dim]
    start, end, _ = slice(start, end).indices(size)
    return "aten.slice.Tensor", (value, dim, start, max(start, end), step)


def _full(call: Call) -> _Found:
    """A value whose elements are all alike; 0 where they may be anything."""
    assert call.result is not None
    value: Argument = 1 if "ones" in call.name else 0
    if "full" in call.name:
        value = call.args[-1]
    if not isinstance(value, bool | int | float):
        return None
    return "aten.full.default", (_shape(call), value)


def _pad(call: Call) -> _Found:
    value, amounts, mode, filler = call.args
    if mode != "constant":
        return None
    return "aten.constant_pad_nd.default", (value, amounts, 0.0 if filler is None else filler)


def _copy(call: Call) -> _Found:
    return "aten.clone.default", call.args[:1]


_RULES: dict[str, Callable[[Call], _Found]] = {
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_PERMUTATIONS, _permute),
    **dict.fromkeys(_COPIES, _copy),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to", "expand_copy"), _expand),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "linalg_matmul"), _matmul),
    **dict.fromkeys(("relu6", "clamp", "clip", "clamp_min"), _clamp),
    **dict.fromkeys(("softmax", "_softmax", "special_softmax"), _softmax),
    **dict.fromkeys(("cat", "select", "mean", "log_softmax"), _dimension),
    **dict.fromkeys(_FILLED, _full),
    "slice": _slice,
    "pad": _pad,
}
