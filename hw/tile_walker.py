"""Walks the tiles of a product, and says of each what its results need."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.address_nest import AddressNest
from hw.chunk_walker import place_layout
from hw.machine_registers import registers_layout
from hw.tile_record import tile_layout
from sw.config import COUNT_BITS, MachineConfig
from sw.scale import BLOCK

#: What of a record comes a cycle late.
LATE_FIELDS: Final = ("column_entry", "row_entry", "offset")
#: Batches, row tiles, column tiles, blocks.
_LEVELS = 4


class TileWalker(wiring.Component):
    """The records of a product's tiles (or blocks) in order, one per cycle.

    The first is there in the cycle after ``start``, the next in the cycle after ``step``; of its
    entries and its offset the next are there a cycle later.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    start : In(1)
        For one cycle.
    registers : In(registers_layout(config))
    rows, terms : In(16)
        M and K.
    blocks : In(1)
        Whether every 32 terms are a block of their own.
    place : In(place_layout())
        Of this tile; the chunks bring it.
    step : In(1)
        Go on to the next tile.
    tile : Out(tile_layout(config))
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "rows": In(COUNT_BITS),
                "terms": In(COUNT_BITS),
                "blocks": In(1),
                "place": In(place_layout()),
                "step": In(1),
                "tile": Out(tile_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        registers, place, tile = self.registers, self.place, self.tile
        ends_row_tile = place.last_block & place.last_column_tile
        ends_batch = ends_row_tile & place.last_row_tile
        tile_end, batch_end = self.step & place.last_block, self.step & ends_batch
        loop = Cat(
            ends_batch & ~place.last_batch,
            ends_row_tile & ~place.last_row_tile,
            place.last_block & ~place.last_column_tile,
            ~place.last_block,
        )
        rows_left = Signal(COUNT_BITS)
        batch_start = Signal()
        tile_start = Signal()
        with m.If(self.start | batch_end):
            m.d.sync += [rows_left.eq(self.rows), batch_start.eq(1)]
        with m.Elif(tile_end):
            m.d.sync += batch_start.eq(0)
            with m.If(place.last_column_tile):
                m.d.sync += rows_left.eq(rows_left - self.config.rows)
        with m.If(self.start | self.step):
            m.d.sync += tile_start.eq(self.start | place.last_block)
        m.d.comb += [
            tile.rows.eq(Mux(place.last_row_tile, rows_left, self.config.rows)),
            tile.columns.eq(Mux(place.last_column_tile, registers.nl, self.config.columns)),
            tile.reset.eq(batch_start),
            tile.advance.eq(place.last_block & place.last_column_tile),
            tile.first_block.eq(tile_start),
            tile.last_block.eq(place.last_block),
            tile.last.eq(place.as_value().all()),
        ]
        self._walk(m, loop)
        return m

    def _walk(self, m: Module, loop: Value) -> None:
        """The two parameter entries and the address of the output."""
        registers, tile = self.registers, self.tile
        late, step = Signal.like(loop), Signal()
        m.d.sync += [late.eq(loop), step.eq(self.step)]
        loop = late
        block_count = Signal(len(tile.row_entry))
        count = (self.terms + (BLOCK - 1)) >> BLOCK.bit_length() - 1
        m.d.comb += block_count.eq(Mux(self.blocks, count, 1))
        m.d.comb += tile.row_stride.eq(block_count)
        rows = self.config.rows
        tile_rows = sum(
            (block_count << bit for bit in range(rows.bit_length()) if rows >> bit & 1), Const(0)
        )
        # Entries of column parameters follow each other from block to block and tile to tile.
        column_loop = Cat(loop[0], loop[1], Const(0, 1), loop[2] | loop[3])
        column_strides = (registers.p_column_g, 0, 0, 1)
        row_strides = (registers.p_row_g, tile_rows, 0, 1)
        offset_strides = (registers.o_g, 0, registers.o_n, 0)
        for field, entries, base, strides, levels in (
            ("column_entry", self.config.parameters, "p_column", column_strides, column_loop),
            ("row_entry", self.config.row_parameters, "p_row", row_strides, loop),
            ("offset", self.config.memory_words, "o_base", offset_strides, loop),
        ):
            if entries == 1:
                continue  # its index is 0
            m.submodules[field] = nest = AddressNest(len(tile[field]), _LEVELS)
            m.d.comb += [
                nest.load.eq(self.start),
                nest.base.eq(registers[base]),
                nest.step.eq(step),
                nest.loop.eq(levels),
                nest.moves.eq(Cat(levels[: level + 1].any() for level in range(_LEVELS))),
                tile[field].eq(nest.address),
            ]
            m.d.comb += [nest.strides[i].eq(stride) for i, stride in enumerate(strides)]
