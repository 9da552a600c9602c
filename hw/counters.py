"""The performance counters."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Array, Module, Mux, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from sw.config import MachineConfig
from sw.registers import COUNTED, COUNTER_BITS, Counter

#: Counters that there are numbers for.
_ENTRIES: Final = 1 << Shape.cast(Counter).width
_MATMUL_BITS: Final = 6


def amounts_layout(config: MachineConfig) -> data.StructLayout:
    """What each counter grows by in one cycle; MATMUL_CYCLES is set instead."""
    return data.StructLayout(
        {name: Shape.cast(range(most + 1)) for name, most in _most(config).items()}
    )


def _most(config: MachineConfig) -> dict[str, int]:
    """What each counter grows by in one cycle at most."""
    lanes = config.rows + config.columns
    several = {
        Counter.MACS: config.rows * config.columns,
        Counter.SKIPPED_SLICES: config.vector,
        Counter.ZERO_OPERANDS: lanes,
        Counter.HELD_OPERANDS: lanes,
        Counter.UNITY_OPERANDS: lanes,
        Counter.WORDS_WRITTEN: config.columns,
    }
    return {c.name.lower(): several.get(c, 1) for c in Counter if c != Counter.MATMUL_CYCLES}


class Counters(wiring.Component):
    """The performance counters that the machine has, all of them in one memory behind one adder.

    Each counter gathers what it grows by in a few bits of its own, which go to its entry of the
    memory in turn, a counter per cycle. What is added, or set, in cycle c is shown by reads of
    cycle ``c + latency`` and later. CYCLES alone is a register.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    clear : In(1)
        Sets all to zero, but amounts of the same cycle are still to come. Takes effect a cycle
        later.
    amounts : In(amounts_layout(config))
    matmul : In(struct)
        ``enable``: MATMUL_CYCLES becomes ``cycles``.
    read : In(1)
        Shows ``number``; amounts must be 0, nothing goes to the memory meanwhile.
    number : In(4)
        A counter's.
    value : Out(48)
        What the counter read in the cycle before holds; 0 if there is none of this number.
    """

    latency: Final = _ENTRIES + 3

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self._most = _most(config)
        super().__init__(
            {
                "clear": In(1),
                "amounts": In(amounts_layout(config)),
                "matmul": In(data.StructLayout({"enable": 1, "cycles": _MATMUL_BITS})),
                "read": In(1),
                "number": In(Shape.cast(Counter).width),
                "value": Out(COUNTER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # It comes late, and goes far.
        clear = Signal()
        m.d.sync += clear.eq(self.clear)
        if COUNTED[self.config.counters] < frozenset(Counter):
            self._count_cycles(m, clear)
            return m
        m.submodules.totals = totals = Memory(shape=COUNTER_BITS, depth=_ENTRIES, init=[])
        write, read = totals.write_port(), totals.read_port()
        turn, moves = Signal(range(_ENTRIES)), Signal()
        old, cleared = Signal(range(_ENTRIES + 1), init=_ENTRIES), Signal(init=1)
        gathered = self._gather(m, turn, clear)
        part = Signal(max(map(len, gathered)))
        # Entries that are not yet written after a clear hold what is no more.
        with m.If(clear):
            m.d.sync += old.eq(_ENTRIES)
        with m.Elif(old.any() & ~self.read):
            m.d.sync += old.eq(old - 1)
        m.d.sync += [
            moves.eq(~self.read),
            turn.eq(turn + ~self.read),
            cleared.eq(old.any() | (turn == Counter.MATMUL_CYCLES)),
            part.eq(Array(gathered)[turn]),
            write.addr.eq(read.addr),
        ]
        m.d.comb += [
            read.addr.eq(Mux(self.read, self.number, turn)),
            write.en.eq(moves),
            write.data.eq(Mux(cleared, 0, read.data) + part),
            self.value.eq(Mux(old.any(), 0, read.data)),
        ]
        return m

    def _count_cycles(self, m: Module, clear: Signal) -> None:
        """CYCLES alone, or no counter."""
        if Counter.CYCLES not in COUNTED[self.config.counters]:
            return
        cycles, shown = Signal(COUNTER_BITS), Signal()
        m.d.sync += [
            cycles.eq(Mux(clear, 0, cycles) + self.amounts.cycles),
            shown.eq(self.read & (self.number == Counter.CYCLES)),
        ]
        m.d.comb += self.value.eq(Mux(shown, cycles, 0))

    def _gather(self, m: Module, turn: Signal, clear: Signal) -> list[Signal]:
        """By number, what is not in the memory yet: from one turn of a counter to its next."""
        amounts = Signal.like(self.amounts)  # they come late
        m.d.sync += amounts.eq(self.amounts)
        gathered = []
        for counter in range(_ENTRIES):
            name = Counter(counter).name.lower() if counter in list(Counter) else ""
            if counter == Counter.MATMUL_CYCLES:
                held = Signal(_MATMUL_BITS, name=name)
                with m.If(self.matmul.enable):
                    m.d.sync += held.eq(self.matmul.cycles)
                with m.Elif(clear):
                    m.d.sync += held.eq(0)
            elif name:
                held = Signal(range(_ENTRIES * self._most[name] + 1), name=name)
                amount = amounts[name]
                goes = clear | ((turn == counter) & ~self.read)
                m.d.sync += held.eq(Mux(goes, 0, held) + amount)
            else:
                held = Signal(name=f"none_{counter}")
            gathered.append(held)
        return gathered
