"""The activation buffer: what the last RELU or LIN produced."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import NO_COLLISIONS
from hw.tile_record import index_bits
from sw.config import MachineConfig


class ActivationBuffer(wiring.Component):
    """``rows`` rows of ``columns`` words, written and read a row at a time.

    A read shows its row one cycle later and until the next read. What is written in a cycle is
    seen by reads of later cycles.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    write : In(struct of enable, row, words)
    read : In(struct of enable, row)
    words : Out(x).array(columns)
    """

    latency = 1

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        row = index_bits(config.rows)
        super().__init__(
            {
                "write": In(buffer_write_layout(config)),
                "read": In(data.StructLayout({"enable": 1, "row": row})),
                "words": Out(config.bits).array(config.columns),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.config.columns * self.config.bits
        rows = self.config.rows
        memory = Memory(shape=width, depth=rows, init=[], attrs=NO_COLLISIONS)
        m.submodules.memory = memory
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.row),
            write.data.eq(self.write.words.as_value()),
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.row),
            Cat(*self.words).eq(read.data),
        ]
        return m


def buffer_write_layout(config: MachineConfig) -> data.StructLayout:
    """A write of one row: ``enable``, ``row``, ``words``."""
    return data.StructLayout(
        {
            "enable": 1,
            "row": index_bits(config.rows),
            "words": data.ArrayLayout(config.bits, config.columns),
        }
    )
