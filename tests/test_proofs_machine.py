"""Proofs about the machine's streams, buffer tokens and memory, and that they refuse broken units.

Small configurations suffice where only words are wider in larger ones: data independence, see
``sim.properties_streams``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest

from hw.chunk_filter import ChunkFilter
from hw.chunk_reader import ChunkReader
from hw.controller import Controller
from hw.core import Atreides
from hw.feeder import Feeder
from hw.issuer import Issuer
from hw.pipeline_register import PipelineRegister
from hw.planner import CHUNK_QUEUE, TILE_QUEUE, Planner
from hw.result_queue import ResultQueue
from hw.row_sequencer import RowSequencer
from hw.shift_buffer import ShiftBuffer
from hw.transposer import Transposer
from sim.claims import Bench, Claims
from sim.properties_core import core_bench
from sim.properties_feeder import feeder_bench
from sim.properties_planner import filter_bench, planner_bench
from sim.properties_results import issuer_bench, result_queue_bench, row_sequencer_bench
from sim.properties_streams import pipeline_register_bench, queue_bench, shift_buffer_bench
from sim.reachability import Proof
from sw.config import MachineConfig
from tests.broken_units import changed

SMALL = MachineConfig(
    bits=3, rows=2, columns=2, slots=1, max_terms=4, parameters=1, row_parameters=1
)
#: Four rows: tiles of one row to four meet in the spacing.
TALL = MachineConfig(
    bits=3, rows=4, columns=2, slots=1, max_terms=4, parameters=1, row_parameters=1
)


#: Vectors of 8 words, two pages.
SQUARE = MachineConfig(
    bits=3, rows=4, columns=4, slots=1, max_terms=4, parameters=1, row_parameters=1
)


@dataclass(frozen=True)
class Mutant:
    """A unit's source with ``before`` replaced: breaks ``claim`` within so many cycles."""

    unit: type
    before: str
    after: str
    claim: str
    cycles: int = 24


@dataclass(frozen=True)
class Case:
    """A bench, what to break in it, and the cycles in which all of its covers can be reached.

    ``induction``: cycles over which the claims are inductive by themselves; 0: an invariant is
    searched for.
    """

    make: Callable[[], Bench]
    mutants: tuple[Mutant, ...]
    induction: int = 0
    cycles: int = 24


FEEDER_MUTANTS = {
    "chunks": (
        Mutant(
            Feeder,
            "Signal(range(self.depth + 1), init=self.depth)",
            "Signal(range(self.depth + 2), init=self.depth + 1)",
            "credits are the places neither taken nor promised",
        ),
        Mutant(
            Feeder,
            "spent.eq(self.reader.slice | (transposer.valid & transposer.go))",
            "spent.eq(self.reader.slice)",
            "the shift buffer takes every slice",
        ),
        Mutant(
            ChunkReader,
            "self.chunks.ready.eq(~held | (step.enable & step.close))",
            "self.chunks.ready.eq(~held | step.enable)",
            "every wanted slice is read before its chunk goes",
        ),
    ),
    "progress": (
        Mutant(
            Feeder,
            "returned.eq(buffer.o.valid & buffer.o.ready)",
            "returned.eq(buffer.o.valid & buffer.o.ready & transposer.busy)",
            "a slice is offered in time",
            cycles=48,
        ),
    ),
    "pages": (
        Mutant(
            Transposer,
            "(count <= self.notice + 2) & (count <= self.places)",
            "(count <= self.notice + 2)",
            "a page keeps its words until they are read",
            cycles=48,
        ),
        Mutant(
            Transposer,
            "full.eq(full + self.full - load)",
            "full.eq(full + self.start.enable - load)",
            "the marked page is read once it is full",
        ),
    ),
}
CASES = {
    "pipeline register": Case(
        pipeline_register_bench,
        (
            Mutant(
                PipelineRegister,
                "self.o.ready | ~self.o.valid",
                "self.o.ready | self.o.valid | ~self.o.valid",
                "what stays inside is offered in the next cycle",
            ),
            Mutant(
                PipelineRegister,
                "self.o.valid.eq(self.i.valid)",
                "self.o.valid.eq(self.i.valid & self.o.ready)",
                "no more inside than fit",
            ),
        ),
    ),
    "shift buffer": Case(
        lambda: shift_buffer_bench(SMALL),
        (
            Mutant(
                ShiftBuffer,
                "self.i.ready.eq(self.level != self.depth)",
                "self.i.ready.eq(1)",
                "no more inside than fit",
            ),
            Mutant(
                ShiftBuffer,
                "head.eq(head + given)",
                "head.eq(head + self.o.valid)",
                "an offer stays until taken",
            ),
        ),
    ),
    "planner's chunk queue": Case(lambda: queue_bench(CHUNK_QUEUE), ()),
    "planner's tile queue": Case(lambda: queue_bench(TILE_QUEUE), ()),
    "chunk filter": Case(
        lambda: filter_bench(SMALL),
        (
            Mutant(
                ChunkFilter,
                "self.i.ready.eq(leave | ~self.busy)",
                "self.i.ready.eq(1)",
                "a slice that is not zero leaves with the next chunk",
            ),
            Mutant(
                ChunkFilter,
                "Mux(known, held.last, ~found)",
                "held.last",
                "each tile ends once",
            ),
            Mutant(
                ChunkFilter,
                "known | (self.i.valid & (found | chunk.end))",
                "known | (self.i.valid & found)",
                "a chunk is taken when its way is free",
            ),
        ),
    ),
    "planner": Case(
        lambda: planner_bench(SMALL),
        (
            Mutant(
                Planner,
                'queues["a"].w_rdy & queues["b"].w_rdy &',
                'queues["a"].w_rdy &',
                "a chunk leaves only with room in queue b",
            ),
            Mutant(
                Planner,
                "on_the_way != depth - 1",
                "on_the_way != depth + 1",
                "no chunk comes to a full queue",
            ),
        ),
    ),
    "issuer": Case(
        lambda: issuer_bench(TALL),
        (
            Mutant(
                Issuer,
                "rows_left.eq(rows - 1), draining.eq(rows != 1)",
                "rows_left.eq(rows - 2), draining.eq(rows > 2)",
                "events are as far apart as the first has rows",
            ),
            Mutant(
                Issuer,
                "count % (1 << len(number))",
                "(count + 1) % (1 << len(number))",
                "rows are promised where there is room",
            ),
            Mutant(
                Issuer,
                "a.ready.eq(self.issued)",
                "a.ready.eq(wanted)",
                "both sides give a slice in the same cycle",
            ),
        ),
    ),
    "row sequencer": Case(
        lambda: row_sequencer_bench(TALL),
        (
            Mutant(
                RowSequencer,
                "active & (row + 1 == tile.rows)",
                "active & (row == tile.rows)",
                "a row is placed in every cycle in which one is due",
            ),
        ),
    ),
    **{
        f"result queue, lane {lane}": Case(
            lambda lane=lane: result_queue_bench(SMALL, lane),
            (
                Mutant(
                    ResultQueue,
                    "self.credits.eq(Mux(freed, more, left))",
                    "self.credits.eq(Mux(self.results.valid, more, left))",
                    "credits are the places not promised",
                ),
                Mutant(
                    ResultQueue,
                    "(results.ready | ~results.valid)),",
                    "results.ready),",
                    "a complete row is offered in the cycle after the one before left",
                ),
            )[:: 1 if lane == 0 else 2],
            induction=1,
            cycles=40,
        )
        for lane in range(SMALL.columns)
    },
    "core": Case(
        lambda: core_bench(SMALL),
        (
            Mutant(
                Controller,
                "with m.If(self._fault != Fault.NONE):",
                "with m.If(self._fault == Fault.SIZE):",
                "an instruction at work has passed its checks",
            ),
            Mutant(
                Controller,
                "with m.If(self._range_fault == Fault.NONE):",
                "with m.If(self._range_fault != Fault.RANGE):",
                "an instruction at work has passed its checks",
            ),
            Mutant(
                Atreides,
                "host.enable.eq(self._controller.idle & ~self._controller.clear & ~memory.busy)",
                "host.enable.eq(~memory.busy)",
                "parameters and table are written between programs",
            ),
            Mutant(
                Atreides,
                "Mux(gemm, decoded.dest, BUFFER)",
                "Mux(gemm, decoded.dest, 0)",
                "tile memory is written by the host between programs or by an instruction that may",
            ),
        ),
    ),
    **{
        f"feeder {side}, {part}": Case(
            lambda side=side, part=part: feeder_bench(SMALL, side, part), mutants, cycles=32
        )
        for side in "ab"
        for part, mutants in FEEDER_MUTANTS.items()
        if (side, part) != ("b", "pages")  # the transposer is the same, the proof takes minutes
    },
    **{
        f"feeder {side} of four lanes, credits and chunks": Case(
            lambda side=side: feeder_bench(SQUARE, side, "chunks"), (), cycles=32
        )
        for side in "ab"
    },
}


@cache
def claims(name: str) -> Claims:
    """Built once for all tests of a case."""
    return CASES[name].make().build()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_claims_hold_in_every_cycle_that_can_be_reached(name: str) -> None:
    induction = CASES[name].induction
    result = claims(name).induct(induction) if induction else claims(name).prove()
    assert isinstance(result, Proof), f"{name}: {result}"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_assumptions_leave_room_for_what_the_claims_are_about(name: str) -> None:
    built = claims(name)
    assert built.covers
    for cover in built.covers:
        way = built.reach(cover, CASES[name].cycles)
        assert way, f"{name}: {cover}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        pytest.param(name, mutant, id=f"{name}: {mutant.after}")
        for name, case in CASES.items()
        for mutant in case.mutants
    ],
)
def test_broken_units_are_refused_with_a_run_that_shows_it(name: str, mutant: Mutant) -> None:
    with changed(mutant.unit, mutant.before, mutant.after):
        broken = CASES[name].make().build()
    found = broken.refute(mutant.claim, mutant.cycles)
    assert found, f"{name}: {mutant.after}: {mutant.claim}"
    assert mutant.claim in found.claims
    assert len(str(found).splitlines()) > 1
