"""A memory that reads and writes a vector of consecutive elements at any address in one cycle."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
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
    reads of cycle ``w + write_latency`` and later, and by none before. The second of the two
    registers on that way takes what the banks give as it is, so that it can be the block RAM's own
    (``hw/block_ram.py``), or, with ``early``, half of the turn is before it.

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
    early : bool
        For banks in LUT RAM, which are not late in their cycle.

    Members
    -------
    read : In(read_layout(address_bits)), array of ``reads``
    elements : Out(V * width), array of ``reads``
        Element i, at ``i * width``, is that of ``address + i``; past the end anything.
    banks : Out(V * width), array of ``reads``
        The same elements, not turned: ``address + i`` at ``(address + i) mod V``. Not ``early``.
    mute : In(1), array of ``reads``
        ``elements`` are 0 in this cycle, to be joined with others by OR. Not ``early``.
    write : In(struct)
        ``enable``, ``address``, ``wanted`` (V bits) and ``elements`` (V * width bits): element i
        goes to ``address + i`` if it is wanted, which must lie in the memory.
    """

    latency = 2
    write_latency = 2

    def __init__(
        self, width: int, vector: int, elements: int, reads: int, early: bool = False
    ) -> None:
        self.width = width
        self.early = early
        self.vector = vector
        self.address_bits = max(1, (elements - 1).bit_length())
        # Two rows at least: a row number has a bit.
        self.rows = max(2, -(-elements // vector))
        self.write_layout = data.StructLayout(
            {
                "enable": 1,
                "address": self.address_bits,
                "wanted": vector,
                "elements": vector * width,
            }
        )
        unturned = {"banks": Out(vector * width).array(reads), "mute": In(1).array(reads)}
        super().__init__(
            {
                "read": In(read_layout(self.address_bits)).array(reads),
                "elements": Out(vector * width).array(reads),
                **({} if early else unturned),
                "write": In(self.write_layout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, banks = self.width, range(self.vector)
        rows, enables, written = self._write(m)
        attributes = bank_attributes(self.rows)
        for number, (read, elements) in enumerate(zip(self.read, self.elements, strict=True)):
            turn, *places = self._split(m, f"read_{number}", read.address)
            read_rows = self._rows(turn, *places)
            found = []
            for bank in banks:
                memory = Memory(shape=width, depth=self.rows, init=[], attrs=attributes)
                m.submodules[f"copy_{number}_bank_{bank}"] = memory
                write_port, read_port = memory.write_port(), memory.read_port()
                m.d.comb += [
                    write_port.en.eq(enables[bank]),
                    write_port.addr.eq(rows[bank]),
                    write_port.data.eq(written.word_select(bank, width)),
                    read_port.en.eq(read.enable),
                    read_port.addr.eq(read_rows[bank]),
                ]
                found.append(read_port.data)
            if self.early:
                self._turn_early(m, number, turn, Cat(*found), elements)
            else:
                self._turn_back(m, number, turn, Cat(*found))
        return m

    def _write(self, m: Module) -> tuple[list[Value], Value, Value]:
        """Rows of the banks, which of them are written, and their elements.

        All that is found of the address is found before the register.
        """
        turn, row, following = self._split(m, "write", self.write.address)
        registers = [
            Signal.like(value, name=f"write_{name}_register")
            for name, value in (("turn", turn), ("row", row), ("following", following))
        ]
        # Bank b takes element (b - turn) mod V.
        elements, wanted = Signal.like(self.write.elements), Signal(self.vector)
        m.submodules.write_rotator = turned = Rotator(self.width, self.vector)
        m.submodules.enable_rotator = enables = Rotator(1, self.vector)
        back = Signal.like(turned.amount)
        m.d.sync += [
            *(kept.eq(now) for kept, now in zip(registers, (turn, row, following), strict=True)),
            back.eq(-turn),
            elements.eq(self.write.elements),
            wanted.eq(Mux(self.write.enable, self.write.wanted, 0)),
        ]
        m.d.comb += [
            turned.i.eq(elements),
            turned.amount.eq(back),
            enables.i.eq(wanted),
            enables.amount.eq(back),
        ]
        return self._rows(*registers), enables.o, turned.o

    def _split(self, m: Module, name: str, address: Value) -> tuple[Signal, Signal, Signal]:
        """The address modulo V, its row, and the row after it."""
        turn = Signal(self.vector.bit_length() - 1, name=f"{name}_turn")
        row = Signal(range(self.rows), name=f"{name}_row")
        following = Signal(range(self.rows), name=f"{name}_following_row")
        m.d.comb += [turn.eq(address), row.eq(address[len(turn) :]), following.eq(row + 1)]
        return turn, row, following

    def _rows(self, turn: Value, row: Value, following: Value) -> list[Value]:
        """Each bank's row: banks below the turn hold the vector's end."""
        # No bank from the largest turn on is below the first.
        largest = min(self.vector, 1 << self.address_bits) - 1
        return [
            Mux(turn > bank, following, row) if bank < largest else row
            for bank in range(self.vector)
        ]

    def _turn_back(self, m: Module, number: int, turn: Signal, found: Value) -> None:
        """What the banks gave, in a register as it is, then first element first."""
        turns = [Signal.like(turn, name=f"read_{number}_turn_{stage}") for stage in (1, 2)]
        register = Signal(len(found), name=f"read_{number}_register", reset_less=True)
        m.submodules[f"read_{number}_rotator"] = rotator = Rotator(self.width, self.vector)
        m.d.sync += [Cat(*turns).eq(Cat(turn, turns[0])), register.eq(found)]
        m.d.comb += [
            rotator.i.eq(Mux(self.mute[number], 0, register)),
            rotator.amount.eq(turns[1]),
            self.elements[number].eq(rotator.o),
            self.banks[number].eq(register),
        ]

    def _turn_early(self, m: Module, number: int, turn: Signal, found: Value, o: Value) -> None:
        """What the banks gave, first element first; a register halfway through the turn."""
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
