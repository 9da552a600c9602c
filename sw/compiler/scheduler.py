"""From a plan to commands: what is written where, which programs run, and what is read back.

Within a GEMM the feeders load operands while the array computes. The host cannot do the same: its
port takes requests between programs only (``docs/isa.md``), so that what the host writes costs time
of its own. Programs are therefore as long as possible, and what they need stays in memory if there
is room.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from sw.compiler.arrangement import ZEROS, Arrangement, arrange
from sw.compiler.layers import (
    Add,
    Convolution,
    Download,
    LayerStep,
    Matmul,
    Plan,
    Upload,
)
from sw.compiler.layout import gap_spans, spans
from sw.compiler.lowering import (
    Finish,
    Piece,
    add,
    average,
    convolution,
    matmul,
    panel_place,
    zeroing,
)
from sw.compiler.nest import Nest, lower
from sw.compiler.operands import Described, add_lanes, describe
from sw.compiler.program import ProgramBuilder
from sw.compiler.quantize import add_shifts
from sw.compiler.schedule import (
    Command,
    Drain,
    Place,
    ReadWords,
    Schedule,
    WriteColumns,
    WriteWords,
)
from sw.compiler.staging import Context, steps
from sw.compiler.tiling import Cut, Tiler


def schedule(plan: Plan) -> Schedule:
    """The commands of a plan.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    Schedule
        The same for the same plan.

    Raises
    ------
    ValueError
        If shapes do not fit each other, or a layer cannot be cut so that the machine can hold it.
    """
    described = {
        step.layer: describe(plan.layers[step.layer], index, plan)
        for index, step in enumerate(plan.steps)
        if isinstance(step, LayerStep)
    }
    arrangement = arrange(plan, described)
    averages = [d.name for d in described.values() if d.average and arrangement.staged[d.name]]
    if averages:  # pieces of them are those of any other depthwise convolution
        for name in averages:
            old = described[name]
            described[name] = describe(old.layer, old.step, plan, whole=False)
        arrangement = arrange(plan, described)
    return _Emitter(plan, described, arrangement).schedule()


@dataclass
class _Emitter:
    """Walks over the steps of a plan, with one program open at a time."""

    plan: Plan
    described: Mapping[str, Described]
    arrangement: Arrangement
    steps: list[list[Command]] = field(init=False)
    places: dict[str, Place] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.plan.config
        self.steps = [[] for _ in self.plan.steps]
        self._program = ProgramBuilder(self.config)
        self._cuts: dict[object, Cut] = {}
        self._began = 0  # the step whose commands get the program that is open

    def schedule(self) -> Schedule:
        """Everything."""
        setup = self._setup()
        for index, step in enumerate(self.plan.steps):
            match step:
                case LayerStep():
                    self._layer(index, self.described[step.layer])
                case Upload():
                    self._close()
                    self.steps[index] += self._upload(step.tensor)
                case Download():
                    self._close()
                    self.steps[index] += self._read(step.tensor)
                case _:
                    self._close()
        self._close()
        constants: dict[str, NDArray[Any]] = {}
        for name, layer in self.described.items():
            if layer.weights is not None:
                constants[f"weights.{name}"] = layer.weights
            if layer.parameters is not None:
                constants[f"parameters.{name}"] = layer.parameters
        steps = tuple(tuple(commands) for commands in self.steps)
        return Schedule(self.config, setup, steps, self.places, constants)

    # Programs and the host's part

    def _close(self) -> None:
        if len(self._program):
            self.steps[self._began].append(self._program.run())
            self._program = ProgramBuilder(self.config)

    def _host(self, index: int, command: Command) -> None:
        """A command that waits for the program before it."""
        self._close()
        self.steps[index].append(command)

    def _section(self, index: int, layer: str, nests: list[Nest]) -> None:
        if not len(self._program):
            self._began = index
        operations = [o for nest in nests for o in lower(nest, self.config)]
        self._program.section(layer, operations)

    def _setup(self) -> tuple[Command, ...]:
        found: list[Command] = []
        arranged = self.arrangement
        if ZEROS in arranged.addresses:
            lanes = self.config.columns
            found.append(WriteWords("zeros", arranged.addresses[ZEROS], 1, lanes, lanes, 0, 0))
        for name, layout in arranged.layouts.items():
            if name in arranged.addresses and name not in arranged.cleared:
                found += self._clear(name)
            if name in arranged.addresses:
                self.places[name] = layout.place(arranged.addresses[name])
        for name, layer in self.described.items():
            if name in arranged.resident:
                found.append(self._weights(layer))
            if name in arranged.fixed:
                found.append(self._parameters(layer))
        return tuple(found)

    def _clear(self, tensor: str) -> list[Command]:
        """Zeros for the border of a tensor."""
        layout, at = self.arrangement.layouts[tensor], self.arrangement.addresses[tensor]
        return [
            WriteWords("zeros", s.address, s.rows, s.count, s.stride, s.start, s.pitch)
            for s in gap_spans(layout, at)
        ]

    def _upload(self, tensor: str) -> list[Command]:
        if tensor not in self.places:
            return []
        found = self._clear(tensor) if tensor in self.arrangement.cleared else []
        shape = self.plan.tensors[tensor].shape
        return found + [
            WriteWords(tensor, s.address, s.rows, s.count, s.stride, s.start, s.pitch)
            for s in spans(self.places[tensor], shape)
        ]

    def _read(self, tensor: str) -> list[Command]:
        if tensor not in self.places:
            return []
        shape = self.plan.tensors[tensor].shape
        return [
            ReadWords(tensor, s.address, s.rows, s.count, s.stride, s.start, s.pitch)
            for s in spans(self.places[tensor], shape)
        ]

    def _weights(self, layer: Described) -> Command:
        name, count = f"weights.{layer.name}", layer.weight_words
        return WriteWords(name, self.arrangement.addresses[name], 1, count, count, 0, count)

    def _parameters(self, layer: Described) -> Command:
        entry = self.arrangement.entries[layer.name]
        return WriteColumns(f"parameters.{layer.name}", 0, entry, layer.entries)

    # Layers

    def _layer(self, index: int, layer: Described) -> None:
        arranged, name = self.arrangement, layer.name
        streamed = f"weights.{name}" not in arranged.addresses
        if layer.weights is not None and not streamed and name not in arranged.resident:
            self._host(index, self._weights(layer))
        loads_entries = layer.entries > self.config.parameters
        if layer.entries and name not in arranged.fixed and not loads_entries:
            self._host(index, self._parameters(layer))
        if arranged.staged[name] or loads_entries or layer.too_long(self.config):
            self._pieces(index, layer, loads_entries)
        else:
            self._section(index, name, self._borders(layer) + self._nests(layer))

    def _pieces(self, index: int, layer: Described, loads_entries: bool) -> None:
        """A layer that is cut."""
        arranged, name = self.arrangement, layer.name
        tiler = Tiler(layer, arranged.staged[name], self.config)
        offset, room = arranged.scratch.get(name, (0, 0))
        key = tiler.key, room
        if key not in self._cuts:
            self._cuts[key] = tiler.best(room)
        cut = self._cuts[key]
        context = Context(
            self.plan,
            layer,
            tiler.staged,
            cut,
            offset,
            self.places,
            arranged.addresses.get(f"weights.{name}"),
            arranged.entries.get(name),
            loads_entries,
        )
        borders = [] if cut.exact else self._borders(layer)
        for step in steps(context, tiler.pieces(cut)):
            for command in step.before:
                self._host(index, command)
            self._section(index, name, borders + step.nests)
            borders = []
            for command in step.after:
                self._host(index, command)
        if cut.exact and layer.writes:
            self._host(index, Drain(name))
            for command in self._upload(layer.writes):
                self._host(index, command)

    def _borders(self, layer: Described) -> list[Nest]:
        if layer.writes not in self.arrangement.cleared:
            return []
        layout = self.arrangement.layouts[layer.writes]
        at, zeros = self.arrangement.addresses[layer.writes], self.arrangement.addresses[ZEROS]
        return list(zeroing(layer.name, layout, at, zeros))

    def _finish(self, layer: Described) -> Finish:
        skip = layer.zero_slices > 0 and self.config.skips and not layer.average
        return Finish(
            self.places[layer.writes] if layer.writes else None,
            layer.output,
            layer.function,
            layer.clamp,
            self.arrangement.entries.get(layer.name),
            skip,
        )

    def _nests(self, described: Described) -> list[Nest]:
        layer, finish = described.layer, self._finish(described)
        n, h, w, c = described.output
        lanes = self.config.columns
        match layer:
            case Convolution():
                return self._convolution(layer, described, finish)
            case Matmul():
                terms = range(described.terms)
                piece = Piece(
                    range(n), range(h), range(w), range(1), range(c), range(1), range(1), terms
                )
                a, b = self.places[layer.a], self.places[layer.b]
                return matmul(layer, lanes, piece, a, b, finish)
            case Add():
                *shifts, _ = add_shifts(layer, self.plan.tensors, self.config)
                places = self.places[layer.a], self.places[layer.b]
                box = (range(n), range(h), range(w), range(c))
                return add(
                    layer, add_lanes(self.config), box, places, (shifts[0], shifts[1]), finish
                )

    def _convolution(self, layer: Convolution, described: Described, finish: Finish) -> list[Nest]:
        panels, lanes = described.panels, self.config.columns
        assert panels is not None
        a = self.places[layer.a]
        base = self.arrangement.addresses[f"weights.{layer.name}"]
        if described.average:
            shape = self.plan.tensors[layer.a].shape
            return average(layer, lanes, a, shape, base, finish)
        n, h, w, _ = described.output
        kh, kw = panels.kernel
        sizes = [len(block) for block in panels.blocks]
        found = []
        full = sizes.count(sizes[0])
        for blocks in (range(full), range(full, len(sizes))):
            if not blocks:
                continue
            size = sizes[blocks.start]
            piece = Piece(
                range(n),
                range(h),
                range(w),
                blocks,
                range(size * panels.outputs),
                range(kh),
                range(kw),
                range(size * panels.inputs),
            )
            place = panel_place(panels, base, blocks.start)
            found += convolution(layer, panels, piece, a, place, finish)
        return found
