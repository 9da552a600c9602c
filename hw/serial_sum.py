"""A sum of products, each multiplied one bit at a time."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class SerialSum(wiring.Component):
    """``base + stride * count + ...``, a bit of a count per cycle, the least significant first.

    Latency 1 cycle per bit. After ``clear``, each product is a cycle of ``load`` and one cycle of
    ``bit`` or not per bit of its count.

    Parameters
    ----------
    bits : int
        Of the sum.
    stride_bits : int
        Of a stride.

    Members
    -------
    clear : In(1)
        The sum starts over with ``base``.
    base : In(bits)
    load : In(1)
        The next product has this ``stride``.
    stride : In(stride_bits)
    bit : In(1)
        The count's bit of this cycle; 0 in a cycle of ``load``.
    total : Out(bits)
        The sum modulo ``2**bits``.
    overflow : Out(1)
        Whether the sum is ``2**bits`` or more.
    """

    def __init__(self, bits: int, stride_bits: int) -> None:
        super().__init__(
            {
                "clear": In(1),
                "base": In(bits),
                "load": In(1),
                "stride": In(stride_bits),
                "bit": In(1),
                "total": Out(bits),
                "overflow": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.total)
        addend = Signal(bits)
        beyond = Signal()  # whether the addend is 2**bits or more
        total = Signal(bits + 1)
        m.d.comb += total.eq(self.total + addend)
        with m.If(self.load):
            m.d.sync += [addend.eq(self.stride), beyond.eq(self.stride[bits:].any())]
        with m.Else():
            m.d.sync += [addend.eq(addend << 1), beyond.eq(beyond | addend[-1])]
        with m.If(self.clear):
            m.d.sync += [self.total.eq(self.base), self.overflow.eq(0)]
        with m.Elif(self.bit):
            m.d.sync += self.total.eq(total)
            with m.If(beyond | total[-1]):
                m.d.sync += self.overflow.eq(1)
        return m
