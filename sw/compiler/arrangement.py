"""What lies where in tile memory and parameter memory, and what the host keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sw.compiler.layers import Add, Download, LayerStep, Matmul, Plan, Upload
from sw.compiler.layout import Border, Layout
from sw.compiler.memory import Item, Outside, Packing, choose, largest_gap, overlaps, overload, pack
from sw.compiler.operands import Described
from sw.compiler.tiling import Staged, Tiler
from sw.config import MachineConfig

#: The item of a slice of zeros, which borders are cleared from.
ZEROS = "zeros"
#: Prefix of the items of boxes.
SCRATCH = "boxes of "


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where everything lies.

    Parameters
    ----------
    layouts : mapping of str to Layout
        Of all tensors, with the borders that they have in memory.
    addresses : mapping of str to int
        First words of the tensors in memory (their borders'), of ``weights.LAYER`` and ``zeros``.
    resident : frozenset of str
        Layers whose weights stay in memory.
    cleared : frozenset of str
        Tensors whose border has to be written again each time.
    entries : mapping of str to int
        First parameter entry of each layer that has any.
    fixed : frozenset of str
        Layers whose parameters stay.
    staged : mapping of str to Staged
        For every layer which operands are staged.
    scratch : mapping of str to tuple of int
        Address and words of the room for the boxes of layers that stage any.
    """

    layouts: Mapping[str, Layout]
    addresses: Mapping[str, int]
    resident: frozenset[str]
    cleared: frozenset[str]
    entries: Mapping[str, int]
    fixed: frozenset[str]
    staged: Mapping[str, Staged]
    scratch: Mapping[str, tuple[int, int]]


def lifetimes(plan: Plan, described: Mapping[str, Described]) -> dict[str, tuple[int, int]]:
    """The first and the last step of every tensor."""
    found: dict[str, tuple[int, int]] = {}
    for index, step in enumerate(plan.steps):
        match step:
            case Upload():
                names: Sequence[str] = (step.tensor,)
            case Download():
                names = (step.tensor,)
            case LayerStep():
                layer = described[step.layer]
                names = (*layer.reads, *([layer.writes] if layer.writes else []))
            case _:
                names = ()
        for name in names:
            found[name] = (found.get(name, (index, index))[0], index)
    return found


def layouts(plan: Plan) -> dict[str, Layout]:
    """Of every tensor; those that are added to each other have the same border."""
    borders: dict[str, Border] = {name: t.border for name, t in plan.tensors.items()}
    adds = [layer for layer in plan.layers.values() if isinstance(layer, Add)]
    changed = True
    while changed:
        changed = False
        for layer in adds:
            one, other = borders[layer.a], borders[layer.b]
            top, bottom, left, right = map(max, one, other)
            both = (top, bottom, left, right)
            changed |= one != both or other != both
            borders[layer.a] = borders[layer.b] = both
    return {name: Layout(t.shape, borders[name]) for name, t in plan.tensors.items()}


def slack(plan: Plan, described: Mapping[str, Described]) -> dict[str, int]:
    """Words behind each tensor that a GEMM's extents may take in beyond it, and never use."""
    lanes = plan.config.columns
    found = dict.fromkeys(plan.tensors, lanes - 1)
    for layer in (d.layer for d in described.values()):
        if isinstance(layer, Matmul) and layer.transposed:
            _, _, columns, terms = plan.tensors[layer.b].shape
            found[layer.b] = max(found[layer.b], -columns % lanes * terms)
    return found


def arrange(plan: Plan, described: Mapping[str, Described]) -> Arrangement:
    """Find a place for everything, most of it for good if there is room.

    What does not fit goes back to the host, the largest first: weights, which are then loaded piece
    by piece, and tensors, which the host then keeps.

    Raises
    ------
    ValueError
        If not even the smallest pieces of a layer fit.
    """
    attempt = _Attempt(plan, described)
    while True:
        found = attempt.arrange()
        if isinstance(found, Arrangement):
            return found
        attempt.give_up(found)


class _Attempt:
    """An arrangement in the making, with what has been given back to the host so far."""

    def __init__(self, plan: Plan, described: Mapping[str, Described]) -> None:
        self.plan, self.described, self.config = plan, described, plan.config
        self.layouts = layouts(plan)
        self.lives = lifetimes(plan, described)
        self.behind = slack(plan, described)
        self.end = max(len(plan.steps) - 1, 0)
        self.kept: set[str] = set()
        self.streamed: set[str] = set()
        self.smallest: dict[object, int] = {}

    def arrange(self) -> Arrangement | Item:
        """The arrangement, or the item that has no room."""
        weights = [
            Item(f"weights.{d.name}", d.weight_words, d.step, d.step, self.config.columns)
            for d in self.described.values()
            if d.weights is not None and d.name not in self.streamed
        ]
        scratch = self._scratch()
        whole = not self.kept and not self.streamed
        packing, resident = Packing({}, 0), set[str]()
        for apart in (True, False) if whole else (False,):
            items = self._tensors(apart) + scratch
            step = overload([*items, *weights], self.config.memory_words)
            if step is not None and not apart:
                living = [i for i in scratch if i.first == step]
                return living[0] if living else Item(self._name(step), 0, step, step)
            packing, resident = _with_weights(
                items,
                weights,
                self.config,
                self.end,
                self._outside(),
                whole_only=apart,
                spare=bool(scratch),
            )
            if packing.failed is None:
                break
        if packing.failed is not None:
            return packing.failed
        final = items + [_resident(w, self.end) if w.name in resident else w for w in weights]
        return self._arranged(final, packing, resident)

    def _name(self, step: int) -> str:
        """What a step is called."""
        return next((d.name for d in self.described.values() if d.step == step), f"step {step}")

    def _tensors(self, apart: bool) -> list[Item]:
        """Tensors in memory; ``apart`` keeps those with a border to themselves."""
        found = []
        for name, life in self.lives.items():
            if name not in self.kept:
                size = self.layouts[name].words + self.behind[name]
                alone = apart and any(self.layouts[name].border)
                found.append(Item(name, size, *((0, self.end) if alone else life)))
        bordered = any(any(self.layouts[item.name].border) for item in found)
        if bordered and not apart:
            found.append(Item(ZEROS, self.config.columns, 0, self.end))
        return found

    def _outside(self) -> list[Outside]:
        """Sums do not lie between what is added: one extent covers both."""
        found = []
        for d in self.described.values():
            if isinstance(d.layer, Add) and d.layer.a not in self.kept:
                sums = f"{SCRATCH}{d.name}" if d.writes in self.kept else d.writes
                found.append((d.layer.a, d.layer.b, sums))
        return found

    def _room(
        self, d: Described, items: Sequence[Item], offsets: Mapping[str, int]
    ) -> tuple[int, int]:
        """The address and size of the room for the boxes of a layer."""
        lanes, taken = self.config.columns, []
        for item in items:
            if item.first <= d.step <= item.last and item.name != f"{SCRATCH}{d.name}":
                taken.append((offsets[item.name], offsets[item.name] + item.size))
        layer = d.layer
        if isinstance(layer, Add) and layer.a not in self.kept:
            both = [offsets[layer.a], offsets[layer.b]]
            taken.append((min(both), max(both)))
        at, size = largest_gap(taken, self.config.memory_words)
        aligned = -(-at // lanes) * lanes
        return aligned, size - (aligned - at)

    def _scratch(self) -> list[Item]:
        found = []
        for d in self.described.values():
            staged = self._staged(d)
            if staged:
                tiler = Tiler(d, staged, self.config)
                if tiler.key not in self.smallest:
                    self.smallest[tiler.key] = tiler.smallest().room
                room = self.smallest[tiler.key]
                found.append(Item(f"{SCRATCH}{d.name}", room, d.step, d.step, self.config.columns))
        return found

    def _staged(self, d: Described) -> Staged:
        layer = d.layer
        b = layer.b in self.kept if isinstance(layer, Matmul) else d.name in self.streamed
        return Staged(layer.a in self.kept, b, d.writes in self.kept)

    def _arranged(self, items: list[Item], packing: Packing, resident: set[str]) -> Arrangement:
        offsets = packing.offsets
        cleared = {
            i.name
            for i in items
            if i.name in self.layouts
            and any(self.layouts[i.name].border)
            and overlaps(i, items, offsets)
        }
        staged = {d.name: self._staged(d) for d in self.described.values()}
        scratch = {}
        for d in self.described.values():
            if staged[d.name]:
                at, size = scratch[d.name] = self._room(d, items, offsets)
                cleared |= {
                    i.name
                    for i in items
                    if i.name in self.layouts
                    and any(self.layouts[i.name].border)
                    and offsets[i.name] < at + size
                    and at < offsets[i.name] + i.size
                }
        entries, fixed = _entries(self.described, self.config)
        return Arrangement(
            self.layouts,
            offsets,
            frozenset(name.removeprefix("weights.") for name in resident),
            frozenset(cleared),
            entries,
            fixed,
            staged,
            scratch,
        )

    def give_up(self, failed: Item) -> None:
        """Give the largest of what lives beside an item, or the item, back to the host."""
        beside: list[tuple[int, str]] = []
        for name, (first, last) in self.lives.items():
            if name not in self.kept and first <= failed.last and failed.first <= last:
                beside.append((self.layouts[name].words, name))
        for d in self.described.values():
            lives = failed.first <= d.step <= failed.last
            if lives and d.weights is not None and d.name not in self.streamed:
                beside.append((d.weight_words, f"weights.{d.name}"))
        if not beside:
            name = failed.name.removeprefix(SCRATCH)
            raise ValueError(
                f"tile memory must hold {failed.size} words for the smallest piece of {name}, "
                f"not {self.config.memory_words}"
            )
        _, name = max(beside)
        if name.startswith("weights.") and name not in self.layouts:
            self.streamed.add(name.removeprefix("weights."))
            return
        self.kept.add(name)
        changed = True
        while changed:  # both operands of an addition are staged, or none
            changed = False
            for layer in self.plan.layers.values():
                if isinstance(layer, Add) and len({layer.a, layer.b} & self.kept) == 1:
                    self.kept |= {layer.a, layer.b}
                    changed = layer.a != layer.b


def _resident(item: Item, end: int) -> Item:
    return Item(item.name, item.size, 0, end, item.align)


def _with_weights(
    items: list[Item],
    weights: list[Item],
    config: MachineConfig,
    end: int,
    apart: Sequence[Outside],
    whole_only: bool,
    spare: bool,
) -> tuple[Packing, set[str]]:
    """Tensors and weights, of which as many words as possible stay: all of them, or what fits.

    With ``spare`` half of what is left over is left to the pieces of layers that are cut.
    """
    words = config.memory_words
    everything = [*items, *(_resident(w, end) for w in weights)]
    if whole_only or overload(everything, words) is None:
        packing = pack(everything, words, 0, apart)
        if packing.failed is None or whole_only:
            return packing, {w.name for w in weights}
    packing = pack([*items, *weights], words, 0, apart)
    if packing.failed is not None:
        return packing, set()
    room = (words - packing.height) // (2 if spare else 1)
    sizes = {w.name: -(-w.size // config.columns) * config.columns for w in weights}
    chosen = choose(sizes, room)
    offsets, start = {}, 0
    for name in chosen:
        offsets[name] = start
        start += sizes[name]
    rest = pack([*items, *(w for w in weights if w.name not in offsets)], words, start, apart)
    if rest.failed is not None:
        return packing, set()
    return Packing({**rest.offsets, **offsets}, rest.height), set(chosen)


def _entries(
    described: Mapping[str, Described], config: MachineConfig
) -> tuple[dict[str, int], frozenset[str]]:
    """Parameter entries: the layers with the fewest keep theirs, the others share what is left."""
    sizes = {d.name: d.entries for d in described.values() if d.entries}
    order = sorted(sizes, key=lambda name: sizes[name])
    room, used = config.parameters, 0
    entries: dict[str, int] = {}
    fixed = set()
    largest = min(sizes[order[-1]], room) if order else 0
    for index, name in enumerate(order):
        others = largest if index < len(order) - 1 else 0
        if used + sizes[name] + others > room:
            entries |= dict.fromkeys(order[index:], used)
            break
        entries[name] = used
        fixed.add(name)
        used += sizes[name]
    return entries, frozenset(fixed)
