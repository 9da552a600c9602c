"""What a network costs on a machine, layer by layer, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from sw.compiler.layer_cost import Bound, Kind, LayerCost, Link, total
from sw.compiler.layers import Add, Convolution, Layer, Plan
from sw.compiler.program_cost import ProgramTimer, SectionCost
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

__all__ = ["Bound", "Kind", "LayerCost", "Link", "cost", "kind_of", "layer_macs", "total"]


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
    programs = dict.fromkeys(plan.layers, SectionCost())
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


def kind_of(layer: Layer) -> Kind:
    """What a layer computes."""
    if isinstance(layer, Add):
        return Kind.ADD
    if not isinstance(layer, Convolution):
        return Kind.MATMUL
    groups, height, width, inputs, _ = layer.weights.words.shape
    first = layer.weights.words.reshape(-1)[:1]
    if groups > 1 and inputs == 1 and bool((layer.weights.words == first).all()):
        return Kind.AVERAGE
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
    programs: dict[str, SectionCost],
    traffic: dict[str, Traffic],
) -> None:
    ends = [section.end for section in run.sections]
    starts = [0, *ends[:-1]]
    for section, start, end, found in zip(
        run.sections, starts, [*ends[:-1], len(run.words)], timer.run(run.words, ends), strict=True
    ):
        programs[section.layer] += found
        total = found.total
        sent = total.sent_rows, total.sent_lanes, total.exact_lanes
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
    layer: Layer, plan: Plan, section: SectionCost, traffic: Traffic, link: Link
) -> LayerCost:
    config = plan.config
    cells = config.rows * config.columns
    found = LayerCost(
        layer.name,
        kind_of(layer),
        layer_macs(layer, plan),
        cells,
        sum(_operands(layer, plan).values()) + prod(output_shape(layer, plan)),
        section,
        traffic,
        {},
        link.cycles(traffic),
    )
    return replace(found, bounds=_bounds(found, layer, plan, config))


def _bounds(found: LayerCost, layer: Layer, plan: Plan, config: MachineConfig) -> dict[Bound, int]:
    """One slice enters per cycle, of ``rows`` words of A and ``columns`` of B; one row leaves."""
    words = _operands(layer, plan)
    kept = found.section.work.macs / max(1, found.section.work.possible_macs)
    return {
        Bound.COMPUTE: int(-(-found.needed // found.cells)),
        Bound.A: -(-words["a"] // config.rows),
        Bound.B: int(-(-words["b"] * kept // config.columns)),
        Bound.OUTPUT: -(-prod(output_shape(layer, plan)) // config.columns),
        Bound.HOST: found.host_cycles,
    }


def _operands(layer: Layer, plan: Plan) -> Mapping[str, int]:
    """Distinct words of A and B; an average needs one word of B."""
    words = operand_words(layer, plan)
    return {**words, "b": 1} if kind_of(layer) == Kind.AVERAGE else words
