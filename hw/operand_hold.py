"""Keeps a multiplier's operands still while its product is known to be zero."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.detect import UnityDetector, ZeroDetector
from sw.format import SFx


class OperandHold(wiring.Component):
    """Registers a pair of words, or holds the last pair where either new word is zero.

    What hangs on the held words toggles for products other than zero only; that saves energy, not
    cycles. Latency 1 cycle, one pair per cycle.

    Parameters
    ----------
    format : SFx
        The format of both words.

    Members
    -------
    a, b : In(x)
        Words.
    valid : In(1)
        Where 0, the words of this cycle are ignored and the last pair is held.
    held_a, held_b : Out(x)
        The last valid pair without a zero; zeros after reset.
    a_unity, b_unity : Out(1)
        Whether the held word is 1 or -1.
    held_valid : Out(1)
        ``valid`` one cycle ago.
    zero : Out(1)
        Whether the pair of one cycle ago was valid and had a zero: its product is zero, not the
        held words'.
    """

    latency = 1

    def __init__(self, format: SFx) -> None:
        self.format = format
        word = format.bits
        super().__init__(
            {
                "a": In(word),
                "b": In(word),
                "valid": In(1),
                "held_a": Out(word),
                "held_b": Out(word),
                "a_unity": Out(1),
                "b_unity": Out(1),
                "held_valid": Out(1),
                "zero": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.a_zero = a_zero = ZeroDetector(self.format)
        m.submodules.b_zero = b_zero = ZeroDetector(self.format)
        m.submodules.a_one = a_one = UnityDetector(self.format)
        m.submodules.b_one = b_one = UnityDetector(self.format)
        zero = Signal()
        m.d.comb += [
            a_zero.word.eq(self.a),
            b_zero.word.eq(self.b),
            a_one.word.eq(self.a),
            b_one.word.eq(self.b),
            zero.eq(a_zero.zero | b_zero.zero),
        ]
        m.d.sync += [self.held_valid.eq(self.valid), self.zero.eq(self.valid & zero)]
        with m.If(self.valid & ~zero):
            m.d.sync += [
                self.held_a.eq(self.a),
                self.held_b.eq(self.b),
                self.a_unity.eq(a_one.unity),
                self.b_unity.eq(b_one.unity),
            ]
        return m
