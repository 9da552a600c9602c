"""Views of values as numbers: where each element of one lies in another.

Reshape, permute, expand and their like move no data. Done to a tensor that holds the numbers of its
own elements, they tell where every element comes from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from sw.compiler.graph import Node
from sw.compiler.layers import Shape, View

#: Operations that only say where elements lie, or repeat them.
VIEWS: Final = frozenset(
    (
        "aten.reshape.default",
        "aten.permute.default",
        "aten.expand.default",
        "aten.clone.default",
        "aten.repeat_interleave.self_int",
    )
)
#: Those that keep every element exactly once.
PERMUTATIONS: Final = VIEWS - {"aten.expand.default", "aten.repeat_interleave.self_int"}
#: Larger values are not looked through: their numbers would take gigabytes.
_MOST_ELEMENTS: Final = 1 << 24


def apply_view(node: Node, value: torch.Tensor) -> torch.Tensor:
    """What a node of :data:`VIEWS` makes of any tensor of its operand's shape."""
    if node.target == "aten.clone.default":
        return value
    if node.target == "aten.repeat_interleave.self_int":
        times, dim = node.args[1], node.args[2] if len(node.args) > 2 else None
        assert isinstance(times, int)
        assert dim is None or isinstance(dim, int)
        return value.repeat_interleave(times, dim)
    sizes = node.args[1]
    assert isinstance(sizes, tuple)
    numbers = [s for s in sizes if isinstance(s, int)]
    if node.target == "aten.reshape.default":
        return value.reshape(numbers)
    if node.target == "aten.permute.default":
        return value.permute(numbers)
    return value.expand(numbers)


def is_small(shape: Sequence[int]) -> bool:
    """Whether a value can be looked through."""
    return math.prod(shape) <= _MOST_ELEMENTS


def numbers(view: View, shape: Shape) -> torch.Tensor:
    """Where each element of a host's value lies in the array's tensor, shaped like the value."""
    return view.to_host(torch.arange(math.prod(shape)).reshape(shape))


def find_view(index: torch.Tensor) -> View | None:
    """The view of a value whose elements lie at ``index`` of a tensor that holds each once."""
    if not index.numel():
        return None
    flat = index.reshape(-1)
    strides = []
    inner = index.numel()
    for size in index.shape:
        inner //= size
        strides.append(int(flat[inner] - flat[0]) if size > 1 else 0)
    # Dimensions of one element lie anywhere: they stay where they are, relative to the first.
    order = sorted((d for d in range(index.dim()) if index.shape[d] > 1), key=lambda d: -strides[d])
    permute = tuple([d for d in range(index.dim()) if index.shape[d] == 1] + order)
    if order == sorted(order):
        permute = tuple(range(index.dim()))
    if not torch.equal(index.permute(permute).reshape(-1), torch.arange(index.numel())):
        return None
    return View(tuple(index.shape), permute)


def find_origin(
    source: tuple[int, ...], steps: Sequence[Node], view: View, shape: Shape
) -> View | None:
    """The view by which a value lies in an array's tensor as what the steps make of it would.

    Parameters
    ----------
    source : tuple of int
        Shape of the value.
    steps : sequence of Node
        Of :data:`PERMUTATIONS`, in order.
    view, shape
        Of their result: how it lies in the array's tensor.
    """
    if not is_small(source) or not math.prod(source):
        return None
    index = torch.arange(math.prod(source)).reshape(source)
    for node in steps:
        index = apply_view(node, index)
    places = torch.empty_like(index).reshape(-1)
    places[view.to_array(index, shape).reshape(-1)] = torch.arange(len(places))
    return find_view(places.reshape(source))


def find_shared(
    source: tuple[int, ...], steps: Sequence[Node], shape: tuple[int, int, int], turned: bool
) -> tuple[View, bool, int] | None:
    """How a batch of matrices ``[n, K, N]`` lies in a value that views turn into it.

    Parameters
    ----------
    source : tuple of int
        Shape of the value.
    steps : sequence of Node
        Of :data:`VIEWS`, in order.
    shape : (n, K, N)
    turned : bool
        Whether the result of the steps is ``[n, N, K]``.

    Returns
    -------
    view, transposed, repeat
        By which the value is ``[n / repeat, 1, K, N]``, or ``[n / repeat, 1, N, K]`` if transposed;
        None if it is neither.
    """
    batches, inner, columns = shape
    count = math.prod(source)
    whole = batches * inner * columns
    if not is_small(shape) or not count or whole % count or batches % (whole // count):
        return None
    repeat = whole // count
    index = torch.arange(count).reshape(source)
    for node in steps:
        index = apply_view(node, index)
    rows = (columns, inner) if turned else (inner, columns)
    groups = index.reshape(batches // repeat, repeat, *rows)
    if not bool((groups == groups[:, :1]).all()):
        return None
    first = groups[:, 0].mT if turned else groups[:, 0]  # [n / repeat, K, N]
    found = []
    for transposed in (turned, not turned):
        places = torch.full((count,), -1)
        places[(first.mT if transposed else first).reshape(-1)] = torch.arange(count)
        view = find_view(places.reshape(source))
        if view is not None:
            found.append((view, transposed, repeat))
    # The one that leaves neighbours neighbours is encoded faster.
    found.sort(key=lambda f: f[0].permute[-1] != len(source) - 1)
    return found[0] if found else None
