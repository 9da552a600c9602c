"""LDR and LDC: a tile into a shift buffer."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.chunk import FeedMode, chunk_layout
from hw.instruction_check import job_layout
from sw.config import MachineConfig


class TileLoader(wiring.Component):
    """Has a feeder push a tile's slices: one chunk, lanes of A or slices of B.

    The chunk is offered from ``start`` on; ``done`` is in the first cycle, after the chunk was
    taken, in which the feeder is not busy.

    Parameters
    ----------
    config : MachineConfig
    side : {"a", "b"}

    Members
    -------
    start : In(1)
        For one cycle, while the feeder is not busy and its shift buffer is empty.
    job : In(job_layout(config))
        Unchanged from ``start`` to ``done``.
    chunks : Out(stream of chunk_layout(config))
    busy : In(1)
        The feeder's.
    done : Out(1)
    """

    def __init__(self, config: MachineConfig, side: str) -> None:
        if side not in ("a", "b"):
            raise ValueError(f"side must be 'a' or 'b', not {side!r}")
        self.config = config
        self.side = side
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(config)),
                "chunks": Out(stream.Signature(chunk_layout(config))),
                "busy": In(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chunk, job = self.chunks.payload, self.job
        waiting, sent = Signal(), Signal()
        m.d.comb += [
            self.chunks.valid.eq(self.start | waiting),
            chunk.address.eq(job.address),
            chunk.first.eq(1),
            chunk.last.eq(1),
            self.done.eq(sent & ~self.busy),
        ]
        if self.side == "a":
            lanes, terms = job.rows, job.columns
            m.d.comb += [chunk.mode.eq(FeedMode.LANES), chunk.reset.eq(1)]
        else:
            lanes, terms = job.columns, job.rows
            m.d.comb += [chunk.mode.eq(FeedMode.SLICES), chunk.stride.eq(self.config.columns)]
        m.d.comb += [
            chunk.lanes.eq(lanes),
            chunk.bitmap.eq(_ones(terms, self.config.vector)),
            chunk.alone.eq(terms == 1),
        ]
        with m.If(self.chunks.valid & self.chunks.ready):
            m.d.sync += [waiting.eq(0), sent.eq(1)]
        with m.Else():
            m.d.sync += waiting.eq(self.chunks.valid)
        with m.If(self.done):
            m.d.sync += sent.eq(0)
        return m


def _ones(count: Value, bits: int) -> Value:
    """That many ones, at least 1. Not by carry chains, which are a longer way."""
    most = 1 << len(count)
    return Cat(~count.matches(*range(bit + 1)) if bit + 1 < most else 0 for bit in range(bits))
