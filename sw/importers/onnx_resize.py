"""ONNX ``Resize`` and ``Upsample``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import torch
from torch.nn import functional

from sw.importers.onnx_file import Call

#: Where output i of n reads, in an input of m, with scale n/m.
_COORDINATES: Final[Mapping[str, Callable[[int, int, int, float], float]]] = {
    "asymmetric": lambda i, n, m, scale: i / scale,
    "half_pixel": lambda i, n, m, scale: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, n, m, scale: (i + 0.5) / scale - 0.5 if n > 1 else 0.0,
    "align_corners": lambda i, n, m, scale: i * (m - 1) / (n - 1) if n > 1 else 0.0,
}
_NEAREST: Final[Mapping[str, Callable[[float], int]]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round_prefer_floor": lambda x: math.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: math.floor(x + 0.5),
}
_LINEAR: Final = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(call: Call) -> None:
    """Nearest in every mode; linear where torch computes the same."""
    shape = call.shape()
    scales, sizes = _targets(call, shape)
    call.builder.check_size(call.kind, sizes)
    if call.attribute("antialias", 0) or call.attribute("axes"):
        raise call.error("must not have antialias or axes")
    old = call.kind == "Upsample" or call.opset < 11
    coordinates = call.attribute(
        "coordinate_transformation_mode", "asymmetric" if old else "half_pixel"
    )
    mode = call.attribute("mode", "nearest")
    if coordinates not in _COORDINATES or mode not in ("nearest", "linear"):
        raise call.error(f"must have a supported mode, not {mode} with {coordinates}")
    if mode == "nearest":
        _nearest(call, shape, sizes, scales, coordinates, "floor" if old else "round_prefer_floor")
    else:
        _linear(call, shape, sizes, coordinates)


def _targets(call: Call, shape: tuple[int, ...]) -> tuple[list[float], list[int]]:
    """Scale and size per dimension."""
    if call.kind == "Upsample" or call.opset < 11:
        given = call.constant(1) if call.has(1) else torch.tensor(call.attribute("scales") or [])
        scales = [float(s) for s in given.flatten()]
        sizes = []
    else:
        scales = [float(s) for s in call.constant(2).flatten()] if call.has(2) else []
        sizes = [int(n) for n in call.constant(3).flatten()] if call.has(3) else []
        if sizes and call.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise call.error("must stretch")
    if len(sizes or scales) != len(shape) or not all(0 < s < math.inf for s in scales):
        raise call.error("must have a scale or a size per dimension")
    if sizes:
        return [n / m for n, m in zip(sizes, shape, strict=True)], sizes
    return scales, [math.floor(m * s) for m, s in zip(shape, scales, strict=True)]


def _nearest(
    call: Call,
    shape: tuple[int, ...],
    sizes: list[int],
    scales: list[float],
    coordinates: str,
    default: str,
) -> None:
    rounding = call.attribute("nearest_mode", default)
    if rounding not in _NEAREST:
        raise call.error(f"must have a defined nearest_mode, not {rounding}")
    picks = []
    for n, m, scale in zip(sizes, shape, scales, strict=True):
        where = (_COORDINATES[coordinates](i, n, m, scale) for i in range(n))
        picks.append([min(max(_NEAREST[rounding](x), 0), m - 1) for x in where])
    plain = [[i * m // n for i in range(n)] for n, m in zip(sizes, shape, strict=True)]
    if picks == plain and sizes[:2] == list(shape[:2]) and len(shape) in (3, 4, 5):
        call.emit(partial(functional.interpolate, size=tuple(sizes[2:]), mode="nearest"), 0)
        return
    chosen = {d: p for d, p in enumerate(picks) if p != list(range(shape[d]))}
    call.emit(partial(_picked, picks=chosen), 0)


def _picked(x: torch.Tensor, picks: dict[int, list[int]]) -> torch.Tensor:
    for dimension, places in picks.items():
        x = x.index_select(dimension, torch.tensor(places))
    return x


def _linear(call: Call, shape: tuple[int, ...], sizes: list[int], coordinates: str) -> None:
    if sizes[:2] != list(shape[:2]) or coordinates == "asymmetric" or len(shape) - 2 not in _LINEAR:
        raise call.error(f"must be linear in what torch computes, not {coordinates}")
    function = partial(
        functional.interpolate,
        size=tuple(sizes[2:]),
        mode=_LINEAR[len(shape) - 2],
        align_corners=coordinates == "align_corners",
    )
    call.emit(function, 0)
