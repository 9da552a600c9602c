"""A chunk: up to V slices of one tile along K, as the planner asks a feeder for them."""

from __future__ import annotations

from amaranth.hdl import Shape
from amaranth.lib import data, enum

from sw.config import MachineConfig


class FeedMode(enum.Enum, shape=2):
    """How the slices of a chunk lie in memory."""

    #: The words of a lane lie side by side: read by lanes, then transposed.
    LANES = 0
    #: The words of a slice lie side by side.
    SLICES = 1
    #: Nowhere: the slices of a scaled identity matrix.
    IDENTITY = 2


def chunk_layout(config: MachineConfig) -> data.StructLayout:
    """Slices 0 .. V - 1 of a chunk, those of ``bitmap`` wanted, in ascending order.

    - ``mode``: LANES, word i of lane l at ``address + offset(l) + i``, where offset is the lane
      walker's on side A and ``l * stride`` on side B; SLICES, word l of slice i at
      ``address + i * stride + l``; IDENTITY, side B only, word l of slice i is ``2**-S`` where
      ``address + i = l``, else plus zero, with S the four lowest bits of ``stride``. S = 0 gives
      unity, or plus zero in a format without; S > F gives plus zero.
    - ``lanes``: how many are wanted, at least 1; the others may hold anything. Only LANES reads it.
    - ``bitmap``: never 0; ``lowest``, ``alone``: of it, as ``find_lowest`` finds them.
    - ``first``, ``last``: the first wanted slice is a tile's first, the last wanted its last.
    - ``reset``, ``advance``: side A, LANES: the lane walker starts anew before the chunk, and
      starts the next chunk at the lane after this chunk's last.
    """
    return data.StructLayout(
        {
            "mode": FeedMode,
            "address": config.address_bits,
            "stride": config.address_bits,
            "lanes": Shape.cast(range(max(config.rows, config.columns) + 1)),
            "bitmap": config.vector,
            "lowest": range(config.vector),
            "alone": 1,
            "first": 1,
            "last": 1,
            "advance": 1,
            "reset": 1,
        }
    )
