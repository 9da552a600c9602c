"""A barrel rotator of equal lanes."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class Rotator(wiring.Component):
    """Lane j of the output is lane ``(j + amount) mod lanes`` of the input.

    Combinational, latency 0: one level of multiplexers per bit of ``amount``, the highest first, so
    that each level is only as wide as what is left of the way.

    Parameters
    ----------
    width : int
        Bits of a lane.
    lanes : int
        A power of two, at least 2.
    outputs : int, optional
        Lanes of the output, 1 to ``lanes``; all if omitted.

    Members
    -------
    i : In(width * lanes)
        Lane j at ``j * width``.
    amount : In(log2(lanes))
    o : Out(width * outputs)

    Raises
    ------
    ValueError
        If the number of lanes is no power of two.
    """

    def __init__(self, width: int, lanes: int, outputs: int | None = None) -> None:
        if lanes < 2 or lanes.bit_count() != 1:
            raise ValueError(f"lanes must be a power of two and at least 2, not {lanes!r}")
        self.width = width
        self.lanes = lanes
        self.outputs = lanes if outputs is None else outputs
        self.amount_bits = lanes.bit_length() - 1
        super().__init__(
            {
                "i": In(width * lanes),
                "amount": In(self.amount_bits),
                "o": Out(width * self.outputs),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rotated = self.i
        for bit in reversed(range(self.amount_bits)):
            # The levels to come reach up to 2**bit - 1 lanes beyond the output's.
            lanes = min(self.lanes, self.outputs + (1 << bit) - 1)
            stage = Signal(self.width * lanes, name=f"stage_{bit}")
            moved = rotated.rotate_right(self.width << bit)
            m.d.comb += stage.eq(Mux(self.amount[bit], moved, rotated))
            rotated = stage
        m.d.comb += self.o.eq(rotated)
        return m
