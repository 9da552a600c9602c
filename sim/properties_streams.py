"""Claims about units that take payloads on one stream and give the same ones on another."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.pipeline_register import PipelineRegister
from hw.shift_buffer import ShiftBuffer
from sim.claims import Bench
from sw.config import MachineConfig


@dataclass(frozen=True)
class Marked:
    """One of the payloads inside a unit, whichever it may be.

    Parameters
    ----------
    inside : Signal
        Payloads inside.
    armed : Signal
        One of them is marked.
    ahead : Signal
        Payloads before it.
    kept : Signal
        Its bit as it came.
    arrives : Signal
        It leaves in this cycle.
    """

    inside: Signal
    armed: Signal
    ahead: Signal
    kept: Signal
    arrives: Signal


def follow(
    bench: Bench,
    came: ValueLike,
    given: ValueLike,
    left: ValueLike,
    taken: ValueLike,
    most: int,
    flush: ValueLike = 0,
) -> Marked:
    """Claim that payloads leave in the order in which they came, each once, none invented.

    Any payload may be marked as it comes. It has so many payloads before it as are inside then; the
    one that leaves after these must be it. Payloads are only moved, so one bit of them may stand
    for all: a unit that treats them alike cannot tell (data independence: P. Wolper, Expressing
    interesting properties of programs in propositional temporal logic, 1986).

    Parameters
    ----------
    bench : Bench
    came, left : ValueLike
        A payload enters, leaves, at the end of this cycle.
    given, taken : ValueLike
        A bit of it.
    most : int
        Payloads inside.
    flush : ValueLike
        At the end of this cycle all payloads are dropped.
    """
    m = bench.m
    mark = bench.free("mark")
    inside, ahead = (Signal(range(most + 2), name=name) for name in ("payloads_inside", "ahead"))
    armed, kept, arrives = (Signal(name=name) for name in ("armed", "kept", "arrives"))
    m.d.comb += arrives.eq(armed & left & (ahead == 0))
    m.d.sync += inside.eq(inside + came - left)
    with m.If(armed & left):
        m.d.sync += ahead.eq(ahead - 1)
    with m.If(arrives):
        m.d.sync += [armed.eq(0), ahead.eq(0)]
    with m.Elif(came & mark & ~armed):
        m.d.sync += [armed.eq(1), kept.eq(given), ahead.eq(inside - left)]
    with m.If(flush):
        m.d.sync += [inside.eq(0), ahead.eq(0), armed.eq(0)]
    bench.claim("no more inside than fit", inside <= most)
    bench.claim("what leaves came before", ~Value.cast(left) | (inside != 0))
    bench.claim("the marked payload is still inside", ~armed | (ahead < inside))
    bench.claim("the marked payload leaves in its turn", ~arrives | (taken == kept))
    bench.cover("a marked payload leaves", arrives)
    bench.cover("as many inside as fit", inside == most)
    return Marked(inside, armed, ahead, kept, arrives)


def claim_order(
    bench: Bench, i: stream.Interface, o: stream.Interface, most: int, flush: ValueLike = 0
) -> Marked:
    """:func:`follow` from stream to stream, and that both ends keep to the streams' rules.

    There is always room below the most, and whatever is inside is offered without waiting for
    anything: with a consumer that takes again and again, all of it leaves.
    """
    came, left = i.valid & i.ready, o.valid & o.ready
    given, taken = Value.cast(i.payload)[0], Value.cast(o.payload)[0]
    marked = follow(bench, came, given, left, taken, most, flush)
    waits = bench.register("waits", o.valid & ~o.ready & ~Value.cast(flush))
    offered = bench.register("offered", taken)
    stays = bench.register("stays", (marked.inside > left) & ~Value.cast(flush))
    bench.claim("an offer stays until taken", ~waits | (o.valid & (taken == offered)))
    bench.claim("what stays inside is offered in the next cycle", ~stays | o.valid)
    bench.claim("what is offered came before", ~o.valid | (marked.inside != 0))
    bench.claim("there is room below the most", i.ready | (marked.inside == most))
    return marked


def pipeline_register_bench() -> Bench:
    """Any producer and any consumer."""
    unit = PipelineRegister(2)
    bench = Bench(unit)
    claim_order(bench, unit.i, unit.o, 1)
    return bench


def shift_buffer_bench(config: MachineConfig) -> Bench:
    """Any producer, any consumer, flushes in any cycle."""
    unit = ShiftBuffer(config, config.rows)
    bench = Bench(unit)
    marked = claim_order(bench, unit.i, unit.o, unit.depth, unit.flush)
    tail = bench.inside("tail")
    entry = bench.peek("slices", (tail - unit.level + marked.ahead)[: len(tail)])
    bench.claim("the level is what is inside", unit.level == marked.inside)
    bench.claim("a slice is offered while there is one", unit.o.valid == (unit.level != 0))
    bench.claim("the marked payload is in its place", ~marked.armed | (entry[0] == marked.kept))
    return bench


class Queue(wiring.Component):
    """Amaranth's queue as the planner uses it, between streams."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        super().__init__({"i": In(stream.Signature(2)), "o": Out(stream.Signature(2))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFO(width=2, depth=self.depth)
        connect(m, flipped(self.i), queue.w_stream)
        connect(m, queue.r_stream, flipped(self.o))
        return m


def queue_bench(depth: int) -> Bench:
    """Any producer and any consumer."""
    unit = Queue(depth)
    bench = Bench(unit)
    marked = claim_order(bench, unit.i, unit.o, depth)
    consume, level = bench.inside("queue.consume"), bench.inside("queue.level")
    place = consume + marked.ahead
    entry = bench.peek("queue.storage", (Mux(place >= depth, place - depth, place))[: len(consume)])
    bench.claim("the level is what is inside", level == marked.inside)
    bench.claim("the marked payload is in its place", ~marked.armed | (entry[0] == marked.kept))
    return bench
