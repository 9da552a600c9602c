"""The host port: writes and reads of the machine's memories between programs."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.banked_memory import read_layout
from hw.column_tail import LIFT_BITS, shift_layout
from hw.operand import stored_layout
from hw.result_rows import column_write_layout
from hw.table_activation import TABLE_WRITE
from hw.tile_memory import write_layout
from hw.tile_record import index_bits
from sw.config import MachineConfig
from sw.registers import COUNTER_BITS, Counter, ResultKind, Space
from sw.scale import SHIFT_BITS

ADDRESS_BITS: Final = 32
#: A request's data has at least these bits.
LEAST_DATA_BITS: Final = 32
#: Where the shift of a column parameter lies in a request's data, behind the bias.
SHIFT_OFFSET: Final = 16


def host_layout(config: MachineConfig) -> data.StructLayout:
    """A request of the host; ``count`` is the number of words minus one."""
    return data.StructLayout(
        {
            "space": Space,
            "write": 1,
            "count": index_bits(config.columns),
            "address": ADDRESS_BITS,
            "data": max(config.columns * config.bits, LEAST_DATA_BITS),
        }
    )


def row_parameter_write_layout(config: MachineConfig) -> data.StructLayout:
    """A write of a row parameter: ``enable``, ``entry``, ``data``."""
    entry = index_bits(config.row_parameters)
    return data.StructLayout({"enable": 1, "entry": entry, "data": shift_layout(config)})


def results_layout(config: MachineConfig) -> data.StructLayout:
    """A beat of the result stream: a row of a result, or the reply to a read."""
    return data.StructLayout(
        {
            "kind": ResultKind,
            "count": Shape.cast(range(config.columns + 1)),
            "last": 1,
            "data": max(config.columns * config.result_bits, COUNTER_BITS),
        }
    )


class HostPort(wiring.Component):
    """Serves requests, one at a time.

    In a request's data, word j of a tile lies at ``j * bits``; a column parameter, at address
    ``entry * columns + column``, has its bias at 0, its shift at 16 and, with block scales, its
    lift at 24; a row parameter its shift at 0 and its lift at 8; the table's segment i its start
    at address 2i and its slope at 2i + 1. A reply has word j at ``j * result_bits``, or a counter.

    A write takes 1 cycle, and is on its memory's port in the next. The reply to a read is offered
    ``read_latency + 1`` cycles after the request was taken, and the next request taken when the
    reply is. Writes that leave the tile memory, and those to counters, are ignored; indices of
    parameters are taken modulo their memory's depth; reads of parameters and beyond the counters
    give 0.

    Parameters
    ----------
    config : MachineConfig
    read_latency : int
        Of the tile memory, at least 2.

    Members
    -------
    host : In(stream of host_layout(config))
    enable : In(1)
        Requests may be taken.
    idle : Out(1)
        No request is offered or under way.
    write : Out(write_layout(config)), read : Out(read_layout), words : In(array(stored, V))
        Of the tile memory.
    column_write : Out(column_write_layout(config)), table_write : Out(TABLE_WRITE)
    row_parameter_write : Out(row_parameter_write_layout(config))
        Of the parameter memories.
    counter_read : Out(1), counter : Out(4), counter_value : In(48)
        Of the counters, whose values come 1 cycle later.
    reply : Out(stream of results_layout(config))
    """

    def __init__(self, config: MachineConfig, read_latency: int) -> None:
        self.config = config
        self.read_latency = read_latency
        words = data.ArrayLayout(stored_layout(config.format), config.vector)
        super().__init__(
            {
                "host": In(stream.Signature(host_layout(config))),
                "enable": In(1),
                "idle": Out(1),
                "write": Out(write_layout(config)),
                "read": Out(read_layout(config.address_bits)),
                "words": In(words),
                "column_write": Out(column_write_layout(config)),
                "row_parameter_write": Out(row_parameter_write_layout(config)),
                "table_write": Out(TABLE_WRITE),
                "counter_read": Out(1),
                "counter": Out(Shape.cast(Counter).width),
                "counter_value": In(COUNTER_BITS),
                "reply": Out(stream.Signature(results_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        request, reply = self.host.payload, self.reply
        taken, waiting, late = Signal(), Signal(), Signal(range(self.read_latency + 1))
        m.d.comb += [
            self.host.ready.eq(self.enable & ~waiting & ~reply.valid),
            taken.eq(self.host.valid & self.host.ready),
            self.idle.eq(~self.host.valid & ~waiting & ~reply.valid),
            self.counter_read.eq(waiting),
        ]
        self._write_tiles(m, taken & request.write)
        self._write_parameters(m, taken & request.write)
        m.d.comb += [
            self.read.enable.eq(taken & ~request.write & (request.space == Space.TILES)),
            self.read.address.eq(request.address),
        ]
        space = Signal(Space)
        with m.If(taken & ~request.write):
            m.d.sync += [
                waiting.eq(1),
                late.eq(self.read_latency),
                space.eq(request.space),
                self.counter.eq(request.address),
                reply.payload.count.eq(request.count + 1),
            ]
        with m.If(waiting):
            m.d.sync += late.eq(late - 1)
        with m.If(reply.ready):
            m.d.sync += reply.valid.eq(0)
        m.d.comb += [reply.payload.kind.eq(ResultKind.READ), reply.payload.last.eq(1)]
        with m.If(waiting & (late == 1)):
            m.d.sync += [waiting.eq(0), reply.valid.eq(1), reply.payload.data.eq(0)]
            with m.If(space == Space.TILES):
                for j in range(self.config.columns):
                    lane = reply.payload.data.bit_select(
                        j * self.config.result_bits, self.config.bits
                    )
                    m.d.sync += lane.eq(self.words[j].word)
            with m.Elif(space == Space.COUNTERS):
                m.d.sync += reply.payload.data.eq(self.counter_value)
        return m

    def _write_tiles(self, m: Module, write: Value) -> None:
        request, bits = self.host.payload, self.config.bits
        # A sum of 32 bits, and only then a look at it.
        end, enable = Signal(ADDRESS_BITS + 1), Signal()  # end: the last word's
        m.d.comb += self.write.enable.eq(enable & (end < self.config.memory_words))
        m.d.sync += [
            enable.eq(write & (request.space == Space.TILES)),
            end.eq(request.address + request.count),
            self.write.address.eq(request.address),
            self.write.count.eq(request.count + 1),
            *(
                self.write.words[j].eq(request.data[j * bits : (j + 1) * bits])
                for j in range(self.config.columns)
            ),
        ]

    def _write_parameters(self, m: Module, write: Value) -> None:
        request, columns = self.host.payload, self.config.columns
        entry, column = divide(request.address[: _index_bits(self.config)], columns)
        writes = {
            Space.COLUMN_PARAMETERS: self.column_write,
            Space.ROW_PARAMETERS: self.row_parameter_write,
            Space.TABLE: self.table_write,
        }
        for space, port in writes.items():
            m.d.sync += port.enable.eq(write & (request.space == space))
        fields = self.column_write.data
        m.d.sync += [
            self.column_write.entry.eq(entry),
            self.column_write.column.eq(column),
            fields.bias.eq(request.data),
            fields.shift.eq(request.data[SHIFT_OFFSET:]),
            self.row_parameter_write.entry.eq(request.address),
            self.row_parameter_write.data.shift.eq(request.data),
            self.table_write.index.eq(request.address),
            self.table_write.data.eq(request.data),
        ]
        if self.config.blocks:
            lift = SHIFT_OFFSET + SHIFT_BITS
            m.d.sync += [
                fields.lift.eq(request.data[lift : lift + LIFT_BITS]),
                self.row_parameter_write.data.lift.eq(request.data[SHIFT_BITS:]),
            ]


def _index_bits(config: MachineConfig) -> int:
    """Bits of the address of a column parameter."""
    return (config.parameters * config.columns - 1).bit_length() or 1


def divide(value: Value, divisor: int) -> tuple[Value, Value]:
    """Quotient and remainder by a constant, with one multiplication.

    With n bits of ``value``, ``m = ceil(2**s / divisor)`` and ``s = n + bits of divisor``, the
    error ``value * (m * divisor - 2**s) / 2**s`` stays below 1, so the floor is exact (T. Granlund
    and P. L. Montgomery, Division by invariant integers using multiplication, 1994).
    """
    if divisor.bit_count() == 1:
        places = divisor.bit_length() - 1
        return value >> places, value[:places]
    places = len(value) + divisor.bit_length()
    quotient = (value * -(-(1 << places) // divisor)) >> places
    return quotient, (value - quotient * divisor)[: divisor.bit_length()]
