"""The array multiplier: one row of adders per bit of the second operand."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal

from hw.multiplier import Multiplier


class ArrayMultiplier(Multiplier):
    """Adds the partial products one after the other, low row first. Combinational, latency 0.

    The smallest form without carry chains to lean on, and the slowest: its delay grows with
    ``2 * width`` full adders.

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
        width = self.width
        finished = []  # product bits that no later row reaches
        total = Const(0, width)
        for i in range(width):
            row = Signal(width, name=f"row_{i}")
            following = Signal(width + (i > 0), name=f"total_{i}")
            m.d.comb += [
                row.eq(self.a & self.b[i].replicate(width)),
                following.eq(total + row),
            ]
            finished.append(following[0])
            total = following[1:]
        m.d.comb += self.product.eq(Cat(*finished, total))
        return m
