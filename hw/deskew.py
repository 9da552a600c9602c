"""Rows whose lanes come one after the other, put together again."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, ShapeLike, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import NO_COLLISIONS

#: How many rows a row's note may come ahead of its lane 0.
NOTES_AHEAD: Final = 16


class Deskew(wiring.Component):
    """Collects the lanes of each row, and the row's note, and gives them out together.

    Lane j of a row comes one cycle after its lane j - 1, lanes of different rows in the order of
    the rows, at most one row per cycle; a row's note comes before its lane 0. Each lane has a
    small memory, so that a row may wait.

    Parameters
    ----------
    shape : ShapeLike
        Of a lane's value.
    columns : int
        Lanes.
    note : ShapeLike
        Of what goes with a row.
    depth : int
        Rows, a power of two, more than ``columns``. Who feeds it sees to it that no more than
        ``depth`` rows have begun and not been read.

    Members
    -------
    note : In(struct of enable, data)
    lanes : In(struct of enable, data).array(columns)
    next : In(1)
        Read the next row. It is complete from the cycle after its last lane on.
    row : Out(shape).array(columns)
        The row read last, from the cycle after ``next`` on.
    row_note : Out(note)
        Its note.
    """

    latency = 1

    def __init__(self, shape: ShapeLike, columns: int, note: ShapeLike, depth: int) -> None:
        if depth <= columns or depth.bit_count() != 1:
            raise ValueError(f"depth must be a power of two above {columns}, not {depth!r}")
        self.shape, self.note_shape = shape, note
        self.columns = columns
        self.depth = depth
        super().__init__(
            {
                "note": In(data.StructLayout({"enable": 1, "data": note})),
                "lanes": In(data.StructLayout({"enable": 1, "data": shape})).array(columns),
                "next": In(1),
                "row": Out(shape).array(columns),
                "row_note": Out(note),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for index, lane in enumerate(self.lanes):
            read = self._store(m, f"lane_{index}", self.shape, self.depth, lane)
            m.d.comb += self.row[index].eq(read)
        notes = max(self.depth, 1 << (self.columns + NOTES_AHEAD - 1).bit_length())
        m.d.comb += self.row_note.eq(self._store(m, "notes", self.note_shape, notes, self.note))
        return m

    def _store(self, m: Module, name: str, shape: ShapeLike, depth: int, entry: data.View):
        """What a queue's reader sees that takes an entry with each ``next``."""
        memory = Memory(shape=shape, depth=depth, init=[], attrs=NO_COLLISIONS)
        m.submodules[name] = memory
        write, read = memory.write_port(), memory.read_port()
        written = Signal(range(depth), name=f"{name}_written")
        taken = Signal(range(depth), name=f"{name}_taken")
        m.d.comb += [
            write.en.eq(entry.enable),
            write.addr.eq(written),
            write.data.eq(entry.data),
            read.en.eq(self.next),
            read.addr.eq(taken),
        ]
        m.d.sync += [written.eq(written + entry.enable), taken.eq(taken + self.next)]
        return read.data
