"""The way of sums from the foot of the array to memory, activation buffer or result stream."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.activation_buffer import buffer_write_layout
from hw.column_drain import delay
from hw.column_tail import BUFFER, ColumnTail, column_layout, function_layout
from hw.deskew import Deskew
from hw.encoder import Encoder
from hw.fma import operand_magnitude
from hw.reset_chain import ResetChain
from hw.result_queue import ResultQueue, result_layout
from hw.row_sequencer import RowSequencer, event_layout, place_layout
from hw.table_activation import TABLE_WRITE
from hw.tile_record import index_bits
from sw.config import COUNT_BITS, MachineConfig
from sw.isa import Destination

#: Cycles from an event to the bus that the tokens need: what an array takes at least.
LEAST_ARRAY_LATENCY = RowSequencer.latency + 3
#: Cycles from the last lane of a row to its write, or to its place in the queue.
_COLLECTED = 2


def settings_layout(config: MachineConfig) -> data.StructLayout:
    """What an instruction asks of its results.

    ``destination``: :class:`sw.isa.Destination` or :data:`hw.column_tail.BUFFER`, the activation
    buffer; ``activation``: :class:`sw.isa.Function`; ``clamp``: a word, above which clamp cuts;
    ``column_parameters``, ``row_parameters``, ``blocks``: flags COLUMN, ROW, BLOCK; ``x_count``,
    ``x_stride``, ``y_stride``: MX, O_X, O_Y.
    """
    return data.StructLayout(
        {
            "destination": 2,
            "activation": 2,
            "clamp": config.bits,
            "column_parameters": 1,
            "row_parameters": 1,
            "blocks": 1,
            "x_count": COUNT_BITS,
            "x_stride": config.address_bits,
            "y_stride": config.address_bits,
        }
    )


def column_write_layout(config: MachineConfig) -> data.StructLayout:
    """A write of a column parameter: ``enable``, ``column``, ``entry``, ``data``."""
    return data.StructLayout(
        {
            "enable": 1,
            "column": index_bits(config.columns),
            "entry": index_bits(config.parameters),
            "data": column_layout(config),
        }
    )


def row_write_layout(config: MachineConfig) -> data.StructLayout:
    """A write of a row of words to memory: ``enable``, ``address``, ``count``, ``words``."""
    return data.StructLayout(
        {
            "enable": 1,
            "address": config.address_bits,
            "count": config.columns.bit_length(),
            "words": data.ArrayLayout(config.bits, config.columns),
        }
    )


class ResultRows(wiring.Component):
    """Drains the sums that the array's columns give out and puts each row where it belongs.

    Nothing stalls: rows for the result stream are promised room when their slice is issued. With
    an event in cycle T, its row r is written, or may be offered on ``results``, in cycle
    ``T + latency + r``, an exact row in cycle ``T + exact_latency + r``.

    Parameters
    ----------
    config : MachineConfig
    array_latency : int
        Cycles from an event to its row 0 on ``bus[0]``; at least 5.
    resets : ResetChain, optional
        As in the machine.

    Members
    -------
    settings : In(settings_layout(config))
        Constant from an instruction's first event until ``done``.
    event : In(event_layout(config))
        In the cycle of a slice that is a tile's, or a block's, last; the next one no sooner than
        after as many cycles as this one has rows.
    bus : In(signed(accumulator_bits)).array(columns)
        Row r of an event in cycle T is on ``bus[j]`` in cycle ``T + array_latency + r + j``.
    column_write : In(column_write_layout(config))
    row_parameter_write : In(struct of enable, entry, data)
    table_write : In(TABLE_WRITE)
        Only with a table. The host writes while no rows pass.
    write : Out(row_write_layout(config))
        A row to memory.
    buffer_write : Out(buffer_write_layout(config))
        A row to the activation buffer.
    results : Out(stream of result_layout(config))
    credits : Out(range(queue.depth + 1)), room : Out(rows)
        Rows that events with the stream as destination may still bring; bit r - 1: r of them.
    done : Out(1)
        High in the one cycle in which an instruction's last row is written or queued.

    Attributes
    ----------
    latency, exact_latency : int
        See above: ``array_latency + columns - 1`` and 5 cycles (2 where exact), with block scales
        2 more, with a table 3 more (not where exact).
    """

    def __init__(
        self, config: MachineConfig, array_latency: int, resets: ResetChain | None = None
    ) -> None:
        if array_latency < LEAST_ARRAY_LATENCY:
            raise ValueError(
                f"array_latency must be at least {LEAST_ARRAY_LATENCY}, not {array_latency!r}"
            )
        self.config = config
        self.resets = resets or ResetChain(None)
        self.array_latency = array_latency
        self.sequencer = RowSequencer(config)
        self.queue = ResultQueue(config)
        collected = array_latency + config.columns - 1 + _COLLECTED
        self.latency = collected + ColumnTail.latency_of(config)
        self.exact_latency = collected + ColumnTail.exact_latency_of(config)
        table = {"table_write": In(TABLE_WRITE)} if config.table else {}
        super().__init__(
            {
                "settings": In(settings_layout(config)),
                "event": In(event_layout(config)),
                "bus": In(signed(config.accumulator_bits)).array(config.columns),
                "column_write": In(column_write_layout(config)),
                "row_parameter_write": In(self.sequencer.write.shape()),
                **table,
                "write": Out(row_write_layout(config)),
                "buffer_write": Out(buffer_write_layout(config)),
                "results": Out(stream.Signature(result_layout(config))),
                "credits": Out(self.queue.credits.shape()),
                "room": Out(config.rows),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer = self.sequencer
        self.resets.place(m, "sequencer", sequencer)
        settings = self.settings
        m.d.comb += [
            sequencer.row_parameters.eq(settings.row_parameters),
            sequencer.x_count.eq(settings.x_count),
            sequencer.x_stride.eq(settings.x_stride),
            sequencer.y_stride.eq(settings.y_stride),
            sequencer.write.eq(self.row_parameter_write),
            sequencer.event.eq(
                delay(m, "event", self.event.as_value(), self.array_latency - LEAST_ARRAY_LATENCY)
            ),
        ]
        tails = self._columns(m)
        streams = Signal()
        m.d.comb += streams.eq(
            (settings.destination == Destination.STREAM)
            | (settings.destination == Destination.EXACT)
        )
        queued = self._queue(m, tails, streams)
        written = self._write(m, tails, ~streams)
        m.d.comb += self.done.eq(queued | written)
        return m

    def _columns(self, m: Module) -> list[ColumnTail]:
        """A tail per column, with the tokens' way from one to the next."""
        tails = [ColumnTail(self.config) for _ in range(self.config.columns)]
        function = self._function(m)
        token = self.sequencer.token
        for index, tail in enumerate(tails):
            m.submodules[f"column_{index}"] = tail
            m.d.comb += [
                tail.function.eq(function),
                tail.bus.eq(self.bus[index]),
                tail.token.eq(token),
                tail.write.enable.eq(
                    self.column_write.enable & (self.column_write.column == index)
                ),
                tail.write.entry.eq(self.column_write.entry),
                tail.write.data.eq(self.column_write.data),
            ]
            if self.config.table:
                m.d.comb += tail.table_write.eq(self.table_write)
            token = tail.token_next
        return tails

    def _function(self, m: Module) -> Signal:
        """What the columns must know of the settings; the limit as magnitudes, a cycle late."""
        settings, config = self.settings, self.config
        function = Signal(function_layout(config))
        m.d.comb += [
            function.destination.eq(settings.destination),
            function.function.eq(settings.activation),
            function.column_parameters.eq(settings.column_parameters),
            function.blocks.eq(settings.blocks),
        ]
        positive = Signal(config.bits)
        m.d.comb += positive.eq(Mux(settings.clamp[-1], 0, settings.clamp))
        m.submodules.limit = limit = Encoder(
            config.output,
            config.format.fraction_bits,
            config.format.fraction_bits + config.unity,
            "nearest",
        )
        m.d.comb += limit.magnitude.eq(operand_magnitude(config.format, positive))
        limits = Signal.like(Cat(function.limit, function.output_limit))
        m.d.sync += limits.eq(Cat(positive[:-1], limit.word[:-1]))
        m.d.comb += Cat(function.limit, function.output_limit).eq(limits)
        return function

    def _queue(self, m: Module, tails: list[ColumnTail], streams: Value) -> Value:
        """Rows to the result stream; returns whether an instruction's last may be offered."""
        queue = self.queue
        self.resets.place(m, "queue", queue)
        event, place = self.event, self.sequencer.place
        m.d.comb += [
            queue.promise.enable.eq(event.valid & event.tile.last_block & streams),
            queue.promise.rows.eq(event.tile.rows),
            queue.note.enable.eq(place.enable & streams),
            queue.note.data.kind.eq(self.settings.destination == Destination.EXACT),
            queue.note.data.count.eq(place.data.count),
            queue.note.data.last.eq(place.data.last),
            *(lane.eq(tail.result) for lane, tail in zip(queue.lanes, tails, strict=True)),
            self.credits.eq(queue.credits),
            self.room.eq(queue.room),
        ]
        connect(m, flipped(self.results), queue.results)
        last = tails[-1]
        return delay(m, "queued_last", last.result.enable & last.last, _COLLECTED)

    def _write(self, m: Module, tails: list[ColumnTail], writes: Value) -> Value:
        """Rows to memory or activation buffer; returns whether an instruction's last is written."""
        depth = 1 << self.config.columns.bit_length()
        deskew = Deskew(self.config.bits, self.config.columns, place_layout(self.config), depth)
        self.resets.place(m, "deskew", deskew)
        place, valid = self.sequencer.place, Signal()
        to_buffer = self.settings.destination == BUFFER
        m.d.comb += [
            deskew.note.enable.eq(place.enable & writes),
            deskew.note.data.eq(place.data),
            *(lane.eq(tail.word) for lane, tail in zip(deskew.lanes, tails, strict=True)),
            self.write.enable.eq(valid & ~to_buffer),
            self.write.address.eq(deskew.row_note.address),
            self.write.count.eq(deskew.row_note.count),
            Cat(*self.write.words).eq(Cat(*deskew.row)),
            self.buffer_write.enable.eq(valid & to_buffer),
            self.buffer_write.row.eq(deskew.row_note.row),
            Cat(*self.buffer_write.words).eq(Cat(*deskew.row)),
        ]
        m.d.sync += [deskew.next.eq(tails[-1].word.enable), valid.eq(deskew.next)]
        return valid & deskew.row_note.last
