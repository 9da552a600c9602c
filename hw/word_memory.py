"""A tile memory of one port: a word is read or written per cycle, several share an entry."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.memory_attributes import UNINITIALISED

#: Bits of an entry: UP5K's large memories (SB_SPRAM256KA) have these, written by fours.
ENTRY_BITS = 16
_LEAST_LANE_BITS = 4


class WordMemory(wiring.Component):
    """Words of up to 16 bits, of which 4, 2 or 1 lie in an entry of 16 bits.

    What it holds at power-up is not known. Latency 1 cycle.

    Parameters
    ----------
    bits : int
        Of a word, 1 to 16.
    words : int

    Members
    -------
    address : In
        Of a word.
    write : In(1)
        ``value`` goes to ``address``.
    value : In(bits)
    word : Out(bits)
        What was at ``address`` in the cycle before, if nothing was written in it. Beyond the last
        word anything.
    """

    latency = 1

    def __init__(self, bits: int, words: int) -> None:
        lane_bits = _LEAST_LANE_BITS
        while lane_bits < bits:
            lane_bits *= 2
        self.lane_bits = lane_bits
        self.lanes = ENTRY_BITS // lane_bits
        self.entries = max(2, -(-words // self.lanes))
        super().__init__(
            {
                "address": In(max(1, (words - 1).bit_length())),
                "write": In(1),
                "value": In(bits),
                "word": Out(bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = memory = Memory(
            shape=ENTRY_BITS, depth=self.entries, init=[], attrs=UNINITIALISED
        )
        read, write = memory.read_port(), memory.write_port(granularity=self.lane_bits)
        place_bits = self.lanes.bit_length() - 1
        place, late = self.address[:place_bits], Signal(place_bits)
        value = Signal(self.lane_bits)
        m.d.sync += late.eq(place)
        m.d.comb += [
            value.eq(self.value),
            read.addr.eq(self.address[place_bits:]),
            read.en.eq(~self.write),
            write.addr.eq(self.address[place_bits:]),
            write.data.eq(value.replicate(self.lanes)),
            self.word.eq(read.data.word_select(late, self.lane_bits)),
        ]
        with m.If(self.write):
            m.d.comb += write.en.eq(1 << place)
        return m
