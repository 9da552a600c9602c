"""Leaves out what is zero, and finds the first and the last chunk of a tile that are left."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.chunk_walker import place_layout, walked_layout
from sw.config import MachineConfig


def looked_layout(config: MachineConfig) -> data.StructLayout:
    """A walked chunk, which of its slices are wanted, and whether one is (``found``)."""
    return data.StructLayout({"chunk": walked_layout(config), "bitmap": config.vector, "found": 1})


def kept_layout(config: MachineConfig) -> data.StructLayout:
    """A chunk that has slices to push: ``bitmap``, never 0; ``first``, ``last`` of its tile."""
    return data.StructLayout(
        {
            "a_address": config.address_bits,
            "b_address": config.address_bits,
            "later": 1,
            "bitmap": config.vector,
            "first": 1,
            "last": 1,
            "place": place_layout(),
        }
    )


class ChunkFilter(wiring.Component):
    """Drops chunks of zeros and holds one back until it knows whether it is its tile's last.

    Takes one chunk per cycle. A chunk that is kept is at ``o`` from the cycle after it was taken;
    where ``skip`` is set and it does not end its tile (or block), from the cycle on in which the
    next kept chunk, or the end of the tile, is at ``i``. A dropped chunk is taken at once, unless
    it ends a tile: then in the cycle in which the chunk held back leaves as the last. A tile of
    zeros alone keeps its last chunk, with slice 0.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    skip : In(1)
        Whether slices of zeros are not wanted; constant while there are chunks.
    i : In(stream of looked_layout(config))
    o : Out(stream of kept_layout(config))
        ``valid`` depends on ``i`` in the same cycle, and ``i.ready`` on ``o.ready``.
    busy : Out(1)
        Whether a chunk is held.
    skipped : Out(range(V + 1))
        Slices of the chunk taken in the cycle before that are left out.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "skip": In(1),
                "i": In(stream.Signature(looked_layout(config))),
                "o": Out(stream.Signature(kept_layout(config))),
                "busy": Out(1),
                "skipped": Out(range(config.vector + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk, vector = self.i.payload.chunk, self.config.vector
        held = Signal(kept_layout(self.config))
        known = Signal()  # whether held.last is settled
        started = Signal()  # whether the tile at ``i`` has kept a chunk before
        bitmap, found = self.i.payload.bitmap, self.i.payload.found
        keep = Signal()
        take, leave = Signal(), Signal()
        m.d.comb += [
            keep.eq(found | (chunk.end & ~started)),
            self.o.valid.eq(self.busy & (known | (self.i.valid & (found | chunk.end)))),
            self.o.payload.eq(held),
            self.o.payload.last.eq(Mux(known, held.last, ~found)),
            leave.eq(self.o.valid & self.o.ready),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(keep):
            m.d.comb += self.i.ready.eq(leave | ~self.busy)
        with m.Else():
            m.d.comb += self.i.ready.eq(leave | ~chunk.end)
        with m.If(take & keep):
            m.d.sync += [
                self.busy.eq(1),
                known.eq(~self.skip | chunk.end),
                held.a_address.eq(chunk.a_address),
                held.b_address.eq(chunk.b_address),
                held.later.eq(chunk.later),
                held.place.eq(chunk.place),
                held.bitmap.eq(Mux(found, bitmap, 1)),
                held.first.eq(~started),
                held.last.eq(chunk.end),
            ]
        with m.Elif(leave):
            m.d.sync += self.busy.eq(0)
        with m.If(take):
            m.d.sync += started.eq(~chunk.end & (started | found))
        pushed = Signal(vector)
        walked = Signal(range(vector + 1))
        m.d.sync += [pushed.eq(0), walked.eq(0)]
        with m.If(take):
            m.d.sync += walked.eq(chunk.length)
            with m.If(keep):
                m.d.sync += pushed.eq(Mux(found, bitmap, 1))
        m.d.comb += self.skipped.eq(walked - sum(pushed))
        return m
