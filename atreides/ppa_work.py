"""What a unit is given while its power is measured, and what must come out of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from atreides.ppa_layer import (
    CHANNELS,
    TERMS,
    Layer,
    format_words,
    operands,
    real_layer,
)
from hw.power import Activity
from hw.ppa import MACHINE_TOP, Rival
from hw.tops import Options
from sim.runner import SimulationFailed
from sw.format import SFx

#: Units of ours that can be given a layer.
POWERED: Final = ("cell", "array", MACHINE_TOP)
#: Cycles after the last slice in which sums leave, besides those of the skew.
_TAIL: Final = 8
Words = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Work:
    """A real layer on one unit.

    Parameters
    ----------
    inputs : dict of str to list of int
        What each input port holds in each cycle.
    macs : int
        Multiply-accumulates of the layer that are done in the cycles that count.
    check : callable
        Raises SimulationFailed unless the gates computed what they should.
    skip : int
        Cycles at the start that do not count.
    """

    inputs: dict[str, list[int]]
    macs: int
    check: Callable[[Activity], None]
    skip: int = 0

    @property
    def cycles(self) -> int:
        """Those that count."""
        return len(next(iter(self.inputs.values()))) - self.skip


def check_power(unit: str, options: Options) -> None:
    """Raise ValueError unless a unit of :data:`POWERED` can be given the layer."""
    side = max(options.rows, options.columns)
    if unit == "array" and side > CHANNELS:
        raise ValueError(f"rows and columns must be at most {CHANNELS} with --power, not {side}")
    if unit not in ("array", "cell"):
        config, outputs = options.machine, _outputs(options)
        tiles = -(-outputs // config.columns)
        words = outputs * (2 * TERMS + tiles * config.columns)
        if words > config.memory_words:
            least = -(-words // config.slot_words)
            raise ValueError(f"slots must be at least {least} with --power, not {config.slots}")


def work(rival: Rival, folder: Path) -> Work:
    """The real layer as a unit's work.

    Parameters
    ----------
    rival : Rival
        A multiply-accumulate unit or multiplier that is compared, or one of :data:`POWERED` that
        :func:`check_power` accepts.
    folder : Path
        Where the layer is kept.
    """
    options = rival.built
    if options is None:
        given = operands(rival, real_layer(folder))
        return Work(given, len(given["a"]), lambda activity: None)
    if rival.unit == "cell":
        return array_work(options, real_layer(folder), cell=True)
    if rival.unit == "array":
        return array_work(options, real_layer(folder, max(options.rows, options.columns)))
    from atreides.ppa_core import core_work

    return core_work(options, real_layer(folder, _outputs(options)))


def _outputs(options: Options) -> int:
    """Rows and columns of the product that the whole machine is given: two tiles each way."""
    return min(CHANNELS, 2 * max(options.rows, options.columns))


def array_work(options: Options, layer: Layer, cell: bool = False) -> Work:
    """All dot products of so many rows of activations and columns of weights, once.

    Slices enter skewed, one per cycle, and the sums leave; a cell does those of one row and one
    column after the other.
    """
    format = options.format
    a, b = layer_words(format, layer)
    rows, columns = (1, 1) if cell else (options.rows, options.columns)
    tiles = list(zip(a, b, strict=True)) if cell else [(a[:rows], b[:columns])]
    lanes_a = [np.concatenate([np.atleast_2d(t)[i] for t, _ in tiles]) for i in range(rows)]
    lanes_b = [np.concatenate([np.atleast_2d(t)[j] for _, t in tiles]) for j in range(columns)]
    terms = a.shape[1]
    length = len(lanes_a[0])
    control = [1 | (k % terms == 0) << 1 | (k % terms == terms - 1) << 2 for k in range(length)]
    cycles = length + rows + columns + _TAIL
    inputs: dict[str, list[int]] = {}
    for i, lane in enumerate(lanes_a):
        inputs[_port("a", i, cell)] = _skewed(_operands(format, lane), i, cycles)
        inputs[_port("control", i, cell)] = _skewed(control, i, cycles, 0)
    for j, lane in enumerate(lanes_b):
        inputs[_port("b", j, cell)] = _skewed(_operands(format, lane), j, cycles)
    width = format.accumulator_bits(options.max_terms)
    wanted = {
        _port("bus", j, cell): [
            _dot(format, x[i], y[j]) % (1 << width)
            for x, y in ((np.atleast_2d(t), np.atleast_2d(u)) for t, u in tiles)
            for i in range(rows)
        ]
        for j in range(columns)
    }
    return Work(inputs, length * rows * columns, _same_sums(wanted))


def layer_words(format: SFx, layer: Layer) -> tuple[Words, Words]:
    """Activations and weights as words, a row per dot product."""
    peaks = np.full((len(layer.activations), 1), layer.activation_peak, np.float32)
    return (
        format_words(format, layer.activations, peaks),
        format_words(format, layer.weights, layer.weight_peaks),
    )


def _same_sums(wanted: dict[str, list[int]]) -> Callable[[Activity], None]:
    def check(activity: Activity) -> None:
        for port, sums in wanted.items():
            got = [value for value in activity.outputs[port] if value]
            want = [value for value in sums if value]
            if got != want:
                raise SimulationFailed(f"{port} must send {want[:3]}..., not {got[:3]}...")

    return check


def _dot(format: SFx, a: Words, b: Words) -> int:
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    return sum(format.operand(x) * format.operand(y) for x, y in pairs)


def _operands(format: SFx, words: Words) -> list[int]:
    """Operands of the array, as ``hw.operand`` lays them out."""
    found = []
    for word in words.tolist():
        magnitude = abs(format.operand(word))
        unity = magnitude == 1 << format.fraction_bits
        sign = int(word & format.sign_bit != 0)
        fields = sign | unity << 1 | (magnitude == 0) << 2
        found.append((0 if unity else magnitude) | fields << format.fraction_bits)
    return found


def _skewed(values: Sequence[int], delay: int, cycles: int, after: int | None = None) -> list[int]:
    """Values from cycle ``delay`` on; then the last one, or another."""
    rest = values[-1] if after is None else after
    before = values[0] if after is None else after
    tail = itertools.repeat(rest, cycles - delay - len(values))
    return [*itertools.repeat(before, delay), *values, *tail]


def _port(name: str, lane: int, cell: bool) -> str:
    return name if cell else f"{name}__{lane}"
