"""Slices of a scaled identity matrix."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.operand import stored_layout
from sw.format import SFx


class IdentitySlice(wiring.Component):
    """``2**-shift`` in lane ``index``, plus zero in the others. Combinational, latency 0.

    Shift 0 gives unity, or plus zero in a format without; a shift beyond F gives plus zero.

    Parameters
    ----------
    format : SFx
    lanes : int
    index_bits, shift_bits : int
        Widths of the inputs.

    Members
    -------
    index : In(index_bits)
        From ``lanes`` on: all lanes are zero.
    shift : In(shift_bits)
    words : Out(array(stored, lanes))
    """

    def __init__(self, format: SFx, lanes: int, index_bits: int, shift_bits: int) -> None:
        self.format = format
        self.lanes = lanes
        super().__init__(
            {
                "index": In(index_bits),
                "shift": In(shift_bits),
                "words": Out(data.ArrayLayout(stored_layout(format), lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        scaled = Signal(stored_layout(self.format))
        m.d.comb += scaled.zero.eq(1)
        if self.format.unity:
            with m.If(self.shift == 0):
                m.d.comb += [
                    scaled.word.eq(self.format.max_code),
                    scaled.zero.eq(0),
                    scaled.unity.eq(1),
                ]
        for bit in range(self.format.fraction_bits):
            with m.If(self.shift == self.format.fraction_bits - bit):
                m.d.comb += [scaled.word.eq(1 << bit), scaled.zero.eq(0)]
        for lane in range(self.lanes):
            with m.If(self.index == lane):
                m.d.comb += self.words[lane].eq(scaled)
            with m.Else():
                m.d.comb += self.words[lane].zero.eq(1)
        return m
