"""What a network costs on a machine, without running it: cycles per layer, why, and the bound.

Every cycle of a layer is accounted for: its places for products (one per cell and cycle) are the
products that the operation needs, or lost to one of the causes of :class:`Loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod

from sw.compiler.layers import Add, Convolution, Layer, Plan
from sw.compiler.program_cost import ProgramCost, ProgramTimer
from sw.compiler.schedule import Command, Run, Schedule, WriteWords
from sw.compiler.traffic import (
    Traffic,
    command_traffic,
    operand_words,
    owner,
    program_traffic,
    stream_traffic,
    traced,
)
from sw.config import MachineConfig

#: Within this share of its bound a layer needs no explanation.
_NEAR = 0.02


class Kind(StrEnum):
    """What a layer computes."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    GROUPED = "grouped convolution"
    DEPTHWISE = "depthwise convolution"
    MATMUL = "matmul"
    ADD = "addition"


class Loss(StrEnum):
    """Why a place for a product stays empty, or a cycle passes without a slice."""

    REDUNDANT = "products with zeros that the layout needs"
    IDLE_ROWS = "ragged tiles of rows"
    IDLE_COLUMNS = "ragged tiles of columns"
    FILL = "first fill of each GEMM"
    WAITING = "operands that come late: runs shorter than lanes"
    SHORT_SUMS = "sums shorter than the array has rows"
    RESULTS = "no room on the result stream"
    DRAIN = "last drain of each GEMM"
    CONTROL = "instructions"
    HOST = "transfers over the host link"


class Bound(StrEnum):
    """What no schedule can be faster than."""

    COMPUTE = "compute"
    A = "operand A"
    B = "operand B"
    OUTPUT = "results"
    HOST = "host link"


@dataclass(frozen=True, slots=True)
class Link:
    """How fast the machine runs and the host talks to it.

    Parameters
    ----------
    clock_hz : float
    bytes_per_s : float or None
        Both ways together; None: transfers take no time.
    """

    clock_hz: float = 50e6
    bytes_per_s: float | None = None

    def cycles(self, traffic: Traffic) -> int:
        """Cycles that traffic takes, rounded up."""
        if self.bytes_per_s is None:
            return 0
        return -int(-traffic.bytes * self.clock_hz // self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """A layer on one machine.

    Parameters
    ----------
    name : str
    kind : Kind
    macs : int
        Multiplications that the operation needs.
    cells : int
        Of the array.
    program : ProgramCost
        Its sections: counters of the machine, and more.
    traffic : Traffic
        Over the host link, per inference.
    bounds : dict of Bound to int
        Cycles.
    host_cycles : int
        That the traffic takes; nothing else happens meanwhile.
    """

    name: str
    kind: Kind
    macs: int
    cells: int
    program: ProgramCost
    traffic: Traffic
    bounds: dict[Bound, int]
    host_cycles: int = 0

    @property
    def cycles(self) -> int:
        """Counter CYCLES of its sections."""
        return self.program.cycles

    @property
    def time(self) -> int:
        """Cycles with transfers."""
        return self.cycles + self.host_cycles

    @property
    def utilisation(self) -> float:
        """Needed multiplications in the places for products in CYCLES."""
        return self.macs / max(1, self.cells * self.cycles)

    @property
    def issued(self) -> float:
        """Share of these places that the counter MACS fills."""
        return self.program.macs / max(1, self.cells * self.cycles)

    @property
    def needed(self) -> float:
        """Needed multiplications but for those that were skipped."""
        return self.macs * self.program.macs / max(1, self.program.possible_macs)

    @property
    def bound(self) -> Bound:
        """What bounds the layer."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def bound_cycles(self) -> int:
        """The least time of any schedule."""
        return self.bounds[self.bound]

    @property
    def distance(self) -> float:
        """How far the time is above the bound, as a share of the bound."""
        return self.time / max(1, self.bound_cycles) - 1

    def losses(self) -> dict[Loss, float]:
        """Cycles lost to each cause; with ``needed / cells`` they add to the time."""
        program = self.program
        return {
            Loss.REDUNDANT: (program.macs - self.needed) / self.cells,
            Loss.IDLE_ROWS: program.idle_rows / self.cells,
            Loss.IDLE_COLUMNS: program.idle_columns / self.cells,
            Loss.FILL: program.fill,
            Loss.WAITING: program.stall_a + program.stall_b - program.fill,
            Loss.SHORT_SUMS: program.stall_drain,
            Loss.RESULTS: program.stall_results,
            Loss.DRAIN: program.drain,
            Loss.CONTROL: self.cycles - program.timed_cycles,
            Loss.HOST: self.host_cycles,
        }

    def excess(self) -> dict[Loss, float]:
        """The losses but for what the bound itself takes, largest first; they add to the rest."""
        left = self.losses()
        inherent = self.bound_cycles - self.needed / self.cells
        first = (Loss.HOST,) if self.bound == Bound.HOST else ()
        for loss in (*first, Loss.IDLE_ROWS, Loss.IDLE_COLUMNS, Loss.REDUNDANT, *Loss):
            taken = min(left[loss], max(0.0, inherent))
            left[loss] -= taken
            inherent -= taken
        return dict(sorted(left.items(), key=lambda item: -item[1]))

    def reason(self) -> str:
        """Why it is not at its bound, in words: the largest causes and their shares of the time."""
        if self.distance <= _NEAR:
            return "at its bound"
        found = [(loss, share / self.time) for loss, share in self.excess().items()]
        named = [f"{self._phrase(loss)} {share:.0%}" for loss, share in found[:3] if share >= _NEAR]
        return ", ".join(named) or "many small causes"

    def _phrase(self, loss: Loss) -> str:
        if loss == Loss.REDUNDANT:
            return _REDUNDANT.get(self.kind, loss.value)
        return loss.value


_REDUNDANT = {
    Kind.DEPTHWISE: "depthwise: products of a channel with the others' zeros",
    Kind.GROUPED: "groups: products with the other groups' zeros",
    Kind.ADD: "addition: products with the identity",
}


def cost(plan: Plan, schedule: Schedule, link: Link | None = None) -> list[LayerCost]:
    """The cost of each layer in one inference, in the order of the plan.

    Parameters
    ----------
    plan : Plan
    schedule : Schedule
        Of that plan.
    link : Link, optional
        Without one transfers take no time.

    Raises
    ------
    ValueError
        If a program faults: the schedule is not of this plan.
    """
    link = link or Link()
    programs = dict.fromkeys(plan.layers, ProgramCost())
    traffic = dict.fromkeys(plan.layers, Traffic())
    timer = ProgramTimer(schedule.config)
    for command in schedule.setup:
        _write(timer, command, schedule)
    for doing, command in traced(plan, schedule):
        if isinstance(command, Run):
            _run(timer, command, programs, traffic)
            continue
        _write(timer, command, schedule)
        traffic[owner(command, plan, doing)] += command_traffic(command, schedule.config)
    return [
        _layer(layer, plan, programs[name], traffic[name], link)
        for name, layer in plan.layers.items()
    ]


def total(layers: Sequence[LayerCost], name: str = "total") -> LayerCost:
    """Layers as one: what they take together, bounds added layer by layer."""
    bounds = dict.fromkeys(Bound, 0)
    for layer in layers:
        bounds[layer.bound] += layer.bound_cycles
    return LayerCost(
        name,
        layers[0].kind if layers else Kind.LINEAR,
        sum(layer.macs for layer in layers),
        layers[0].cells if layers else 1,
        sum((layer.program for layer in layers), ProgramCost()),
        sum((layer.traffic for layer in layers), Traffic()),
        bounds,
        sum(layer.host_cycles for layer in layers),
    )


def kind_of(layer: Layer) -> Kind:
    """What a layer computes."""
    if isinstance(layer, Add):
        return Kind.ADD
    if not isinstance(layer, Convolution):
        return Kind.MATMUL
    groups, height, width, inputs, _ = layer.weights.words.shape
    if groups > 1:
        return Kind.DEPTHWISE if inputs == 1 else Kind.GROUPED
    return Kind.LINEAR if height == width == 1 else Kind.CONVOLUTION


def output_shape(layer: Layer, plan: Plan) -> tuple[int, int, int, int]:
    """``[n, h, w, c]`` of a layer's result."""
    n, h, w, c = plan.tensors[layer.a].shape
    if isinstance(layer, Add):
        return n, h, w, c
    if not isinstance(layer, Convolution):
        b = plan.tensors[layer.b].shape
        return n, h, w, b[2] if layer.transposed else b[3]
    groups, height, width, _, outputs = layer.weights.words.shape
    top, bottom, left, right = layer.padding
    taps_y, taps_x = layer.dilation[0] * (height - 1), layer.dilation[1] * (width - 1)
    h = (h + top + bottom - taps_y - 1) // layer.stride[0] + 1
    w = (w + left + right - taps_x - 1) // layer.stride[1] + 1
    return n, h, w, groups * outputs


def layer_macs(layer: Layer, plan: Plan) -> int:
    """Multiplications that a layer's operation needs; an addition none."""
    if isinstance(layer, Add):
        return 0
    results = prod(output_shape(layer, plan))
    if isinstance(layer, Convolution):
        return results * prod(layer.weights.words.shape[1:4])
    return results * plan.tensors[layer.a].shape[3]


def _run(
    timer: ProgramTimer,
    run: Run,
    programs: dict[str, ProgramCost],
    traffic: dict[str, Traffic],
) -> None:
    ends = [section.end for section in run.sections]
    starts = [0, *ends[:-1]]
    for section, start, end, found in zip(
        run.sections, starts, [*ends[:-1], len(run.words)], timer.run(run.words, ends), strict=True
    ):
        programs[section.layer] += found
        sent = found.sent_rows, found.sent_lanes, found.exact_lanes
        traffic[section.layer] += program_traffic(end - start)
        traffic[section.layer] += stream_traffic(*sent, timer.config)


def _write(timer: ProgramTimer, command: Command, schedule: Schedule) -> None:
    """Keep the zero flags up with a write; what is no constant is unknown."""
    if not isinstance(command, WriteWords) or not schedule.config.skips:
        return
    constant = schedule.constants.get(command.source)
    words = None if constant is None else constant.reshape(-1)
    if command.source == "zeros":
        timer.flags.host_zeros(command.address, command.rows, command.count, command.stride)
        return
    for row in range(command.rows):
        start = command.start + row * command.pitch
        part = None if words is None else words[start : start + command.count]
        timer.flags.host_write(command.address + row * command.stride, part, command.count)


def _layer(
    layer: Layer, plan: Plan, program: ProgramCost, traffic: Traffic, link: Link
) -> LayerCost:
    config = plan.config
    cells = config.rows * config.columns
    found = LayerCost(
        layer.name,
        kind_of(layer),
        layer_macs(layer, plan),
        cells,
        program,
        traffic,
        {},
        link.cycles(traffic),
    )
    return replace(found, bounds=_bounds(found, layer, plan, config))


def _bounds(found: LayerCost, layer: Layer, plan: Plan, config: MachineConfig) -> dict[Bound, int]:
    """One slice enters per cycle, of ``rows`` words of A and ``columns`` of B; one row leaves."""
    words = operand_words(layer, plan)
    kept = found.program.macs / max(1, found.program.possible_macs)
    return {
        Bound.COMPUTE: int(-(-found.needed // found.cells)),
        Bound.A: -(-words["a"] // config.rows),
        Bound.B: int(-(-words["b"] * kept // config.columns)),
        Bound.OUTPUT: -(-prod(output_shape(layer, plan)) // config.columns),
        Bound.HOST: found.host_cycles,
    }
