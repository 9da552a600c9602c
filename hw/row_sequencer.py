"""One token per row: what a row's sums meet on their way out, and where they go."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.column_tail import shift_layout, token_layout
from hw.lane_walker import LaneWalker
from hw.parameter_memory import ParameterMemory
from hw.tile_record import index_bits, tile_layout
from sw.config import COUNT_BITS, MachineConfig


def event_layout(config: MachineConfig) -> data.StructLayout:
    """A tile, or block of one, whose last slice is issued in this cycle: ``valid``, ``tile``."""
    return data.StructLayout({"valid": 1, "tile": tile_layout(config)})


def place_layout(config: MachineConfig) -> data.StructLayout:
    """Where a row goes: ``address`` in memory, ``row`` of its tile, ``count`` of its columns,
    ``last`` of its instruction."""
    return data.StructLayout(
        {
            "address": config.address_bits,
            "row": index_bits(config.rows),
            "count": config.columns.bit_length(),
            "last": 1,
        }
    )


class RowSequencer(wiring.Component):
    """Turns an event into a token per row, one per cycle, with the row's parameters and place.

    Row r's place leaves 1 + r cycles after the event, its token 2 + r cycles after it. From one
    event to the next are at least as many cycles as the first has rows.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    row_parameters : In(1)
        Whether rows have shifts; else they are 0 (lifts are not touched).
    x_count : In(16), x_stride, y_stride : In(address_bits)
        Of the walk over the places of rows.
    write : In(struct of enable, entry, data)
        The host's, to the row parameters.
    event : In(event_layout(config))
    place : Out(struct of enable, data)
        Of rows whose sums are complete.
    token : Out(token_layout(config))
    """

    latency = 2

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.parameters = ParameterMemory(shift_layout(config), config.row_parameters)
        super().__init__(
            {
                "row_parameters": In(1),
                "x_count": In(COUNT_BITS),
                "x_stride": In(config.address_bits),
                "y_stride": In(config.address_bits),
                "write": In(self.parameters.write.shape()),
                "event": In(event_layout(config)),
                "place": Out(data.StructLayout({"enable": 1, "data": place_layout(config)})),
                "token": Out(token_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.parameters = parameters = self.parameters
        m.submodules.walker = walker = LaneWalker(self.config)
        event, tile = self.event, Signal(tile_layout(self.config))
        active, row = Signal(), Signal(self.place.data.row.shape())
        ends = Signal()
        m.d.comb += ends.eq(active & (row + 1 == tile.rows))
        with m.If(event.valid):
            m.d.sync += [active.eq(1), row.eq(0), tile.eq(event.tile)]
        with m.Elif(active):
            m.d.sync += [
                active.eq(~ends),
                row.eq(row + 1),
                tile.row_entry.eq(tile.row_entry + tile.row_stride),
            ]
        m.d.comb += [
            walker.x_count.eq(self.x_count),
            walker.x_stride.eq(self.x_stride),
            walker.y_stride.eq(self.y_stride),
            walker.reset.eq(event.valid & event.tile.reset),
            walker.step.eq(active),
            walker.advance.eq(ends & tile.advance),
            walker.rewind.eq(ends & ~tile.advance),
            parameters.write.eq(self.write),
            parameters.read.enable.eq(active),
            parameters.read.entry.eq(tile.row_entry),
        ]
        last = ends & tile.last
        m.d.comb += [
            self.place.enable.eq(active & tile.last_block),
            self.place.data.address.eq(tile.offset + walker.offset),
            self.place.data.row.eq(row),
            self.place.data.count.eq(tile.columns),
            self.place.data.last.eq(last),
        ]
        self._send(m, active, row, tile, last)
        return m

    def _send(self, m: Module, active: Signal, row: Signal, tile: data.View, last: object) -> None:
        """The token, as the row's parameters come out of their memory."""
        token, parameters = self.token, self.parameters.data
        m.d.sync += [
            token.valid.eq(active),
            token.entry.eq(tile.column_entry),
            token.last.eq(last),
            token.drained.eq(tile.last_block),
        ]
        m.d.comb += token.shift.eq(Mux(self.row_parameters, parameters.shift, 0))
        if self.config.blocks:
            m.d.comb += token.lift.eq(parameters.lift)
            m.d.sync += [token.row.eq(row), token.first_block.eq(tile.first_block)]
