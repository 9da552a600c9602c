"""Turns chunks into reads of the tile memory, one per cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.banked_memory import read_layout
from hw.bitmap import BitmapWalker
from hw.chunk import FeedMode, chunk_layout
from hw.identity import SHIFT_BITS, identity_layout
from hw.lane_walker import LaneWalker
from hw.tile_memory import TileMemory
from sw.config import COUNT_BITS, MachineConfig


def walk_layout(config: MachineConfig) -> data.StructLayout:
    """How side A's lanes lie in memory; see LaneWalker."""
    return data.StructLayout(
        {"x_count": COUNT_BITS, "x_stride": config.address_bits, "y_stride": config.address_bits}
    )


def step_layout(lanes: int) -> data.StructLayout:
    """What becomes of the words that a step of a side with so many lanes reads.

    ``direct``: they are a slice, with ``first`` and ``last``. Otherwise they are those of ``lane``
    of the chunk, which is its last lane if ``close``. ``identity``: instead of words, the slice of
    a scaled identity.
    """
    return data.StructLayout(
        {
            "enable": 1,
            "direct": 1,
            "first": 1,
            "last": 1,
            "lane": max(1, (lanes - 1).bit_length()),
            "close": 1,
            "identity": 1,
        }
    )


def record_layout(config: MachineConfig) -> data.StructLayout:
    """What the transposer needs of a chunk."""
    return data.StructLayout({"bitmap": config.vector, "first": 1, "last": 1})


class ChunkReader(wiring.Component):
    """Holds a chunk and issues its steps: one per lane, or one per wanted slice.

    A chunk accepted in cycle c issues steps from c + 1 on, one per cycle, chunk after chunk without
    a gap: the next chunk is accepted in the cycle of the last step. A step of cycle t reads in
    cycle t + 2 (``read``; not IDENTITY), and is on ``step`` in cycle t + latency, when the memory
    gives its words. A step for a slice waits for ``place``, the first of the steps for lanes for
    ``room``.

    Parameters
    ----------
    config : MachineConfig
    side : {"a", "b"}
        The walker of lanes and its ports are on side A, identity on side B.

    Members
    -------
    chunks : In(stream of chunk_layout(config))
    walk : In(walk_layout(config))
        Side A only. Constant while chunks are held.
    host : In(read_layout(address_bits))
        Side A only: another's read, on ``read`` in the next cycle. Not while ``busy``.
    place : In(1)
        There is a place for one slice more, counting all slices asked for.
    room : In(1)
        The transposer takes a chunk.
    start : Out(1)
        The first step for lanes of the chunk held is issued.
    record : Out(record_layout(config))
        Of the chunk held.
    slice : Out(1)
        A step for a slice is issued.
    read : Out(read_layout(address_bits))
    step : Out(step_layout(lanes))
    skew : Out(log2(V))
        Comes with ``step``: the address read, less the lane, modulo V.
    identity : Out(identity_layout(config))
    identifies : Out(1)
        Side B only: a cycle before ``step``, and whether it is an identity's.
    full : Out(1)
        In the next cycle ``step`` is the last lane of a chunk.
    busy : Out(1)
        A chunk is held, or steps are on their way, that on ``step`` included.

    Raises
    ------
    ValueError
        If the side is neither.
    """

    latency = 2 + TileMemory.latency

    def __init__(self, config: MachineConfig, side: str) -> None:
        if side not in ("a", "b"):
            raise ValueError(f"side must be a or b, not {side!r}")
        self.config = config
        self.side = side
        self._bitmap = BitmapWalker(config.vector)
        names = ("mode", "address", "stride", "lanes") + (("advance",) if side == "a" else ())
        fields = chunk_layout(config).members
        self._chunk = {name: Signal(fields[name], name=f"chunk_{name}") for name in names}
        own = {
            "a": {
                "walk": In(walk_layout(config)),
                "host": In(read_layout(config.address_bits)),
            },
            "b": {"identity": Out(identity_layout(config)), "identifies": Out(1)},
        }
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config))),
                **own[side],
                "place": In(1),
                "room": In(1),
                "start": Out(1),
                "record": Out(record_layout(config)),
                "slice": Out(1),
                "read": Out(read_layout(config.address_bits)),
                "step": Out(step_layout(config.rows if side == "a" else config.columns)),
                "skew": Out(exact_log2(config.vector)),
                "full": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = Signal(self.step.shape())
        accept, held = Signal(), Signal()
        m.d.comb += [
            self.chunks.ready.eq(~held | (step.enable & step.close)),
            accept.eq(self.chunks.valid & self.chunks.ready),
        ]
        with m.If(self.chunks.ready):
            m.d.sync += held.eq(self.chunks.valid)
        self._hold(m, accept)
        self._issue(m, step, held, accept)
        self._follow(m, step, held)
        self._read(m, self._offset(m, step, accept))
        return m

    def _hold(self, m: Module, accept: Signal) -> None:
        """The chunk in registers, and the walk over its slices."""
        chunk = self.chunks.payload
        m.d.comb += [
            self._bitmap.load.eq(accept),
            self._bitmap.bitmap.eq(chunk.bitmap),
            self._bitmap.lowest.eq(chunk.lowest),
            self._bitmap.alone.eq(chunk.alone),
            self._bitmap.step.eq(self.slice & ~self._bitmap.last),
        ]
        m.submodules.bitmap = self._bitmap
        with m.If(accept):
            m.d.sync += [held.eq(chunk[name]) for name, held in self._chunk.items()]
            m.d.sync += [self.record[name].eq(chunk[name]) for name in self.record.shape().members]

    def _issue(self, m: Module, step: data.View, held: Signal, accept: Signal) -> None:
        """The step of this cycle, if one can be issued."""
        mode, bitmap = self._chunk["mode"], self._bitmap
        lane, is_first, is_last = Signal(len(step.lane)), Signal(), Signal()
        direct = mode != FeedMode.LANES
        # What the next step waits for, known before: many registers wait for the step.
        for_place, for_room, for_none = (
            Signal(name=f"step_for_{name}") for name in ("place", "room", "none")
        )
        m.d.comb += [
            step.enable.eq((for_place & self.place) | (for_room & self.room) | for_none),
            step.direct.eq(direct),
            step.first.eq(self.record.first & is_first),
            step.last.eq(self.record.last & bitmap.last),
            step.lane.eq(lane),
            step.close.eq(Mux(direct, bitmap.last, is_last)),
            self.slice.eq(for_place & self.place),
            self.start.eq(for_room & self.room),
        ]
        if self.side == "b":
            m.d.comb += step.identity.eq(mode == FeedMode.IDENTITY)
        with m.If(step.enable):
            m.d.sync += [is_first.eq(0), is_last.eq(lane + 2 == self._chunk["lanes"])]
            m.d.sync += lane.eq(lane + 1)
        with m.If(self.chunks.ready):
            slices = self.chunks.payload.mode != FeedMode.LANES
            m.d.sync += [
                for_place.eq(self.chunks.valid & slices),
                for_room.eq(self.chunks.valid & ~slices),
                for_none.eq(0),
            ]
        with m.Elif(self.start):
            m.d.sync += [for_room.eq(0), for_none.eq(1)]
        with m.If(accept):
            m.d.sync += [is_first.eq(1), is_last.eq(self.chunks.payload.lanes == 1), lane.eq(0)]

    def _follow(self, m: Module, step: data.View, held: Signal) -> None:
        """The step keeps up with its read: a register for the offset, the address, the memory."""
        stages = [step]
        for number in range(1, self.latency + 1):
            stage = Signal(step.shape(), name=f"step_{number}")
            m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        reads = stages[2].enable & ~stages[2].identity
        if self.side == "a":
            host = Signal()
            m.d.sync += host.eq(self.host.enable)
            reads |= host
        m.d.comb += [
            self.read.enable.eq(reads),
            self.step.eq(stages[-1]),
            self.full.eq(stages[-2].enable & ~stages[-2].direct & stages[-2].close),
            self.busy.eq(held | Cat(stage.enable for stage in stages[1:]).any()),
        ]
        if self.side == "b":
            m.d.comb += self.identifies.eq(stages[-2].identity)
        less = Signal.like(self.skew)
        m.d.comb += less.eq(self.read.address - stages[2].lane)
        _delay(m, "skew", less, self.latency - 2, self.skew)

    def _offset(self, m: Module, step: data.View, accept: Signal) -> Value:
        """Words from the chunk's address to what the step reads."""
        stride, index = self._chunk["stride"], self._bitmap.index
        if self.side == "b":
            number = Mux(step.direct, index, step.lane)
            return number * Mux(step.identity, Const(1), stride)
        m.submodules.walker = walker = LaneWalker(self.config)
        stepped = step.enable & ~step.direct
        m.d.comb += [
            walker.x_count.eq(self.walk.x_count),
            walker.x_stride.eq(self.walk.x_stride),
            walker.y_stride.eq(self.walk.y_stride),
            walker.step.eq(stepped),
            walker.rewind.eq(stepped & step.close),
            walker.advance.eq(stepped & step.close & self._chunk["advance"]),
            walker.reset.eq(accept & self.chunks.payload.reset),
        ]
        return Mux(step.direct, index * stride, walker.offset)

    def _read(self, m: Module, offset: Value) -> None:
        """Offset and address in a cycle each; an identity's index takes the way of an address."""
        index_bits = self.config.vector.bit_length()
        width = self.config.address_bits
        if self.side == "b":
            width = max(width, index_bits)
        base, moved, address = (Signal(width, name=name) for name in ("base", "moved", "address"))
        m.d.sync += [
            base.eq(self._chunk["address"]),
            moved.eq(offset),
            address.eq(base + moved),
        ]
        m.d.comb += self.read.address.eq(address)
        if self.side == "a":
            with m.If(self.host.enable):
                m.d.sync += address.eq(self.host.address)
        if self.side == "b":
            value, cycles = self._chunk["stride"][:SHIFT_BITS], self.latency
            _delay(m, "shift", value, cycles - 1, self.identity.shift)
            _delay(m, "index", address[:index_bits], cycles - 3, self.identity.index)


def _delay(m: Module, name: str, value: Value, cycles: int, o: Value) -> None:
    for number in range(cycles):
        register = Signal(len(o), name=f"{name}_{number}")
        m.d.sync += register.eq(value)
        value = register
    m.d.comb += o.eq(value)
