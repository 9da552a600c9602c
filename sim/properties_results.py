"""Claims about results: the issuer's spacing and credits, the row sequencer, the result queue."""

from __future__ import annotations

from amaranth.hdl import Cat, Mux, Signal, Value
from amaranth.utils import exact_log2

from hw.issuer import IssueMode, Issuer
from hw.result_queue import ResultQueue
from hw.row_sequencer import RowSequencer
from sim.claims import Bench
from sim.properties_streams import follow
from sw.config import MachineConfig


def since_event(bench: Bench, event: Value, most: int) -> tuple[Signal, Signal]:
    """Cycles since the last event, counted to ``most``, and the rows that it had."""
    since, rows = (
        Signal(range(most + 1), name="since_event", init=most),
        Signal.like(event.tile.rows),
    )
    with bench.m.If(event.valid):
        bench.m.d.sync += [since.eq(1), rows.eq(event.tile.rows)]
    with bench.m.Elif(since != most):
        bench.m.d.sync += since.eq(since + 1)
    return since, rows


def issuer_bench(config: MachineConfig) -> Bench:
    """Any slices and room; a tile's record is there before its last slice, and has rows."""
    unit = Issuer(config)
    bench = Bench(unit)
    a, b, event = unit.row_slices, unit.column_slices, unit.event
    mode = Value.cast(unit.mode)
    gemm, drain = mode == IssueMode.GEMM.value, mode == IssueMode.DRAIN.value
    started = Signal()
    with bench.m.If(unit.start):
        bench.m.d.sync += started.eq(1)
    steady = Cat(unit.mode, unit.rows, unit.columns, unit.to_stream)
    before = bench.register("settings_before", steady)
    bench.assume(
        ~unit.to_stream | gemm,
        mode <= IssueMode.DRAIN.value,
        ~unit.busy | (steady == before),
        ~unit.start | ~unit.busy,
        ~unit.start | (unit.terms != 0),
        (unit.rows >= 1) & (unit.rows <= config.rows),
        (unit.tiles.payload.rows >= 1) & (unit.tiles.payload.rows <= config.rows),
        ~gemm | ~(a.valid & b.valid & b.payload.last) | unit.tiles.valid,
    )
    since, rows = since_event(bench, event, config.rows)
    promises = event.valid & unit.to_stream & event.tile.last_block
    taken_a, taken_b = a.valid & a.ready, b.valid & b.ready
    patience = Signal(range(config.rows + 2), name="patience")
    may = unit.busy & (drain | (a.valid & b.valid)) & unit.room.all()
    with bench.m.If(may & ~unit.issued & ~event.valid):
        bench.m.d.sync += patience.eq(patience + 1)
    with bench.m.Else():
        bench.m.d.sync += patience.eq(0)
    bench.claim("events are as far apart as the first has rows", ~event.valid | (since >= rows))
    room = (unit.room << 1).bit_select(event.tile.rows, 1)
    bench.claim("rows are promised where there is room", ~promises | room)
    bench.claim("both sides give a slice in the same cycle", taken_a == taken_b)
    bench.claim("a slice that is issued is taken", unit.issued == taken_a)
    bench.claim(
        "a record is taken with its tile's last slice",
        (unit.tiles.valid & unit.tiles.ready) == (event.valid & gemm),
    )
    bench.claim("nothing is issued before the start", unit.busy | ~(unit.issued | event.valid))
    bench.claim("work ends with a slice", ~unit.done | unit.issued | event.valid)
    bench.claim(
        "what can be issued is, within as many cycles as the array has rows", patience < config.rows
    )
    bench.cover("a slice waits for the rows of the tile before", unit.stall_drain)
    bench.cover(
        "events follow as close as they may",
        event.valid
        & (since == config.rows)
        & (rows == config.rows)
        & gemm
        & bench.register("stalled", unit.stall_drain),
    )
    bench.cover("a slice waits for room", unit.stall_results)
    return bench


def row_sequencer_bench(config: MachineConfig) -> Bench:
    """Events as far apart as the issuer sees to."""
    unit = RowSequencer(config)
    bench = Bench(unit)
    event = unit.event
    since, rows = since_event(bench, event, config.rows + 1)
    complete = Signal()
    with bench.m.If(event.valid):
        bench.m.d.sync += complete.eq(event.tile.last_block)
    bench.assume(
        (event.tile.rows >= 1) & (event.tile.rows <= config.rows),
        ~event.valid | (since >= rows),
    )
    due = since <= rows  # row r comes 1 + r cycles after its event
    bench.claim(
        "a row is placed in every cycle in which one is due", unit.place.enable == (due & complete)
    )
    bench.claim("rows come in order", ~unit.place.enable | (unit.place.data.row == since - 1))
    bench.claim(
        "tokens follow places by a cycle", unit.token.valid == bench.register("was_due", due)
    )
    bench.cover("rows of two events without a gap", event.valid & due & (rows == config.rows))
    return bench


def result_queue_bench(config: MachineConfig, lane: int) -> Bench:
    """Rows as promised, lane after lane, each after its note; any consumer; one lane followed."""
    unit = ResultQueue(config)
    bench = Bench(unit)
    lanes, depth, promise, results = unit.lanes, unit.depth, unit.promise, unit.results
    read, complete = bench.inside("next"), bench.inside("complete")
    promised = Mux(promise.enable, promise.rows, 0)
    unread, to_note, to_come = (
        Signal(range(2 * depth), name=name) for name in ("unread", "to_note", "to_come")
    )
    bench.m.d.sync += [
        unread.eq(unread + promised - read),
        to_note.eq(to_note + promised - unit.note.enable),
        to_come.eq(to_come + unit.note.enable - lanes[0].enable),
    ]
    between = [
        bench.register(f"lane_{j}_before", lanes[j].enable) for j in range(config.columns - 1)
    ]
    bench.assume(
        ~promise.enable | ((promise.rows >= 1) & (promise.rows <= config.rows)),
        ~promise.enable | (promise.rows <= unit.credits),
        ~unit.note.enable | (to_note != 0),
        ~lanes[0].enable | (to_come != 0),
        *(lanes[j + 1].enable == before for j, before in enumerate(between)),
    )
    came = sum(between[lane:], complete)
    bench.claim("credits are the places not promised", unit.credits + unread == depth)
    bench.claim(
        "it is known what credits are enough for",
        unit.room == Cat(unit.credits > row for row in range(config.rows)),
    )
    bench.claim("no row is lost", unread == sum(between, to_note + to_come + complete))
    bench.claim("only complete rows are read", ~read | (complete != 0))
    for j in range(config.columns):
        held = sum(between[j:], complete)
        pointers = bench.inside(f"deskew.lane_{j}_written") - bench.inside(f"deskew.lane_{j}_taken")
        bench.claim(f"lane {j} holds no more than fits", held <= depth)
        bench.claim(f"lane {j} holds what came", (pointers ^ held)[: exact_log2(depth)] == 0)
    left = results.valid & results.ready
    given, taken = lanes[lane].data[0], results.payload.data[lane * config.result_bits]
    marked = follow(bench, lanes[lane].enable, given, left, taken, depth + 1)
    place = bench.inside(f"deskew.lane_{lane}_taken") + marked.ahead - results.valid
    entry = bench.peek(f"deskew.lane_{lane}", place[: exact_log2(depth)])
    kept = Mux(results.valid & (marked.ahead == 0), taken, entry[0])
    bench.claim("what is inside came", marked.inside == came + results.valid)
    bench.claim("the marked word is in its place", ~marked.armed | (kept == marked.kept))
    idle = bench.register("complete_and_free", (complete != 0) & (~results.valid | results.ready))
    bench.claim(
        "a complete row is offered in the cycle after the one before left", ~idle | results.valid
    )
    bench.cover("all places are promised", unit.credits == 0)
    return bench
