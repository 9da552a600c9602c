"""Turns chunks into reads of the tile memory, one per cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.banked_memory import read_layout
from hw.bitmap import BitmapWalker
from hw.chunk import FeedMode, chunk_layout
from hw.lane_walker import LaneWalker
from hw.tile_memory import TileMemory
from sw.config import COUNT_BITS, MachineConfig

#: Lowest bits of an identity chunk's stride: the S of ``2**-S``.
SHIFT_BITS = 4


def walk_layout(config: MachineConfig) -> data.StructLayout:
    """How side A's lanes lie in memory; see LaneWalker."""
    return data.StructLayout(
        {"x_count": COUNT_BITS, "x_stride": config.address_bits, "y_stride": config.address_bits}
    )


def step_layout(config: MachineConfig) -> data.StructLayout:
    """What becomes of the words that a step reads.

    ``direct``: they are a slice, with ``first`` and ``last``. Otherwise they are those of ``lane``
    of the chunk, which is its last lane if ``close``. ``identity``: instead of words, the slice
    with ``2**-shift`` in lane ``index``.
    """
    return data.StructLayout(
        {
            "enable": 1,
            "direct": 1,
            "first": 1,
            "last": 1,
            "lane": max(1, (max(config.rows, config.columns) - 1).bit_length()),
            "close": 1,
            "identity": 1,
            "index": config.vector.bit_length(),
            "shift": SHIFT_BITS,
        }
    )


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
    place : In(1)
        There is a place for one slice more, counting all slices asked for.
    room : In(1)
        The transposer takes a chunk.
    start : Out(1)
        The first step for lanes of ``chunk`` is issued.
    chunk : Out(chunk_layout(config))
        The chunk held.
    slice : Out(1)
        A step for a slice is issued.
    read : Out(read_layout(address_bits))
    step : Out(step_layout(config))
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
        walk = {"walk": In(walk_layout(config))} if side == "a" else {}
        super().__init__(
            {
                "chunks": In(stream.Signature(chunk_layout(config))),
                **walk,
                "place": In(1),
                "room": In(1),
                "start": Out(1),
                "chunk": Out(chunk_layout(config)),
                "slice": Out(1),
                "read": Out(read_layout(config.address_bits)),
                "step": Out(step_layout(config)),
                "full": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step = Signal(step_layout(self.config))
        accept, held = Signal(), Signal()
        m.d.comb += [
            self.chunks.ready.eq(~held | (step.enable & step.close)),
            accept.eq(self.chunks.valid & self.chunks.ready),
        ]
        with m.If(self.chunks.ready):
            m.d.sync += held.eq(self.chunks.valid)
        with m.If(accept):
            m.d.sync += self.chunk.eq(self.chunks.payload)
        index = self._issue(m, step, held, accept)
        offset = self._offset(m, step, accept, index)
        self._read(m, step, offset, held)
        return m

    def _issue(self, m: Module, step: data.View, held: Signal, accept: Signal) -> Value:
        """The step of this cycle; the number of its slice."""
        chunk = self.chunk
        m.submodules.bitmap = bitmap = BitmapWalker(self.config.vector)
        lane, is_first = Signal(len(step.lane)), Signal()
        direct = chunk.mode != FeedMode.LANES
        m.d.comb += [
            bitmap.load.eq(accept),
            bitmap.bitmap.eq(self.chunks.payload.bitmap),
            bitmap.step.eq(self.slice & ~bitmap.last),
            step.enable.eq(held & Mux(direct, self.place, self.room | ~is_first)),
            step.direct.eq(direct),
            step.first.eq(chunk.first & is_first),
            step.last.eq(chunk.last & bitmap.last),
            step.lane.eq(lane),
            step.close.eq(Mux(direct, bitmap.last, lane + 1 == chunk.lanes)),
            step.shift.eq(chunk.stride),
            self.slice.eq(step.enable & direct),
            self.start.eq(step.enable & ~direct & is_first),
        ]
        if self.side == "b":
            m.d.comb += step.identity.eq(chunk.mode == FeedMode.IDENTITY)
        with m.If(step.enable):
            m.d.sync += [is_first.eq(0), lane.eq(lane + 1)]
        with m.If(accept):
            m.d.sync += [is_first.eq(1), lane.eq(0)]
        return bitmap.index

    def _offset(self, m: Module, step: data.View, accept: Signal, index: Value) -> Value:
        """Words from the chunk's address to what the step reads."""
        chunk = self.chunk
        if self.side == "b":
            number = Mux(step.direct, index, step.lane)
            return number * Mux(step.identity, Const(1), chunk.stride)
        m.submodules.walker = walker = LaneWalker(self.config)
        for name in self.walk.shape().members:
            m.d.comb += getattr(walker, name).eq(self.walk[name])
        stepped = step.enable & ~step.direct
        m.d.comb += [
            walker.step.eq(stepped),
            walker.rewind.eq(stepped & step.close),
            walker.advance.eq(stepped & step.close & chunk.advance),
            walker.reset.eq(accept & self.chunks.payload.reset),
        ]
        return Mux(step.direct, index * chunk.stride, walker.offset)

    def _read(self, m: Module, step: data.View, offset: Value, held: Signal) -> None:
        """The offset, the address and the memory in one cycle each; the step keeps up with them."""
        # An identity's index needs a bit more than the numbers of a chunk's slices.
        bits = max(self.config.address_bits, len(step.index))
        base, offset_register, address = (
            Signal(bits, name=name) for name in ("base", "offset_register", "address")
        )
        m.d.sync += [
            base.eq(self.chunk.address),
            offset_register.eq(offset),
            address.eq(base + offset_register),
        ]
        stages = [step]
        for number in range(1, self.latency + 1):
            stage = Signal(step.shape(), name=f"step_{number}")
            m.d.sync += stage.eq(stages[-1])
            stages.append(stage)
        m.d.sync += stages[3].index.eq(address)
        m.d.comb += [
            self.read.enable.eq(stages[2].enable & ~stages[2].identity),
            self.read.address.eq(address),
            self.step.eq(stages[-1]),
            self.full.eq(stages[-2].enable & ~stages[-2].direct & stages[-2].close),
            self.busy.eq(held | Cat(stage.enable for stage in stages[1:]).any()),
        ]
