"""Results of the machine as bytes of a reply."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.host_port import results_layout
from sw.config import MachineConfig
from sw.link import COUNTER_BYTES, Sizes
from sw.registers import COUNTER_BITS, ResultKind


class ResultBytes(wiring.Component):
    """A lane of a beat of results, byte by byte.

    Each lane that counts has whole bytes: of a word, of an exact sum, or the one value of a counter
    or parameter.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    beat : In(results_layout(config))
    tiles : In(1)
        What was read is tile memory.
    lane : In(range(columns + 1)), take : In(1)
        All below is of this lane from the cycle after ``take`` on.
    byte : In(bytes of the longest value)
    data : Out(8)
    last_byte, last_lane : Out(1)
        None follows in this lane; no lane follows.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.sizes = Sizes.of(config)
        super().__init__(
            {
                "beat": In(results_layout(config)),
                "tiles": In(1),
                "lane": In(range(config.columns + 1)),
                "take": In(1),
                "byte": In(range(max(self.sizes.exact, COUNTER_BYTES))),
                "data": Out(8),
                "last_byte": Out(1),
                "last_lane": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat, sizes = self.beat, self.sizes
        value = beat.data.word_select(self.lane, self.config.result_bits)
        word = Signal(max(len(value), COUNTER_BITS))
        lanes, last = Signal.like(self.lane), Signal.like(self.byte)
        m.d.comb += [word.eq(value), lanes.eq(beat.count), last.eq(sizes.result - 1)]
        with m.If(beat.kind == ResultKind.EXACT):
            m.d.comb += last.eq(sizes.exact - 1)
        with m.Elif(beat.kind == ResultKind.READ):
            m.d.comb += last.eq(sizes.word - 1)
            with m.If(~self.tiles):
                m.d.comb += [word.eq(beat.data[:COUNTER_BITS]), lanes.eq(1)]
                m.d.comb += last.eq(COUNTER_BYTES - 1)
        # The queue of results is block RAM, late in its cycle.
        held, end = Signal.like(word), Signal.like(last)
        with m.If(self.take):
            m.d.sync += [held.eq(word), end.eq(last), self.last_lane.eq(self.lane + 1 == lanes)]
        m.d.comb += [
            self.data.eq(held.word_select(self.byte, 8)),
            self.last_byte.eq(self.byte == end),
        ]
        return m
