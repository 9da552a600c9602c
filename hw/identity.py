"""Slices of a scaled identity matrix."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.operand import stored_layout
from sw.config import MachineConfig

#: Lowest bits of an identity chunk's stride: the S of ``2**-S``.
SHIFT_BITS = 4


def identity_layout(config: MachineConfig) -> data.StructLayout:
    """A slice of an identity: ``2**-shift`` in lane ``index``, zero in the others."""
    # The index needs a bit more than the numbers of a chunk's slices.
    return data.StructLayout({"index": config.vector.bit_length(), "shift": SHIFT_BITS})


class IdentitySlice(wiring.Component):
    """``2**-shift`` in lane ``index``, plus zero in the others. Combinational, latency 0.

    Shift 0 gives unity, or plus zero in a format without; a shift beyond F gives plus zero.

    Parameters
    ----------
    config : MachineConfig
        Lanes are columns.

    Members
    -------
    i : In(identity_layout(config))
    words : Out(array(stored, columns))
    """

    def __init__(self, config: MachineConfig) -> None:
        self.format = config.format
        words = data.ArrayLayout(stored_layout(config.format), config.columns)
        super().__init__({"i": In(identity_layout(config)), "words": Out(words)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        scaled = Signal(stored_layout(self.format))
        m.d.comb += scaled.zero.eq(1)
        if self.format.unity:
            with m.If(~self.i.shift.any()):
                m.d.comb += [
                    scaled.word.eq(self.format.max_code),
                    scaled.zero.eq(0),
                    scaled.unity.eq(1),
                ]
        for bit in range(self.format.fraction_bits):
            with m.If(self.i.shift == self.format.fraction_bits - bit):
                m.d.comb += [scaled.word.eq(1 << bit), scaled.zero.eq(0)]
        for lane in range(len(self.words)):
            with m.If(~(self.i.index ^ lane).any()):
                m.d.comb += self.words[lane].eq(scaled)
            with m.Else():
                m.d.comb += self.words[lane].zero.eq(1)
        return m
