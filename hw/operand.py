"""What moves through the array: operands, the words they come from, and the control of a slice."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Mux
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sw.format import SFx

#: The control that travels with a slice of A. ``valid``: the slice counts. ``first``: the sum
#: starts with its product. ``last``: after this slice the sum leaves; without ``valid``, the sum
#: as it is.
CONTROL: Final = data.StructLayout({"valid": 1, "first": 1, "last": 1})


def operand_layout(format: SFx) -> data.StructLayout:
    """One operand of the array.

    ``magnitude`` (F bits) is m, but 0 for a unity operand, which only ``unity`` tells from zero;
    ``sign`` (1); ``unity`` (1, always 0 where the format has none): M = ``2**F``; ``zero`` (1):
    M = 0, whatever the other fields hold.
    """
    return data.StructLayout({"magnitude": format.fraction_bits, "sign": 1, "unity": 1, "zero": 1})


def stored_layout(format: SFx) -> data.StructLayout:
    """A word of tile memory (x bits) with the flags found as it was written: M = 0, M = 2**F."""
    return data.StructLayout({"word": format.bits, "zero": 1, "unity": 1})


class OperandEncoder(wiring.Component):
    """A stored word as an operand. Combinational, latency 0.

    Parameters
    ----------
    format : SFx

    Members
    -------
    stored : In(stored_layout(format))
    operand : Out(operand_layout(format))
        Its magnitude is 0 where the word is zero or unity.
    """

    def __init__(self, format: SFx) -> None:
        self.format = format
        super().__init__(
            {"stored": In(stored_layout(format)), "operand": Out(operand_layout(format))}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.format.fraction_bits
        magnitude = self.stored.word[:width]
        m.d.comb += [
            self.operand.magnitude.eq(magnitude),
            self.operand.sign.eq(self.stored.word[width]),
            self.operand.zero.eq(self.stored.zero),
        ]
        if self.format.unity:
            m.d.comb += [
                self.operand.magnitude.eq(Mux(self.stored.unity, 0, magnitude)),
                self.operand.unity.eq(self.stored.unity),
            ]
        return m
