"""What lies where in tile memory and parameter memory, and what the host keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sw.compiler.layers import Add, Download, LayerStep, Matmul, Plan, Upload
from sw.compiler.layout import Border, Layout
from sw.compiler.memory import Item, Packing, choose, overlaps, pack
from sw.compiler.operands import Described
from sw.config import MachineConfig

#: The item of a slice of zeros, which borders are cleared from.
ZEROS = "zeros"


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
    """

    layouts: Mapping[str, Layout]
    addresses: Mapping[str, int]
    resident: frozenset[str]
    cleared: frozenset[str]
    entries: Mapping[str, int]
    fixed: frozenset[str]
    scratch: Mapping[str, tuple[int, int]] = field(default_factory=dict)


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

    Raises
    ------
    ValueError
        If there is none.
    """
    config, laid = plan.config, layouts(plan)
    lives, behind = lifetimes(plan, described), slack(plan, described)
    end = max(len(plan.steps) - 1, 0)
    weights = [
        Item(f"weights.{d.name}", d.weight_words, d.step, d.step, config.columns)
        for d in described.values()
        if d.weights is not None
    ]
    for kept in (True, False):
        tensors = [
            Item(name, laid[name].words + behind[name], *life)
            if not any(laid[name].border) or not kept
            else Item(name, laid[name].words + behind[name], 0, end)
            for name, life in lives.items()
        ]
        items = tensors + ([] if kept else [Item(ZEROS, config.columns, 0, end)])
        packing, resident = _with_weights(items, weights, config, end)
        if packing.failed is None:
            break
    else:
        raise ValueError(_no_room(packing, described, config))
    final = [*items, *(_resident(w, end) if w.name in resident else w for w in weights)]
    cleared = {i.name for i in items if i.name in laid and any(laid[i.name].border)}
    cleared = {i.name for i in items if i.name in cleared and overlaps(i, final, packing.offsets)}
    entries, fixed = _entries(described, config)
    return Arrangement(
        laid,
        packing.offsets,
        frozenset(name.removeprefix("weights.") for name in resident),
        frozenset(cleared),
        entries,
        fixed,
    )


def _resident(item: Item, end: int) -> Item:
    return Item(item.name, item.size, 0, end, item.align)


def _with_weights(
    items: list[Item], weights: list[Item], config: MachineConfig, end: int
) -> tuple[Packing, set[str]]:
    """Tensors and weights, of which as many words as possible stay."""
    words = config.memory_words
    packing = pack([*items, *(_resident(w, end) for w in weights)], words)
    if packing.failed is None:
        return packing, {w.name for w in weights}
    packing = pack([*items, *weights], words)
    if packing.failed is not None:
        return packing, set()
    room = words - packing.height - config.columns
    chosen = set(choose({w.name: w.size for w in weights}, room))
    start = 0
    offsets = {}
    for item in weights:
        if item.name in chosen:
            offsets[item.name] = start
            start += -(-item.size // config.columns) * config.columns
    rest = pack([*items, *(w for w in weights if w.name not in chosen)], words, start)
    if rest.failed is not None:  # alignment cost a few words
        return packing, set()
    return Packing({**rest.offsets, **offsets}, rest.height), chosen


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


def _no_room(packing: Packing, described: Mapping[str, Described], config: MachineConfig) -> str:
    assert packing.failed is not None
    return (
        f"tile memory must have room for {packing.failed.size} words of {packing.failed.name}, "
        f"not {config.memory_words} words"
    )
