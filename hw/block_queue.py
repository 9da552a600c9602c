"""A queue of words, in registers or in block RAM."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import BLOCK, CLOCKED_READS

#: Words that are kept in registers on any target.
_REGISTERS: Final = 2


class BlockQueue(wiring.Component):
    """What ``amaranth.lib.fifo.SyncFIFO`` is, cycle by cycle, with a memory whose reads take one.

    The head is read a cycle ahead; a word written in a cycle is at the head in the next one.

    Parameters
    ----------
    width : int
        Bits of a word.
    depth : int
        Words, a power of two.

    Members
    -------
    w_data : In(width), w_en : In(1), w_rdy : Out(1)
    r_data : Out(width), r_rdy : Out(1), r_en : In(1)
        As SyncFIFO's.
    """

    def __init__(self, width: int, depth: int) -> None:
        if depth < 2 or depth.bit_count() != 1:
            raise ValueError(f"depth must be a power of two from 2 on, not {depth!r}")
        self.width = width
        self.depth = depth
        super().__init__(
            {
                "w_data": In(width),
                "w_en": In(1),
                "w_rdy": Out(1),
                "r_data": Out(width),
                "r_rdy": Out(1),
                "r_en": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = Memory(shape=self.width, depth=self.depth, init=[], attrs=BLOCK)
        m.submodules.words = words
        write = words.write_port()
        read = words.read_port(transparent_for=[write])
        level = Signal(range(self.depth + 1))
        head, tail, following = (
            Signal(range(self.depth), name=name) for name in ("head", "tail", "following")
        )
        taken, given = Signal(), Signal()
        m.d.comb += [
            self.w_rdy.eq(level != self.depth),
            self.r_rdy.eq(level != 0),
            taken.eq(self.w_en & self.w_rdy),
            given.eq(self.r_en & self.r_rdy),
            following.eq(head + given),
            write.en.eq(taken),
            write.addr.eq(tail),
            write.data.eq(self.w_data),
            read.addr.eq(following),
            self.r_data.eq(read.data),
        ]
        m.d.sync += [
            head.eq(following),
            tail.eq(tail + taken),
            level.eq(level + taken - given),
        ]
        return m


def make_queue(width: int, depth: int, target: str) -> BlockQueue | fifo.SyncFIFO:
    """A queue for a target; all behave alike."""
    if target in CLOCKED_READS and depth > _REGISTERS:
        return BlockQueue(width, depth)
    return fifo.SyncFIFO(width=width, depth=depth)
