"""A program's words from the bytes of a request, and its end as the machine tells it."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.controller import INSTRUCTION, STATUS
from sw.isa import WORD_BITS

#: Cycles without a row after a program's end, by which the last one has come.
QUIET_CYCLES: Final = 16


class ProgramWords(wiring.Component):
    """Words of programs, each from two bytes, the lower one first; 1 cycle per byte.

    Members
    -------
    begin : In(1)
        What was taken counts anew, and half a word is forgotten.
    reset : In(1)
        So is a word that waits, and the next one is a program's first.
    take : In(1), value : In(8)
        A byte; only while no word waits.
    last : In(1)
        Its word is its program's last.
    o : Out(stream of INSTRUCTION)
    whole, first : Out(1)
        This byte ends a word; a program's first one.
    taken : Out(16)
        Words since ``begin``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "begin": In(1),
                "reset": In(1),
                "take": In(1),
                "value": In(8),
                "last": In(1),
                "o": Out(stream.Signature(INSTRUCTION)),
                "whole": Out(1),
                "first": Out(1),
                "taken": Out(16),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        half, fresh = Signal(), Signal(init=1)
        word = self.o.payload.word
        m.d.comb += [self.whole.eq(self.take & half), self.first.eq(self.whole & fresh)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.reset):
            m.d.sync += [self.o.valid.eq(0), fresh.eq(1), half.eq(0)]
        with m.If(self.begin):
            m.d.sync += [self.taken.eq(0), half.eq(0)]
        with m.If(self.take):
            low, high = word[: WORD_BITS // 2], word[WORD_BITS // 2 :]
            m.d.sync += [half.eq(~half), low.eq(high), high.eq(self.value)]
        with m.If(self.whole):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.last.eq(self.last),
                self.taken.eq(self.taken + 1),
                fresh.eq(self.last),
            ]
        return m


class ProgramEnd(wiring.Component):
    """How the last program ended, and whether all its rows have come.

    The status comes before the last rows do: they are there when none has come for QUIET_CYCLES.

    Members
    -------
    status : In(stream of STATUS)
        Of the machine; never waits.
    row : In(1)
        A row is there in this cycle.
    restart : In(1)
        A program begins, or the machine is reset.
    ended : Out(1), fault : Out(4), counter : Out(32)
        Its status has come, and what it said.
    quiet : Out(1)
        No row has come for QUIET_CYCLES since then.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "status": In(stream.Signature(STATUS)),
                "row": In(1),
                "restart": In(1),
                "ended": Out(1),
                "fault": Out(4),
                "counter": Out(32),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cycles = Signal(range(QUIET_CYCLES + 1))
        m.d.comb += [self.status.ready.eq(1), self.quiet.eq(cycles == QUIET_CYCLES)]
        with m.If(self.status.valid):
            m.d.sync += [
                self.ended.eq(1),
                self.fault.eq(self.status.payload.fault),
                self.counter.eq(self.status.payload.counter),
            ]
        with m.If(~self.ended | self.row):
            m.d.sync += cycles.eq(0)
        with m.Elif(~self.quiet):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(self.restart):
            m.d.sync += self.ended.eq(0)
        return m
