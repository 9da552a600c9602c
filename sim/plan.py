"""What a simulation drives and what it must see: computed before it runs, carried in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from sim.layout import Field, Layout

#: Chance in percent that a source offers, and that a sink takes, a word in a cycle; one per lane.
STALLS = ((100, 100), (60, 60), (100, 30), (30, 100), (85, 90))


@dataclass(frozen=True, slots=True)
class VectorLane:
    """One unit's steps: what its inputs are and what its outputs must be, step by step.

    Parameters
    ----------
    label : str
        Unit and parameters, for messages.
    layout : Layout
    inputs, expected : sequence of int
        One packed lane per step. A clocked unit is sampled before the edge that ends the step.
    mask : sequence of int, optional
        Which output bits count, per step; all of them if omitted.
    """

    label: str
    layout: Layout
    inputs: Sequence[int]
    expected: Sequence[int]
    mask: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class StreamLane:
    """One unit's tokens on every stream.

    Parameters
    ----------
    label : str
    layout : Layout
        Each stream's payload, valid and ready are fields ``NAME_payload`` and so on.
    sent, expected : mapping of str to sequence of int
        Payloads per input stream and per output stream, in order.
    stall : tuple of int
        Percentages like the entries of :data:`STALLS`.
    """

    label: str
    layout: Layout
    sent: Mapping[str, Sequence[int]]
    expected: Mapping[str, Sequence[int]]
    stall: tuple[int, int] = STALLS[0]


@dataclass(frozen=True)
class Plan:
    """Everything that one run of a harness needs.

    Parameters
    ----------
    lanes : tuple of VectorLane, or tuple of StreamLane
    clocked : bool
        Whether the harness has ``clk`` and ``rst``.
    seed : int
        Of the stimulus; printed with every mismatch, and it drives the stalls.
    resets : sequence of int
        Steps of vector lanes in which reset is high.
    """

    lanes: tuple[VectorLane, ...] | tuple[StreamLane, ...]
    clocked: bool
    seed: int
    resets: Sequence[int] = ()

    @property
    def streams(self) -> bool:
        """Whether the lanes are of streams."""
        return isinstance(self.lanes[0], StreamLane)

    def with_layouts(self, layouts: Sequence[Layout]) -> Plan:
        """The plan if its lanes have these layouts, else ValueError: a port was renamed."""
        for lane, layout in zip(self.lanes, layouts, strict=True):
            if lane.layout != layout:
                raise ValueError(f"layout of {lane.label} must be {lane.layout}, not {layout}")
        return self

    def repeat(self, count: int) -> Plan:
        """The only lane ``count`` times, numbered."""
        (lane,) = self.lanes
        lanes = tuple(replace(lane, label=f"{lane.label} copy={n}") for n in range(count))
        return replace(self, lanes=lanes)


def save(plan: Plan, path: Path) -> None:
    """Write a plan as one npz file without pickled objects."""
    arrays: dict[str, np.ndarray] = {}
    lanes = []
    for number, lane in enumerate(plan.lanes):
        meta = {"label": lane.label, "layout": asdict(lane.layout)}
        if isinstance(lane, StreamLane):
            meta["stall"] = lane.stall
            for side in ("sent", "expected"):
                tokens = getattr(lane, side)
                meta[side] = list(tokens)
                for name, values in tokens.items():
                    arrays[f"{side}.{number}.{name}"] = np.array(values, dtype=np.uint64)
        else:
            size = lane.layout.output_bytes
            arrays[f"inputs.{number}"] = _to_bytes(lane.inputs, lane.layout.input_bytes)
            arrays[f"expected.{number}"] = _to_bytes(lane.expected, size)
            if lane.mask is not None:
                arrays[f"mask.{number}"] = _to_bytes(lane.mask, size)
        lanes.append(meta)
    header = {"clocked": plan.clocked, "seed": plan.seed, "resets": list(plan.resets)}
    header["streams"] = plan.streams
    header["lanes"] = lanes
    np.savez(path, header=np.array(json.dumps(header)), **arrays)


def load(path: Path) -> Plan:
    """Read what :func:`save` wrote."""
    with np.load(path) as arrays:
        header = json.loads(str(arrays["header"]))
        lanes = []
        for number, meta in enumerate(header["lanes"]):
            layout = Layout(
                *(tuple(Field(**f) for f in meta["layout"][side]) for side in ("inputs", "outputs"))
            )
            if header["streams"]:
                tokens = [
                    {name: arrays[f"{side}.{number}.{name}"].tolist() for name in meta[side]}
                    for side in ("sent", "expected")
                ]
                lanes.append(StreamLane(meta["label"], layout, *tokens, tuple(meta["stall"])))
                continue
            sides = [
                _from_bytes(arrays[f"{side}.{number}"]) if f"{side}.{number}" in arrays else None
                for side in ("inputs", "expected", "mask")
            ]
            lanes.append(VectorLane(meta["label"], layout, *sides))
    return Plan(tuple(lanes), header["clocked"], header["seed"], header["resets"])


@dataclass(frozen=True)
class Rows:
    """A vector plan as one integer per step for each bus.

    Parameters
    ----------
    inputs, expected, mask : list of int
    """

    inputs: list[int]
    expected: list[int]
    mask: list[int]


def rows_of(plan: Plan) -> Rows:
    """Join the lanes step by step.

    A lane with fewer steps than the longest keeps its last inputs; its later steps do not count.
    """
    steps = max(len(lane.inputs) for lane in plan.lanes)
    columns: tuple[list, list, list] = ([], [], [])
    for lane in plan.lanes:
        count = len(lane.inputs)
        size = lane.layout.output_bytes
        used = (1 << sum(field.width for field in lane.layout.outputs)) - 1
        mask = _to_bytes(lane.mask or [used] * count, size)
        pieces = (
            _to_bytes(lane.inputs, lane.layout.input_bytes),
            _to_bytes(lane.expected, size),
            mask,
        )
        for column, piece in zip(columns, pieces, strict=True):
            last = np.zeros_like(piece[-1:]) if piece is mask else piece[-1:]
            column.append(np.vstack([piece, np.repeat(last, steps - count, axis=0)]))
    return Rows(*(_from_bytes(np.hstack(column)) for column in columns))


def _to_bytes(values: Sequence[int], size: int) -> np.ndarray:
    joined = b"".join(value.to_bytes(size, "little") for value in values)
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(values), size)


def _from_bytes(rows: np.ndarray) -> list[int]:
    return [int.from_bytes(row, "little") for row in map(bytes, np.ascontiguousarray(rows))]
