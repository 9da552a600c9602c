"""A small memory of parameters, written by the host and read ahead of the rows that use them."""

from __future__ import annotations

from amaranth.hdl import Module, ShapeLike
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import NO_COLLISIONS
from hw.tile_record import index_bits


class ParameterMemory(wiring.Component):
    """Entries of one shape: one write and one read per cycle. All zero after power-up.

    A read shows its entry one cycle later and keeps it until the next read. What is written in
    a cycle is seen by reads of later cycles.

    Parameters
    ----------
    shape : ShapeLike
        Of an entry.
    depth : int
        Entries, a power of two.

    Members
    -------
    write : In(struct of enable, entry, data)
    read : In(struct of enable, entry)
    data : Out(shape)
    """

    latency = 1

    def __init__(self, shape: ShapeLike, depth: int) -> None:
        self.shape = shape
        self.depth = depth
        entry = index_bits(depth)
        super().__init__(
            {
                "write": In(data.StructLayout({"enable": 1, "entry": entry, "data": shape})),
                "read": In(data.StructLayout({"enable": 1, "entry": entry})),
                "data": Out(shape),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory = Memory(shape=self.shape, depth=self.depth, init=[], attrs=NO_COLLISIONS)
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.entry),
            write.data.eq(self.write.data),
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.entry),
            self.data.eq(read.data),
        ]
        return m
