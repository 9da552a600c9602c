"""The controller: takes a program's words and runs one instruction after the other."""

from __future__ import annotations

from enum import Enum
from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.counters import Counters
from hw.decoder import decoded_layout
from hw.registers import set_layout
from sw.isa import VALUE_BITS, WORD_BITS, Fault, Opcode

#: A word of a program; ``last`` ends it.
INSTRUCTION: Final = data.StructLayout({"word": WORD_BITS, "last": 1})
#: How a program ended: its fault and the index of the faulting instruction's first word, or NONE
#: and the number of words that the instructions up to the end take.
STATUS: Final = data.StructLayout({"fault": Fault, "counter": 32})
#: Units that instructions start; each says when it is done.
UNITS: Final = {
    "load_a": (Opcode.LDR,),
    "load_b": (Opcode.LDC,),
    "matmul": (Opcode.MATMUL,),
    "drain": (Opcode.RELU, Opcode.LIN),
    "store": (Opcode.STR,),
    "gemm": (Opcode.GEMM, Opcode.ADD),
}
UNIT_LINES: Final = data.StructLayout(dict.fromkeys(UNITS, 1))
#: Cycles after a program's end in which counters still count what is under way.
SETTLE_CYCLES: Final = 4 + Counters.latency


class State(Enum):
    """What the controller does."""

    IDLE = 0
    FETCH = 1
    LOOK = 2
    DECODE = 3
    SET_LOW = 4
    SET_HIGH = 5
    CHECK = 6
    START = 7
    EXECUTE = 8
    END = 9


class Controller(wiring.Component):
    """Instructions are sequential: the next word is taken when the instruction before is done.

    With a word offered in every cycle, an instruction takes one cycle to be taken (FETCH), one to
    look for faults (LOOK) and one to decode (DECODE), and then

    - NOP, FENCE, HALT: no more, 3 in all;
    - SET: one for each data word, 5 in all;
    - LDR, LDC, MATMUL, RELU, LIN, STR: from the ``start`` of its unit to its ``done``, both cycles
      included, and one more;
    - GEMM, ADD: first to the cycle after the ``done`` of the range check, whose start is in DECODE,
      then the same.

    A fault ends a program in the cycle after the one that finds it: DECODE, the one after the
    ``done`` of the range check, or the one in which the data word of a SET is taken that does not
    fit or is the last.

    After a fault, or HALT, the words up to the last are discarded, while the status is offered.

    Members
    -------
    instructions : In(stream of INSTRUCTION)
    status : Out(stream of STATUS)
        One beat per program.
    enable : In(1)
        Programs may start.
    idle : Out(1)
        No program runs.
    clear : Out(1)
        A program starts in the next cycle.
    running : Out(1)
        From the cycle in which the first word is taken to that before ``status`` is offered.
    word : Out(16)
        The instruction, until the next one's is taken.
    decoded : In(decoded_layout())
        Of ``word``.
    fault : In(Fault)
        Of ``word``.
    take : Out(1)
        The instruction takes effect.
    finish : Out(1)
        The instruction is done.
    set : Out(set_layout())
    fits : In(1)
    check : Out(1)
        Starts the range check.
    checked : In(1)
        It is done, and ``range_fault`` its result.
    range_fault : In(Fault)
    start : Out(UNIT_LINES)
        For one cycle.
    done : In(UNIT_LINES)
    executing : Out(UNIT_LINES)
        From ``start`` to the cycle after ``done``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "instructions": In(stream.Signature(INSTRUCTION)),
                "status": Out(stream.Signature(STATUS)),
                "enable": In(1),
                "idle": Out(1),
                "clear": Out(1),
                "running": Out(1),
                "word": Out(WORD_BITS),
                "decoded": In(decoded_layout()),
                "fault": In(Fault),
                "take": Out(1),
                "finish": Out(1),
                "set": Out(set_layout()),
                "fits": In(1),
                "check": Out(1),
                "checked": In(1),
                "range_fault": In(Fault),
                "start": Out(UNIT_LINES),
                "done": In(UNIT_LINES),
                "executing": Out(UNIT_LINES),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._state = Signal(State)
        self._last = Signal()  # the word taken last is the program's
        self._taken = Signal(32)  # words
        self._index = Signal(32)  # of the instruction's first word
        self._started = Signal()  # the program's first word is taken
        # What comes late in its cycle is looked at in the next one.
        self._done = Signal()
        self._checked = Signal()
        self._fault = Signal(Fault)
        self._unit = Signal(UNIT_LINES)  # that the word starts; from DECODE on
        self._is_set, self._is_halt = Signal(), Signal()
        self._range_fault = Signal(Fault)
        self._end(m)  # before what sets the status
        self._fetch(m)
        self._execute(m)
        return m

    def _line(self, *opcodes: Opcode) -> Value:
        return Cat(self.decoded.lines[opcode] for opcode in opcodes).any()

    def _go(self, m: Module, state: State) -> None:
        m.d.sync += self._state.eq(state)

    def _stop(self, m: Module, fault: Value | Fault) -> None:
        """End the program."""
        self._go(m, State.END)
        m.d.sync += [self.status.valid.eq(1), self.status.payload.fault.eq(fault)]

    def _finish(self, m: Module, last: Value) -> None:
        """The instruction is done: go on with the next word, unless the last is taken."""
        m.d.comb += self.finish.eq(1)
        with m.If(last):
            self._stop(m, Fault.NONE)
        with m.Else():
            self._go(m, State.FETCH)

    def _fetch(self, m: Module) -> None:
        """Take words, between programs and at the start of instructions."""
        state, words = self._state, self.instructions
        wants = Cat(state == s for s in (State.FETCH, State.SET_LOW, State.SET_HIGH)).any()
        taken = Signal()
        m.d.comb += [
            words.ready.eq(wants | ((state == State.END) & ~self._last)),
            taken.eq(words.valid & words.ready),
            self.idle.eq(state == State.IDLE),
            self.running.eq(
                Mux(state == State.FETCH, self._started | taken, ~self.idle & (state != State.END))
            ),
        ]
        with m.If(taken):
            m.d.sync += self._last.eq(words.payload.last)
            with m.If(wants):
                m.d.sync += [self._taken.eq(self._taken + 1), self._started.eq(1)]
        with m.If(self.idle & words.valid & self.enable):
            m.d.comb += self.clear.eq(1)
            m.d.sync += [self._taken.eq(0), self._started.eq(0)]
            self._go(m, State.FETCH)
        with m.If((state == State.FETCH) & taken):
            m.d.sync += [self.word.eq(words.payload.word), self._index.eq(self._taken)]
            self._go(m, State.LOOK)
        self._set(m, taken)

    def _set(self, m: Module, taken: Value) -> None:
        """Take the two data words of a SET."""
        word, last = self.instructions.payload.word, self.instructions.payload.last
        low = Signal(VALUE_BITS - WORD_BITS)
        m.d.comb += [self.set.number.eq(self.decoded.register), self.set.value.eq(Cat(low, word))]
        with m.If((self._state == State.SET_LOW) & taken):
            m.d.sync += low.eq(word)
            with m.If(last):
                self._stop(m, Fault.TRUNCATED)
            with m.Else():
                self._go(m, State.SET_HIGH)
        with m.If((self._state == State.SET_HIGH) & taken):
            with m.If(self.fits):
                m.d.comb += self.set.enable.eq(1)
                self._finish(m, last)
            with m.Else():
                self._stop(m, Fault.VALUE)

    def _execute(self, m: Module) -> None:
        """Decode, check, start a unit and wait for it."""
        for name, opcodes in UNITS.items():
            m.d.sync += self._unit[name].eq(self._line(*opcodes))
        ended = (self.executing.as_value() & self.done.as_value()).any()
        m.d.sync += [
            self.start.eq(0),
            self._done.eq(ended),
            self._checked.eq(self.checked),
            self._fault.eq(self.fault),
            self._is_set.eq(self._line(Opcode.SET)),
            self._is_halt.eq(self._line(Opcode.HALT)),
            self._range_fault.eq(self.range_fault),
        ]
        with m.If(self._done):
            m.d.sync += self.executing.eq(0)
        with m.Switch(self._state):
            with m.Case(State.LOOK):
                self._go(m, State.DECODE)
            with m.Case(State.DECODE):
                self._decode(m)
            with m.Case(State.CHECK), m.If(self._checked):
                with m.If(self._range_fault == Fault.NONE):
                    self._start(m)
                with m.Else():
                    self._stop(m, self._range_fault)
            with m.Case(State.START):
                self._go(m, State.EXECUTE)
            with m.Case(State.EXECUTE), m.If(self._done):
                self._finish(m, self._last)

    def _start(self, m: Module) -> None:
        """The instruction takes effect; its unit starts in the next cycle."""
        m.d.comb += self.take.eq(1)
        m.d.sync += [self.start.eq(self._unit), self.executing.eq(self._unit)]
        self._go(m, State.START)

    def _decode(self, m: Module) -> None:
        with m.If(self._fault != Fault.NONE):
            self._stop(m, self._fault)
        with m.Elif(self._is_set):
            with m.If(self._last):
                self._stop(m, Fault.TRUNCATED)
            with m.Else():
                self._go(m, State.SET_LOW)
        with m.Elif(self._unit.gemm):
            m.d.comb += self.check.eq(1)
            self._go(m, State.CHECK)
        with m.Elif(self._unit.as_value().any()):
            self._start(m)
        with m.Else():
            self._finish(m, self._last | self._is_halt)

    def _end(self, m: Module) -> None:
        """Offer the status, discard the words that are left, and let the counters settle."""
        settled, status = Signal(range(SETTLE_CYCLES + 1)), self.status.payload
        # Words that are discarded do not count as taken: both stay as they are at the end.
        m.d.comb += status.counter.eq(Mux(status.fault == Fault.NONE, self._taken, self._index))
        with m.If(self.status.ready):
            m.d.sync += self.status.valid.eq(0)
        with m.If(self._state != State.END):
            m.d.sync += settled.eq(0)
        with m.Elif(settled != SETTLE_CYCLES):
            m.d.sync += settled.eq(settled + 1)
        with m.Elif(self._last & ~self.status.valid):
            self._go(m, State.IDLE)
