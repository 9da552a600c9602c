"""RV32 custom instructions for the machine, on the interface of PicoRV32's coprocessors."""

from __future__ import annotations

from enum import Enum

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.controller import INSTRUCTION, STATUS
from hw.host_port import host_layout, results_layout
from sw.config import MachineConfig
from sw.isa import FIELD_BITS, WORD_BITS, Opcode
from sw.registers import Register, ResultKind, Space
from sw.riscv import (
    FUNCT3,
    FUNCT7,
    FUNCT7_BITS,
    KIND_OFFSET,
    LAST_OFFSET,
    OPCODE,
    RD,
    REGISTER_BITS,
    RS1,
    RS2,
    UPPER,
    Custom,
)

#: Bits of RISC-V registers and instructions.
XLEN = 32
_HALT = Opcode.HALT << WORD_BITS - FIELD_BITS
_SET = Opcode.SET << WORD_BITS - FIELD_BITS


class _Step(Enum):
    """What an instruction of several cycles waits for."""

    FIRST = 0
    SECOND = 1
    THIRD = 2


class CustomInstructions(wiring.Component):
    """Turns custom instructions into what goes over the machine's four streams.

    An instruction is offered with ``valid`` and held until ``ready``; ``claimed`` says in the same
    cycle whether it is one of these. One that is not is never answered, and the core takes it for
    illegal: unknown fields, and WRITE and READ while a program runs. ``sw.riscv`` says what each
    does. Source of the interface: PicoRV32's README, "Pico Co-Processor Interface".

    One cycle for an instruction that the machine takes at once, three for SET.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    valid, instruction, rs1, rs2 : In(1), In(32), In(32), In(32)
    ready, write, rd, claimed : Out(1), Out(1), Out(32), Out(1)
        ``write``: rd is the new value of the destination register.
    instructions, host : Out(stream); results, status : In(stream)
        The machine's.
    """

    unread_fields = True  # of the instruction, and of a host's request

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "valid": In(1),
                "instruction": In(XLEN),
                "rs1": In(XLEN),
                "rs2": In(XLEN),
                "ready": Out(1),
                "write": Out(1),
                "rd": Out(XLEN),
                "claimed": Out(1),
                "instructions": Out(stream.Signature(INSTRUCTION)),
                "host": Out(stream.Signature(host_layout(config))),
                "results": In(stream.Signature(results_layout(config))),
                "status": In(stream.Signature(STATUS)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._step = Signal(_Step)
        self._running = Signal()  # a program was begun and not ended
        self._row = Signal(results_layout(self.config))  # taken last
        self._reply = Signal(XLEN)
        self._status = Signal(STATUS)
        self._has_status = Signal()
        self._funct7 = self.instruction.bit_select(FUNCT7, FUNCT7_BITS)
        kind = self.instruction.bit_select(FUNCT3, 3)
        ours = Signal()
        m.d.comb += self.claimed.eq(self.valid & ours)
        self._keep_status(m)
        with m.Switch(kind):
            for custom, (defined, build) in self._table().items():
                with m.Case(custom):
                    known = self.instruction[:RD] == OPCODE
                    m.d.comb += ours.eq(known & defined)
                    with m.If(self.claimed):
                        build(m)
        with m.If(self.ready):
            m.d.sync += self._step.eq(_Step.FIRST)
        return m

    def _table(self) -> dict:
        """Per kind: whether the fields are defined, and what builds its logic."""
        numbers = [self._field(at) for at in (RD, RS1, RS2)]
        narrow = ~Cat(number[FIELD_BITS:] for number in numbers).any()
        f7 = self._funct7
        counts = f7 < 1 << FIELD_BITS
        last_register = max(Register)
        no_rs2 = self._field(RS2) == 0
        no_operands = no_rs2 & (self._field(RS1) == 0)
        space = f7 & ~UPPER
        return {
            Custom.INSTRUCTION: (narrow & counts & (f7 != Opcode.SET), self._give),
            Custom.SET: ((f7 <= last_register) & no_rs2 & (numbers[0] == 0), self._set),
            Custom.END: ((f7 <= 1) & no_operands, self._end),
            Custom.WRITE: (
                (f7 < Space.COUNTERS) & (numbers[0] == 0) & ~self._running,
                self._write,
            ),
            Custom.READ: (
                ((space == Space.TILES) | (space == Space.COUNTERS)) & no_rs2 & ~self._running,
                self._read,
            ),
            Custom.TAKE: ((f7 == 0) & no_operands, self._take),
            Custom.LANE: ((f7 <= 1) & no_rs2, self._lane),
        }

    def _field(self, offset: int) -> Value:
        return self.instruction.bit_select(offset, REGISTER_BITS)

    def _answer(self, m: Module, value: Value) -> None:
        m.d.comb += [self.ready.eq(1), self.write.eq(1), self.rd.eq(value)]

    def _send(self, m: Module, word: Value, last: int = 0) -> Value:
        """Offer a word of the program; whether it is taken."""
        words = self.instructions
        m.d.comb += [words.valid.eq(1), words.payload.word.eq(word), words.payload.last.eq(last)]
        return words.ready

    def _keep_status(self, m: Module) -> None:
        """The status is taken whenever it comes: after a fault that is before the program's end."""
        m.d.comb += self.status.ready.eq(~self._has_status)
        with m.If(self.status.valid & self.status.ready):
            m.d.sync += [self._status.eq(self.status.payload), self._has_status.eq(1)]

    def _give(self, m: Module) -> None:
        fields = [self._field(at)[:FIELD_BITS] for at in (RS2, RS1, RD)]
        word = Cat(*fields, self._funct7[:FIELD_BITS])
        m.d.comb += self.ready.eq(self._send(m, word))
        m.d.sync += self._running.eq(1)

    def _set(self, m: Module) -> None:
        words = {
            _Step.FIRST: Const(_SET, WORD_BITS) | self._funct7,
            _Step.SECOND: self.rs1[:WORD_BITS],
            _Step.THIRD: self.rs1[WORD_BITS:],
        }
        m.d.sync += self._running.eq(1)
        with m.Switch(self._step):
            for step, word in words.items():
                with m.Case(step):
                    taken = self._send(m, word)
                    if step == _Step.THIRD:
                        m.d.comb += self.ready.eq(taken)
                    else:
                        with m.If(taken):
                            m.d.sync += self._step.eq(_Step(step.value + 1))

    def _end(self, m: Module) -> None:
        with m.If(self._funct7 == 1):
            self._answer(m, self._status.counter)
        with m.Elif(self._step == _Step.FIRST):
            m.d.comb += self.results.ready.eq(1)  # nobody will take them now
            with m.If(self._send(m, Const(_HALT, WORD_BITS), last=1)):
                m.d.sync += self._step.eq(_Step.SECOND)
        with m.Else():
            m.d.comb += self.results.ready.eq(1)
            with m.If(self._has_status & ~self.results.valid):
                self._answer(m, self._status.fault)
                m.d.sync += [self._has_status.eq(0), self._running.eq(0)]

    def _request(self, m: Module) -> Value:
        """Offer a request of one word; whether it is taken."""
        request = self.host.payload
        m.d.comb += [
            self.host.valid.eq(1),
            request.space.eq(self._funct7 & ~UPPER),
            request.address.eq(self.rs1),
            request.data.eq(self.rs2),
        ]
        return self.host.ready

    def _write(self, m: Module) -> None:
        m.d.comb += self.host.payload.write.eq(1)
        m.d.comb += self.ready.eq(self._request(m))

    def _read(self, m: Module) -> None:
        beat = self.results.payload
        with m.If(self._step == _Step.FIRST), m.If(self._request(m)):
            m.d.sync += self._step.eq(_Step.SECOND)
        with m.Else():
            m.d.comb += self.results.ready.eq(1)
            with m.If(self.results.valid & (beat.kind == ResultKind.READ)):
                upper = (self._funct7 & UPPER).any()
                # of a tile's reply only the first lane is asked for
                tiles = (self._funct7 & ~UPPER) == Space.TILES
                value = Mux(tiles, beat.data[: self.config.bits], beat.data)
                self._answer(m, Mux(upper, value[XLEN:], value[:XLEN]))

    def _take(self, m: Module) -> None:
        beat = self.results.payload
        m.d.comb += self.results.ready.eq(1)
        with m.If(self.results.valid):
            kind, last = beat.kind << KIND_OFFSET, beat.last << LAST_OFFSET
            self._answer(m, beat.count | kind | last)
            m.d.sync += self._row.eq(beat)

    def _lane(self, m: Module) -> None:
        """The lane as 64 bits: exact sums with their sign, words with zeros."""
        bits = self.config.result_bits
        columns, data = self.config.columns, self._row.data
        lanes = Array(data[bits * j : bits * (j + 1)] for j in range(columns))
        lane = Signal(bits)
        m.d.comb += lane.eq(lanes[self.rs1[: _index_bits(columns)]])
        word = lane[: self.config.output.bits]
        exact = self._row.kind == ResultKind.EXACT
        wide = Mux(exact, lane.as_signed(), word)
        extended = Signal(2 * XLEN)
        m.d.comb += extended.eq(wide)
        self._answer(m, Mux(self._funct7[0], extended[XLEN:], extended[:XLEN]))


def _index_bits(count: int) -> int:
    return max(1, (count - 1).bit_length())
