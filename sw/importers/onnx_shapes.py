"""ONNX operators that move elements: shapes, slices, joins, paddings, constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch.nn import functional

from sw.importers.onnx_file import Call, broadcast, to_torch
from sw.importers.translated import MAX_ELEMENTS


def _constant(call: Call) -> None:
    name = call.outputs[0]
    for attribute, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for suffix in ("", "s"):
            value = call.attribute(attribute + suffix)
            if value is not None:
                call.builder.add_constant(name, torch.tensor(value, dtype=dtype))
                return
    value = call.attribute("value")
    if value is None:
        raise call.error("must have a tensor or a number as its value")
    call.builder.add_constant(name, to_torch(call.builder, name, value))


def _constant_of_shape(call: Call) -> None:
    shape = call.integers("shape", 0) or []
    value = call.attribute("value")
    fill = torch.zeros(1) if value is None else to_torch(call.builder, "value", value)
    if fill.numel() != 1:
        raise call.error("must have one value")
    call.emit(partial(_filled, shape=shape, value=fill.item(), dtype=fill.dtype), 0)


def _filled(_: torch.Tensor, shape: list[int], value: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


def _shape(call: Call) -> None:
    sizes = call.shape()[call.attribute("start", 0) : call.attribute("end")]
    call.builder.add_constant(call.outputs[0], torch.tensor(sizes, dtype=torch.int64))


def _range(call: Call) -> None:
    start, limit, delta = (call.constant(i) for i in range(3))
    if not float(delta):
        raise call.error("must have a step that is not zero")
    count = (float(limit) - float(start)) / float(delta)
    if not count <= MAX_ELEMENTS:
        raise call.error(f"must have at most {MAX_ELEMENTS} elements, not {count:g}")
    values = torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)
    call.builder.add_constant(call.outputs[0], values)


def _reshape(call: Call) -> None:
    wanted, given = call.integers("shape", 1) or [], call.shape()
    if not call.attribute("allowzero", 0):
        if any(n == 0 and i >= len(given) for i, n in enumerate(wanted)):
            raise call.error("must copy sizes that there are")
        wanted = [given[i] if n == 0 else n for i, n in enumerate(wanted)]
    call.emit(partial(torch.reshape, shape=wanted), 0)


def _flatten(call: Call) -> None:
    shape = call.shape()
    axis = call.attribute("axis", 1)
    axis = axis if axis == len(shape) else call.axis(axis)
    rows = 1
    for size in shape[:axis]:
        rows *= size
    call.emit(partial(torch.reshape, shape=(rows, -1)))


def _transpose(call: Call) -> None:
    order = call.attribute("perm") or list(reversed(range(len(call.shape()))))
    call.emit(partial(torch.permute, dims=tuple(order)))


def _squeeze(call: Call) -> None:
    axes = call.integers("axes", 1)
    if axes is None:
        axes = [d for d, size in enumerate(call.shape()) if size == 1]
    axes = [call.axis(a) for a in axes]
    if any(call.shape()[a] != 1 for a in axes):
        raise call.error("must remove dimensions of size 1")
    call.emit(partial(torch.squeeze, dim=tuple(axes)), 0)


def _unsqueeze(call: Call) -> None:
    axes = call.integers("axes", 1) or []
    rank = len(call.shape()) + len(axes)
    axes = sorted(call.axis(a, rank) for a in axes)
    sizes = list(call.shape())
    for axis in axes:
        sizes.insert(axis, 1)
    call.emit(partial(torch.reshape, shape=sizes), 0)


def _concat(call: Call) -> None:
    call.emit(partial(_join, dim=call.axis(call.attribute("axis", 0))))


def _join(*values: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat(values, dim)


def _split(call: Call) -> None:
    axis = call.axis(call.attribute("axis", 0))
    size, count = call.shape()[axis], len(call.outputs)
    parts = call.integers("split", 1)
    if parts is None:
        each = -(-size // count)
        parts = [min(each, size - i * each) for i in range(count)]
    if sum(parts) != size or min(parts) < 1 or len(parts) != count:
        raise call.error(f"must have {count} parts of {size} in all, not {parts}")
    call.emit(partial(_pieces, sizes=parts, dim=axis), 0)


def _pieces(x: torch.Tensor, sizes: list[int], dim: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.split(x, sizes, dim))


def _slice(call: Call) -> None:
    starts, ends = call.integers("starts", 1), call.integers("ends", 2)
    if starts is None or ends is None:
        raise call.error("must have starts and ends")
    axes = call.integers("axes", 3) or list(range(len(starts)))
    steps = call.integers("steps", 4) or [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise call.error("must have as many starts as ends, axes and steps, none of them 0")
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = call.axis(axis)
        cuts.append((place, slice(start, end, step).indices(call.shape()[place])))
    call.emit(partial(_sliced, cuts=cuts), 0)


def _sliced(x: torch.Tensor, cuts: list[tuple[int, tuple[int, int, int]]]) -> torch.Tensor:
    for axis, (start, stop, step) in cuts:
        if step > 0:
            if (start, step) != (0, 1) or stop != x.shape[axis]:
                index = (slice(None),) * axis + (slice(start, stop, step),)
                x = x[index]
        else:
            x = x.index_select(axis, torch.arange(start, stop, step))
    return x


def _gather(call: Call) -> None:
    axis = call.axis(call.attribute("axis", 0))
    size = call.shape()[axis]
    if not call.is_constant(1):
        # Entries of a table by tokens; anything else by the same rule, one dimension at a time.
        if axis == 0 and len(call.shape()) == 2 and call.is_constant(0):
            call.emit(_embed)
        else:
            call.emit(partial(_gathered, axis=axis))
        return
    indices = call.constant(1)
    if indices.numel() and not -size <= int(indices.min()) <= int(indices.max()) < size:
        raise call.error(f"must have indices from {-size} to {size - 1}")
    if indices.dim() == 0:
        call.emit(partial(torch.select, dim=axis, index=int(indices) % size), 0)
    else:
        call.emit(partial(_gathered, axis=axis))


def _embed(table: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return functional.embedding(tokens, table)


def _gathered(x: torch.Tensor, indices: torch.Tensor, axis: int) -> torch.Tensor:
    size = x.shape[axis]
    places = torch.where(indices < 0, indices + size, indices).flatten()
    shape = x.shape[:axis] + indices.shape + x.shape[axis + 1 :]
    return x.index_select(axis, places).reshape(shape)


def _expand(call: Call) -> None:
    wanted = call.integers("shape", 1) or []
    shape = broadcast([call.shape(), wanted])
    call.builder.check_size(call.kind, shape)
    call.emit(partial(_expanded, shape=shape), 0)


def _expanded(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    return x.expand(*shape)


def _tile(call: Call) -> None:
    call.emit(partial(torch.tile, dims=tuple(call.integers("repeats", 1) or ())), 0)


def _pad(call: Call) -> None:
    rank = len(call.shape())
    pads = call.integers("pads", 1) or []
    axes = call.integers("axes", 3)
    places = list(range(rank)) if axes is None else [call.axis(a) for a in axes]
    if len(pads) != 2 * len(places):
        raise call.error(f"must have {2 * len(places)} paddings, not {len(pads)}")
    sides = dict(
        zip(places, zip(pads[: len(places)], pads[len(places) :], strict=True), strict=True)
    )
    flat = [n for d in reversed(range(rank)) for n in sides.get(d, (0, 0))]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    mode = call.attribute("mode", "constant")
    if mode not in modes:
        raise call.error(f"must have a mode of {', '.join(modes)}, not {mode}")
    value = call.number("value", 2) if mode == "constant" else None
    call.emit(partial(functional.pad, pad=flat, mode=modes[mode], value=value), 0)


def _depth_to_space(call: Call) -> None:
    block = call.attribute("blocksize")
    if len(call.shape()) != 4 or block < 1:
        raise call.error("must have four dimensions and blocks of at least 1")
    rows_first = call.attribute("mode", "DCR") == "DCR"
    call.emit(partial(_to_space, block=block, blocks_first=rows_first))


def _to_space(x: torch.Tensor, block: int, blocks_first: bool) -> torch.Tensor:
    if not blocks_first:
        return functional.pixel_shuffle(x, block)
    n, c, h, w = x.shape
    split = x.reshape(n, block, block, c // (block * block), h, w)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * block, w * block)


def _trilu(call: Call) -> None:
    diagonal = int(call.constant(1)) if call.has(1) else 0
    function = torch.triu if call.attribute("upper", 1) else torch.tril
    call.emit(partial(function, diagonal=diagonal), 0)


OPERATORS: Final[Mapping[str, Callable[[Call], None]]] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
