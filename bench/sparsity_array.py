"""The systolic array with its edge as gates, and the words of a layer going through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.array import SystolicArray
from hw.edge import ArrayEdge
from hw.gate_costs import gate_costs
from hw.gate_netlist import GateNetlist, gate_netlist
from hw.operand import stored_layout
from hw.power import Activity, Power, power
from hw.synthesis import component_source
from sim.activity import record
from sw.format import SFx

Words = npt.NDArray[np.int64]
#: Nanoseconds of a cycle: power is for 100 MHz.
CLOCK: Final = 10.0
#: Nanoseconds of a cycle while toggles are counted: no path is longer.
SLOW: Final = 60.0
SEED: Final = 20261122


class ArrayWithEdge(wiring.Component):
    """An edge and the array behind it, with flat ports.

    Parameters
    ----------
    format : SFx
    rows, columns : int
    max_terms : int
    hold : bool
        Whether lanes keep their operand where the next one is zero.

    Members
    -------
    a, b : In
        Stored words, one per row and per column, lane 0 in the lowest bits.
    valid, first, last : In(1)
        The slice's control.
    row_mask, column_mask : In
    bus : Out
        The columns' buses, column 0 in the lowest bits.
    """

    def __init__(
        self, format: SFx, rows: int, columns: int, max_terms: int, hold: bool = True
    ) -> None:
        self.format, self.hold = format, hold
        self.rows, self.columns, self.max_terms = rows, columns, max_terms
        lane = stored_layout(format).size
        super().__init__(
            {
                "a": In(rows * lane),
                "b": In(columns * lane),
                "valid": In(1),
                "first": In(1),
                "last": In(1),
                "row_mask": In(rows),
                "column_mask": In(columns),
                "bus": Out(columns * format.accumulator_bits(max_terms)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.edge = edge = ArrayEdge(self.format, self.rows, self.columns, self.hold)
        m.submodules.array = array = SystolicArray(
            self.format, self.rows, self.columns, self.max_terms, target="osu018"
        )
        m.d.comb += [
            Cat(*(lane.as_value() for lane in edge.a)).eq(self.a),
            Cat(*(lane.as_value() for lane in edge.b)).eq(self.b),
            edge.control.valid.eq(self.valid),
            edge.control.first.eq(self.first),
            edge.control.last.eq(self.last),
            edge.row_mask.eq(self.row_mask),
            edge.column_mask.eq(self.column_mask),
            self.bus.eq(Cat(*array.bus)),
        ]
        for i in range(self.rows):
            m.d.comb += [
                array.a[i].eq(edge.a_skewed[i]),
                array.control[i].eq(edge.control_skewed[i]),
            ]
        for j in range(self.columns):
            m.d.comb += array.b[j].eq(edge.b_skewed[j])
        return m


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Words that the array multiplies in one pass.

    Parameters
    ----------
    a : array (rows, K)
    b : array (K, columns)
        At most as many rows and columns as the array has.
    """

    a: Words
    b: Words


@dataclass(frozen=True, slots=True)
class Held:
    """What the same tiles cost on an array.

    Parameters
    ----------
    cycles : int
    toggles : float
        Per cycle, of everything that cells drive.
    power : Power
        At 100 MHz.
    """

    cycles: int
    toggles: float
    power: Power


class WrongSums(RuntimeError):
    """The netlist must compute what the words say, and did not."""


def tiles_of(a: Words, b: Words, rows: int, columns: int, cycles: int) -> list[Tile]:
    """Tiles of a product, drawn evenly until they fill some cycles.

    Parameters
    ----------
    a : array (groups, M, K)
    b : array (groups, K, N)
    rows, columns : int
        Of the array.
    cycles : int
        At least one tile is taken, and none is cut.
    """
    groups, height, terms = a.shape
    places = [
        (g, i, j)
        for g in range(groups)
        for i in range(0, height, rows)
        for j in range(0, b.shape[2], columns)
    ]
    Random(SEED).shuffle(places)
    wanted = max(1, cycles // max(terms, rows))
    return [
        Tile(a[g, i : i + rows], b[g, :, j : j + columns]) for g, i, j in sorted(places[:wanted])
    ]


def stimulus(tiles: Sequence[Tile], format: SFx, rows: int, columns: int) -> dict[str, list[int]]:
    """What the ports of :class:`ArrayWithEdge` hold in each cycle, one slice after the other."""
    lines: dict[str, list[int]] = {
        name: [] for name in ("a", "b", "valid", "first", "last", "row_mask", "column_mask")
    }

    def put(*values: int) -> None:
        for line, value in zip(lines.values(), values, strict=True):
            line.append(value)

    for tile in tiles:
        height, terms = tile.a.shape
        masks = (1 << height) - 1, (1 << tile.b.shape[1]) - 1
        for k in range(terms):
            lanes = _lanes(tile.a[:, k], format), _lanes(tile.b[k], format)
            put(*lanes, 1, int(k == 0), int(k == terms - 1), *masks)
        for _ in range(height - terms):  # a row leaves per cycle
            put(*lanes, 0, 0, 0, *masks)
    for _ in range(rows + columns + 8):  # the last sums leave
        put(lines["a"][-1], lines["b"][-1], 0, 0, 0, *masks)
    return lines


def _lanes(words: Words, format: SFx) -> int:
    """Stored words side by side: each with its flags of zero and unity."""
    size, value = stored_layout(format).size, 0
    for lane, word in enumerate(words.tolist()):
        magnitude = abs(format.operand(word))
        flags = int(magnitude == 0) | int(magnitude == 1 << format.fraction_bits) << 1
        value |= (word | flags << format.bits) << size * lane
    return value


class HeldArray:
    """An array with operand hold and one without, as gates.

    Parameters
    ----------
    format : SFx
    rows, columns : int
    max_terms : int
    """

    def __init__(self, format: SFx, rows: int, columns: int, max_terms: int) -> None:
        self.format, self.rows, self.columns = format, rows, columns
        self.width = format.accumulator_bits(max_terms)
        self.netlists: dict[bool, GateNetlist] = {}
        for hold in (False, True):
            unit = ArrayWithEdge(format, rows, columns, max_terms, hold)
            self.netlists[hold] = gate_netlist(component_source(unit))
        self._costs = {hold: gate_costs(netlist) for hold, netlist in self.netlists.items()}

    def measure(self, tiles: Sequence[Tile], hold: bool) -> Held:
        """Toggles and power of tiles on one of them.

        Raises
        ------
        WrongSums
            If the gates left other sums than the words have.
        SynthesisError, MissingSimulator, SimulationFailed
            From the tools.
        """
        netlist = self.netlists[hold]
        found = self.record(tiles, hold)
        self._check(tiles, found)
        spent = power(netlist, found, CLOCK, self._costs[hold])
        return Held(found.cycles, found.total(netlist), spent)

    def record(self, tiles: Sequence[Tile], hold: bool) -> Activity:
        """What tiles do to the nets of one of them."""
        given = stimulus(tiles, self.format, self.rows, self.columns)
        return record(self.netlists[hold], given, clock=SLOW)

    def _check(self, tiles: Sequence[Tile], found: Activity) -> None:
        for column in range(self.columns):
            want = list(self._sums(tiles, column))
            got = [
                bus >> column * self.width & (1 << self.width) - 1 for bus in found.outputs["bus"]
            ]
            if [value for value in got if value] != want:
                raise WrongSums(f"column {column} must send {want[:4]}..., not {got[-40:]}")

    def _sums(self, tiles: Sequence[Tile], column: int) -> Iterator[int]:
        """The sums other than 0 that leave a column, in order."""
        for tile in tiles:
            if column >= tile.b.shape[1]:
                continue
            for row in tile.a.tolist():
                pairs = zip(row, tile.b[:, column].tolist(), strict=True)
                total = sum(self.format.operand(x) * self.format.operand(y) for x, y in pairs)
                if total:
                    yield total % (1 << self.width)
