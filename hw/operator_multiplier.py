"""The multiplier that is left to whoever synthesises or simulates: an operator."""

from __future__ import annotations

from amaranth.hdl import Module

from hw.multiplier import Multiplier


class OperatorMultiplier(Multiplier):
    """``a * b`` as one operator. Combinational, latency 0.

    For tools that know better: a synthesiser with multiplier blocks, a simulator, which takes one
    machine instruction where any structure takes hundreds.

    Parameters
    ----------
    width : int
        F, 2 to 15 bits.

    Members
    -------
    a, b : In(width)
    product : Out(2 * width)
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.product.eq(self.a * self.b)
        return m
