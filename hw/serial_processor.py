"""The processor that runs the serial control's microcode."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import BLOCK, NO_COLLISIONS
from hw.serial_assembly import OPERAND_BITS, WORD_BITS, Operation, Output

#: Bits of a port's number.
PORT_BITS = 5


class SerialProcessor(wiring.Component):
    """An accumulator, a carry, a pointer, and two memories: microcode and data.

    An instruction takes 2 cycles, one to read its data and one to execute, and one more for each
    cycle in which ``stall`` is 1. After reset it starts at address 0, a cycle late; data stay.

    Parameters
    ----------
    microcode, data : sequence of int
        What the memories hold at power-up.

    Members
    -------
    port : Out(5)
        The port of this cycle's instruction, if it is IN or OUT.
    reads, writes : Out(1)
        An IN, an OUT is executed in this cycle unless ``stall`` is 1.
    stall : In(1)
        Not before the next cycle; only looked at where ``reads`` or ``writes`` is 1.
    value : Out(16)
        What OUT writes.
    found : In(16)
        What IN reads from ``port``.
    """

    def __init__(self, microcode: Sequence[int], data: Sequence[int]) -> None:
        self.microcode, self.data = list(microcode), list(data)
        limit = 1 << OPERAND_BITS
        for name, words in (("microcode", self.microcode), ("data", self.data)):
            if len(words) >= limit:
                raise ValueError(f"{name} must have fewer than {limit} words, not {len(words)}")
        super().__init__(
            {
                "port": Out(PORT_BITS),
                "reads": Out(1),
                "writes": Out(1),
                "stall": In(1),
                "value": Out(WORD_BITS),
                "found": In(WORD_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        attributes = NO_COLLISIONS | BLOCK
        m.submodules.microcode = microcode = Memory(
            shape=WORD_BITS, depth=len(self.microcode), init=self.microcode, attrs=BLOCK
        )
        m.submodules.data = memory = Memory(
            shape=WORD_BITS, depth=len(self.data), init=self.data, attrs=attributes
        )
        code, read, write = microcode.read_port(), memory.read_port(), memory.write_port()
        self._carry, self._following = Signal(), Signal(OPERAND_BITS)
        execute, start = Signal(init=1), Signal(init=1)
        pointer = Signal(OPERAND_BITS)
        operation, operand = code.data[OPERAND_BITS:], code.data[:OPERAND_BITS]
        address, ends = Signal(OPERAND_BITS), Signal()
        m.d.comb += [
            address.eq(Mux(operand.all(), pointer, operand)),
            read.addr.eq(address),
            read.en.eq(~execute),
            write.addr.eq(address),
            write.data.eq(self.value),
            self.port.eq(operand),
            self.reads.eq(execute & ~start & (operation == Operation.IN)),
            self.writes.eq(execute & ~start & (operation == Operation.OUT)),
            ends.eq(execute & ~(self.stall & (self.reads | self.writes))),
            write.en.eq(ends & ~start & (operation == Operation.STORE)),
            code.en.eq(ends),
        ]
        m.d.sync += execute.eq(~ends)
        with m.If(ends):
            m.d.sync += start.eq(0)
            with m.If(~start):
                self._compute(m, operation, read.data)
        with m.If(self.writes & (self.port == Output.POINTER)):
            m.d.sync += pointer.eq(self.value)
        self._go_on(m, operation, operand, read.data, start, code.addr, ends)
        return m

    def _compute(self, m: Module, operation: Signal, data: Signal) -> None:
        """The accumulator, called ``value``, and the carry."""
        subtract = operation == Operation.SUBTRACT
        total = Signal(WORD_BITS + 2)
        operand = data ^ subtract.replicate(WORD_BITS)
        m.d.comb += total.eq(Cat(Const(1, 1), self.value) + Cat(subtract, operand))
        with m.Switch(operation):
            with m.Case(Operation.LOAD):
                m.d.sync += self.value.eq(data)
            with m.Case(Operation.ADD, Operation.SUBTRACT):
                m.d.sync += Cat(self.value, self._carry).eq(total[1:])
            with m.Case(Operation.AND):
                m.d.sync += self.value.eq(self.value & data)
            with m.Case(Operation.OR):
                m.d.sync += self.value.eq(self.value | data)
            with m.Case(Operation.SHIFT):
                m.d.sync += Cat(self._carry, self.value).eq(self.value)
            with m.Case(Operation.IN):
                m.d.sync += self.value.eq(self.found)
            with m.Case(Operation.CALL):
                m.d.sync += self.value.eq(self._following)

    def _go_on(
        self,
        m: Module,
        operation: Signal,
        operand: Signal,
        data: Signal,
        start: Signal,
        following: Signal,
        ends: Signal,
    ) -> None:
        """The address of the next instruction."""
        counter, zero = Signal(len(following)), Signal()
        m.d.comb += [self._following.eq(counter + 1), zero.eq(~self.value.any())]
        m.d.comb += following.eq(self._following)
        with m.Switch(operation):
            for jump, condition in (
                (Operation.JUMP, Const(1)),
                (Operation.CALL, Const(1)),
                (Operation.IF_ZERO, zero),
                (Operation.IF_NOT_ZERO, ~zero),
                (Operation.IF_CARRY, self._carry),
                (Operation.IF_NO_CARRY, ~self._carry),
            ):
                with m.Case(jump), m.If(condition):
                    m.d.comb += following.eq(operand)
            with m.Case(Operation.RETURN):
                m.d.comb += following.eq(data)
        with m.If(start):
            m.d.comb += following.eq(0)
        with m.If(ends):
            m.d.sync += counter.eq(following)
