"""Claims about the ways of slices into the shift buffers."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Const, Mux, Signal, Value
from amaranth.lib import data
from amaranth.utils import exact_log2

from hw.chunk import FeedMode
from hw.chunk_reader import step_layout
from hw.feeder import Feeder
from sim.claims import Bench
from sw.config import MachineConfig


def feeder_bench(config: MachineConfig, side: str, part: str) -> Bench:
    """A feeder among chunks that keep to ``chunk_layout``, a memory and a consumer that do as they
    like; one part of what is claimed of it, for a proof of all at once takes longer.

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
        ~unit.chunks.valid | _knows_lowest(chunk),
        ~unit.chunks.valid | ((chunk.lanes >= 1) & (chunk.lanes <= lanes)),
        ~unit.flush | ~unit.busy,
    )
    _claim_credits(bench, unit, lanes)
    if part == "pages":
        _follow_page(bench, unit)
    elif part == "chunks":
        _follow_chunk(bench, unit, accepted)
    elif part == "progress":
        _claim_progress(bench, unit, lanes)
    return bench


def _knows_lowest(chunk: data.View) -> Value:
    """Whether ``lowest`` and ``alone`` are those of ``bitmap``."""
    bitmap, bit = chunk.bitmap, 1 << chunk.lowest
    is_lowest = bitmap.bit_select(chunk.lowest, 1) & ~(bitmap & (bit - 1)).any()
    return is_lowest & (chunk.alone == (bitmap == bit))


def _claim_credits(bench: Bench, unit: Feeder, lanes: int) -> None:
    steps = [
        data.View(step_layout(lanes), bench.inside(f"reader.step_{number}"))
        for number in range(1, unit.reader.latency + 1)
    ]
    on_the_way = sum((step.enable & step.direct for step in steps), Value.cast(0))
    credits = bench.inside("credits")
    pushed, turned = unit.buffer.i.valid, bench.inside("turned_valid")
    bench.claim("it is known whether there are credits", bench.inside("some") == (credits != 0))
    bench.claim("the shift buffer takes every slice", ~pushed | unit.buffer.i.ready)
    bench.claim(
        "credits are the places neither taken nor promised",
        credits + unit.buffer.level + on_the_way + turned == unit.depth,
    )
    transposed = unit.transposer.valid & unit.transposer.go
    bench.claim(
        "slices of two ways never meet",
        ~turned | ~unit.reader.step.direct,
    )
    bench.claim(
        "a chunk starts only with room", ~unit.transposer.start.enable | unit.transposer.room
    )
    bench.cover("the shift buffer is full", unit.buffer.level == unit.depth)
    bench.cover("slices wait for places", transposed & (credits == 1))


def _follow_page(bench: Bench, unit: Feeder) -> None:
    """Follow a word of any chunk through the transposer's pages.

    ``before_write`` and ``before_read`` count the chunks before the marked one whose vectors are
    not all written, and whose slices have not all left.
    """
    m, t = bench.m, unit.transposer
    start, vector, pages = t.start, t.vector, t.pages
    closes, finished = vector.enable & vector.close, bench.inside("transposer.finished")
    unread = bench.count("chunks_unread", pages + 1, start.enable, finished)
    unwritten = bench.count("chunks_unwritten", pages + 1, start.enable, closes)
    mark, number = bench.free("mark_page"), bench.inside("transposer.walker.index")
    any_index, any_lane = (
        bench.free("any_index", len(number)),
        bench.free("any_lane", len(vector.lane)),
    )
    before_write, before_read = Signal.like(unwritten), Signal.like(unread)
    armed, closed, got, seen, kept = (
        Signal(name=name) for name in ("page_armed", "closed", "got", "seen", "word_kept")
    )
    index, lane, lanes = Signal.like(any_index), Signal.like(any_lane), Signal(8)
    first, last = Signal(), Signal()
    takes, mine = Signal(), Signal()
    of_page = armed & (before_read == 0)
    written = armed & ~closed & (before_write == 0) & vector.enable
    m.d.comb += [
        takes.eq(start.enable & mark & ~armed & start.bitmap.bit_select(any_index, 1)),
        mine.eq(of_page & t.valid & t.go & (number == index)),
    ]
    with m.If(armed & vector.enable & ~closed):
        with m.If(before_write == 0):
            m.d.sync += closed.eq(vector.close)
            with m.If(vector.lane == lane):
                place = (index + lane + vector.skew)[: exact_log2(len(vector.words))]
                m.d.sync += [got.eq(1), kept.eq(vector.words[place].word[0])]
        with m.Else():
            m.d.sync += before_write.eq(before_write - vector.close)
    with m.If(mine):
        m.d.sync += seen.eq(1)
    with m.If(armed & finished):
        m.d.sync += [armed.eq(before_read != 0), before_read.eq(before_read - 1)]
    with m.If(takes):
        below = (1 << any_index) - 1
        m.d.sync += [
            *(signal.eq(0) for signal in (closed, got, seen)),
            *(armed.eq(1), index.eq(any_index), lane.eq(any_lane)),
            lanes.eq(unit.reader._chunk["lanes"]),
            first.eq(start.first & ~(start.bitmap & below).any()),
            last.eq(start.last & ~(start.bitmap & ~(below << 1 | 1)).any()),
            before_write.eq(unwritten - closes),
            before_read.eq(unread - finished),
        ]
    word = t.words[lane].word[0]
    bench.claim("the marked page is read once it is full", ~(of_page & t.valid) | closed)
    bench.claim("a page keeps its words until they are read", ~(mine & got) | (word == kept))
    bench.claim("all lanes that are wanted are written", ~mine | got | (lane >= lanes))
    bench.claim(
        "a chunk's last vector is its last lane",
        ~written | (vector.close == (vector.lane + 1 == lanes)),
    )
    bench.claim("a slice leaves its page once", ~mine | ~seen)
    bench.claim("all slices leave their page", ~(of_page & finished) | mine | seen)
    bench.claim("first and last mark their slices", ~mine | ((t.first == first) & (t.last == last)))
    _relate_pages(bench, unit, unread, unwritten, closes)
    in_pages = unread - unwritten
    place = Mux(closed, before_read < in_pages, before_read == in_pages + before_write)
    page = (bench.inside("transposer.read_page") + before_read)[: exact_log2(pages)]
    entries = Array(
        bench.peek(f"transposer.storage.bank_{bank}", Cat(lane, page))
        for bank in range(len(vector.words))
    )
    entry = entries[(lane + index)[: exact_log2(len(vector.words))]]
    bench.claim("the marked page is where it was put", ~armed | place)
    bench.claim("the marked word is where it was put", ~(armed & got) | (entry[0] == kept))
    bench.cover("a marked word leaves while all pages are used", mine & got & (unread >= pages))


def _relate_pages(
    bench: Bench, unit: Feeder, unread: Signal, unwritten: Signal, closes: Value
) -> None:
    """How the transposer's counters and pointers belong together: help for the proof."""
    t = unit.transposer
    started, read_page, records, load = (
        bench.inside(f"transposer.{name}")
        for name in ("started", "read_page", "records.level", "r_en")
    )
    full, valid = bench.count("pages_full", t.pages, t.full, load), t.valid
    ahead = (read_page + unread - unwritten - t.storage.write.page)[: exact_log2(t.pages)]
    below, level = (bench.inside(f"transposer.{name}") for name in ("below", "level"))
    bench.claim("started chunks are unread", started == unread)
    bench.claim(
        "it is known whether pages are left",
        (below == (started < t.pages)) & (level == (started == t.pages)),
    )
    bench.claim("full pages are written and unread", full + valid == unread - unwritten + closes)
    bench.claim("records wait for their pages", records + valid == unread)
    bench.claim("pages are used in turn", ahead == 0)
    bench.claim("no more chunks are unwritten than started", unwritten <= unread)
    index = bench.inside("transposer.walker.index")
    for number in range(1 << t.storage.lane_bits):
        lane = bench.inside(f"transposer.storage.lane_{number}")
        asked = (number - index)[: len(lane)]
        bench.claim(f"bank {number} is asked for the lane that its slice has there", lane == asked)
    storage_index, page = (bench.inside(f"transposer.storage.{n}") for n in ("index", "page"))
    bench.claim("the slice that is read is the one walked to", storage_index == index)
    bench.claim("the page that is read is the oldest", page == read_page)
    for number in range(t.pages):
        entry = bench.peek("transposer.records.storage", Const(number, exact_log2(t.pages)))
        record = data.View(t.record, entry)
        counted = record.count == sum(record.bitmap)
        bench.claim(f"record {number} has the number of its slices", counted)


def _follow_chunk(bench: Bench, unit: Feeder, accepted: Value) -> None:
    """Follow a slice of any chunk that is read slice by slice, and the start of any other."""
    m, reader = bench.m, unit.reader
    held, number = bench.inside("reader.held"), bench.inside("reader.bitmap.index")
    awaited = {name: bench.inside(f"reader.step_for_{name}") for name in ("place", "room", "none")}
    slices = bench.inside("reader.chunk_mode") != FeedMode.LANES
    bench.claim("a chunk's next step waits for one thing", sum(awaited.values()) == held)
    bench.claim("a slice waits for a place", awaited["place"] == (held & slices))
    chosen = bench.free("any_slice", len(number))
    index, armed, seen, started = (
        Signal.like(number),
        *(Signal(name=name) for name in ("slice_armed", "slice_seen", "chunk_started")),
    )
    lanes = Value.cast(reader._chunk["mode"]) == FeedMode.LANES.value
    mine = armed & reader.slice & (number == index)
    with m.If(mine):
        m.d.sync += seen.eq(1)
    with m.If(reader.start):
        m.d.sync += started.eq(1)
    with m.If(accepted):
        wanted = unit.chunks.payload.bitmap.bit_select(chosen, 1)
        direct = Value.cast(unit.chunks.payload.mode) != FeedMode.LANES.value
        m.d.sync += [armed.eq(wanted & direct), seen.eq(0), started.eq(0), index.eq(chosen)]
    leaves = held & unit.chunks.ready
    bench.claim("every wanted slice is read before its chunk goes", ~(leaves & armed) | mine | seen)
    bench.claim("a slice is read once", ~mine | ~seen)
    bench.claim("a chunk of lanes starts once", ~reader.start | ~started)
    bench.claim("it starts before it goes", ~(leaves & lanes) | started | reader.start)
    bench.claim("only a chunk that is held is read", held | ~(reader.start | reader.slice))
    asked: Value = reader.slice
    for number_of_cycles in range(reader.latency):
        asked = bench.register(f"asked_{number_of_cycles}", asked)
    left = unit.transposer.valid & unit.transposer.go
    transposed = bench.register("left_its_page", left)
    bench.claim(
        "what is pushed was asked for or left its page", unit.buffer.i.valid == (asked | transposed)
    )


def _claim_progress(bench: Bench, unit: Feeder, lanes: int) -> None:
    """A slice is offered within as many cycles as a chunk takes, whatever the consumer does."""
    most = lanes + 2 * unit.reader.latency + 1
    waited = Signal(range(most + 2), name="waited")
    with bench.m.If((unit.busy | (unit.level != 0)) & ~unit.o.valid & ~unit.flush):
        bench.m.d.sync += waited.eq(waited + 1)
    with bench.m.Else():
        bench.m.d.sync += waited.eq(0)
    bench.claim("a slice is offered in time", waited <= most)
