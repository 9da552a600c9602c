"""The machine: instructions and data in on streams, results and faults out on streams."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from hw.activation_buffer import ActivationBuffer
from hw.array import SystolicArray
from hw.column_tail import BUFFER
from hw.controller import Controller
from hw.counters import Counters
from hw.cycle_count import SIZE_BITS, CycleCount
from hw.decoder import Decoder
from hw.edge import ArrayEdge
from hw.feeder import Feeder
from hw.host_port import HostPort
from hw.instruction_check import InstructionCheck
from hw.issuer import IssueMode, Issuer
from hw.machine_ports import machine_ports
from hw.planner import Planner
from hw.range_check import RangeCheck
from hw.registers import RegisterFile
from hw.reset_chain import ResetChain
from hw.result_rows import ResultRows
from hw.tile_loader import TileLoader
from hw.tile_memory import TileMemory
from hw.tile_store import TileStore
from sw.config import MachineConfig
from sw.isa import Destination, Flag, Function, Opcode
from sw.registers import Counter


class Atreides(wiring.Component):
    """A systolic machine on words: programs run on what the host puts in its memories.

    Nothing but tile memory, parameters and table passes from one program to the next: registers
    have their defaults and all buffers are empty as a program starts. ``sw.isa`` says what
    instructions do, ``hw.controller`` how long they take.

    Parameters
    ----------
    config : MachineConfig
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.
    reset : Signal, optional
        Resets the machine besides its clock domain, over several cycles; see ResetChain. What
        only passes on what it is given, and what a program's start clears, has no such reset.

    Members
    -------
    instructions : In(stream of {word 16, last 1})
        A program's words; the one with ``last`` ends it. Taken while no request of the host is
        offered or under way.
    host : In(stream of host_layout(config))
        Requests to read and write, taken only while no program runs.
    results : Out(stream of results_layout(config))
        Rows of results, and replies to the host.
    status : Out(stream of {fault 4, counter 32})
        One beat as a program ends.
    busy : Out(1)
        A program runs, or the memory clears itself after reset.
    """

    latency = None  # depends on the program
    unread_fields = True  # registers, chunks and requests go whole to units that want a part

    def __init__(
        self, config: MachineConfig, target: str = "generic", reset: Signal | None = None
    ) -> None:
        self.config = config
        self.target = target
        self.resets = ResetChain(reset)
        super().__init__(machine_ports(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        self._controller = Controller()
        m.submodules.decoder = self._decoder = Decoder(config)
        m.submodules.check = self._check = InstructionCheck(config)
        m.submodules.registers = self._registers = RegisterFile(config)
        self._counters = Counters(config)
        self._memory = TileMemory(config)
        self._host = HostPort(config, TileMemory.latency + 1)
        self._range = RangeCheck(config)
        self._planner = Planner(config, self.target)
        self._issuer = Issuer(config)
        m.submodules.edge = self._edge = ArrayEdge(
            config.format, config.rows, config.columns, config.hold
        )
        m.submodules.array = self._array = SystolicArray(
            config.format,
            config.rows,
            config.columns,
            config.max_terms,
            config.multiplier,
            self.target,
        )
        latency = self._edge.latency + self._array.latency
        m.submodules.rows = self._rows = ResultRows(config, latency, self.resets)
        m.submodules.buffer = self._buffer = ActivationBuffer(config)
        self._store = TileStore(config)
        for name, unit in (
            ("store", self._store),
            ("issuer", self._issuer),
            ("planner", self._planner),
            ("range_check", self._range),
            ("counters", self._counters),
        ):
            self.resets.place(m, name, unit)
        self._control(m)
        self._feed(m)
        self._multiply(m)
        self._leave(m)
        self._serve(m)
        self._count(m)
        # Last: nothing comes to the others before.
        self.resets.place(m, "memory", self._memory)
        self.resets.place(m, "host_port", self._host)
        self.resets.place(m, "controller", self._controller)
        return m

    def _line(self, opcode: Opcode) -> Signal:
        return self._decoder.decoded.lines[opcode]

    def _flag(self, flag: Flag) -> Signal:
        return self._decoder.decoded.flags[flag.bit_length() - 1]

    def _control(self, m: Module) -> None:
        """Instructions: decoder, registers, checks, and who is done."""
        controller, decoded = self._controller, self._decoder.decoded
        check, registers, ranges = self._check, self._registers, self._range
        connect(m, flipped(self.instructions), controller.instructions)
        connect(m, controller.status, flipped(self.status))
        cleared = Signal()  # a cycle late: no instruction comes before
        m.d.sync += cleared.eq(controller.clear)
        m.d.comb += [
            self._decoder.word.eq(controller.word),
            controller.decoded.eq(decoded),
            controller.fault.eq(check.fault),
            controller.fits.eq(registers.fits),
            controller.checked.eq(ranges.done),
            controller.range_fault.eq(ranges.fault),
            controller.enable.eq(self._host.idle & ~self._memory.busy),
            self.busy.eq(~controller.idle | self._memory.busy),
            registers.clear.eq(cleared),
            registers.set.eq(controller.set),
            registers.identity.eq(self._line(Opcode.ADD)),
            check.decoded.eq(decoded),
            check.registers.eq(registers.registers),
            check.clear.eq(cleared),
            check.take.eq(controller.take),
            ranges.start.eq(controller.check),
            ranges.registers.eq(registers.registers),
            ranges.memory.eq(decoded.dest == Destination.MEMORY),
            ranges.skip.eq(self._flag(Flag.SKIP)),
            controller.done.matmul.eq(self._issuer.done),
            controller.done.drain.eq(self._rows.done),
            controller.done.gemm.eq(self._rows.done),
            controller.done.store.eq(self._store.done),
        ]

    def _feed(self, m: Module) -> None:
        """From tile memory to the shift buffers: chunks of the planner, or a tile."""
        controller, memory, planner = self._controller, self._memory, self._planner
        registers, gemm = self._registers.registers, Signal()
        # A cycle late: the planner's first chunk comes later still, a loader's long after it.
        ended, self._works = Signal(), Signal()
        m.d.comb += self._works.eq(controller.executing.gemm & ~ended)  # and over with it
        m.d.sync += [ended.eq(controller.done.gemm), gemm.eq(self._works)]
        m.d.comb += [
            planner.start.eq(controller.start.gemm),
            planner.registers.eq(registers),
            planner.rows.eq(self._range.rows),
            planner.terms.eq(self._range.terms),
            planner.skip.eq(self._flag(Flag.SKIP)),
            planner.blocks.eq(self._flag(Flag.BLOCK)),
            planner.zero.eq(memory.zero),
            memory.flags.eq(planner.flags),
        ]
        self._feeders = {}
        for side, chunks, read, words, banks, mute in (
            ("a", planner.a, memory.read_a, memory.words_a, memory.banks_a, memory.mute_a),
            ("b", planner.b, memory.read_b, memory.words_b, memory.banks_b, memory.mute_b),
        ):
            feeder = self._feeders[side] = Feeder(self.config, side, self.target)
            loader = TileLoader(self.config, side)
            self.resets.place(m, f"feeder_{side}", feeder)
            self.resets.place(m, f"loader_{side}", loader)
            unit = f"load_{side}"
            # A cycle late, with the start of the unit that fills the buffer.
            flush = Signal(name=f"flush_{side}")
            m.d.sync += flush.eq(controller.clear | (controller.take & self._replaces(side)))
            m.d.comb += [
                loader.start.eq(controller.start[unit]),
                loader.job.eq(self._check.job),
                loader.busy.eq(feeder.busy),
                loader.chunks.ready.eq(feeder.chunks.ready),
                controller.done[unit].eq(loader.done),
                chunks.ready.eq(feeder.chunks.ready & gemm),
                feeder.chunks.valid.eq(Mux(gemm, chunks.valid, loader.chunks.valid)),
                feeder.chunks.payload.eq(Mux(gemm, chunks.payload, loader.chunks.payload)),
                feeder.words.eq(words),
                feeder.banks.eq(banks),
                mute.eq(feeder.mute),
                read.eq(feeder.read),
                feeder.flush.eq(flush),
            ]
        tile = {"x_count": Const(self.config.rows), "x_stride": self.config.columns, "y_stride": 0}
        product = {"x_count": "mx", "x_stride": "a_x", "y_stride": "a_y"}
        walk = self._feeders["a"].walk
        for name, register in product.items():
            m.d.comb += walk[name].eq(Mux(gemm, registers[register], tile[name]))

    def _replaces(self, side: str) -> Signal:
        """Whether the instruction empties a shift buffer as it takes effect."""
        load = Opcode.LDR if side == "a" else Opcode.LDC
        return self._line(load) | self._line(Opcode.GEMM) | self._line(Opcode.ADD)

    def _multiply(self, m: Module) -> None:
        """Slices through the array."""
        controller, issuer, edge, array = self._controller, self._issuer, self._edge, self._array
        job, start, streams = self._check.job, controller.start, Signal()
        to_stream = self._decoder.decoded.dest != Destination.MEMORY
        connect(m, self._feeders["a"].o, issuer.row_slices)
        connect(m, self._feeders["b"].o, issuer.column_slices)
        connect(m, self._planner.tiles, issuer.tiles)
        m.d.comb += [
            streams.eq(controller.executing.gemm & to_stream),
            issuer.start.eq(start.gemm | start.matmul | start.drain),
            issuer.mode.eq(IssueMode.DRAIN),
            issuer.rows.eq(job.rows),
            issuer.columns.eq(job.columns),
            issuer.terms.eq(job.terms),
            issuer.to_stream.eq(streams),
            issuer.room.eq(self._rows.room),
            edge.control.eq(issuer.control),
            edge.row_mask.eq(issuer.row_mask),
            edge.column_mask.eq(issuer.column_mask),
        ]
        with m.If(controller.executing.gemm):
            m.d.comb += issuer.mode.eq(IssueMode.GEMM)
        with m.Elif(controller.executing.matmul):
            m.d.comb += issuer.mode.eq(IssueMode.MATMUL)
        for target, source in (
            (edge.a, issuer.a),
            (edge.b, issuer.b),
            (array.a, edge.a_skewed),
            (array.control, edge.control_skewed),
            (array.b, edge.b_skewed),
            (self._rows.bus, array.bus),
        ):
            m.d.comb += [left.eq(right) for left, right in zip(target, source, strict=True)]

    def _leave(self, m: Module) -> None:
        """Results to memory, activation buffer or stream."""
        decoded, registers = self._decoder.decoded, self._registers.registers
        rows, buffer, store = self._rows, self._buffer, self._store
        settings = rows.settings
        activation = Mux(self._line(Opcode.RELU), Function.RELU, Function.LINEAR)
        # What the word says, in registers: from the second cycle at work until it is done.
        gemm = self._works
        m.d.sync += [
            settings.destination.eq(Mux(gemm, decoded.dest, BUFFER)),
            settings.activation.eq(Mux(gemm, decoded.act, activation)),
            settings.column_parameters.eq(gemm & self._flag(Flag.COLUMN)),
            settings.row_parameters.eq(gemm & self._flag(Flag.ROW)),
            settings.blocks.eq(gemm & self._flag(Flag.BLOCK)),
        ]
        m.d.comb += [
            rows.event.eq(self._issuer.event),
            settings.clamp.eq(registers.clamp),
            settings.x_count.eq(registers.mx),
            settings.x_stride.eq(registers.o_x),
            settings.y_stride.eq(registers.o_y),
            buffer.write.eq(rows.buffer_write),
            buffer.read.enable.eq(1),
            buffer.read.row.eq(store.row),
            store.start.eq(self._controller.start.store),
            store.job.eq(self._check.job),
            Cat(*store.words).eq(Cat(*buffer.words)),
        ]
        write = self._memory.write
        m.d.comb += write.eq(self._host.write)
        for source in (rows.write, store.write):
            with m.If(source.enable):
                m.d.comb += [
                    write.enable.eq(1),
                    write.address.eq(source.address),
                    write.count.eq(source.count),
                    Cat(*write.words).eq(Cat(*source.words)),
                ]

    def _serve(self, m: Module) -> None:
        """The host's requests, and who has the result stream."""
        host, memory, rows = self._host, self._memory, self._rows
        connect(m, flipped(self.host), host.host)
        m.d.sync += host.enable.eq(self._controller.idle & ~self._controller.clear & ~memory.busy)
        m.d.comb += [
            # Through the register of side A's addresses; no program starts in between.
            self._feeders["a"].host.eq(host.read),
            host.words.eq(memory.words_a),
            host.counter_value.eq(self._counters.value),
            self._counters.read.eq(host.counter_read),
            self._counters.number.eq(host.counter),
            rows.column_write.eq(host.column_write),
            rows.row_parameter_write.eq(host.row_parameter_write),
            self.results.valid.eq(rows.results.valid | host.reply.valid),
            rows.results.ready.eq(self.results.ready),
            host.reply.ready.eq(self.results.ready & ~rows.results.valid),
        ]
        if self.config.table:
            m.d.comb += rows.table_write.eq(host.table_write)
        # No program runs while a reply is offered: what the queue has leaves before it.
        with m.If(rows.results.valid):
            for name in ("kind", "count", "last", "data"):
                m.d.comb += self.results.payload[name].eq(rows.results.payload[name])
        with m.Else():
            m.d.comb += self.results.payload.eq(host.reply.payload)

    def _count(self, m: Module) -> None:
        """What the performance counters count."""
        controller, counters, issuer, memory = (
            self._controller,
            self._counters,
            self._issuer,
            self._memory,
        )
        amounts, job = counters.amounts, self._check.job
        computing, read = Signal(), Signal()
        m.d.comb += [
            counters.clear.eq(controller.clear),
            read.eq(controller.executing.gemm & (memory.read_a.enable | memory.read_b.enable)),
            amounts.cycles.eq(controller.running),
            amounts.instructions.eq(controller.finish),
            amounts.compute_cycles.eq(computing | read),
            amounts.slices.eq(issuer.issued),
            amounts.skipped_slices.eq(self._planner.skipped),
            amounts.held_operands.eq(self._edge.held),
        ]
        m.d.sync += computing.eq(
            (computing | read) & ~controller.done.gemm & controller.executing.gemm
        )
        for counter in (
            *(Counter.MACS, Counter.ZERO_OPERANDS, Counter.UNITY_OPERANDS),
            *(Counter.STALL_A, Counter.STALL_B, Counter.STALL_DRAIN, Counter.STALL_RESULTS),
        ):
            name = counter.name.lower()
            m.d.comb += amounts[name].eq(getattr(issuer, name))
        for source in (self._rows.write, self._store.write):
            with m.If(source.enable):
                m.d.comb += amounts.words_written.eq(source.count)
        m.submodules.cycle_count = cycle_count = CycleCount(SIZE_BITS)
        m.d.comb += [
            cycle_count.rows.eq(job.rows),
            cycle_count.inner.eq(job.terms),
            cycle_count.columns.eq(job.columns),
            counters.matmul.enable.eq(controller.start.matmul),
            counters.matmul.cycles.eq(cycle_count.cycles),
        ]
