"""The systolic array on multiplier blocks that neighbouring cells share."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.cell import Cell
from hw.operand import CONTROL, operand_layout
from hw.packed_multiplier import PackedMultiplier, greatest_skew, packing
from sw.format import MAX_TERMS, SFx


class CellGroup(wiring.Component):
    """Cells that share one multiplier block: their operands come in the same cycle.

    Parameters
    ----------
    format : SFx
    rows, columns : int
        At most those of ``hw.packed_multiplier.packing``.
    max_terms : int
        K_max.
    target : {"generic", "ecp5", "ice40"}
    apart : bool
        As in ``hw.cell.Cell``.

    Members
    -------
    a : In(operand_layout(format)) per row
    control : In(CONTROL) per row
    b : In(operand_layout(format)) per column
    a_next, control_next, b_next : Out
        1 cycle later.
    bus : Out(signed(format.accumulator_bits(max_terms))) per row and column, row by row
        As of a cell; of row i, ``Cell.latency + i`` cycles after its operands.
    """

    def __init__(
        self,
        format: SFx,
        rows: int,
        columns: int,
        max_terms: int,
        target: str = "generic",
        apart: bool = False,
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.block = PackedMultiplier(format.fraction_bits, target, rows, columns)
        self.cells = [
            [
                Cell(format, max_terms, target=target, shared=True, delay=i, apart=apart)
                for _ in range(columns)
            ]
            for i in range(rows)
        ]
        operand, sums = operand_layout(format), signed(format.accumulator_bits(max_terms))
        super().__init__(
            {
                "a": In(operand).array(rows),
                "control": In(CONTROL).array(rows),
                "b": In(operand).array(columns),
                "a_next": Out(operand).array(rows),
                "control_next": Out(CONTROL).array(rows),
                "b_next": Out(operand).array(columns),
                "bus": Out(sums).array(rows * columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.block = block = self.block
        for i, row in enumerate(self.cells):
            for j, cell in enumerate(row):
                m.submodules[f"cell_{i}_{j}"] = cell
                number = i * self.columns + j
                m.d.comb += [
                    cell.a.eq(self.a[i]),
                    cell.control.eq(self.control[i]),
                    cell.b.eq(self.b[j]),
                    cell.given.eq(block.product[number]),
                    self.bus[number].eq(cell.bus),
                ]
            m.d.comb += [
                block.a[i].eq(row[0].a_next.magnitude),
                self.a_next[i].eq(row[0].a_next),
                self.control_next[i].eq(row[0].control_next),
            ]
        for j, cell in enumerate(self.cells[0]):
            m.d.comb += [
                block.b[j].eq(cell.b_next.magnitude),
                self.b_next[j].eq(cell.b_next),
            ]
        return m


class PackedCells(wiring.Component):
    """All cells of an array, in groups that share a block, with operands and sums aligned.

    Operands wait at the edge until those of a whole group are there, sums at the foot until the
    array's skew is as it was: to the outside, nothing but the latency differs.

    Parameters
    ----------
    format, rows, columns, max_terms, target, apart
        Of the array.

    Members
    -------
    a, control, b
        As of ``hw.array.SystolicArray``.
    bus : Out(signed(format.accumulator_bits(max_terms))) per row and column, row by row
        Of cell (i, j) ``Cell.latency + skew + i + j - foot_delay(j)`` cycles after a slice entered
        row 0.

    Attributes
    ----------
    skew : int
        Cycles that the array takes on top of those of single cells, the same for every target.
    """

    def __init__(
        self,
        format: SFx,
        rows: int,
        columns: int,
        max_terms: int = MAX_TERMS,
        target: str = "generic",
        apart: bool = False,
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.packing = found = packing(format.fraction_bits, target)
        self.skew: Final = greatest_skew(format.fraction_bits)
        self.groups = [
            [
                CellGroup(
                    format,
                    min(found.rows, rows - i),
                    min(found.columns, columns - j),
                    max_terms,
                    target,
                    apart,
                )
                for j in range(0, columns, found.columns)
            ]
            for i in range(0, rows, found.rows)
        ]
        operand, sums = operand_layout(format), signed(format.accumulator_bits(max_terms))
        super().__init__(
            {
                "a": In(operand).array(rows),
                "control": In(CONTROL).array(rows),
                "b": In(operand).array(columns),
                "bus": Out(sums).array(rows * columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        high, wide = self.packing.rows, self.packing.columns
        above: list[Value] = [
            _late(m, f"b_{j}", lane, high - 1 + wide - 1 - j % wide)
            for j, lane in enumerate(self.b)
        ]
        for i, row in enumerate(self.groups):
            for r in range(row[0].rows):
                lane, waits = i * high + r, wide - 1 + high - 1 - r
                a = _late(m, f"a_{lane}", self.a[lane], waits)
                control = _late(m, f"control_{lane}", self.control[lane], waits)
                for j, group in enumerate(row):
                    m.d.comb += [group.a[r].eq(a), group.control[r].eq(control)]
                    name = f"{lane}_{j}"
                    a = _late(m, f"a_{name}", group.a_next[r], wide - 1)
                    control = _late(m, f"control_{name}", group.control_next[r], wide - 1)
            for j, group in enumerate(row):
                m.submodules[f"group_{i}_{j}"] = group
                for c in range(group.columns):
                    lane = j * wide + c
                    m.d.comb += group.b[c].eq(above[lane])
                    above[lane] = _late(m, f"b_{i}_{lane}", group.b_next[c], high - 1)
                    for r in range(group.rows):
                        cell = (i * high + r) * self.columns + lane
                        m.d.comb += self.bus[cell].eq(group.bus[r * group.columns + c])
        return m

    def foot_delay(self, column: int) -> int:
        """Cycles that a column's sums wait once they are on its bus."""
        return column % self.packing.columns + self.skew - self.packing.skew


def _late(m: Module, name: str, value: Value, cycles: int) -> Value:
    """The value, that many cycles later."""
    for cycle in range(cycles):
        register = Signal(value.shape(), name=f"{name}_late_{cycle}")
        m.d.sync += register.eq(value)
        value = register
    return value
