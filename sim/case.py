"""A unit under test: how to build it, what to feed it and what it must answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from amaranth.lib import wiring

from sim.lanes import layout_of
from sim.layout import Layout
from sim.plan import STALLS, Plan, StreamLane, VectorLane
from sim.stimulus import Operand, vectors

DEFAULT_SEED: Final = 20261122
#: Chance per cycle of a reset in the middle of a clocked unit's run.
RESET_CHANCE: Final = 0.01

Outputs = Mapping[str, int]
#: Outputs of a combinational unit from its operands.
Function = Callable[..., Outputs]
#: Outputs of a clocked unit, sampled before each edge, from its inputs since reset. None where an
#: output does not count.
Model = Callable[[Iterable[Mapping[str, int]]], Iterator[Mapping[str, int | None]]]


@dataclass(frozen=True)
class Case:
    """One variant of a unit.

    Parameters
    ----------
    unit : str
        Name in the registry.
    parameters : mapping of str to object
        For messages and for choosing.
    build : callable
        A new component.
    operands : tuple of Operand
        Inputs; of a stream, the parts of its payload from bit 0 up.
    function : callable, optional
        Combinational units and streams: takes the operands' values in order.
    model : callable, optional
        Clocked units without streams.
    draw : callable, optional
        Draws operands that only make sense together.
    streams : tuple of str, optional
        Names of the input and of the output stream.
    """

    unit: str
    parameters: Mapping[str, object]
    build: Callable[[], wiring.Component]
    operands: tuple[Operand, ...]
    function: Function | None = None
    model: Model | None = None
    draw: Callable[[Random], tuple[int, ...]] | None = None
    streams: tuple[str, str] | None = None

    @property
    def clocked(self) -> bool:
        """Whether the unit has registers."""
        return self.model is not None or self.streams is not None

    @property
    def operand_bits(self) -> int:
        """Width of all operands together."""
        return sum(operand.width for operand in self.operands)

    def __str__(self) -> str:
        return " ".join([self.unit, *(f"{k}={v}" for k, v in self.parameters.items())])


def plan_of(
    cases: Sequence[Case], limit: int, seed: int = DEFAULT_SEED, *, unset: bool = False
) -> Plan:
    """The plan of a harness with one lane per case.

    Parameters
    ----------
    cases : sequence of Case
        All combinational, all with streams, or all clocked without.
    limit : int
        Vectors, tokens or cycles per case.
    seed : int
    unset : bool
        Whether registers hold anything at power-up: then clocked units without streams are reset
        in the first cycle, whose outputs do not count.
    """
    layouts = []
    for case in cases:
        component = case.build()
        component._Elaboratable__used = True  # silences Amaranth: only the signature is wanted
        layouts.append(layout_of(component))
    pairs = list(zip(cases, layouts, strict=True))
    first = cases[0]
    if first.streams is not None:
        lanes = [
            _stream_lane(case, layout, limit, seed, STALLS[(number + 1) % len(STALLS)])
            for number, (case, layout) in enumerate(pairs)
        ]
        return Plan(tuple(lanes), True, seed)
    if first.model is None:
        return Plan(tuple(_vector_lane(c, layout, limit, seed) for c, layout in pairs), False, seed)
    random = Random(f"{seed} resets")
    resets = [step for step in range(1, limit) if random.random() < RESET_CHANCE]
    resets = [0] * unset + resets
    lanes = [_clocked_lane(c, layout, limit, seed, resets) for c, layout in pairs]
    return Plan(tuple(lanes), True, seed, resets)


def _vector_lane(case: Case, layout: Layout, limit: int, seed: int) -> VectorLane:
    names = [operand.name for operand in case.operands]
    inputs, expected = [], []
    for values in vectors(case.operands, limit, f"{seed} {case}", case.draw):
        inputs.append(layout.pack_inputs(dict(zip(names, values, strict=True))))
        expected.append(_pack_all(layout, case.function(*values)))
    return VectorLane(str(case), layout, inputs, expected)


def _clocked_lane(
    case: Case, layout: Layout, limit: int, seed: int, resets: Sequence[int]
) -> VectorLane:
    """Cycles of random inputs; reset takes effect at the edge that ends its cycle."""
    random = Random(f"{seed} {case}")
    names = [operand.name for operand in case.operands]
    inputs, expected, mask = [], [], []
    starts = [0, *(step + 1 for step in resets), limit]
    for start, end in itertools.pairwise(starts):
        cycles = []
        for _ in range(end - start):
            values = (
                case.draw(random)
                if case.draw
                else tuple(operand.draw(random) for operand in case.operands)
            )
            cycles.append(dict(zip(names, values, strict=True)))
        inputs += [layout.pack_inputs(cycle) for cycle in cycles]
        for outputs in case.model(cycles):
            known = {name: value for name, value in outputs.items() if value is not None}
            expected.append(_pack_all(layout, {**dict.fromkeys(outputs, 0), **known}))
            counts = len(mask) > 0 or 0 not in resets  # what power-up left is reset first
            mask.append(layout.pack_outputs({name: -1 for name in known}) if counts else 0)
    return VectorLane(str(case), layout, inputs, expected, mask)


def _stream_lane(
    case: Case, layout: Layout, limit: int, seed: int, stall: tuple[int, int]
) -> StreamLane:
    source, sink = case.streams
    sent, expected = [], []
    for values in vectors(case.operands, limit, f"{seed} {case}", case.draw):
        token = offset = 0
        for operand, value in zip(case.operands, values, strict=True):
            token |= value << offset
            offset += operand.width
        sent.append(token)
        (result,) = case.function(*values).values()
        expected.append(result)
    return StreamLane(str(case), layout, {source: sent}, {sink: expected}, stall)


def _pack_all(layout: Layout, outputs: Outputs) -> int:
    """Every output must be given: one that is not compared proves nothing."""
    missing = {field.name for field in layout.outputs} ^ set(outputs)
    if missing:
        raise ValueError(f"outputs must be the unit's, not differ in {', '.join(sorted(missing))}")
    return layout.pack_outputs(outputs)
