"""Claims about the ways of slices into the shift buffers."""

from __future__ import annotations

from amaranth.hdl import Cat, Signal, Value
from amaranth.lib import data

from hw.chunk import FeedMode
from hw.chunk_reader import step_layout
from hw.feeder import Feeder
from sim.claims import Bench
from sw.config import MachineConfig


def feeder_bench(config: MachineConfig, side: str) -> Bench:
    """A feeder among chunks that keep to ``chunk_layout``, a memory and a consumer that do as they
    like.

    Words are only moved, so one bit of one word stands for all.
    """
    unit = Feeder(config, side)
    bench = Bench(unit)
    chunk = unit.chunks.payload
    lanes = config.rows if side == "a" else config.columns
    modes = [FeedMode.LANES, FeedMode.SLICES] + [FeedMode.IDENTITY] * (side == "b")
    mode, offered = Signal(2, name="last_mode"), Value.cast(chunk.mode)
    accepted = unit.chunks.valid & unit.chunks.ready
    with bench.m.If(accepted):
        bench.m.d.sync += mode.eq(offered)
    bench.assume(
        ~unit.chunks.valid | Cat(offered == legal.value for legal in modes).any(),
        ~unit.chunks.valid | ~unit.busy | (offered == mode),
        ~unit.chunks.valid | chunk.bitmap.any(),
        ~unit.chunks.valid | ((chunk.lanes >= 1) & (chunk.lanes <= lanes)),
        ~unit.flush | (~unit.busy & ~accepted),
    )
    _claim_credits(bench, unit, lanes)
    return bench


def _claim_credits(bench: Bench, unit: Feeder, lanes: int) -> None:
    steps = [
        data.View(step_layout(lanes), bench.inside(f"reader.step_{number}"))
        for number in range(1, unit.reader.latency + 1)
    ]
    on_the_way = sum((step.enable & step.direct for step in steps), Value.cast(0))
    credits = bench.inside("credits")
    pushed = unit.buffer.i.valid
    bench.claim("the shift buffer takes every slice", ~pushed | unit.buffer.i.ready)
    bench.claim(
        "credits are the places neither taken nor promised",
        credits + unit.buffer.level + on_the_way == unit.depth,
    )
    transposed = unit.transposer.valid & unit.transposer.go
    bench.claim(
        "slices of two ways never meet",
        ~transposed | ~unit.reader.step.direct,
    )
    bench.claim(
        "a chunk starts only with room", ~unit.transposer.start.enable | unit.transposer.room
    )
    bench.cover("the shift buffer is full", unit.buffer.level == unit.depth)
    bench.cover("slices wait for places", transposed & (credits == 1))
