"""A barrel rotator of equal lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Rotator(wiring.Component):
    """Lane j of the output is lane ``(j + amount) mod lanes`` of the input.

    Combinational, latency 0: one level of multiplexers per bit of ``amount``.

    Parameters
    ----------
    width : int
        Bits of a lane.
    lanes : int
        A power of two, at least 2.

    Members
    -------
    i : In(width * lanes)
        Lane j at ``j * width``.
    amount : In(log2(lanes))
    o : Out(width * lanes)

    Raises
    ------
    ValueError
        If the number of lanes is no power of two.
    """

    def __init__(self, width: int, lanes: int) -> None:
        if lanes < 2 or lanes.bit_count() != 1:
            raise ValueError(f"lanes must be a power of two and at least 2, not {lanes!r}")
        self.width = width
        self.amount_bits = lanes.bit_length() - 1
        super().__init__(
            {"i": In(width * lanes), "amount": In(self.amount_bits), "o": Out(width * lanes)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rotated = self.i
        for bit in range(self.amount_bits):
            stage = Signal(len(self.o), name=f"stage_{bit}")
            moved = rotated.rotate_right(self.width << bit)
            m.d.comb += stage.eq(Mux(self.amount[bit], moved, rotated))
            rotated = stage
        m.d.comb += self.o.eq(rotated)
        return m
