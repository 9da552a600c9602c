"""The row or column shift buffer: a queue of slices between tile memory and array."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import BLOCK, CLOCKED_READS
from hw.operand import stored_layout
from sw.config import MachineConfig

#: Cycles from a read that is issued for lack of nothing but a place, to the place's next use.
ROUND_TRIP = 6


def slice_layout(config: MachineConfig, lanes: int) -> data.StructLayout:
    """One k of a tile: a stored word per lane, and whether it is the tile's first and last."""
    words = data.ArrayLayout(stored_layout(config.format), lanes)
    return data.StructLayout({"words": words, "first": 1, "last": 1})


class ShiftBuffer(wiring.Component):
    """A queue of slices, first in, first out.

    A slice taken in cycle t can leave from cycle t + 1 on; one slice per cycle in and out. Depth is
    the smallest power of two that holds ``max(rows, columns)`` slices, as a base LDR or LDC loads,
    and covers the memory's round trip at one slice per cycle.

    Parameters
    ----------
    config : MachineConfig
    lanes : int
        Words of a slice.
    target : str
        Where reads of memories take a cycle, the next slice is read a cycle ahead.

    Members
    -------
    i, o : In, Out(stream of slice_layout(config, lanes))
        ``i.ready`` does not depend on ``o.ready``.
    flush : In(1)
        Empties the queue at the end of this cycle; a slice taken in this cycle is lost too.
    level : Out(range(depth + 1))
        Slices held: those taken and not given before this cycle.
    """

    latency = 1

    def __init__(self, config: MachineConfig, lanes: int, target: str = "generic") -> None:
        self.target = target
        self.layout = slice_layout(config, lanes)
        self.depth = 1 << (max(config.rows, config.columns) + ROUND_TRIP - 1).bit_length()
        super().__init__(
            {
                "i": In(stream.Signature(self.layout)),
                "o": Out(stream.Signature(self.layout)),
                "flush": In(1),
                "level": Out(range(self.depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ahead = self.target in CLOCKED_READS
        attributes = BLOCK if ahead else None
        slices = Memory(shape=self.layout.size, depth=self.depth, init=[], attrs=attributes)
        m.submodules.slices = slices
        write = slices.write_port()
        if ahead:
            read = slices.read_port(transparent_for=[write])
        else:
            read = slices.read_port(domain="comb")
        head, tail = Signal(range(self.depth)), Signal(range(self.depth))
        taken, given = Signal(), Signal()
        following = Signal.like(head)
        m.d.comb += [
            self.i.ready.eq(self.level != self.depth),
            taken.eq(self.i.valid & self.i.ready),
            given.eq(self.o.valid & self.o.ready),
            write.en.eq(taken),
            write.addr.eq(tail),
            write.data.eq(self.i.payload),
            following.eq(Mux(self.flush, 0, head + given)),
            read.addr.eq(following if ahead else head),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            tail.eq(tail + taken),
            head.eq(head + given),
            self.o.valid.eq(taken | (self.level > 1) | ((self.level == 1) & ~given)),
        ]
        with m.If(taken & ~given):
            m.d.sync += self.level.eq(self.level + 1)
        with m.Elif(given & ~taken):  # which comes late
            m.d.sync += self.level.eq(self.level - 1)
        with m.If(self.flush):
            m.d.sync += [head.eq(0), tail.eq(0), self.level.eq(0), self.o.valid.eq(0)]
        if not ahead:
            self._mark(m, tail, taken, given)
        return m

    def _mark(self, m: Module, tail: Signal, taken: Signal, given: Signal) -> None:
        """The head's first and last in registers: whether it may leave depends on them."""
        m.submodules.marks = marks = Memory(shape=2, depth=self.depth, init=[])
        write, read = marks.write_port(), marks.read_port(domain="comb")
        following, head = Signal(range(self.depth), init=1), Signal(2)
        came = Cat(self.i.payload.first, self.i.payload.last)
        m.d.comb += [
            write.en.eq(taken),
            write.addr.eq(tail),
            write.data.eq(came),
            read.addr.eq(following),
            Cat(self.o.payload.first, self.o.payload.last).eq(head),
        ]
        m.d.sync += following.eq(following + given)
        with m.If(given | ~self.o.valid):
            m.d.sync += head.eq(Mux(self.level > 1, read.data, came))
        with m.If(self.flush):
            m.d.sync += following.eq(1)
