"""One pipeline stage between two streams."""

from __future__ import annotations

from amaranth.hdl import Module, ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class PipelineRegister(wiring.Component):
    """Holds one payload: latency 1 cycle, one payload per cycle, nothing lost or repeated.

    It takes a payload whenever it is empty or being emptied, so ``i.ready`` depends on ``o.ready``
    combinationally.

    Parameters
    ----------
    shape : ShapeLike
        Shape of the payload.

    Members
    -------
    i : In(stream of shape)
    o : Out(stream of shape)
    """

    latency = 1

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(self.o.ready | ~self.o.valid)
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
            with m.If(self.i.valid):
                m.d.sync += self.o.payload.eq(self.i.payload)
        return m
