"""The output-stationary systolic array: cells, and one bus per column that their sums leave on."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Final

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.cell import Cell
from hw.multiplier import DSP
from hw.operand import CONTROL, operand_layout
from hw.packed_array import PackedCells
from sw.format import MAX_TERMS, SFx

MAX_SIDE: Final = 32
#: Cells whose outputs are joined between two registers of a column's bus.
BUS_CELLS: Final = 16


class SystolicArray(wiring.Component):
    """Cell (i, j) sums the products of row i of A and column j of B.

    A and the control move right, B moves down, one cell per cycle: what belongs to one slice
    enters row i (column j) i (j) cycles after row 0 (column 0). A sum leaves on its column's bus:
    with ``last`` entering row 0 in cycle t, the sum of cell (i, j) is on ``bus[j]`` in cycle
    ``t + latency + i + j`` and only then. Two rows' sums must not leave a column in one cycle:
    from one ``last`` of row 0 to the next are at least as many cycles as there are rows that
    drain. One slice per cycle.

    Parameters
    ----------
    format : SFx
    rows, columns : int
        1 to 32 each.
    max_terms : int
        K_max: slices from one ``first`` to the next.
    multiplier : {"array", "dadda", "chain", "operator", "dsp", "auto"}
        With ``dsp``, neighbouring cells share a multiplier block.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.
    apart : bool
        As in ``hw.cell.Cell``.

    Members
    -------
    a : In(operand_layout(format)) per row
    control : In(CONTROL) per row
    b : In(operand_layout(format)) per column
    bus : Out(signed(format.accumulator_bits(max_terms))) per column
        The sum that leaves, in units of ``2**-2F``, or 0.

    Attributes
    ----------
    latency : int
        4 cycles, 3 of the cell and 1 at the foot of the bus; 5 with more than 16 rows, whose bus
        has a second register. With ``dsp`` also the skew of ``hw.packed_array``: 4 at SF3, 2 at
        SF4, 1 at SF5 to SF9.
    """

    def __init__(
        self,
        format: SFx,
        rows: int,
        columns: int,
        max_terms: int = MAX_TERMS,
        multiplier: str = "auto",
        target: str = "generic",
        apart: bool = False,
    ) -> None:
        check_side("rows", rows)
        check_side("columns", columns)
        self.rows = rows
        self.columns = columns
        self.ignored_inputs = unread_inputs(format, rows, columns)
        self.latency = Cell.latency + 1 + (rows > BUS_CELLS)
        self.packed = None
        if multiplier == DSP:
            self.packed = PackedCells(format, rows, columns, max_terms, target, apart)
            self.latency += self.packed.skew
            rows = 0  # no cells of its own
        self.cells = [
            [Cell(format, max_terms, multiplier, target, apart=apart) for _ in range(columns)]
            for _ in range(rows)
        ]
        operand = operand_layout(format)
        super().__init__(
            {
                "a": In(operand).array(self.rows),
                "control": In(CONTROL).array(self.rows),
                "b": In(operand).array(columns),
                "bus": Out(signed(format.accumulator_bits(max_terms))).array(columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        buses = self._pack(m, self.packed) if self.packed is not None else self._place(m)
        for j in range(self.columns):
            sums = [row[j] for row in buses]
            if self.rows > BUS_CELLS:
                parts = range(0, self.rows, BUS_CELLS)
                sums = [self._join(m, f"part_{j}_{i}", sums[i : i + BUS_CELLS]) for i in parts]
            foot = self._join(m, f"foot_{j}", sums)
            for cycle in range(self.packed.foot_delay(j) if self.packed else 0):
                foot = self._join(m, f"foot_{j}_late_{cycle}", [foot])
            m.d.comb += self.bus[j].eq(foot)
        return m

    def _pack(self, m: Module, packed: PackedCells) -> list[list[Value]]:
        """Cells that share blocks; the sums that leave each, by row."""
        m.submodules.packed = packed
        for name, lanes in (("a", self.rows), ("control", self.rows), ("b", self.columns)):
            for lane in range(lanes):
                m.d.comb += getattr(packed, name)[lane].eq(getattr(self, name)[lane])
        cells = range(0, self.rows * self.columns, self.columns)
        return [[packed.bus[start + j] for j in range(self.columns)] for start in cells]

    def _place(self, m: Module) -> list[list[Value]]:
        """Cells each with a multiplier; the sums that leave each, by row."""
        for i, row in enumerate(self.cells):
            for j, cell in enumerate(row):
                m.submodules[f"cell_{i}_{j}"] = cell
                left, above = self.cells[i][j - 1], self.cells[i - 1][j]
                m.d.comb += [
                    cell.a.eq(left.a_next if j else self.a[i]),
                    cell.control.eq(left.control_next if j else self.control[i]),
                    cell.b.eq(above.b_next if i else self.b[j]),
                ]
        return [[cell.bus for cell in row] for row in self.cells]

    def _join(self, m: Module, name: str, sums: list[Value]) -> Signal:
        """What is on any of the buses, 1 cycle later."""
        register = Signal(self.bus[0].shape(), name=name)
        m.d.sync += register.eq(reduce(or_, sums))
        return register


def unread_inputs(format: SFx, rows: int, columns: int) -> tuple[str, ...]:
    """The inputs of an edge or an array of which a bit has no influence: unity, without unity."""
    lanes = [*(f"a_{i}" for i in range(rows)), *(f"b_{j}" for j in range(columns))]
    return () if format.unity else tuple(lanes)


def check_side(name: str, value: int) -> None:
    """Raise TypeError or ValueError unless ``value`` is an integer from 1 to 32."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not 1 <= value <= MAX_SIDE:
        raise ValueError(f"{name} must be 1 to {MAX_SIDE}, not {value!r}")
