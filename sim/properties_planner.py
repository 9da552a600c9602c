"""Claims about the planner: no chunk is lost between its walk and its three queues."""

from __future__ import annotations

from amaranth.hdl import Cat, Signal, Value

from hw.chunk_filter import ChunkFilter
from hw.planner import CHUNK_QUEUE, TILE_QUEUE, Planner
from hw.tile_memory import TileMemory
from sim.claims import Bench
from sw.config import MachineConfig


def planner_bench(config: MachineConfig) -> Bench:
    """Any registers and flags, any walk over chunks, any consumers of the three streams.

    That the queues keep order is claimed of them alone, in ``sim.properties_streams``.
    """
    unit = Planner(config)
    bench = Bench(unit)
    for walker in ("walker", "tiles"):
        bench.cut(walker)
    m = bench.m
    on_the_way, looked = bench.inside("on_the_way"), bench.inside("looked.level")
    depth = TileMemory.latency + 3
    heads = {}  # entries behind a queue
    for name in ("looked", "tile"):
        valid, free = (bench.inside(f"{name}_head.{signal}") for signal in ("o__valid", "free"))
        heads[name] = valid + ~free
        bench.claim(f"queue {name} has a second behind it only where a first is", valid | free)
    delayed = [bench.inside(f"walked_valid_{stage}") for stage in range(2)]
    leave = bench.inside("leave")
    queues = {
        "a": (unit.a, CHUNK_QUEUE),
        "b": (unit.b, CHUNK_QUEUE),
        "tile": (unit.tiles, TILE_QUEUE),
    }
    bench.claim(
        "a place waits for each chunk whose flags are asked for",
        looked + heads["looked"] + sum(delayed) == on_the_way,
    )
    bench.claim("no chunk comes to a full queue", ~delayed[-1] | (looked < depth - 1))
    bench.claim(
        "chunks are walked while there is room", bench.inside("room") == (on_the_way < depth)
    )
    for name, (_, most) in queues.items():
        level = bench.inside(f"{name}_queue.level")
        ready = bench.inside(f"{name}_queue.w_rdy")
        bench.claim(f"queue {name} holds no more than fits", level <= most)
        if name == "tile":
            waiting = level + bench.inside("comes") + heads[name]
            bench.claim("a place waits for each record", waiting == bench.inside("records"))
        if name != "tile":
            bench.claim(f"a chunk leaves only with room in queue {name}", ~leave | ready)
    taken = {name: o.valid & o.ready for name, (o, _) in queues.items()}
    behind = Signal(range(-2 * CHUNK_QUEUE, 2 * CHUNK_QUEUE), name="taken_by_a_not_by_b")
    m.d.sync += behind.eq(behind + taken["a"] - taken["b"])
    levels = {name: bench.inside(f"{name}_queue.level") for name in "ab"}
    bench.claim("both sides get the same number of chunks", levels["b"] - levels["a"] == behind)
    bench.cover("chunks wait for side b alone", (levels["b"] == CHUNK_QUEUE) & (levels["a"] == 0))
    bench.cover("the queue of flags is as full as it can be", looked == depth - 2)
    return bench


def filter_bench(config: MachineConfig) -> Bench:
    """Any chunks of 1 to V slices, any flags; a slice of one chunk is followed."""
    unit = ChunkFilter(config)
    bench = Bench(unit)
    m, i, o = bench.m, unit.i, unit.o
    chunk, vector = i.payload.chunk, config.vector
    skip = bench.register("skip_before", unit.skip)
    started = bench.register("any", 1)
    offered = bench.register("offered", Cat(i.valid & ~i.ready, i.payload))
    bench.assume(
        ~started | (unit.skip == skip),
        ~i.valid | ((chunk.length >= 1) & (chunk.length <= vector)),
        ~offered[0] | (i.valid & (Value.cast(i.payload) == offered[1:])),
    )
    came, left = i.valid & i.ready, o.valid & o.ready
    mark, number = bench.free("mark"), bench.free("slice", range(vector))
    inside = (1 << chunk.length) - 1
    bench.assume(
        ~i.valid | (i.payload.found == i.payload.bitmap.any()),
        ~i.valid | ((i.payload.bitmap & ~inside) == 0),
        ~i.valid | unit.skip | (i.payload.bitmap == inside[:vector]),
    )
    zero = ~i.payload.bitmap.bit_select(number, 1)
    armed, index, ends = Signal(name="armed"), Signal.like(number), Signal(name="ends")
    wanted = Signal()
    m.d.comb += wanted.eq(came & mark & (number < chunk.length) & ~zero & (~armed | left))
    with m.If(wanted):
        m.d.sync += [armed.eq(1), index.eq(number), ends.eq(chunk.end)]
    with m.Elif(left):
        m.d.sync += armed.eq(0)
    there = o.payload.bitmap.bit_select(index, 1)
    # Tiles at the output: their first and last chunks alternate as they should.
    inside_tile = Signal()
    with m.If(left):
        m.d.sync += inside_tile.eq(~o.payload.last)
    # Tiles that came whole, less those that left.
    owed = Signal(range(4), name="tiles_owed")
    m.d.sync += owed.eq(owed + (came & chunk.end) - (left & o.payload.last))
    waited = Signal(range(4), name="waited")
    with m.If(i.valid & ~came & (o.ready | ~o.valid)):
        m.d.sync += waited.eq(waited + 1)
    with m.Else():
        m.d.sync += waited.eq(0)
    bench.claim("a slice that is not zero leaves with the next chunk", ~(armed & left) | there)
    bench.claim("its chunk is not replaced before", ~armed | unit.busy)
    bench.claim("a chunk has a slice", ~o.valid | o.payload.bitmap.any())
    bench.claim("a tile starts with its first chunk", ~o.valid | (o.payload.first == ~inside_tile))
    bench.claim(
        "a tile that ended is held back no further", ~(armed & ends & left) | o.payload.last
    )
    bench.claim("each tile ends once", owed <= 1)
    bench.claim("the end of a tile is offered", (owed == 0) | o.valid)
    bench.claim("a chunk is taken when its way is free", waited == 0)
    bench.cover(
        "a followed slice leaves as its tile's last", armed & left & o.payload.last & unit.skip
    )
    bench.cover(
        "a tile of zeros leaves", left & unit.skip & ~armed & o.payload.first & o.payload.last
    )
    return bench
