"""A sum of loop counts times strides, by one addition per step."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
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
                "address": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.address)
        stands = [Signal(bits, name=f"level_{level}") for level in range(self.levels)]
        augend, stride, total = (Signal(bits, name=n) for n in ("augend", "stride", "total"))
        m.d.comb += [total.eq(augend + stride), self.address.eq(stands[-1])]
        for level in range(self.levels):  # without the step: the sum does not wait for it
            with m.If(self.loop[level]):
                m.d.comb += [augend.eq(stands[level]), stride.eq(self.strides[level])]
        for level, stand in enumerate(stands):
            with m.If(self.load):
                m.d.sync += stand.eq(self.base)
            with m.Elif(self.step & self.loop[: level + 1].any()):
                m.d.sync += stand.eq(total)
        return m
