"""STR: the activation buffer into a tile."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.instruction_check import job_layout
from hw.result_rows import row_write_layout
from hw.tile_record import index_bits
from sw.config import MachineConfig


class TileStore(wiring.Component):
    """Writes the rows of the activation buffer to a tile, one per cycle.

    With ``start`` in cycle s, row r is read in cycle ``s + 1 + r`` and written in the next;
    ``done`` is in the cycle of the last write, ``s + 1 + rows``.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    start : In(1)
        For one cycle, while nothing is under way.
    job : In(job_layout(config))
        Unchanged from ``start`` to ``done``.
    row : Out
        Of the activation buffer.
    words : In(array(bits, columns))
        That row, one cycle later.
    write : Out(row_write_layout(config))
    done : Out(1)
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(config)),
                "row": Out(index_bits(config.rows)),
                "words": In(data.ArrayLayout(config.bits, config.columns)),
                "write": Out(row_write_layout(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reading, writing, last = Signal(), Signal(), Signal()
        address = Signal(self.config.address_bits)
        m.d.comb += [
            self.write.enable.eq(writing),
            self.write.address.eq(address),
            self.write.count.eq(self.job.columns),
            self.write.words.eq(self.words),
            self.done.eq(writing & ~reading),
            last.eq(self.row + 1 == self.job.rows),
        ]
        m.d.sync += writing.eq(reading)
        with m.If(self.start):
            m.d.sync += [reading.eq(1), self.row.eq(0), address.eq(self.job.address)]
        with m.Elif(reading):
            m.d.sync += [self.row.eq(self.row + 1), reading.eq(~last)]
        with m.If(writing):
            m.d.sync += address.eq(address + self.config.columns)
        return m
