"""ONNX operators that move a window over images and sequences: convolutions and pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from torch.nn import functional

from sw.importers.onnx_file import Call

_CONVOLUTIONS: Final[Mapping[int, Callable[..., torch.Tensor]]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_TRANSPOSED: Final[Mapping[int, Callable[..., torch.Tensor]]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_AVERAGES: Final[Mapping[int, Callable[..., torch.Tensor]]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_MAXIMA: Final[Mapping[int, Callable[..., torch.Tensor]]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


def _window(call: Call, kernel: list[int]) -> dict[str, Any]:
    """Strides, dilations, and paddings as (before, after) per dimension."""
    count = len(kernel)
    if count not in _CONVOLUTIONS or len(call.shape()) != count + 2 or min(kernel) < 1:
        raise call.error(f"must have a window of one to three dimensions, not {kernel}")
    strides = call.attribute("strides") or [1] * count
    dilations = call.attribute("dilations") or [1] * count
    flat = call.attribute("pads") or [0] * 2 * count
    lengths = (len(strides), len(dilations), len(flat) / 2)
    if lengths != (count,) * 3 or min(*strides, *dilations) < 1 or min(flat) < 0:
        raise call.error("must have a stride, a dilation and two paddings per dimension")
    pads = list(zip(flat[:count], flat[count:], strict=True))
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for size, length, stride, step in zip(
            call.shape()[2:], kernel, strides, dilations, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + (length - 1) * step + 1 - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if automatic == "SAME_UPPER" else (large, small))
    elif automatic not in ("NOTSET", "VALID"):
        raise call.error(f"must have padding that is defined, not {automatic}")
    elif automatic == "VALID":
        pads = [(0, 0)] * count
    return {"stride": tuple(strides), "dilation": tuple(dilations), "pads": pads}


def _sides(pads: list[tuple[int, int]]) -> list[int]:
    return [n for pair in reversed(pads) for n in pair]


def _is_symmetric(pads: list[tuple[int, int]]) -> bool:
    return all(before == after for before, after in pads)


def _conv(call: Call) -> None:
    weight = call.shape(1)
    window = _window(call, list(weight[2:]))
    kernel = call.attribute("kernel_shape")
    if kernel is not None and tuple(kernel) != weight[2:]:
        raise call.error(f"must have a kernel of {list(weight[2:])}, not {kernel}")
    call.emit(partial(_convolve, groups=call.attribute("group", 1), **window))


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    groups: int,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    pads: list[tuple[int, int]],
) -> torch.Tensor:
    padding = tuple(before for before, _ in pads)
    if not _is_symmetric(pads):
        x, padding = functional.pad(x, _sides(pads)), (0,) * len(pads)
    return _CONVOLUTIONS[len(pads)](x, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(call: Call) -> None:
    window = _window(call, list(call.shape(1)[2:]))
    if call.attribute("output_shape") or not _is_symmetric(window["pads"]):
        raise call.error("must have equal paddings and no output_shape")
    function = partial(
        _TRANSPOSED[len(window["pads"])],
        stride=window["stride"],
        padding=tuple(before for before, _ in window["pads"]),
        output_padding=tuple(call.attribute("output_padding") or [0] * len(window["pads"])),
        groups=call.attribute("group", 1),
        dilation=window["dilation"],
    )
    call.emit(function)


def _pool(call: Call, average: bool) -> None:
    kernel = call.attribute("kernel_shape") or []
    window = _window(call, kernel)
    function = partial(
        _average_pool if average else _max_pool,
        kernel=tuple(kernel),
        ceil=bool(call.attribute("ceil_mode", 0)),
        **window,
    )
    if average:
        function = partial(function, count_pad=bool(call.attribute("count_include_pad", 0)))
    call.emit(function)


def _max_pool(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    ceil: bool,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    pads: list[tuple[int, int]],
) -> torch.Tensor:
    padding = tuple(before for before, _ in pads)
    if not _is_symmetric(pads) or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        x = functional.pad(x, _sides(pads), value=float("-inf"))
        padding = (0,) * len(pads)
    return _MAXIMA[len(pads)](x, kernel, stride, padding, dilation, ceil)


def _average_pool(
    x: torch.Tensor,
    kernel: tuple[int, ...],
    ceil: bool,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    pads: list[tuple[int, int]],
    count_pad: bool,
) -> torch.Tensor:
    if max(dilation) > 1:
        raise ValueError("dilation must be 1")
    pool = partial(_AVERAGES[len(pads)], kernel_size=kernel, stride=stride, ceil_mode=ceil)
    padding = tuple(before for before, _ in pads)
    if _is_symmetric(pads) and all(2 * p <= k for p, k in zip(padding, kernel, strict=True)):
        return pool(x, padding=padding, count_include_pad=count_pad)
    padded = pool(functional.pad(x, _sides(pads)))
    if count_pad:
        return padded
    return padded / pool(functional.pad(torch.ones_like(x[:1, :1]), _sides(pads)))


def _global_pool(call: Call, maximum: bool) -> None:
    axes = tuple(range(2, len(call.shape())))
    call.emit(partial(torch.amax if maximum else torch.mean, dim=axes, keepdim=True))


OPERATORS: Final[Mapping[str, Callable[[Call], None]]] = {
    "AveragePool": partial(_pool, average=True),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "GlobalAveragePool": partial(_global_pool, maximum=False),
    "GlobalMaxPool": partial(_global_pool, maximum=True),
    "MaxPool": partial(_pool, average=False),
}
