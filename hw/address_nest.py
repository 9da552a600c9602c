"""A sum of loop counts times strides, by one addition per step."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class AddressNest(wiring.Component):
    """The address inside nested loops, outermost first. A new value 1 cycle after its step.

    Each loop remembers where it stands; a step of one adds its stride there, and the loops inside
    it start over from the sum.

    Parameters
    ----------
    bits : int
        Of the address; sums are modulo ``2**bits``.
    levels : int
        Loops, at least 1.

    Members
    -------
    load : In(1)
        Every loop starts over at ``base``. Wins over ``step``.
    base : In(bits)
    strides : In(bits per loop)
    step : In(1)
        A loop goes on; it may come late in the cycle.
    loop : In(levels)
        At most one bit: the loop that goes on, if one does.
    moves : In(levels)
        Bit l: loop l or one around it goes on. Anything if none does: the addresses are then lost.
    address : Out(bits)
    """

    def __init__(self, bits: int, levels: int) -> None:
        self.levels = levels
        super().__init__(
            {
                "load": In(1),
                "base": In(bits),
                "strides": In(data.ArrayLayout(bits, levels)),
                "step": In(1),
                "loop": In(levels),
                "moves": In(levels),
                "address": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.address)
        stands = [Signal(bits, name=f"level_{level}") for level in range(self.levels)]
        # All sums side by side: they do not wait for what says which of them is taken.
        total: Value = Const(0, bits)
        for level, stand in enumerate(stands):
            moved = Signal(bits, name=f"moved_{level}")
            m.d.comb += moved.eq(stand + self.strides[level])
            total |= moved & self.loop[level].replicate(bits)
        m.d.comb += self.address.eq(stands[-1])
        for level, stand in enumerate(stands):
            with m.If(self.load):
                m.d.sync += stand.eq(self.base)
            with m.Elif(self.step & self.moves[level]):
                m.d.sync += stand.eq(total)
        return m
