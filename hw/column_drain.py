"""The drain of a column: :class:`hw.drain.Drain` in three steps, for one or more formats."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.drain import DrainSizes, ShiftAmount, join_floor
from sw.format import MAX_BITS, Rounding, SFx
from sw.scale import SHIFT_BITS


class ColumnDrain(wiring.Component):
    """Scales a sum, adds a bias and rounds once to words of each of several formats.

    One sum per cycle. Inputs are taken when the pipeline needs them: with ``accumulator`` in
    cycle c, the shifts belong in cycle ``c - 1 - shift_lead``, the bias in that one too, and the
    words are there in cycle ``c + latency``.

    Parameters
    ----------
    format : SFx
        The format of the operands.
    width : int
        Bits of the accumulator.
    outputs : tuple of SFx
        The formats of the words.
    bias_format : SFx
    rounding : {"nearest", "truncate"}
    shift_lead : int
        Further cycles that the shifts and the bias come early.

    Members
    -------
    row_shift, column_shift : In(signed(8))
        The two parts of the shift; positive divides.
    bias : In(bias_format.bits)
    accumulator : In(signed(width))
    o : Out(16).array(len(outputs))
        A word of each of ``outputs``, never minus zero.
    """

    latency = 3

    def __init__(
        self,
        format: SFx,
        width: int,
        outputs: tuple[SFx, ...],
        bias_format: SFx,
        rounding: Rounding,
        shift_lead: int = 0,
    ) -> None:
        self.outputs = outputs
        self.sizes = DrainSizes(format, width, outputs, bias_format, rounding)
        self.shift_lead = shift_lead
        super().__init__(
            {
                "row_shift": In(signed(SHIFT_BITS)),
                "column_shift": In(signed(SHIFT_BITS)),
                "bias": In(bias_format.bits),
                "accumulator": In(signed(width)),
                "o": Out(MAX_BITS).array(len(outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.amount = amount = ShiftAmount(self.sizes)
        m.submodules.shifter = shifter = self.sizes.make_shifter()
        found = Signal(shifter.o.shape())
        total, total_sticky = Signal(signed(self.sizes.sum_bits)), Signal()
        bias = self.sizes.bias_value(delay(m, "bias", self.bias, self.shift_lead + 2))
        floor, sticky = join_floor(found)
        m.d.comb += [
            amount.row_shift.eq(self.row_shift),
            amount.column_shift.eq(self.column_shift),
            shifter.amount.eq(delay(m, "amount", amount.amount, self.shift_lead + 1)),
            shifter.i.eq(self.accumulator),
        ]
        m.d.sync += [
            found.eq(shifter.o),
            total.eq(floor + bias),
            total_sticky.eq(sticky),
        ]
        for index, output in enumerate(self.outputs):
            m.submodules[f"encoder_{index}"] = encoder = self.sizes.make_encoder(output)
            value, lost = self.sizes.encoder_inputs(output, total, total_sticky)
            m.d.comb += [encoder.value.eq(value), encoder.sticky.eq(lost)]
            m.d.sync += self.o[index].eq(encoder.word)
        return m


def delay(m: Module, name: str, value: Value, cycles: int) -> Value:
    """The value, that many cycles later; registers start at zero."""
    for cycle in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{cycle}")
        m.d.sync += register.eq(value)
        value = register
    return value
