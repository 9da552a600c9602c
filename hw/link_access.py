"""One access of the host port: how many words it has, and the words of a write, byte by byte."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.host_port import host_layout
from sw.config import MachineConfig
from sw.link import COUNTER_BYTES, PARAMETER_BYTES, Sizes


class AccessSize(wiring.Component):
    """How many words an access has. Combinational, latency 0.

    Of tiles, as many as the array has columns, but for the first access, which may be short, and
    the last; of all else one.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    tiles : In(1)
        Words of tile memory.
    later : In(1)
        Not the first access.
    first : In(8)
        Words of the first access; 0 counts as 1.
    left : In(16)
        Words of this access and those behind it.
    size : Out(range(columns + 1))
    last : Out(1)
        None comes behind it.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.columns = config.columns
        super().__init__(
            {
                "tiles": In(1),
                "later": In(1),
                "first": In(8),
                "left": In(16),
                "size": Out(range(config.columns + 1)),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first = Mux(self.first == 0, 1, self.first)
        most = Signal.like(self.size)
        m.d.comb += most.eq(self.columns)
        with m.If(~self.tiles):
            m.d.comb += most.eq(1)
        with m.Elif(~self.later & (first < self.columns)):
            m.d.comb += most.eq(first)
        m.d.comb += [
            self.last.eq(self.left <= most),
            self.size.eq(Mux(self.last, self.left, most)),
        ]
        return m


class AccessWords(wiring.Component):
    """Collects the words of a write, 1 cycle per byte.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    clear : In(1)
        All words are 0 from the next cycle on.
    take : In(1)
        ``value`` is the byte ``byte`` of the lane ``lane``, or of a parameter.
    tiles : In(1)
        Words of tile memory.
    lane : In(range(columns + 1)), byte : In(bytes of the longest value), value : In(8)
    data : Out(the host port's)
    last_byte : Out(1)
        Of the lane.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.sizes = Sizes.of(config)
        super().__init__(
            {
                "clear": In(1),
                "take": In(1),
                "tiles": In(1),
                "lane": In(range(config.columns + 1)),
                "byte": In(range(max(self.sizes.exact, COUNTER_BYTES))),
                "value": In(8),
                "data": Out(host_layout(config).members["data"]),
                "last_byte": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits, word = self.config.bits, self.sizes.word
        m.d.comb += self.last_byte.eq(self.byte == Mux(self.tiles, word, PARAMETER_BYTES) - 1)
        with m.If(self.clear):
            m.d.sync += self.data.eq(0)
        with m.Elif(self.take):
            with m.If(self.tiles), m.Switch(Cat(self.byte, self.lane)):
                for lane in range(self.config.columns):
                    for byte in range(word):
                        low = lane * bits + 8 * byte
                        end = min(low + 8, (lane + 1) * bits)
                        with m.Case(byte | lane << len(self.byte)):
                            m.d.sync += self.data[low:end].eq(self.value)
            with m.Else(), m.Switch(self.byte):
                for byte in range(PARAMETER_BYTES):
                    with m.Case(byte):
                        m.d.sync += self.data[8 * byte : 8 * byte + 8].eq(self.value)
        return m
