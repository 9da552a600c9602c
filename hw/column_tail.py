"""What stands at the foot of one column: block sums, drain, activation."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.activation import ClampUnit
from hw.block_aligner import BlockAligner
from hw.column_drain import ColumnDrain, delay
from hw.parameter_memory import ParameterMemory
from hw.table_activation import TABLE_WRITE, TableActivation
from hw.tile_record import index_bits
from sw.activation import TABLE_BITS
from sw.config import MachineConfig
from sw.format import SFx
from sw.isa import Destination, Function
from sw.scale import SHIFT_BITS

#: The destination of base RELU and LIN, behind those of a GEMM: the activation buffer.
BUFFER: Final = len(Destination)
#: Bits of one part of a block's lift; no part is more than R <= 15.
LIFT_BITS: Final = 4


def shift_layout(config: MachineConfig) -> data.StructLayout:
    """A row parameter: ``shift``, signed; with block scales also ``lift``."""
    lift = {"lift": LIFT_BITS} if config.blocks else {}
    return data.StructLayout({"shift": signed(SHIFT_BITS), **lift})


def column_layout(config: MachineConfig) -> data.StructLayout:
    """A column parameter: ``bias``, ``shift``; with block scales also ``lift``."""
    return data.StructLayout({"bias": config.bias_format.bits, **shift_layout(config).members})


def token_layout(config: MachineConfig) -> data.StructLayout:
    """What travels ahead of one row's sums from column to column.

    ``valid``; ``entry`` of the column parameters; the row's
    ``shift`` (and ``lift``); ``last``: the last row of an instruction; ``drained``: the row's
    last block; with block scales ``row`` in the tile and ``first_block``.
    """
    blocks = {"row": index_bits(config.rows), "first_block": 1} if config.blocks else {}
    return data.StructLayout(
        {
            "valid": 1,
            "entry": index_bits(config.parameters),
            "last": 1,
            "drained": 1,
            **shift_layout(config).members,
            **blocks,
        }
    )


def function_layout(config: MachineConfig) -> data.StructLayout:
    """What all rows of an instruction have in common.

    ``destination``: :class:`sw.isa.Destination` or :data:`BUFFER`; ``function``:
    :class:`sw.isa.Function`; ``limit`` and ``output_limit``: magnitude of the clamp in the
    machine's and in the output's format; ``column_parameters``: whether the column's are used;
    ``blocks``: whether lifts are.
    """
    return data.StructLayout(
        {
            "destination": 2,
            "function": 2,
            "limit": config.format.fraction_bits,
            "output_limit": config.output.fraction_bits,
            "column_parameters": 1,
            "blocks": 1,
        }
    )


class ColumnTail(wiring.Component):
    """Makes words, or an exact value, of the sums that leave one column.

    A token comes 3 cycles before its sum is on the bus, one per cycle; nothing stalls.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    function : In(function_layout(config))
        Constant while an instruction's rows pass.
    write : In(struct of enable, entry, data), table_write : In(TABLE_WRITE)
        The host's; not while rows pass. The second only with a table.
    token : In(token_layout(config))
    token_next : Out(token_layout(config))
        The token one cycle later, for the next column.
    bus : In(signed(config.accumulator_bits))
    word : Out(struct of enable, data)
        A word for memory or the activation buffer.
    result : Out(struct of enable, data)
        A word of the output's format, or an exact value, sign extended, for the result queue.
    last : Out(1)
        Along with either: the last row of an instruction.

    Attributes
    ----------
    exact_latency, latency : int
        Cycles from the bus to an exact result and to a word.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.exact_latency = self.exact_latency_of(config)
        self.latency = self.latency_of(config)
        formats = [config.format, config.output]
        if config.table:
            formats.append(SFx(TABLE_BITS, config.unity))
        #: Of the drain; the machine's own first.
        self.formats = tuple(dict.fromkeys(formats))
        #: Of the words that leave.
        self.outputs = tuple(dict.fromkeys(formats[:2]))
        self.parameters = ParameterMemory(column_layout(config), config.parameters)
        table = {"table_write": In(TABLE_WRITE)} if config.table else {}
        token = token_layout(config)
        super().__init__(
            {
                "function": In(function_layout(config)),
                "write": In(self.parameters.write.shape()),
                **table,
                "token": In(token),
                "token_next": Out(token),
                "bus": In(signed(config.accumulator_bits)),
                "word": Out(data.StructLayout({"enable": 1, "data": config.bits})),
                "result": Out(data.StructLayout({"enable": 1, "data": config.result_bits})),
                "last": Out(1),
            }
        )

    @staticmethod
    def exact_latency_of(config: MachineConfig) -> int:
        """Cycles from the bus to an exact result: 0, with block scales 2."""
        return BlockAligner.latency if config.blocks else 0

    @staticmethod
    def latency_of(config: MachineConfig) -> int:
        """Cycles from the bus to a word: 3 more than to an exact result, with a table 6."""
        table = TableActivation.latency if config.table else 0
        return ColumnTail.exact_latency_of(config) + ColumnDrain.latency + table

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.parameters = parameters = self.parameters
        m.d.sync += self.token_next.eq(self.token)
        m.d.comb += [
            parameters.write.eq(self.write),
            parameters.read.enable.eq(self.token.valid),
            parameters.read.entry.eq(self.token.entry),
        ]
        # A register behind the memory, whose output is late in its cycle on an FPGA; from here on,
        # one cycle before the bus, `ahead` is the token.
        column, ahead = Signal(column_layout(self.config)), Signal(self.token.shape())
        m.d.sync += [
            ahead.eq(self.token_next),
            column.eq(Mux(self.function.column_parameters, parameters.data.as_value(), 0)),
        ]
        m.submodules.drain = drain = ColumnDrain(
            self.config.format,
            self.config.aligned_bits,
            self.formats,
            self.config.bias_format,
            "nearest",
            self.exact_latency,
        )
        sum_ready = self._align(m, ahead, column)
        m.d.comb += [
            drain.row_shift.eq(ahead.shift),
            drain.column_shift.eq(column.shift),
            drain.bias.eq(column.bias),
            drain.accumulator.eq(sum_ready),
        ]
        words = self._activate(m, [drain.o[i] for i in range(len(self.formats))])
        self._leave(m, ahead, sum_ready, words)
        return m

    def _align(self, m: Module, ahead: data.View, column: data.View) -> Value:
        """The sum of a row's blocks so far, ``exact_latency`` cycles behind the bus."""
        if not self.config.blocks:
            return self.bus
        lift = Signal(LIFT_BITS + 1)
        with m.If(self.function.blocks):
            m.d.sync += lift.eq(ahead.lift + column.lift)
        with m.Else():
            m.d.sync += lift.eq(0)
        m.submodules.aligner = aligner = BlockAligner(
            self.config.accumulator_bits, self.config.aligned_bits, self.config.rows, len(lift)
        )
        m.d.comb += [
            aligner.valid.eq(delay(m, "bus_valid", ahead.valid, 1)),
            aligner.first.eq(delay(m, "bus_first_block", ahead.first_block, 1)),
            aligner.row.eq(delay(m, "bus_row", ahead.row, 1)),
            aligner.accumulator.eq(self.bus),
            aligner.lift.eq(lift),
        ]
        return aligner.aligned

    def _activate(self, m: Module, drained: list[Value]) -> list[Value]:
        """The words that leave, in the order of ``outputs``."""
        late = TableActivation.latency if self.config.table else 0
        function = self.function.function
        words = []
        for index, (format, limit) in enumerate(
            zip(self.outputs, (self.function.limit, self.function.output_limit), strict=False)
        ):
            m.submodules[f"clamp_{index}"] = clamp = ClampUnit(format)
            m.d.comb += [
                clamp.i.eq(drained[index]),
                clamp.function.eq(function),
                clamp.limit.eq(limit),
            ]
            words.append(delay(m, f"clamped_{index}", clamp.o, late))
        if not self.config.table:
            return words
        m.submodules.table = table = TableActivation(self.config.unity, self.outputs)
        argument = self.formats.index(table.format)
        m.d.comb += [table.write.eq(self.table_write), table.i.eq(drained[argument])]
        looks_up = function == Function.TABLE
        return [Mux(looks_up, table.o[i], word) for i, word in enumerate(words)]

    def _leave(self, m: Module, ahead: data.View, exact: Value, words: list[Value]) -> None:
        """Hand the row on where its destination wants it, at the time that this takes."""
        destination = self.function.destination
        drained = delay(m, "sum_ready", ahead.valid & ahead.drained, 1 + self.exact_latency)
        last = delay(m, "sum_last", ahead.last, 1 + self.exact_latency)
        late = self.latency - self.exact_latency
        # An exact row leaves here: the next instruction may begin before it would be a word.
        becomes_word = drained & (destination != Destination.EXACT)
        ready = delay(m, "word_ready", becomes_word, late)
        word_last = delay(m, "word_last", last, late)
        with m.Switch(destination):
            with m.Case(Destination.EXACT):
                m.d.comb += [
                    self.result.enable.eq(drained),
                    self.result.data.eq(exact),
                    self.last.eq(last),
                ]
            with m.Case(Destination.STREAM):
                m.d.comb += [
                    self.result.enable.eq(ready),
                    self.result.data.eq(words[-1][: self.config.output.bits]),
                    self.last.eq(word_last),
                ]
            with m.Default():
                m.d.comb += [self.word.enable.eq(ready), self.last.eq(word_last)]
        m.d.comb += self.word.data.eq(words[0])
