"""One neuron: a multiply-accumulate unit and its drain, the least that computes a layer."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.activation import Select
from hw.drain import Drain
from hw.mac import MultiplyAccumulate
from sw.format import SFx
from sw.scale import SHIFT_BITS


class Neuron(wiring.Component):
    """A dot product of words, drained to a word. Latency 1 cycle, one term per cycle.

    Parameters
    ----------
    format : SFx
        The format of the operands.
    max_terms : int
        K_max.
    output, bias_format : SFx
        The formats of the result and of the bias.
    multiplier : {"array", "dadda", "chain", "operator", "auto"}
    target : {"generic", "ecp5", "ice40", "osu018"}

    Members
    -------
    a, b : In(x)
        Words.
    first, valid : In(1)
        Of the :class:`hw.mac.MultiplyAccumulate`.
    row_shift, column_shift, bias, select : In
        Of the :class:`hw.drain.Drain`.
    o : Out(output.bits)
        The drained sum of all terms up to the cycle before.
    """

    def __init__(
        self,
        format: SFx,
        max_terms: int,
        output: SFx,
        bias_format: SFx,
        multiplier: str = "auto",
        target: str = "generic",
    ) -> None:
        self.mac = MultiplyAccumulate(format, max_terms, multiplier, target)
        self.drain = Drain(format, max_terms, output, bias_format)
        super().__init__(
            {
                "a": In(format.bits),
                "b": In(format.bits),
                "first": In(1),
                "valid": In(1),
                "row_shift": In(SHIFT_BITS),
                "column_shift": In(SHIFT_BITS),
                "bias": In(bias_format.bits),
                "select": In(Select),
                "o": Out(output.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.mac = mac = self.mac
        m.submodules.drain = drain = self.drain
        m.d.comb += [
            mac.a.eq(self.a),
            mac.b.eq(self.b),
            mac.first.eq(self.first),
            mac.valid.eq(self.valid),
            drain.accumulator.eq(mac.accumulator),
            drain.row_shift.eq(self.row_shift),
            drain.column_shift.eq(self.column_shift),
            drain.bias.eq(self.bias),
            drain.select.eq(self.select),
            self.o.eq(drain.o),
        ]
        return m
