"""The machine with serial control: microcode instead of units that work side by side."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import wiring

from hw.column_drain import ColumnDrain
from hw.host_port import SHIFT_OFFSET
from hw.machine_ports import machine_ports
from hw.operand_feed import OperandFeed
from hw.serial_assembly import WORD_BITS, Flags, Input, Output
from hw.serial_microcode import Microcode
from hw.serial_processor import SerialProcessor
from sw.config import MachineConfig
from sw.format import MAX_BITS
from sw.registers import COUNTED, COUNTER_BITS, Counter
from sw.scale import SHIFT_BITS

#: Ports that a feed that is busy lets wait, by the name of the order.
_ORDERS = {
    Output.TILE: "tile",
    Output.STRIDE: "stride",
    Output.LANE: "lane",
    Output.LOAD: "load",
    Output.GO: "go",
    Output.DRAIN: "drain",
    Output.TILE_WRITE: "tile_write",
    Output.LANE_WRITE: "lane_write",
}


class SerialAtreides(wiring.Component):
    """The same machine as ``hw.core.Atreides``, smaller and slower.

    The array and its edge are the same. All else is microcode on one processor: instructions,
    checks, addresses, parameters, activations and the host port, one thing at a time. One drain
    serves all columns. Words, rows, faults and what the host reads are those of the other machine,
    but for counters: there is that of cycles, or none.

    Parameters
    ----------
    config : MachineConfig
        With ``control`` serial.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.
    reset : Signal, optional
        Resets all of it besides its clock domain.

    Members
    -------
    As in ``hw.core.Atreides``.
    """

    latency = None  # depends on the program
    unread_fields = True  # requests go whole to what wants a part

    def __init__(
        self, config: MachineConfig, target: str = "generic", reset: Signal | None = None
    ) -> None:
        self.config = config
        self.target = target
        self.reset = reset
        self._counts = Counter.CYCLES in COUNTED[config.counters]
        super().__init__(machine_ports(config))

    def elaborate(self, platform: object) -> Elaboratable:
        m = Module()
        m.submodules.feed = feed = OperandFeed(self.config, self.target)
        code = Microcode(self.config, feed.sum_delay)
        m.submodules.processor = processor = SerialProcessor(code.words, code.data.init)
        self._processor, self._feed = processor, feed
        writes = Signal(max(Output) + 1)
        waits, done = Signal(), Signal()
        offered = Signal()  # a row that was not taken
        m.d.comb += [
            offered.eq(self.results.valid & ~self.results.ready),
            processor.stall.eq(waits),
            done.eq(processor.writes & ~waits),
            writes.eq(done << processor.port),
        ]
        with m.If(processor.reads), m.Switch(processor.port):
            with m.Case(Input.INSTRUCTION):
                m.d.comb += waits.eq(~self.instructions.valid)
            with m.Case(Input.TILE_WORD, Input.DRAINED):
                m.d.comb += waits.eq(feed.busy)
        with m.Else(), m.Switch(processor.port):
            with m.Case(*_ORDERS):
                m.d.comb += waits.eq(feed.busy)
            with m.Case(Output.ROW_WORD, Output.ROW_SUM, Output.BEAT):
                m.d.comb += waits.eq(feed.busy | offered)
        m.d.comb += feed.orders.value.eq(processor.value)
        for port, name in _ORDERS.items():
            m.d.comb += feed.orders[name].eq(writes[port])
        self._read(m)
        self._take_and_give(m, writes)
        self._drain(m, writes)
        return m if self.reset is None else ResetInserter(self.reset)(m)

    def _read(self, m: Module) -> None:
        """What IN finds."""
        request, word = self.host.payload, self.instructions.payload
        bias_bits = MAX_BITS if self.config.wide_bias else SHIFT_BITS
        flags = {
            Flags.HOST: self.host.valid,
            Flags.INSTRUCTION: self.instructions.valid,
            Flags.LAST: word.last,
            Flags.STATUS: self.status.valid,
        }
        lane = request.data.word_select(self._feed.lane, self.config.bits)
        shift = request.data[SHIFT_OFFSET : SHIFT_OFFSET + SHIFT_BITS]
        self._drained = Signal(self.config.bits)
        found: dict[Input, Value] = {
            Input.FLAGS: Cat(flags[flag] for flag in sorted(flags)),
            Input.INSTRUCTION: word.word,
            Input.HOST_CONTROL: Cat(request.space, request.write, request.count),
            Input.HOST_LOW: request.address[:16],
            Input.HOST_HIGH: request.address[16:],
            Input.HOST_WORD: lane,
            Input.HOST_PARAMETER: Cat(request.data[:bias_bits], shift)[:WORD_BITS],
            Input.TILE_WORD: self._feed.word,
            Input.DRAINED: self._drained,
        }
        if self.config.wide_bias:
            found[Input.HOST_SHIFT] = shift << WORD_BITS - SHIFT_BITS
        with m.Switch(self._processor.port):
            for port, value in found.items():
                with m.Case(port):
                    m.d.comb += self._processor.found.eq(value)

    def _take_and_give(self, m: Module, writes: Signal) -> None:
        """The machine's streams."""
        value, results, status = self._processor.value, self.results, self.status
        lane_bits = self.config.result_bits
        lanes = self.config.columns * lane_bits
        row = Signal(len(results.payload.data) if self._counts else lanes)
        m.d.comb += [
            self.host.ready.eq(writes[Output.HOST_TAKE]),
            self.instructions.ready.eq(writes[Output.INSTRUCTION_TAKE]),
            results.payload.data.eq(row),
        ]
        lane = Mux(writes[Output.ROW_SUM], self._feed.sum, value)[:lane_bits]
        with m.If(writes[Output.ROW_SUM] | writes[Output.ROW_WORD]):
            m.d.sync += row.eq(Cat(row[lane_bits:lanes], lane))
        if self._counts:
            cycles = self._count(m, writes)
            with m.If(writes[Output.ROW_CYCLES]):
                m.d.sync += row.eq(cycles)
        with m.If(results.ready):
            m.d.sync += results.valid.eq(0)
        with m.If(status.ready):
            m.d.sync += status.valid.eq(0)
        with m.If(writes[Output.BEAT]):
            m.d.sync += [
                results.valid.eq(1),
                Cat(results.payload.kind, results.payload.last, results.payload.count).eq(value),
            ]
        with m.If(writes[Output.STATUS_LOW]):
            m.d.sync += status.payload.counter[:16].eq(value)
        with m.If(writes[Output.STATUS_HIGH]):
            m.d.sync += status.payload.counter[16:].eq(value)
        with m.If(writes[Output.STATUS]):
            m.d.sync += [status.valid.eq(1), status.payload.fault.eq(value)]
        busy = Signal(init=1)
        m.d.comb += self.busy.eq(busy)
        with m.If(writes[Output.BUSY]):
            m.d.sync += busy.eq(value)

    def _count(self, m: Module, writes: Signal) -> Signal:
        """CYCLES, from the first word taken to the status offered."""
        cycles, waits, counts = Signal(COUNTER_BITS), Signal(), Signal()
        with m.If(counts):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(writes[Output.STATUS]):
            m.d.sync += counts.eq(0)
        with m.If(writes[Output.INSTRUCTION_TAKE]):
            m.d.sync += waits.eq(0)
            with m.If(waits):
                m.d.sync += counts.eq(1)
        with m.If(writes[Output.BUSY] & self._processor.value[0]):
            m.d.sync += [waits.eq(1), cycles.eq(1)]  # the cycle of the take
        return cycles

    def _drain(self, m: Module, writes: Signal) -> None:
        """One drain for all sums."""
        config, value = self.config, self._processor.value
        m.submodules.drain = drain = ColumnDrain(
            config.format,
            config.accumulator_bits,
            (config.format,),
            config.bias_format,
            "nearest",
        )
        with m.If(writes[Output.SHIFTS]):
            m.d.sync += Cat(drain.row_shift, drain.column_shift).eq(value)
        with m.If(writes[Output.BIAS]):
            m.d.sync += drain.bias.eq(value)
        m.d.comb += [drain.accumulator.eq(self._feed.sum), self._drained.eq(drain.o[0])]
