"""How a layer is cut into pieces when memory does not hold it: what fits, and costs least.

A piece covers ranges of the layer's loops. What it needs and memory does not hold is staged: the
host writes a box of an operand before the piece runs, or reads a box of the output after it, and
leaves a box as it is while the pieces that follow need the same one. Sums that are cut along K
leave as exact sums, which the host adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final

from sw.compiler.layers import Add, Convolution, Matmul
from sw.compiler.lowering import Piece
from sw.compiler.nest import MAX_COUNT, OVERHEAD
from sw.compiler.operands import Described
from sw.config import MachineConfig

#: Words that a sum costs on its way to the host.
SUM_WORDS: Final = 4
#: Cycles that a further piece costs.
PIECE_CYCLES: Final = OVERHEAD
#: Pieces of one layer; each is a program of its own, and more are nobody's wish.
MAX_PIECES: Final = 1 << 15
#: Into how many equal parts an extent is cut before only powers of two are tried.
FEW_PARTS: Final = 8

#: Loops of a layer, and those that A, B and the output depend on.
LOOPS: Final = (
    "images",
    "lines",
    "pixels",
    "blocks",
    "columns",
    "kernel_rows",
    "kernel_columns",
    "channels",
)
_TERMS: Final = ("kernel_rows", "kernel_columns", "channels")
_ROWS: Final = ("images", "lines", "pixels")


@dataclass(frozen=True, slots=True)
class Staged:
    """Which operands are staged.

    Parameters
    ----------
    a, b, output : bool
        B: weights, or the second operand of a product. (An addition stages both or none.)
    """

    a: bool = False
    b: bool = False
    output: bool = False

    def __bool__(self) -> bool:
        return self.a or self.b or self.output


@dataclass(frozen=True, slots=True)
class Cut:
    """How large pieces are, and in which order they run.

    Parameters
    ----------
    sizes : mapping of str to int
        Of each of ``LOOPS``: how much of it a piece covers. ``blocks`` is 1 or all.
    order : tuple of str
        Loops, outer first.
    exact : bool
        Whether pieces send exact sums.
    words : tuple of int
        Room for the boxes of B, A and the output, 0 where they are not staged; in this order.
    cost : int
        Cycles, about: of the array, and of the host's port, which passes ``columns`` words in each.
    """

    sizes: Mapping[str, int]
    order: tuple[str, ...]
    exact: bool
    words: tuple[int, int, int]
    cost: int

    @property
    def room(self) -> int:
        """Words of all boxes."""
        return sum(self.words)


class Tiler:
    """Finds the cuts of one layer.

    Parameters
    ----------
    described : Described
    staged : Staged
    config : MachineConfig
    """

    def __init__(self, described: Described, staged: Staged, config: MachineConfig) -> None:
        self.described = described
        self.staged = staged
        self.config = config
        self.extents = extents(described)

    @property
    def key(self) -> tuple[object, ...]:
        """All that decides the cuts: layers with one key are cut alike."""
        layer, d = self.described.layer, self.described
        steps = (layer.stride, layer.dilation) if isinstance(layer, Convolution) else ()
        alike = (layer.transposed, layer.repeat) if isinstance(layer, Matmul) else ()
        flags = bool(d.writes), d.zero_slices > 0, d.entries, d.weight_words, d.output
        return (type(layer), steps, alike, flags, tuple(self.extents.values()), self.staged)

    def smallest(self) -> Cut:
        """The cut that takes the least room."""
        return min(self._cuts(), key=lambda cut: (cut.room, cut.exact, cut.cost))

    def best(self, room: int) -> Cut:
        """The cheapest cut of those that fit.

        Raises
        ------
        ValueError
            If there is none, or only with far too many pieces.
        """
        fitting = [cut for cut in self._cuts() if cut.room <= room]
        if not fitting:
            raise ValueError(
                f"{self.described.name} must have {self.smallest().room} words of tile memory "
                f"for its smallest piece, not {room}"
            )
        cut = min(fitting, key=lambda cut: cut.cost)
        pieces = prod(-(-self.extents[name] // cut.sizes[name]) for name in cut.order)
        if pieces > MAX_PIECES:
            raise ValueError(
                f"{self.described.name} must be cut into at most {MAX_PIECES} pieces, not "
                f"{pieces}: {room} words of tile memory are too few"
            )
        return cut

    def pieces(self, cut: Cut) -> Iterator[Piece]:
        """The pieces of a cut, in its order."""
        parts = []
        for name in cut.order:
            whole, size = self.extents[name], cut.sizes[name]
            parts.append([range(i, min(i + size, whole)) for i in range(0, whole, size)])
        for chosen in product(*parts):
            ranges = dict(zip(cut.order, chosen, strict=True))
            piece = self._within_block(ranges)
            if piece is not None:
                yield piece

    def _within_block(self, ranges: dict[str, range]) -> Piece | None:
        """A piece without what the last block, which may be smaller, does not have."""
        panels = self.described.panels
        block = ranges["blocks"]
        if panels is not None and len(block) == 1:
            groups = len(panels.blocks[block.start])
            inner = {
                "columns": groups * panels.outputs,
                "channels": groups * panels.inputs,
            }
            for name, limit in inner.items():
                ranges[name] = range(ranges[name].start, min(ranges[name].stop, limit))
                if not ranges[name]:
                    return None
        first = all(ranges[name].start == 0 for name in _TERMS)
        return Piece(**ranges, accumulate=not first)

    def _cuts(self) -> Iterator[Cut]:
        whole = self.extents
        for rows, terms, (blocks, columns) in product(
            self._row_sizes(), self._term_sizes(), self._column_sizes()
        ):
            if blocks > 1 and terms != tuple(whole[name] for name in _TERMS):
                continue
            values = (*rows, blocks, columns, *terms)
            sizes = dict(zip(LOOPS, values, strict=True))
            for order in self._orders():
                yield self._cut(sizes, order)

    def _row_sizes(self) -> Iterator[tuple[int, int, int]]:
        images, lines, pixels = (self.extents[name] for name in _ROWS)
        layer = self.described.layer
        shared = layer.repeat if isinstance(layer, Matmul) else 1
        for size in _parts(images // shared):
            yield size * shared, lines, pixels
        if shared > 1:
            yield 1, lines, pixels
        yield from ((1, size, pixels) for size in _parts(lines)[1:])
        yield from ((1, 1, size) for size in _parts(pixels)[1:])

    def _term_sizes(self) -> Iterator[tuple[int, int, int]]:
        rows, columns, channels = (self.extents[name] for name in _TERMS)
        limit = min(self.config.max_terms, MAX_COUNT)
        found = [(rows, columns, size) for size in _parts(channels)]
        found += [(size, columns, 1) for size in _parts(rows)[1:]]
        found += [(1, size, 1) for size in _parts(columns)[1:]]
        if isinstance(self.described.layer, Add):
            found = found[:1]
        else:
            found = [sizes for sizes in found if prod(sizes) <= limit]
        yield from found

    def _column_sizes(self) -> Iterator[tuple[int, int]]:
        """Blocks and columns: all, or of one block so many."""
        lanes, entries = self.config.columns, self.config.parameters
        blocks, columns = self.extents["blocks"], self.extents["columns"]
        most = entries if self.described.entries else MAX_COUNT
        if blocks > 1 and (not self.described.entries or self.described.entries <= entries):
            yield blocks, columns
        for tiles in _parts(-(-columns // lanes)):
            if tiles <= most:
                yield 1, min(tiles * lanes, columns)

    def _orders(self) -> Iterator[tuple[str, ...]]:
        if isinstance(self.described.layer, Matmul):
            yield ("images", *_TERMS, "blocks", "lines", "pixels", "columns")
            yield ("images", *_TERMS, "blocks", "columns", "lines", "pixels")
        else:
            yield (*_TERMS, "blocks", *_ROWS, "columns")
            yield (*_TERMS, "blocks", "columns", *_ROWS)

    def _cut(self, sizes: dict[str, int], order: tuple[str, ...]) -> Cut:
        trips = {name: -(-self.extents[name] // sizes[name]) for name in LOOPS}
        split = prod(trips[name] for name in _TERMS) > 1
        exact = split or not self.described.writes
        staged, lanes, layer = self.staged, self.config.columns, self.described.layer
        is_matmul = isinstance(layer, Matmul)
        a = self._a_words(sizes) if staged.a else 0
        b = self._b_words(sizes) if staged.b else 0
        out = prod(sizes[name] for name in _ROWS) * self._channels(sizes)
        out = out if staged.output and not exact else 0
        traffic = a * _loads(order, trips, (*_ROWS, "blocks", *_TERMS))
        of_b = ("images", *_TERMS, "columns") if is_matmul else ("blocks", *_TERMS, "columns")
        traffic += b * _loads(order, trips, of_b)
        total = prod(self.described.output)
        traffic += total * (bool(out) + exact * SUM_WORDS * prod(trips[n] for n in _TERMS))
        # Extents take full tiles where there are several, or with skip.
        several = self._channels(sizes) > lanes
        b_slack = 0
        if b and isinstance(layer, Matmul):
            b_slack = (lanes - 1) * (sizes["channels"] if layer.transposed else 1)
        words = (
            _aligned(b + b_slack * several, lanes),
            _aligned(a, lanes),
            out and out + (lanes - 1) * (several or self.described.zero_slices > 0),
        )
        if isinstance(layer, Add) and a:
            words = (words[1], words[1], words[2])
        cost = -(-traffic // lanes) + prod(trips.values()) * self._cycles(sizes)
        return Cut(sizes, order, exact, words, cost)

    def _cycles(self, sizes: dict[str, int]) -> int:
        """Cycles of a piece, about."""
        rows, lanes = self.config.rows, self.config.columns
        count = prod(sizes[name] for name in _ROWS)
        terms = prod(sizes[name] for name in _TERMS)
        if isinstance(self.described.layer, Add):
            count, terms = -(-count * sizes["columns"] // lanes), 2 * lanes
            return PIECE_CYCLES + -(-count // rows) * max(terms, rows)
        tiles = -(-sizes["columns"] // lanes) * sizes["blocks"]
        return PIECE_CYCLES + -(-count // rows) * tiles * max(terms, rows)

    def _channels(self, sizes: dict[str, int]) -> int:
        return self.described.output[3] if sizes["blocks"] > 1 else sizes["columns"]

    def _a_words(self, sizes: dict[str, int]) -> int:
        layer = self.described.layer
        rows = sizes["images"]
        match layer:
            case Convolution():
                panels = self.described.panels
                assert panels is not None
                lines = span(
                    sizes["lines"], layer.stride[0], sizes["kernel_rows"], layer.dilation[0]
                )
                pixels = span(
                    sizes["pixels"], layer.stride[1], sizes["kernel_columns"], layer.dilation[1]
                )
                all_inputs = panels.groups * panels.inputs
                inputs = all_inputs if sizes["blocks"] > 1 else sizes["channels"]
                return rows * lines * pixels * inputs
            case Matmul():
                return rows * sizes["pixels"] * sizes["channels"]
            case Add():
                return prod(sizes[name] for name in _ROWS) * sizes["columns"]

    def _b_words(self, sizes: dict[str, int]) -> int:
        layer, lanes = self.described.layer, self.config.columns
        if isinstance(layer, Matmul):
            batches = -(-sizes["images"] // layer.repeat)
            return batches * sizes["channels"] * sizes["columns"]
        if sizes["blocks"] > 1:
            return self.described.weight_words
        tiles = -(-sizes["columns"] // lanes)
        return tiles * lanes * prod(sizes[name] for name in _TERMS)


def extents(described: Described) -> dict[str, int]:
    """How far each of ``LOOPS`` goes; columns and channels within a block."""
    layer = described.layer
    n, h, w, c = described.output
    panels = described.panels
    if panels is None:
        terms = described.terms if isinstance(layer, Matmul) else 1
        values = (n, h, w, 1, c, 1, 1, terms)
    else:
        together = len(panels.blocks[0])
        values = (
            *(n, h, w, len(panels.blocks), together * panels.outputs),
            *panels.kernel,
            together * panels.inputs,
        )
    return dict(zip(LOOPS, values, strict=True))


def span(count: int, stride: int, kernel: int, dilation: int) -> int:
    """Neighbouring inputs that so many outputs read along one direction."""
    return (count - 1) * stride + (kernel - 1) * dilation + 1


def _loads(order: tuple[str, ...], trips: dict[str, int], needs: tuple[str, ...]) -> int:
    """How often a box is loaded: it stays while only loops inside those that it needs go on."""
    active = [name for name in order if trips[name] > 1]
    inner = max((i for i, name in enumerate(active) if name in needs), default=-1)
    return prod(trips[name] for name in active[: inner + 1])


def _parts(extent: int) -> list[int]:
    """Sizes of parts to try, the whole first, each once."""
    numbers = [*range(1, FEW_PARTS + 1)]
    while numbers[-1] < extent:
        numbers.append(2 * numbers[-1])
    return list(dict.fromkeys(-(-extent // min(number, extent)) for number in numbers))


def _aligned(words: int, align: int) -> int:
    return -(-words // align) * align
