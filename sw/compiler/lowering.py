"""What a layer, or a piece of one, is as nests of loops once its operands have places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sw.compiler.layers import Add, Convolution, Matmul, Shape
from sw.compiler.layout import Layout, Panels, address
from sw.compiler.nest import Loop, Nest, cycles, merge
from sw.compiler.schedule import Place
from sw.config import MachineConfig
from sw.isa import Destination, Function
from sw.registers import AMode, BMode


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a layer, as ranges of its loops; all of them for the whole layer.

    Parameters
    ----------
    images, lines, pixels : range
        Of the output.
    blocks : range
        Of :class:`~sw.compiler.layout.Panels`, all of one size.
    columns : range
        Channels of the output within each block, from a multiple of the array's columns on.
    kernel_rows, kernel_columns, channels : range
        Terms: of the kernel, and inputs within each block.
    accumulate : bool
        Whether its exact sums are added to those of pieces before.
    """

    images: range
    lines: range
    pixels: range
    blocks: range
    columns: range
    kernel_rows: range
    kernel_columns: range
    channels: range
    accumulate: bool = False


@dataclass(frozen=True, slots=True)
class PanelPlace:
    """Where panels lie: the address of panel 0's first word, even if it is not there, and steps.

    Parameters
    ----------
    address, panel, row, column : int
        Words; from one panel, kernel row and kernel column to the next.
    """

    address: int
    panel: int
    row: int
    column: int

    def at(self, panel: int, row: int = 0, column: int = 0, term: int = 0) -> int:
        """The address of a slice; ``term`` is its channel times the array's columns."""
        return self.address + panel * self.panel + row * self.row + column * self.column + term


def panel_place(panels: Panels, base: int, block: int) -> PanelPlace:
    """Where panels of blocks like ``block`` lie if all of them lie at ``base``."""
    size = len(panels.blocks[block])
    before = 0 if size == panels.together else block
    terms = size * panels.inputs * panels.columns
    words = panels.words(size)
    first = base + before * panels.tiles * (panels.words() - words)
    return PanelPlace(first, words, panels.kernel[1] * terms, terms)


@dataclass(frozen=True, slots=True)
class Finish:
    """Where results go, and how.

    Parameters
    ----------
    place : Place or None
        Of the output tensor; None: exact sums to the host.
    shape : tuple of int
        Of the output.
    function : Function
    clamp : int
    entry : int or None
        The parameter entry of panel 0 (of column tile 0), None: neither bias nor shift.
    skip : bool
        Whether some slices of weights are zero.
    """

    place: Place | None
    shape: Shape
    function: Function = Function.LINEAR
    clamp: int = 0
    entry: int | None = None
    skip: bool = False

    @property
    def steps(self) -> tuple[int, int, int]:
        """From one image, line and pixel to the next: words, or flat rows of exact sums."""
        if self.place is None:
            return self.shape[1] * self.shape[2], self.shape[2], 1
        return self.place.image, self.place.line, self.place.pixel

    def nest(
        self,
        layer: str,
        origin: tuple[int, int, int, int],
        rows: tuple[Loop, ...],
        terms: tuple[Loop, ...],
        columns: int,
        a: int,
        b: int,
        tile: int,
        accumulate: bool = False,
    ) -> Nest:
        """A nest whose output starts at ``origin``, with the entry of column tile ``tile``."""
        n, y, x, c = origin
        exact = self.place is None
        image, line, pixel = self.steps
        first = n * image + y * line + x * pixel
        if self.place is not None:
            first += self.place.address + c
        return Nest(
            layer,
            rows,
            terms,
            columns,
            a,
            b,
            first,
            entry=None if self.entry is None or exact else self.entry + tile,
            destination=Destination.EXACT if exact else Destination.MEMORY,
            function=self.function if not exact else Function.LINEAR,
            clamp=0 if exact else self.clamp,
            skip=self.skip,
            column=c if exact else 0,
            pixels=self.shape[1] * self.shape[2],
            accumulate=accumulate,
        )


def convolution(
    layer: Convolution, panels: Panels, piece: Piece, a: Place, b: PanelPlace, finish: Finish
) -> list[Nest]:
    """A piece of a convolution."""
    together = len(panels.blocks[piece.blocks.start])
    inputs, outputs = together * panels.inputs, together * panels.outputs
    if len(piece.blocks) > 1 and outputs != panels.columns and finish.place is None:
        return [
            nest
            for block in piece.blocks
            for nest in convolution(
                layer, panels, replace(piece, blocks=range(block, block + 1)), a, b, finish
            )
        ]
    stride, dilation = layer.stride, layer.dilation
    y = piece.lines.start * stride[0] - layer.padding[0] + piece.kernel_rows.start * dilation[0]
    x = piece.pixels.start * stride[1] - layer.padding[2] + piece.kernel_columns.start * dilation[1]
    # Channels of the blocks before, which all have as many groups as the first one.
    groups = panels.blocks[piece.blocks.start].start
    c = groups * panels.inputs + piece.channels.start
    tile = piece.blocks.start * panels.tiles + piece.columns.start // panels.columns
    image, line, pixel = finish.steps
    nest = finish.nest(
        layer.name,
        (
            piece.images.start,
            piece.lines.start,
            piece.pixels.start,
            groups * panels.outputs + piece.columns.start,
        ),
        (
            Loop(len(piece.images), a=a.image, o=image),
            Loop(len(piece.lines), a=stride[0] * a.line, o=line),
            Loop(len(piece.pixels), a=stride[1] * a.pixel, o=pixel),
        ),
        (
            Loop(len(piece.kernel_rows), a=dilation[0] * a.line, b=b.row),
            Loop(len(piece.kernel_columns), a=dilation[1] * a.pixel, b=b.column),
            Loop(len(piece.channels), a=1, b=panels.columns),
        ),
        len(piece.columns),
        address(a, piece.images.start, y, x, c),
        b.at(
            tile,
            piece.kernel_rows.start,
            piece.kernel_columns.start,
            piece.channels.start * panels.columns,
        ),
        tile,
        piece.accumulate,
    )
    nest = replace(nest, b_tile=b.panel)
    if len(piece.blocks) == 1:
        return [nest]
    if outputs == panels.columns:
        return [replace(nest, columns=len(piece.blocks) * outputs, a_tile=inputs)]
    loop = Loop(len(piece.blocks), inputs, panels.tiles * b.panel, outputs, panels.tiles)
    return [replace(nest, batches=(loop,))]


def is_average(layer: Convolution, shape: Shape) -> bool:
    """Whether every output is the sum of an image's channel times one word."""
    groups, kh, kw, inputs, outputs = layer.weights.words.shape
    whole = (groups, kh, kw, inputs, outputs) == (shape[3], shape[1], shape[2], 1, 1)
    flat = layer.weights.words.reshape(-1).numpy()
    return whole and not any(layer.padding) and bool((flat == flat[0]).all())


def average(
    layer: Convolution, columns: int, a: Place, shape: Shape, word: int, finish: Finish
) -> list[Nest]:
    """A global average as a product of a row of equal words, one word of memory, and the image."""
    n, h, w, c = shape
    nest = finish.nest(
        layer.name,
        (0, 0, 0, 0),
        (),
        (Loop(h, b=a.line), Loop(w, b=a.pixel)),
        c,
        word,
        a.address,
        0,
    )
    batches = (Loop(n, b=a.image, o=finish.steps[0]),)
    return [replace(nest, batches=batches, a_mode=AMode.SLICES, b_tile=columns, skip=False)]


def matmul(
    layer: Matmul, columns: int, piece: Piece, a: Place, b: Place, finish: Finish
) -> list[Nest]:
    """A piece of a batched product: whole groups of batches with one B, or part of one group."""
    first = piece.images.start
    shared = min(layer.repeat, len(piece.images))
    image, _, pixel = finish.steps
    step, lane, tile = (
        (1, b.pixel, columns * b.pixel) if layer.transposed else (b.pixel, 0, columns)
    )
    n, k = piece.columns.start, piece.channels.start
    nest = finish.nest(
        layer.name,
        (first, 0, piece.pixels.start, n),
        (Loop(shared, a=a.image, o=image), Loop(len(piece.pixels), a=a.pixel, o=pixel)),
        (Loop(len(piece.channels), a=1, b=step),),
        len(piece.columns),
        address(a, first, 0, piece.pixels.start, k),
        address(b, first // layer.repeat, 0, *((n, k) if layer.transposed else (k, n))),
        n // columns,
        piece.accumulate,
    )
    groups = Loop(len(piece.images) // shared, shared * a.image, b.image, shared * image)
    mode = BMode.LANES if layer.transposed else BMode.SLICES
    return [replace(nest, batches=(groups,), lane=lane, b_tile=tile, b_mode=mode)]


def add(
    layer: Add,
    columns: int,
    box: Sequence[range],
    places: tuple[Place, Place],
    shifts: tuple[int, int],
    finish: Finish,
) -> list[Nest]:
    """The sum of a box of two tensors that lie alike."""
    (first, second), (low, high) = places, shifts
    if second.address < first.address:
        first, second, low, high = second, first, high, low
    assert finish.place is not None
    mine = (first.image, first.line, first.pixel, 1)
    its = (*finish.steps, 1)
    loops = merge([Loop(len(r), a=i, o=o) for r, i, o in zip(box, mine, its, strict=True)])
    origin = (box[0].start, box[1].start, box[2].start, box[3].start)
    run = loops[-1].count if loops and loops[-1].a == loops[-1].o == 1 else 1
    outer = loops[:-1] if run > 1 else loops
    found = []
    for start, count, width in (
        (0, run // columns, columns),
        (run - run % columns, 1, run % columns),
    ):
        if not count or not width:
            continue
        nest = finish.nest(
            layer.name,
            origin,
            (*outer, Loop(count, a=width, o=width)),
            (Loop(2, a=second.address - first.address, b=high), Loop(width, a=1, b=low)),
            width,
            address(first, *origin) + start,
            0,
            0,
        )
        found.append(replace(nest, o=nest.o + start, b_mode=BMode.IDENTITY))
    return found


def zeroing(layer: str, layout: Layout, at: int, zeros: int) -> Iterator[Nest]:
    """Zeros for the border of a tensor at an address, from a slice of zeros at another."""
    for first, *rows, run in layout.gaps(at):
        loops = tuple(rows)
        yield Nest(layer, loops, (Loop(1, 1, 1),), run.count, zeros, zeros, first.o)


def faster(first: list[Nest], second: list[Nest], config: MachineConfig) -> list[Nest]:
    """The nests that take fewer cycles, the first if equal."""
    return second if cycles(second, config) < cycles(first, config) else first
