"""A memory that reads and writes a vector of consecutive elements at any address in one cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import bank_attributes
from hw.rotator import Rotator


def read_layout(address_bits: int) -> data.StructLayout:
    """A request to read: ``address`` counts in this cycle where ``enable`` is 1."""
    return data.StructLayout({"enable": 1, "address": address_bits})


class BankedMemory(wiring.Component):
    """Elements in ``vector`` banks: address a lies in bank ``a mod vector``, row ``a div vector``.

    Any ``vector`` consecutive elements lie in different banks, so a vector is read or written in
    one cycle, and turned by ``address mod vector``. Each read port has a copy of the banks, and
    each bank one synchronous read port and one write port: block RAM, if of more than 32 rows.

    A read of cycle r gives its elements in cycle ``r + latency``. A write of cycle w is seen by the
    reads of cycle ``w + write_latency`` and later, and by none before.

    Parameters
    ----------
    width : int
        Bits of an element.
    vector : int
        V, a power of two, at least 2.
    elements : int
        In the memory, at least 1; the rest of its last row is there too.
    reads : int
        Read ports.

    Members
    -------
    read : In(read_layout(address_bits)), array of ``reads``
    elements : Out(V * width), array of ``reads``
        Element i, at ``i * width``, is that of ``address + i``; past the end anything.
    write : In(struct)
        ``enable``, ``address``, ``count`` (0..V) and ``elements`` (V * width bits): the first
        ``count`` elements go to ``address`` and after. They must lie in the memory.
    """

    latency = 2
    write_latency = 2

    def __init__(self, width: int, vector: int, elements: int, reads: int) -> None:
        self.width = width
        self.vector = vector
        self.address_bits = max(1, (elements - 1).bit_length())
        # Two rows at least: a row number has a bit.
        self.rows = max(2, -(-elements // vector))
        self.write_layout = data.StructLayout(
            {
                "enable": 1,
                "address": self.address_bits,
                "count": Shape.cast(range(vector + 1)),
                "elements": vector * width,
            }
        )
        super().__init__(
            {
                "read": In(read_layout(self.address_bits)).array(reads),
                "elements": Out(vector * width).array(reads),
                "write": In(self.write_layout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, banks = self.width, range(self.vector)
        write = Signal(self.write_layout, name="write_register")
        m.d.sync += write.eq(self.write)
        turn, rows = self._rows(m, "write", write.address)
        m.submodules.write_rotator = rotator = Rotator(width, self.vector)
        back = Signal.like(rotator.amount)  # -turn, in a register: all elements wait for it
        m.d.sync += back.eq(-self.write.address[: len(turn)])
        m.d.comb += [rotator.i.eq(write.elements), rotator.amount.eq(back)]
        # Bank b takes element (b - turn) mod V.
        index_bits = len(turn)
        enables = [write.enable & ((bank - turn)[:index_bits] < write.count) for bank in banks]
        attributes = bank_attributes(self.rows)
        for number, (read, elements) in enumerate(zip(self.read, self.elements, strict=True)):
            turn, read_rows = self._rows(m, f"read_{number}", read.address)
            found = []
            for bank in banks:
                memory = Memory(shape=width, depth=self.rows, init=[], attrs=attributes)
                m.submodules[f"copy_{number}_bank_{bank}"] = memory
                write_port, read_port = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write_port.en.eq(enables[bank]),
                    write_port.addr.eq(rows[bank]),
                    write_port.data.eq(rotator.o.word_select(bank, width)),
                    read_port.en.eq(read.enable),
                    read_port.addr.eq(read_rows[bank]),
                ]
                found.append(read_port.data)
            self._turn_back(m, number, turn, Cat(*found), elements)
        return m

    def _rows(self, m: Module, name: str, address: Value) -> tuple[Signal, list[Value]]:
        """The address modulo V, and each bank's row: banks below it hold the vector's end."""
        turn = Signal(self.vector.bit_length() - 1, name=f"{name}_turn")
        row = Signal(range(self.rows), name=f"{name}_row")
        following = Signal(range(self.rows), name=f"{name}_following_row")
        m.d.comb += [turn.eq(address), row.eq(address[len(turn) :]), following.eq(row + 1)]
        # No bank from the largest turn on is below the first.
        largest = min(self.vector, 1 << self.address_bits) - 1
        return turn, [
            Mux(turn > bank, following, row) if bank < largest else row
            for bank in range(self.vector)
        ]

    def _turn_back(self, m: Module, number: int, turn: Signal, found: Value, o: Value) -> None:
        """What the banks gave, first element first; a register halfway through the turn.

        Block RAM is late in its cycle: the first levels of the rotator are before the register.
        """
        low = len(turn) // 2
        late = Signal(len(turn) - low, name=f"read_{number}_turn_late")
        early = Signal(low, name=f"read_{number}_turn_early")
        rest = Signal(low, name=f"read_{number}_rest")
        register = Signal(len(found), name=f"read_{number}_register")
        m.submodules[f"read_{number}_rotator"] = first = Rotator(self.width, self.vector)
        m.submodules[f"read_{number}_rest_rotator"] = second = Rotator(self.width, self.vector)
        m.d.comb += [
            first.i.eq(found),
            first.amount.eq(Cat(Const(0, low), late)),
            second.i.eq(register),
            second.amount.eq(rest),
            o.eq(second.o),
        ]
        m.d.sync += [
            Cat(early, late).eq(turn),
            rest.eq(early),
            register.eq(first.o),
        ]
