"""Vectors of lanes in, slices across the lanes out."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Shape, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.bitmap import BitmapWalker, find_lowest
from hw.memory_attributes import BLOCK, CLOCKED_READS
from hw.operand import stored_layout
from hw.rotator import Rotator
from sw.config import MachineConfig


def page_count(config: MachineConfig, notice: int) -> int:
    """Pages that sustain a slice per cycle with as many slices as lanes, S of each: usually 2.

    S is the array's longer side. In steady state a chunk starts every S cycles, and its first slice
    leaves S + notice cycles after its start; the chunk that reuses its page starts a cycle later.
    """
    wanted = max(2, 1 + -(-(notice + 1) // config.side))
    return 1 << (wanted - 1).bit_length()


class TransposerPages(wiring.Component):
    """The storage: word k of lane l lies in bank ``(l + k) mod V``, entry (page, l).

    So the words of a lane lie in different banks, and those of a slice too. What is on ``read`` in
    cycle r is on ``words`` in cycle r + 1, with what was written until cycle r.

    Parameters
    ----------
    config : MachineConfig
    lanes : int
        At most V.
    pages : int
        A power of two.
    clocked : bool
        Whether reads of memories take a cycle; else their addresses wait in registers.

    Members
    -------
    write : In(struct)
        ``enable``, ``page``, ``lane``, and V stored ``words``: word k of the lane is at
        ``(k + lane + skew) mod V``.
    read : In(struct)
        ``page`` and ``index``: which slice.
    words : Out(array(stored, lanes))
    """

    def __init__(
        self, config: MachineConfig, lanes: int, pages: int, clocked: bool = False
    ) -> None:
        self.clocked = clocked
        self.vector = config.vector
        self.stored = stored_layout(config.format)
        self.lane_bits = (lanes - 1).bit_length()
        self.depth = pages << self.lane_bits
        page = Shape.cast(range(pages))
        self.write_layout = data.StructLayout(
            {
                "enable": 1,
                "page": page,
                "lane": Shape.cast(range(max(lanes, 2))),
                "skew": exact_log2(self.vector),
                "words": data.ArrayLayout(self.stored, self.vector),
            }
        )
        super().__init__(
            {
                "write": In(self.write_layout),
                "read": In(data.StructLayout({"page": page, "index": range(self.vector)})),
                "words": Out(data.ArrayLayout(self.stored, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.stored.size
        m.submodules.write_rotator = skew = Rotator(width, self.vector)
        m.submodules.read_rotator = align = Rotator(width, self.vector, len(self.words))
        m.d.comb += [skew.i.eq(self.write.words), skew.amount.eq(self.write.skew)]
        found, index = [], Signal.like(self.read.index)
        lanes, page = self._places(m)
        for bank in range(self.vector):
            attributes = BLOCK if self.clocked else None
            memory = Memory(shape=width, depth=self.depth, init=[], attrs=attributes)
            m.submodules[f"bank_{bank}"] = memory
            write = memory.write_port()
            if self.clocked:
                read = memory.read_port(transparent_for=[write])
            else:
                read = memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(self.write.enable),
                write.addr.eq(Cat(self.write.lane[: self.lane_bits], self.write.page)),
                write.data.eq(skew.o.word_select(bank, width)),
                read.addr.eq(Cat(lanes[bank % len(lanes)], page)),
            ]
            found.append(read.data)
        m.d.sync += index.eq(self.read.index)
        m.d.comb += [
            align.i.eq(Cat(*found)),
            align.amount.eq(index),
            self.words.eq(align.o),
        ]
        return m

    def _places(self, m: Module) -> tuple[list[Value], Value]:
        """The lane that each bank, modulo their number, is asked for, and the page."""
        count = 1 << self.lane_bits
        lanes = [(bank - self.read.index)[: self.lane_bits] for bank in range(count)]
        if self.clocked:
            return lanes, self.read.page
        page = Signal.like(self.read.page)
        kept = [Signal(self.lane_bits, name=f"lane_{bank}", init=bank) for bank in range(count)]
        m.d.sync += [page.eq(self.read.page), Cat(*kept).eq(Cat(*lanes))]
        return kept, page


class Transposer(wiring.Component):
    """Takes chunks of lanes, gives the wanted slices of each chunk, in order.

    A chunk is announced by ``start``, at least ``notice`` cycles before its first vector; its
    vectors follow in ascending order of lanes, and ``full`` comes in the cycle before its last one
    or later. With ``full`` in cycle f, the chunk's slices are offered from f + 2 on, after those of
    all earlier chunks, one per cycle in which ``go`` is 1; chunks follow each other without a gap.
    A chunk may start (``room``) while a page is free, or while in the cycle before the oldest page
    had n slices left, 1 < n <= notice + 2, and ``places`` said that n can leave without a pause:
    then the last of them is read in the cycle of the first vector at the latest.

    Parameters
    ----------
    config : MachineConfig
    lanes : int
    notice : int
        Cycles from ``start`` to the chunk's first vector.
    most_places : int
        Largest value of ``places``.
    target : str
        Of its memories: of some, reads take a cycle.

    Members
    -------
    start : In(struct)
        ``enable``, ``bitmap`` (not 0), ``first``, ``last``: as in a chunk. Only with ``room``.
    room : Out(1)
        Depends on registers alone.
    vector : In(struct)
        ``enable``, ``lane``, ``skew``, ``words``: the words of one lane, word k at
        ``(k + lane + skew) mod V``. ``close``: the lane is the chunk's last.
    full : In(1)
        One cycle per chunk.
    places : In(range(most_places + 1))
        Slices that the receiver takes in as many cycles, starting with this one.
    go : In(1)
        The receiver takes a slice now, if there is one.
    valid : Out(1)
        There is a slice.
    words, first, last : Out
        The slice: array(stored, lanes), whether it is the tile's first, whether its last.
    busy : Out(1)
        A chunk has started of which not all slices have left.
    """

    def __init__(
        self,
        config: MachineConfig,
        lanes: int,
        notice: int,
        most_places: int,
        target: str = "generic",
    ) -> None:
        self.notice = notice
        self.pages = page_count(config, notice)
        self.storage = TransposerPages(config, lanes, self.pages, target in CLOCKED_READS)
        chunk = {"bitmap": config.vector, "first": 1, "last": 1}
        #: Of a chunk that waits for its turn; ``count``: how many slices it has.
        self.record = data.StructLayout({**chunk, "count": range(config.vector + 1)})
        fields = self.storage.write_layout.members
        super().__init__(
            {
                "start": In(data.StructLayout({"enable": 1, **chunk})),
                "room": Out(1),
                "vector": In(
                    data.StructLayout(
                        {name: fields[name] for name in ("enable", "lane", "skew", "words")}
                        | {"close": 1}
                    )
                ),
                "full": In(1),
                "places": In(range(most_places + 1)),
                "go": In(1),
                "valid": Out(1),
                "words": Out(self.storage.signature.members["words"].shape),
                "first": Out(1),
                "last": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.storage = storage = self.storage
        pushed, finished = Signal(), Signal()
        write_page, read_page = Signal(range(self.pages)), Signal(range(self.pages))
        m.d.comb += [
            storage.write.enable.eq(self.vector.enable),
            storage.write.page.eq(write_page),
            storage.write.lane.eq(self.vector.lane),
            storage.write.skew.eq(self.vector.skew),
            storage.write.words.eq(self.vector.words),
            storage.read.page.eq(read_page + finished),
            self.words.eq(storage.words),
            pushed.eq(self.valid & self.go),
        ]
        m.d.sync += [
            write_page.eq(write_page + (self.vector.enable & self.vector.close)),
            read_page.eq(read_page + finished),
        ]
        count = self._push(m, pushed, finished)
        started = Signal(range(self.pages + 2))  # chunks, less those finished
        m.d.sync += started.eq(started + self.start.enable - finished)
        below = Signal(init=1)  # started < pages
        level = Signal()  # started == pages
        with m.If(self.start.enable & ~finished):
            m.d.sync += [below.eq(started < self.pages - 1), level.eq(started == self.pages - 1)]
        with m.Elif(finished & ~self.start.enable):
            m.d.sync += [below.eq(started <= self.pages), level.eq(started == self.pages + 1)]
        # A cycle late: a slice more may be left, as it leaves meanwhile.
        few, leaves = Signal(), Signal()
        m.d.comb += few.eq((count <= self.notice + 2) & (count <= self.places))
        m.d.sync += leaves.eq(self.valid & few & ~finished)
        m.d.comb += [
            self.room.eq(below | (level & leaves)),
            self.busy.eq(started != 0),
        ]
        return m

    def _push(self, m: Module, pushed: Signal, finished: Signal) -> Value:
        """Walk over the slices of one full page after the other; the number of slices left."""
        m.submodules.records = records = SyncFIFO(width=self.record.size, depth=self.pages)
        m.submodules.walker = walker = BitmapWalker(len(self.start.bitmap))
        record = data.View(self.record, records.r_data)
        full, load = Signal(range(self.pages + 1)), Signal()
        count = Signal(range(len(self.start.bitmap) + 1))
        is_first, marks_first, marks_last = Signal(), Signal(), Signal()
        start = Signal(self.record)
        m.d.comb += [
            *(start[name].eq(self.start[name]) for name in ("bitmap", "first", "last")),
            start.count.eq(sum(self.start.bitmap)),
            records.w_data.eq(start),
            records.w_en.eq(self.start.enable),
            finished.eq(pushed & walker.last),
            load.eq((full != 0) & (~self.valid | finished)),
            records.r_en.eq(load),
            walker.load.eq(load),
            walker.bitmap.eq(record.bitmap),
            Cat(walker.lowest, walker.alone).eq(Cat(find_lowest(m, "record", record.bitmap))),
            walker.step.eq(pushed & ~walker.last),
            self.storage.read.index.eq(walker.following),
            self.first.eq(marks_first & is_first),
            self.last.eq(marks_last & walker.last),
        ]
        m.d.sync += full.eq(full + self.full - load)
        with m.If(load):
            m.d.sync += [
                self.valid.eq(1),
                count.eq(record.count),
                is_first.eq(1),
                marks_first.eq(record.first),
                marks_last.eq(record.last),
            ]
        with m.Elif(pushed):
            m.d.sync += [self.valid.eq(~walker.last), count.eq(count - 1), is_first.eq(0)]
        return count
