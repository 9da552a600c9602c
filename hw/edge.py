"""The edge of the systolic array: operands encoded, skewed, and held where that is asked."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.array import check_side, unread_inputs
from hw.operand import CONTROL, OperandEncoder, operand_layout, stored_layout
from sw.format import SFx

#: Lanes whose zeros are counted between two registers.
_COUNTED: Final = 8


class ArrayEdge(wiring.Component):
    """Takes one slice of A and B per cycle and feeds it to the array.

    Lane i of the rows leaves ``2 + i`` cycles after its slice entered, lane j of the columns
    ``2 + j``. With ``hold``, a lane whose operand is zero keeps its last operand and sends
    ``zero`` with it, except in a slice with ``first``; in a slice that is not valid all lanes keep
    theirs.

    Parameters
    ----------
    format : SFx
    rows, columns : int
        Of the array, 1 to 32 each.
    hold : bool
        Without it, zero operands pass as they are; the sums are the same. That mostly takes less
        power: a zero makes all products of its lane zero, a held operand meets others.

    Members
    -------
    a : In(stored_layout(format)) per row
    b : In(stored_layout(format)) per column
    control : In(CONTROL)
        Of the slice. Without ``valid`` and ``last``, nothing enters.
    row_mask : In(rows)
        Rows that the slice's tile uses. The others neither accumulate nor drain.
    column_mask : In(columns)
        Columns that the slice's tile uses. The others get zero operands.
    a_skewed, control_skewed, b_skewed : Out
        The array's ``a``, ``control`` and ``b``.
    held : Out(range(rows + columns + 1))
        How many of the used lanes had a zero operand and held the one before, in the valid slice
        without ``first`` of :attr:`held_latency` cycles ago; 0 without ``hold``.

    Attributes
    ----------
    latency : int
        2 cycles, to row 0 and column 0.
    held_latency : int
        4 cycles.
    """

    latency: Final = 2
    held_latency: Final = 4

    def __init__(self, format: SFx, rows: int, columns: int, hold: bool = False) -> None:
        check_side("rows", rows)
        check_side("columns", columns)
        self.format = format
        self.rows = rows
        self.columns = columns
        self.hold = hold
        self.ignored_inputs = unread_inputs(format, rows, columns)
        stored, operand = stored_layout(format), operand_layout(format)
        super().__init__(
            {
                "a": In(stored).array(rows),
                "b": In(stored).array(columns),
                "control": In(CONTROL),
                "row_mask": In(rows),
                "column_mask": In(columns),
                "a_skewed": Out(operand).array(rows),
                "control_skewed": Out(CONTROL).array(rows),
                "b_skewed": Out(operand).array(columns),
                "held": Out(range(rows + columns + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # Slices come late: a register before the operands are encoded.
        self._control = _delay(m, "slice_control", self.control, 1)
        self._row_mask = _delay(m, "row_mask", self.row_mask, 1, reset_less=True)
        self._column_mask = _delay(m, "column_mask", self.column_mask, 1, reset_less=True)
        self._a, self._b = (
            [_delay(m, f"{side}_{i}", word, 1, reset_less=True) for i, word in enumerate(lanes)]
            for side, lanes in (("a", self.a), ("b", self.b))
        )
        for i in range(self.rows):
            used = self._row_mask[i]
            valid = self._control.valid & used
            operand = self._take(m, f"row_{i}", self._a[i], valid, Const(0, 1))
            control = Signal(CONTROL, name=f"control_{i}")
            m.d.sync += [
                control.valid.eq(valid),
                control.first.eq(self._control.first),
                control.last.eq(self._control.last & used),
            ]
            m.d.comb += [
                self.a_skewed[i].eq(_delay(m, f"row_{i}", operand, i, reset_less=True)),
                self.control_skewed[i].eq(_delay(m, f"control_{i}", control, i)),
            ]
        for j in range(self.columns):
            unused = ~self._column_mask[j]
            operand = self._take(m, f"column_{j}", self._b[j], self._control.valid, unused)
            delayed = _delay(m, f"column_{j}", operand, j, reset_less=True)
            m.d.comb += self.b_skewed[j].eq(delayed)
        self._count(m)
        return m

    def _take(self, m: Module, name: str, stored: Value, valid: Value, unused: Value) -> Signal:
        """The operand that a lane holds, 1 cycle after its word."""
        m.submodules[f"{name}_encoder"] = encoder = OperandEncoder(self.format)
        operand = Signal(encoder.operand.shape(), name=name, reset_less=True)
        zero = stored.zero | unused
        m.d.comb += encoder.stored.eq(Mux(unused, 0, stored))
        with m.If(valid if self.hold else Const(1)):
            m.d.sync += operand.zero.eq(zero)
            with m.If(self._control.first | ~zero if self.hold else Const(1)):
                m.d.sync += [
                    operand.magnitude.eq(encoder.operand.magnitude),
                    operand.sign.eq(encoder.operand.sign),
                    operand.unity.eq(encoder.operand.unity),
                ]
        return operand

    def _count(self, m: Module) -> None:
        zeros = Cat(*(lane.zero for lane in self._a), *(lane.zero for lane in self._b))
        used = Cat(self._row_mask, self._column_mask)
        found = Signal(len(zeros))
        holds = self._control.valid & ~self._control.first if self.hold else Const(0)
        m.d.sync += found.eq(zeros & used & holds.replicate(len(zeros)))
        counts = []
        for low in range(0, len(found), _COUNTED):
            count = Signal(range(_COUNTED + 1), name=f"zeros_{low}")
            m.d.sync += count.eq(sum(found[low : low + _COUNTED]))
            counts.append(count)
        m.d.sync += self.held.eq(sum(counts))


def _delay(m: Module, name: str, value: Value, stages: int, reset_less: bool = False) -> Value:
    """The value, that many cycles later."""
    for stage in range(stages):
        register = Signal.like(value, name=f"{name}_delayed_{stage + 1}", reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value
