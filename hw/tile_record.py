"""What the issuer and the result rows must know of one tile."""

from __future__ import annotations

from amaranth.lib import data

from sw.config import MachineConfig


def index_bits(entries: int) -> int:
    """Bits of an index into a memory of a power of two of entries, at least 1."""
    return max(1, (entries - 1).bit_length())


def tile_layout(config: MachineConfig) -> data.StructLayout:
    """One tile of a product, or, with a scale per block, one block of a tile.

    Parameters
    ----------
    config : MachineConfig

    Returns
    -------
    StructLayout
        ``rows``, ``columns``: lanes of the tile that are used, 1 to the array's. ``column_entry``:
        of the column parameters. ``row_entry``: of the row parameters for the tile's row 0;
        ``row_stride``: to the entry of the next row (1, or with blocks their number); all three
        modulo the depth of their memory. ``offset``: address of the word in row 0 and lane 0,
        without the walk over rows. ``reset``: the walk starts over at row 0 of the batch, before
        this tile. ``advance``: the walk goes on behind this tile's rows, after it (the next tile
        has other rows). ``first_block``, ``last_block``: of the tile; both 1 without blocks.
        ``last``: the product's last.
    """
    row_bits = index_bits(config.row_parameters)
    return data.StructLayout(
        {
            "rows": config.rows.bit_length(),
            "columns": config.columns.bit_length(),
            "column_entry": index_bits(config.parameters),
            "row_entry": row_bits,
            "row_stride": row_bits,
            "offset": config.address_bits,
            "reset": 1,
            "advance": 1,
            "first_block": 1,
            "last_block": 1,
            "last": 1,
        }
    )
