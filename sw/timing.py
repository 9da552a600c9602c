"""Latencies and depths of the machine, in cycles: what its cycle count is made of.

Each is stated by the component that has it, in its docstring; the names of the components are
those of ``hw``. Only the machine model needs them: the hardware has no clock of its own here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sw.config import MachineConfig
from sw.isa import Destination

# Controller: what an instruction takes besides its unit.

#: The word is taken.
FETCH: Final = 1
#: Faults are looked for, then it is decoded.
DECODE: Final = 2
#: The two data words of a SET.
SET_WORDS: Final = 2
#: A unit is started.
START: Final = 1
#: The end of a unit, or of the range check, is noticed.
NOTICE: Final = 1

# Tile memory and planner.

#: From a read of words or flags to what it finds (``TileMemory.latency``).
MEMORY: Final = 2
#: Chunks for each feeder, and records of tiles for the issuer, that wait at most (``planner``).
CHUNK_QUEUE: Final = 2
TILE_QUEUE: Final = 8
#: From the flags of a chunk that are asked for to the filter, and chunks on this way.
LOOK: Final = MEMORY + 2
LOOKED_UP: Final = LOOK + 1

# Feeder.

#: From a step to its read.
READ: Final = 2
#: From the step for a slice to the slice in the shift buffer.
SLICE_PUSH: Final = READ + MEMORY
#: From the last step for a lane to the first slice that leaves the transposer, and from there to
#: the shift buffer.
LANES_PUSH: Final = SLICE_PUSH + 1
TRANSPOSED: Final = 1
#: Slices that may be left of the oldest page when the next chunk starts (``Transposer.notice``).
LEFT_OVER: Final = SLICE_PUSH + 1
#: From a slice in the shift buffer to the issuer.
SHIFT_BUFFER: Final = 1
#: What a shift buffer holds beyond one array side (``ROUND_TRIP``).
ROUND_TRIP: Final = 6

# Array and columns.

#: From a slice to row 0 of the array (``ArrayEdge.latency``).
EDGE: Final = 2
#: From row 0 and column 0 to the foot of the column; one more with a bus in two parts.
ARRAY: Final = 4
BUS_ROWS: Final = 16
#: What cells add that share multiplier blocks (``dsp``), by F (``hw.packed_array``).
SHARED: Final[Mapping[int, int]] = {2: 4, 3: 2, **dict.fromkeys(range(4, 9), 1)}
DSP: Final = "dsp"
#: From the foot of the last column to the word written or queued, and what options add.
TAIL: Final = 5
EXACT_TAIL: Final = 2
BLOCK_TAIL: Final = 2
TABLE_TAIL: Final = 3
#: Rows that the result queue holds beyond two tiles and the skew of the columns.
RESULT_ROOM: Final = 16


@dataclass(frozen=True, slots=True)
class Timing:
    """The sizes and latencies of one configuration.

    Parameters
    ----------
    config : MachineConfig
    """

    config: MachineConfig

    @property
    def depth(self) -> int:
        """Slices that a shift buffer holds."""
        return _power_of_two(max(self.config.rows, self.config.columns) + ROUND_TRIP)

    @property
    def pages(self) -> int:
        """Chunks that the transposer holds."""
        return _power_of_two(max(2, 1 + -(-(SLICE_PUSH + 1) // self.config.side)))

    @property
    def result_depth(self) -> int:
        """Rows that the result queue holds."""
        return _power_of_two(2 * self.config.rows + self.config.columns + RESULT_ROOM)

    def row_latency(self, destination: Destination) -> int:
        """From the slice that ends a tile to its first row written or queued."""
        config = self.config
        latency = EDGE + ARRAY + (config.rows > BUS_ROWS) + config.columns - 1
        if config.multiplier == DSP:
            latency += SHARED.get(config.format.fraction_bits, 0)
        latency += BLOCK_TAIL * config.blocks
        if destination == Destination.EXACT:
            return latency + EXACT_TAIL
        return latency + TAIL + TABLE_TAIL * config.table


def _power_of_two(value: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (value - 1).bit_length()
