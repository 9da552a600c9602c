"""A layer piece by piece: what is written before each, what it runs on, what is read after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from sw.compiler.layers import Add, Convolution, Matmul, Plan, Shape
from sw.compiler.layout import Border, Layout, Span, gap_spans, spans, transfers
from sw.compiler.lowering import (
    Finish,
    PanelPlace,
    Piece,
    add,
    convolution,
    matmul,
    panel_place,
)
from sw.compiler.nest import Loop, Nest
from sw.compiler.operands import Described, add_lanes
from sw.compiler.quantize import add_shifts
from sw.compiler.schedule import Command, Place, ReadWords, WriteColumns, WriteWords
from sw.compiler.tiling import Cut, Staged, span

Box: TypeAlias = tuple[range, range, range, range]


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What pieces of a layer run on.

    Parameters
    ----------
    plan : Plan
    described : Described
    staged : Staged
    cut : Cut
    offset : int
        Of the boxes.
    places : mapping of str to Place
        Of tensors in memory.
    weights : int or None
        Where all weights lie, None if they are staged.
    entry : int or None
        The first parameter entry, None if there are none.
    loads_entries : bool
        Whether each piece's entries are written before it, to ``entry`` on.
    """

    plan: Plan
    described: Described
    staged: Staged
    cut: Cut
    offset: int
    places: Mapping[str, Place]
    weights: int | None
    entry: int | None
    loads_entries: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A piece.

    Parameters
    ----------
    before : tuple of Command
        Keys with the commands that load what they name, left out if it is there.
    nests : list of Nest
    after : tuple of Command
    """

    before: tuple[Command, ...]
    nests: list[Nest]
    after: tuple[Command, ...]


def steps(context: Context, pieces: Iterator[Piece]) -> Iterator[Step]:
    """The pieces of a layer with what the host does around them; loads are reused."""
    loaded: dict[str, object] = {}
    for piece in pieces:
        parts = _parts(context, piece)
        before: list[Command] = []
        for name, key, commands in parts.loads:
            if loaded.get(name) != key:
                before += commands
                loaded[name] = key
        yield Step(tuple(before), parts.nests, parts.after)


@dataclass(frozen=True, slots=True)
class _Parts:
    loads: list[tuple[str, object, list[Command]]]
    nests: list[Nest]
    after: tuple[Command, ...]


def _parts(context: Context, piece: Piece) -> _Parts:
    described, cut = context.described, context.cut
    b_room, a_room, _ = cut.words
    b_at = context.offset
    a_at = b_at + b_room
    out_at = a_at + a_room
    loads: list[tuple[str, object, list[Command]]] = []
    after: tuple[Command, ...] = ()
    place, out = None, _output_box(described, piece)
    if not cut.exact:
        if context.staged.output:
            layout = Layout(_shape(out))
            place = layout.place(out_at, _origin(out))
            after = tuple(_reads(described.writes, place, described.output, out))
        else:
            place = context.places[described.writes]
    entry = context.entry if not cut.exact else None
    if entry is not None and context.loads_entries:
        first, count = _entries(described, piece)
        source = f"parameters.{described.name}"
        loads.append(("entries", (first, count), [WriteColumns(source, first, entry, count)]))
        entry -= first
    skip = described.zero_slices > 0 and context.plan.config.skips
    finish = Finish(place, described.output, described.function, described.clamp, entry, skip)
    nests, operands = _nests(context, piece, finish, a_at, b_at)
    return _Parts(loads + operands, nests, after)


_Loads: TypeAlias = list[tuple[str, object, list[Command]]]


def _nests(
    context: Context, piece: Piece, finish: Finish, a_at: int, b_at: int
) -> tuple[list[Nest], _Loads]:
    layer, lanes = context.described.layer, context.plan.config.columns
    loads: _Loads = []
    match layer:
        case Convolution():
            return _convolution(context, layer, piece, finish, a_at, b_at)
        case Matmul():
            box = piece.images, range(1), piece.pixels, piece.channels
            a = _operand(context, "a", layer.a, box, a_at, context.staged.a, loads)
            images = piece.images
            groups = range(images.start // layer.repeat, -(-images.stop // layer.repeat))
            inner = (piece.columns, piece.channels)
            box = groups, range(1), *(inner if layer.transposed else inner[::-1])
            b = _operand(context, "b", layer.b, box, b_at, context.staged.b, loads)
            return matmul(layer, lanes, piece, a, b, finish), loads
        case Add():
            box = piece.images, piece.lines, piece.pixels, piece.columns
            staged = context.staged.a
            a = _operand(context, "a", layer.a, box, a_at, staged, loads)
            b = _operand(context, "b", layer.b, box, b_at, staged, loads)
            config = context.plan.config
            first, second, _ = add_shifts(layer, context.plan.tensors, config)
            return add(layer, add_lanes(config), box, (a, b), (first, second), finish), loads


def _operand(
    context: Context, which: str, tensor: str, box: Box, at: int, staged: bool, loads: _Loads
) -> Place:
    """The place of a tensor, or of a box of it that is loaded."""
    if not staged:
        return context.places[tensor]
    place = Layout(_shape(box)).place(at, _origin(box))
    shape = context.plan.tensors[tensor].shape
    loads.append((which, box, list(_writes(tensor, place, shape, box))))
    return place


def _convolution(
    context: Context, layer: Convolution, piece: Piece, finish: Finish, a_at: int, b_at: int
) -> tuple[list[Nest], _Loads]:
    described, loads = context.described, list[tuple[str, object, list[Command]]]()
    panels, shape = described.panels, context.plan.tensors[layer.a].shape
    assert panels is not None
    a = context.places.get(layer.a)
    if a is None:
        box, border = input_box(layer, piece, panels.together * panels.inputs, shape)
        layout = Layout(_shape(box), border)
        a = layout.place(a_at, _origin(box))
        commands: list[Command] = []
        if not all(_shape(box)):
            words = layout.words
            commands = [WriteWords("zeros", a_at, 1, words, words, 0, 0)] if words else []
        else:
            commands += [_write("zeros", s) for s in gap_spans(layout, a_at)]
            commands += _writes(layer.a, a, shape, box)
        loads.append(("a", (box, border), commands))
    found = []
    sizes = [len(panels.blocks[block]) for block in piece.blocks]
    full = piece.blocks.start + sizes.count(sizes[0])
    for blocks in (range(piece.blocks.start, full), range(full, piece.blocks.stop)):
        if not blocks:
            continue
        part = replace(piece, blocks=blocks)
        if len(piece.blocks) > 1:
            size = len(panels.blocks[blocks.start])
            part = replace(
                part,
                columns=range(size * panels.outputs),
                channels=range(size * panels.inputs),
            )
        place = _panels(context, part, len(piece.blocks) > 1, b_at, loads)
        found += convolution(layer, panels, part, a, place, finish)
    return found, loads


def _panels(context: Context, piece: Piece, all_blocks: bool, at: int, loads: _Loads) -> PanelPlace:
    """Where the weights of a piece lie, and what loads them."""
    described = context.described
    panels, name = described.panels, f"weights.{described.name}"
    assert panels is not None
    block = piece.blocks.start
    if context.weights is not None:
        return panel_place(panels, context.weights, block)
    if all_blocks:
        words = described.weight_words
        if not any(which == "b" for which, _, _ in loads):
            loads.append(("b", "all", [WriteWords(name, at, 1, words, words, 0, words)]))
        return panel_place(panels, at, block)
    lanes = panels.columns
    first = block * panels.tiles + piece.columns.start // lanes
    count = -(-len(piece.columns) // lanes)
    rows, columns, channels = piece.kernel_rows, piece.kernel_columns, piece.channels
    column = len(channels) * lanes
    row = len(columns) * column
    panel = len(rows) * row
    source = panel_place(panels, 0, block)
    loops = [
        Loop(count, a=panel, o=source.panel),
        Loop(len(rows), a=row, o=source.row),
        Loop(len(columns), a=column, o=source.column),
        Loop(column, a=1, o=1),
    ]
    start = source.at(first, rows.start, columns.start, channels.start * lanes)
    key = (block, piece.columns, rows, columns, channels)
    loads.append(("b", key, [_write(name, s) for s in transfers(loops, at, start)]))
    origin = first * panel + rows.start * row + columns.start * column + channels.start * lanes
    return PanelPlace(at - origin, panel, row, column)


def input_box(layer: Convolution, piece: Piece, block: int, shape: Shape) -> tuple[Box, Border]:
    """What a piece reads of the input: the box within the image, and how far it goes beyond.

    ``block`` are the inputs of a full block. A box without a word has the whole as its border.
    """
    parts, borders = [], []
    directions = (
        (piece.lines, piece.kernel_rows, layer.padding[0]),
        (piece.pixels, piece.kernel_columns, layer.padding[2]),
    )
    for d, (outputs, kernel, padding) in enumerate(directions):
        stride, dilation = layer.stride[d], layer.dilation[d]
        first = outputs.start * stride + kernel.start * dilation - padding
        end = first + span(len(outputs), stride, len(kernel), dilation)
        start = min(max(first, 0), shape[d + 1])
        stop = max(min(end, shape[d + 1]), start)
        if stop == start:  # all of it is beyond
            start = stop = first
        parts.append(range(start, stop))
        borders += [start - first, end - stop]
    if len(piece.blocks) > 1:
        channels = range(shape[3])
    else:
        before = piece.blocks.start * block
        channels = range(before + piece.channels.start, before + piece.channels.stop)
    top, bottom, left, right = borders
    return (piece.images, parts[0], parts[1], channels), (top, bottom, left, right)


def _output_box(described: Described, piece: Piece) -> Box:
    panels, channels = described.panels, piece.columns
    if len(piece.blocks) > 1:
        channels = range(described.output[3])
    elif panels is not None:
        before = piece.blocks.start * panels.together * panels.outputs
        channels = range(before + channels.start, before + channels.stop)
    return piece.images, piece.lines, piece.pixels, channels


def _entries(described: Described, piece: Piece) -> tuple[int, int]:
    """The first parameter entry of a piece, and how many."""
    if len(piece.blocks) > 1 or isinstance(described.layer, Add):
        return 0, described.entries
    assert described.parameters is not None
    lanes = described.parameters.shape[1]
    tiles = described.panels.tiles if described.panels is not None else 0
    first = piece.blocks.start * tiles + piece.columns.start // lanes
    return first, -(-len(piece.columns) // lanes)


def _shape(box: Box) -> Shape:
    n, h, w, c = map(len, box)
    return n, h, w, c


def _origin(box: Box) -> Shape:
    n, y, x, c = (part.start for part in box)
    return n, y, x, c


def _write(source: str, s: Span) -> WriteWords:
    return WriteWords(source, s.address, s.rows, s.count, s.stride, s.start, s.pitch)


def _writes(tensor: str, place: Place, shape: Shape, box: Box) -> Iterator[WriteWords]:
    return (_write(tensor, s) for s in spans(place, shape, box))


def _reads(tensor: str, place: Place, shape: Shape, box: Box) -> Iterator[ReadWords]:
    return (
        ReadWords(tensor, s.address, s.rows, s.count, s.stride, s.start, s.pitch)
        for s in spans(place, shape, box)
    )
