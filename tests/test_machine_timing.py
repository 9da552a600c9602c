"""The latencies and depths of the machine model, held to those that the hardware states."""

from __future__ import annotations

import pytest

from hw import planner, shift_buffer
from hw.array import BUS_CELLS, SystolicArray
from hw.chunk_reader import ChunkReader
from hw.edge import ArrayEdge
from hw.feeder import Feeder
from hw.result_rows import ResultRows
from hw.tile_memory import TileMemory
from sw import timing
from sw.config import MachineConfig
from sw.isa import Destination
from sw.timing import Timing

CONFIGS = [
    MachineConfig(bits=4, rows=rows, columns=columns, blocks=blocks, table=table)
    for rows, columns, blocks, table in (
        (1, 1, False, False),
        (2, 2, True, False),
        (3, 5, False, True),
        (8, 8, False, False),
        (17, 4, True, True),
        (4, 32, True, True),
    )
]


def test_latencies_that_every_configuration_has() -> None:
    assert TileMemory.latency == timing.MEMORY
    assert ChunkReader.latency == timing.SLICE_PUSH
    assert ArrayEdge.latency == timing.EDGE
    assert timing.BUS_ROWS == BUS_CELLS
    assert timing.ROUND_TRIP == shift_buffer.ROUND_TRIP
    assert (timing.CHUNK_QUEUE, timing.TILE_QUEUE) == (planner.CHUNK_QUEUE, planner.TILE_QUEUE)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.rows}x{c.columns}")
def test_latencies_and_depths_that_depend_on_the_configuration(config: MachineConfig) -> None:
    stated = Timing(config)
    edge = ArrayEdge(config.format, config.rows, config.columns)
    array = SystolicArray(config.format, config.rows, config.columns)
    rows = ResultRows(config, edge.latency + array.latency)
    for destination in (Destination.MEMORY, Destination.STREAM):
        assert stated.row_latency(destination) == rows.latency
    assert stated.row_latency(Destination.EXACT) == rows.exact_latency
    assert stated.result_depth == rows.queue.depth
    for side in ("a", "b"):
        feeder = Feeder(config, side)
        assert (stated.depth, stated.pages) == (feeder.depth, feeder.pages)
        assert feeder.transposer.notice + 1 == timing.LEFT_OVER
