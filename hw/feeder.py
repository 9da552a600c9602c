"""One side's way from tile memory to the array: chunks in, slices out."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.banked_memory import read_layout
from hw.chunk import chunk_layout
from hw.chunk_reader import ChunkReader, walk_layout
from hw.identity import IdentitySlice
from hw.operand import stored_layout
from hw.shift_buffer import ShiftBuffer, slice_layout
from hw.transposer import Transposer
from sw.config import MachineConfig


class Feeder(wiring.Component):
    """Reads the slices of chunks into the shift buffer, in order, none lost or repeated.

    Let D be ``depth`` and L a chunk's lanes. A chunk is accepted in cycle c when no other is held,
    or in the cycle of the last step of the one held. Its steps are issued from c + 1 on, one per
    cycle: one per lane (LANES), or one per wanted slice. A step of cycle t reads in t + 2
    (``read.enable``, not IDENTITY), and its words come in t + 4.

    - SLICES, IDENTITY: a step needs ``credits >= 1``; its slice enters the shift buffer in t + 4
      and is on ``o`` from t + 5 on.
    - LANES: the first step needs the transposer's room, the others follow in the next cycles. After
      the last step in cycle t, the slices leave the transposer from t + 5 on, after those of
      earlier chunks, one in each cycle with ``credits >= 1``; they enter the shift buffer a cycle
      later, and are on ``o`` two cycles later.
    - ``credits`` is D at first and after ``flush``; it is one less from the cycle after a step for
      a slice, or after a slice left the transposer, and one more from the cycle after one is taken.
    - The transposer has room in cycle t if fewer than P (``pages``) chunks have a first step before
      t and a slice that did not leave it before t; or if just P have, and in cycle t - 1 n <= 6
      slices of the oldest were left of which one was offered and not the last one left, and
      ``credits >= n``.

    So a consumer that takes a slice per cycle gets one per cycle, chunk after chunk, in SLICES and
    IDENTITY always, in LANES if chunks have at least max(L, V/2) slices each and L <= V/2. From the
    first read to the first slice on ``o`` it is 3 cycles (SLICES), L + 4 (LANES).

    Parameters
    ----------
    config : MachineConfig
    side : {"a", "b"}
        Lanes are rows or columns. See ``chunk_layout`` for what each side can do.
    target : str
        As in ShiftBuffer and Transposer.

    Members
    -------
    chunks : In(stream of chunk_layout(config))
        All of one mode, or of another only when ``busy`` is 0.
    walk : In(walk_layout(config))
        Side A only; constant while ``busy``.
    host : In(read_layout(address_bits))
        Side A only: another's read, on ``read`` in the next cycle. Not while ``busy``.
    read : Out(read_layout(address_bits))
    words : In(array(stored, V))
        What the tile memory read, ``TileMemory.latency`` cycles after ``read``.
    banks : In(array(stored, V))
        The same words, that of address a at ``a mod V``.
    mute : Out(1)
        ``words`` must be 0 in this cycle: what is pushed is joined with them by OR.
    o : Out(stream of slice_layout(config, lanes))
        Lanes that the chunk does not want may hold anything.
    flush : In(1)
        Empties the shift buffer; only while ``busy`` is 0.
    busy : Out(1)
        There are slices to come besides those in the shift buffer.
    level : Out(range(depth + 1))
        Slices in the shift buffer.

    Raises
    ------
    ValueError
        If the side is neither.
    """

    ignored_inputs = ("chunks_payload",)  # side B has no walker to reset and advance

    def __init__(self, config: MachineConfig, side: str, target: str = "generic") -> None:
        self.config = config
        self.side = side
        self.lanes = config.rows if side == "a" else config.columns
        self.reader = ChunkReader(config, side)
        self.buffer = ShiftBuffer(config, self.lanes, target)
        self.depth = self.buffer.depth
        self.transposer = Transposer(config, self.lanes, ChunkReader.latency, self.depth, target)
        self.pages = self.transposer.pages
        own = {"walk": In(walk_layout(config)), "host": In(read_layout(config.address_bits))}
        words = data.ArrayLayout(stored_layout(config.format), config.vector)
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config))),
                **(own if side == "a" else {}),
                "read": Out(read_layout(config.address_bits)),
                "words": In(words),
                "banks": In(words),
                "mute": Out(1),
                "o": Out(stream.Signature(slice_layout(config, self.lanes))),
                "flush": In(1),
                "busy": Out(1),
                "level": Out(range(self.depth + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = self.reader
        m.submodules.transposer = transposer = self.transposer
        m.submodules.buffer = buffer = self.buffer
        self._turned = Signal(name="turned_valid")  # a slice between transposer and shift buffer
        connect(m, flipped(self.chunks), reader.chunks)
        connect(m, buffer.o, flipped(self.o))
        if self.side == "a":
            m.d.comb += [reader.walk.eq(self.walk), reader.host.eq(self.host)]
        m.d.comb += [
            self.read.eq(reader.read),
            self.level.eq(buffer.level),
            self.busy.eq(reader.busy | transposer.busy | self._turned),
            buffer.flush.eq(self.flush),
            reader.room.eq(transposer.room),
        ]
        self._transpose(m)
        self._push(m)
        self._count(m)
        return m

    def _transpose(self, m: Module) -> None:
        reader, transposer = self.reader, self.transposer
        m.d.comb += [
            transposer.start.enable.eq(reader.start),
            transposer.start.bitmap.eq(reader.record.bitmap),
            transposer.start.first.eq(reader.record.first),
            transposer.start.last.eq(reader.record.last),
            transposer.full.eq(reader.full),
            transposer.vector.enable.eq(reader.step.enable & ~reader.step.direct),
            transposer.vector.lane.eq(reader.step.lane),
            transposer.vector.close.eq(reader.step.close),
            transposer.vector.skew.eq(reader.skew),
            transposer.vector.words.eq(self.banks),
        ]

    def _push(self, m: Module) -> None:
        """The slice of this cycle: the step's own, or the transposer's.

        Words of memory are late: the others lie ready, and are 0 unless they are the slice's.
        """
        reader, step, transposer = self.reader, self.reader.step, self.transposer
        i, leaves = self.buffer.i, Signal()
        turned = Signal(i.payload.shape())
        width = len(turned.words.as_value())
        m.d.sync += [
            self._turned.eq(leaves),
            turned.words.eq(Mux(leaves, transposer.words.as_value(), 0)),
            turned.first.eq(transposer.first),
            turned.last.eq(transposer.last),
        ]
        ready, mute = turned.words.as_value(), self._turned
        if self.side == "b":
            m.submodules.identity = identity = IdentitySlice(self.config)
            ones = Signal(width, name="identity_words")
            m.d.comb += identity.i.eq(reader.identity)
            m.d.sync += ones.eq(Mux(reader.identifies, identity.words.as_value(), 0))
            ready, mute = ready | ones, mute | step.identity
        m.d.comb += [
            leaves.eq(transposer.valid & transposer.go),
            self.mute.eq(mute),
            i.valid.eq(self._turned | (step.enable & step.direct)),
            i.payload.words.eq(ready | self.words.as_value()[:width]),
            i.payload.first.eq(Mux(step.direct, step.first, turned.first)),
            i.payload.last.eq(Mux(step.direct, step.last, turned.last)),
        ]

    def _count(self, m: Module) -> None:
        """Credits: places of the shift buffer that no slice has or is on its way to."""
        transposer, buffer = self.transposer, self.buffer
        credits = Signal(range(self.depth + 1), init=self.depth)
        spent, returned = Signal(), Signal()
        some = Signal(init=1)  # credits != 0
        m.d.comb += [
            spent.eq(self.reader.slice | (transposer.valid & transposer.go)),
            returned.eq(buffer.o.valid & buffer.o.ready),
            self.reader.place.eq(some),
            transposer.go.eq(some),
            transposer.places.eq(credits),
        ]
        with m.If(returned & ~spent):  # both come late
            m.d.sync += credits.eq(credits + 1)
        with m.Elif(spent & ~returned):
            m.d.sync += credits.eq(credits - 1)
        with m.If(returned):
            m.d.sync += some.eq(1)
        with m.Elif(spent):
            m.d.sync += some.eq(credits != 1)
        with m.If(self.flush):
            m.d.sync += [credits.eq(self.depth), some.eq(1)]
