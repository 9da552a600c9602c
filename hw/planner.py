"""From the registers of a product to the chunks that both feeders read and the tiles they form."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hw.bitmap import find_lowest
from hw.block_queue import BlockQueue, make_queue
from hw.chunk import FeedMode, chunk_layout
from hw.chunk_filter import ChunkFilter, looked_layout
from hw.chunk_walker import ChunkWalker
from hw.machine_registers import registers_layout
from hw.memory_attributes import CLOCKED_READS
from hw.queue_head import QueueHead
from hw.tile_memory import TileMemory, segment_bits
from hw.tile_record import tile_layout
from hw.tile_walker import LATE_FIELDS, TileWalker
from sw.config import COUNT_BITS, MachineConfig
from sw.registers import AMode, BMode

#: Chunks that wait for each feeder, and tiles that wait for the issuer, at most.
CHUNK_QUEUE: Final = 2
TILE_QUEUE: Final = 8
#: Addresses of B that a product walks through: multiples of the columns where slices are skipped.
_B_STEPS: Final = ("b_base", "b_k1", "b_k2", "b_n", "b_g")


class Planner(wiring.Component):
    """Chunks for both sides, in the same order, and a record with the first chunk of each tile.

    One chunk per cycle until a queue is full. With L the latency of the flag memory, ``start`` in
    cycle s and chunks walked, dropped ones included, numbered c = 0, 1, ...:

    - chunk c is walked, and its flags are asked for, in ``walk[c]``, the first cycle from
      ``max(s + 1, walk[c - 1] + 1)`` on that is also after ``take[c - (L + 3)]``;
    - it is taken by the filter in ``take[c]``, the first cycle from
      ``max(walk[c] + L + 2, take[c - 1] + 1)`` on in which the chunk held before it leaves or none
      is held; if it is dropped and does not end its tile, without waiting;
    - a chunk that is kept leaves in ``leave[c]``, the first cycle from ``take[c] + 1`` on in which
      it is known whether it is its tile's last (without ``skip``: at once; else from the cycle
      of the take of the next kept chunk or of the tile's end on) and all of its queues have room;
    - it is on a stream whose queue is empty in ``leave[c] + 1``, its tile's record two cycles
      later.

    So without back pressure chunk c is on the streams in cycle ``s + c + L + 5``. Queues take one
    payload per cycle unless they hold :data:`CHUNK_QUEUE` chunks or :data:`TILE_QUEUE` records as
    the cycle begins.

    Slices are skipped if the configuration has flags for them and B lies in slices of ``columns``
    words at multiples of ``columns``: B_K0 is ``columns``, and B_BASE, B_K1, B_K2, B_N, B_G are
    multiples.

    Parameters
    ----------
    config : MachineConfig
    target : str
        Of its queues, as in make_queue.

    Members
    -------
    start : In(1)
        For one cycle, while not ``busy``.
    registers : In(registers_layout(config))
        Unchanged, like all below, from ``start`` until not ``busy``; B_MODE 2 in an ADD.
    rows, terms : In(16)
        M and K.
    skip, blocks : In(1)
        The flags SKIP and BLOCK of the instruction.
    flags : Out({enable, segment}), zero : In(V)
        To and from the tile memory.
    a, b : Out(stream of chunk_layout(config))
    tiles : Out(stream of tile_layout(config))
        A record is put in its queue with the first chunk of its tile (or block).
    busy : Out(1)
        From the cycle after ``start`` until the last chunk is in its queues.
    skipped : Out(range(V + 1))
        Slices left out, to be summed over all cycles; 1 cycle after the take of their chunk.
    """

    def __init__(self, config: MachineConfig, target: str = "generic") -> None:
        self.config = config
        self.target = target
        flags = data.StructLayout({"enable": 1, "segment": segment_bits(config)})
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "rows": In(COUNT_BITS),
                "terms": In(COUNT_BITS),
                "skip": In(1),
                "blocks": In(1),
                "flags": Out(flags),
                "zero": In(config.vector),
                "a": Out(stream.Signature(chunk_layout(config))),
                "b": Out(stream.Signature(chunk_layout(config))),
                "tiles": Out(stream.Signature(tile_layout(config))),
                "busy": Out(1),
                "skipped": Out(range(config.vector + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # ADD shows a mode of its own, and late: the walks look at it after the start.
        registers = Signal(registers_layout(self.config))
        modes = {name: Signal.like(self.registers[name]) for name in ("a_mode", "b_mode")}
        m.d.comb += registers.eq(self.registers)
        m.d.sync += [mode.eq(self.registers[name]) for name, mode in modes.items()]
        m.d.comb += [registers[name].eq(mode) for name, mode in modes.items()]
        self._registers = registers
        m.submodules.walker = walker = ChunkWalker(self.config)
        m.submodules.filter = kept = ChunkFilter(self.config)
        m.submodules.tiles = tiles = TileWalker(self.config)
        for unit in (walker, tiles):
            m.d.comb += [
                unit.start.eq(self.start),
                unit.registers.eq(registers),
                unit.rows.eq(self.rows),
                unit.blocks.eq(self.blocks),
            ]
        m.d.comb += [
            tiles.terms.eq(self.terms),
            tiles.place.eq(kept.o.payload.place),
            self.skipped.eq(kept.skipped),
        ]
        m.d.sync += kept.skip.eq(self._skips())
        waiting = self._look(m, walker, kept)
        leave = self._queue(m, kept, tiles)
        m.d.comb += [
            tiles.step.eq(leave & kept.o.payload.last),
            self.busy.eq(walker.valid | waiting | kept.busy),
        ]
        return m

    def _skips(self) -> Value:
        """Whether this product's slices of zeros are left out."""
        if not self.config.skips:
            return Const(0, 1)
        registers, columns = self._registers, self.config.columns
        aligned = [(registers[name] & (columns - 1)) == 0 for name in _B_STEPS]
        in_slices = (registers.b_mode == BMode.SLICES) & (registers.b_k0 == columns)
        return self.skip & in_slices & Cat(*aligned).all()

    def _look(self, m: Module, walker: ChunkWalker, kept: ChunkFilter) -> Value:
        """Ask for the flags of walked chunks and bring both to the filter.

        Returns whether chunks are on their way.
        """
        latency = TileMemory.latency
        depth = latency + 3
        layout = looked_layout(self.config)
        m.submodules.looked = looked = make_queue(layout.size, depth - 1, self.target)
        on_the_way = Signal(range(depth + 1))  # walked and not yet taken: each finds room
        room = Signal(init=1)  # on_the_way < depth
        head = self._head(m, "looked", looked)
        m.d.comb += walker.step.eq(walker.valid & room)
        take = kept.i.valid & kept.i.ready
        m.d.sync += on_the_way.eq(on_the_way + walker.step - take)
        with m.If(take & ~walker.step):
            m.d.sync += room.eq(1)
        with m.Elif(walker.step & ~take):
            m.d.sync += room.eq(on_the_way != depth - 1)
        m.d.comb += [
            self.flags.enable.eq(walker.step),
            self.flags.segment.eq(walker.b_slice >> (self.config.columns - 1).bit_length()),
        ]
        before = chunk = walker.chunk
        valid, vector = walker.step, self.config.vector
        for stage in range(latency):
            before = chunk
            delayed = Signal.like(walker.chunk, name=f"walked_{stage}", reset_less=True)
            delayed_valid = Signal(name=f"walked_valid_{stage}")
            m.d.sync += [delayed.eq(chunk), delayed_valid.eq(valid)]
            chunk, valid = delayed, delayed_valid
        wanted, bitmap = Signal(vector), Signal(vector)
        m.d.sync += wanted.eq(Cat(before.length > k for k in range(vector)))
        m.d.comb += [
            bitmap.eq(wanted & ~(self.zero & kept.skip.replicate(vector))),
            looked.w_en.eq(valid),
            looked.w_data.eq(Cat(chunk, bitmap, bitmap.any())),
            kept.i.valid.eq(head.valid),
            kept.i.payload.eq(head.payload),
            head.ready.eq(kept.i.ready),
        ]
        return on_the_way.any()

    def _head(self, m: Module, name: str, queue: BlockQueue | SyncFIFO) -> stream.Interface:
        """What a queue gives, in a register: whether that is taken comes late in its cycle."""
        width = len(queue.r_data)
        if self.target not in CLOCKED_READS:
            m.submodules[f"{name}_head"] = head = QueueHead(width)
            m.d.comb += [
                head.i.valid.eq(queue.r_rdy),
                head.i.payload.eq(queue.r_data),
                queue.r_en.eq(head.i.ready),
            ]
            return head.o
        o = stream.Signature(width).create(path=(f"{name}_head",))  # small parts: slow clocks
        m.d.comb += queue.r_en.eq(o.ready | ~o.valid)
        with m.If(queue.r_en):
            m.d.sync += [o.valid.eq(queue.r_rdy), o.payload.eq(queue.r_data)]
        return o

    def _queue(self, m: Module, kept: ChunkFilter, tiles: TileWalker) -> Value:
        """Give a chunk to both sides, and the first of a tile to the issuer as well.

        Returns whether a chunk leaves.
        """
        chunk, registers = kept.o.payload, self._registers
        queues = {}
        for name, o, depth in (
            ("a", self.a, CHUNK_QUEUE),
            ("b", self.b, CHUNK_QUEUE),
            ("tile", self.tiles, TILE_QUEUE),
        ):
            width = len(o.payload.as_value())
            m.submodules[f"{name}_queue"] = queue = make_queue(width, depth, self.target)
            queues[name] = queue
        for name, o in (("a", self.a), ("b", self.b)):
            m.d.comb += [
                o.valid.eq(queues[name].r_rdy),
                o.payload.eq(queues[name].r_data),
                queues[name].r_en.eq(o.ready),
            ]
        head = self._head(m, "tile", queues["tile"])
        m.d.comb += [
            self.tiles.valid.eq(head.valid),
            self.tiles.payload.eq(head.payload),
            head.ready.eq(self.tiles.ready),
        ]
        leave = Signal()
        comes = Signal()  # a record, to the queue of tiles
        records = Signal(range(TILE_QUEUE + 1))  # on their way to the queue, in it, and behind it
        opens, taken = leave & chunk.first, self.tiles.valid & self.tiles.ready
        m.d.sync += records.eq(records + opens - taken)
        tile_room = (records != TILE_QUEUE) | ~chunk.first
        free = queues["a"].w_rdy & queues["b"].w_rdy & tile_room
        early = Signal(tiles.tile.shape())
        record = Signal(tiles.tile.shape())
        m.d.comb += record.eq(early)
        m.d.comb += [record[name].eq(tiles.tile[name]) for name in LATE_FIELDS]
        m.d.sync += [comes.eq(opens), early.eq(tiles.tile)]
        m.d.comb += [
            kept.o.ready.eq(free),
            leave.eq(kept.o.valid & free),
            queues["a"].w_en.eq(leave),
            queues["b"].w_en.eq(leave),
            queues["tile"].w_en.eq(comes),
            queues["tile"].w_data.eq(record),
        ]
        a = Signal(chunk_layout(self.config))
        b = Signal(chunk_layout(self.config))
        # Here, before the queues: feeders have no time left.
        lowest, alone = find_lowest(m, "chunk", chunk.bitmap)
        for side in (a, b):
            m.d.comb += [
                side.bitmap.eq(chunk.bitmap),
                side.lowest.eq(lowest),
                side.alone.eq(alone),
                side.first.eq(chunk.first),
                side.last.eq(chunk.last),
            ]
        a_slices = registers.a_mode == AMode.SLICES
        m.d.comb += [
            a.mode.eq(Mux(a_slices, FeedMode.SLICES, FeedMode.LANES)),
            a.address.eq(chunk.a_address),
            a.stride.eq(registers.a_k0),
            a.lanes.eq(tiles.tile.rows),
            a.reset.eq(chunk.first & tiles.tile.reset & tiles.tile.first_block),
            a.advance.eq(chunk.last & tiles.tile.advance),
            b.address.eq(chunk.b_address),
            b.stride.eq(registers.b_k0),
            b.lanes.eq(tiles.tile.columns),
            queues["a"].w_data.eq(a),
            queues["b"].w_data.eq(b),
        ]
        with m.Switch(registers.b_mode):
            with m.Case(BMode.SLICES):
                m.d.comb += b.mode.eq(FeedMode.SLICES)
            with m.Case(BMode.LANES):
                m.d.comb += [b.mode.eq(FeedMode.LANES), b.stride.eq(registers.b_x)]
            with m.Default():
                m.d.comb += b.mode.eq(FeedMode.IDENTITY)
                with m.If(chunk.later):
                    m.d.comb += b.stride.eq(registers.b_k1)
        return leave
