"""The serial control's way to the array: words into lanes, slices to the edge, sums back."""

from __future__ import annotations

from enum import Enum
from functools import reduce
from operator import or_
from typing import Final

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.array import SystolicArray
from hw.detect import UnityDetector, ZeroDetector
from hw.edge import ArrayEdge
from hw.memory_attributes import BLOCK, NO_COLLISIONS
from hw.word_memory import WordMemory
from sw.config import MachineConfig

#: Slices that the lanes hold, on iCE40 one block RAM of 16 bits.
DEPTH: Final = 256
#: Bits of a lane's number, without the side.
LANE_BITS: Final = 5
#: Cycles that DRAIN counts after the sum was on the bus.
SETTLE: Final = 4

#: What the processor writes: one bit per port, and the value.
ORDERS: Final = data.StructLayout(
    {
        **dict.fromkeys(
            ("tile", "stride", "lane", "load", "go", "drain", "tile_write", "lane_write"), 1
        ),
        "value": 16,
    }
)


class Mode(Enum):
    """What is under way."""

    LOAD = 0
    GO = 1
    DRAIN = 2


class OperandFeed(wiring.Component):
    """Tile memory, a memory of 256 slices per side, edge and array, moved by orders.

    Each order counts in a cycle in which ``busy`` is 0. Orders of n > 0:

    - ``load``: n words of tile memory, from the address on, each a stride behind the one before,
      go to the lane, after those that it has got since it was named; n + 1 cycles.
    - ``go``: slices 0 to n - 1 of both sides enter the array, one per cycle; n cycles. Bit 15:
      the sums start over with the first.
    - ``drain``: the row that the lane names sends its sums. With n = ``sum_delay`` + i + j the
      sum of cell (i, j) is ``sum`` from cycle n - 2 after the order on; n cycles.

    Parameters
    ----------
    config : MachineConfig
    target : str
        What the logic will become.

    Members
    -------
    orders : In(ORDERS)
        ``tile``, ``stride``: address, and what load and tile_write add to it. ``lane``: a lane's
        number, with bit 5 of side B. ``tile_write``, ``lane_write``: write a word.
    busy : Out(1)
    lane : Out(5)
        That ``orders.lane`` named last.
    word : Out(bits)
        That at the address, if it was there in the cycle before too.
    sum : Out(signed(accumulator_bits))
        Of the last drain.

    Attributes
    ----------
    sum_delay : int
        Cycles of a drain of cell (0, 0).
    """

    def __init__(self, config: MachineConfig, target: str = "generic") -> None:
        self.config = config
        self.edge = ArrayEdge(config.format, config.rows, config.columns)
        self.array = SystolicArray(
            config.format,
            config.rows,
            config.columns,
            config.max_terms,
            config.multiplier,
            target,
            apart=True,
        )
        self.sum_delay = self.edge.latency + self.array.latency + SETTLE
        super().__init__(
            {
                "orders": In(ORDERS),
                "busy": Out(1),
                "lane": Out(LANE_BITS),
                "word": Out(config.bits),
                "sum": Out(signed(config.accumulator_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.edge, m.submodules.array = self.edge, self.array
        orders, value = self.orders, self.orders.value
        self._left = left = Signal(range(DEPTH + 1))
        self._mode = mode = Signal(Mode)
        self._going = left.any()
        m.d.comb += self.busy.eq(self._going | self._storing(m))
        with m.If(self._going):
            m.d.sync += left.eq(left - 1)
        for strobe, following in (
            (orders.load, Mode.LOAD),
            (orders.go, Mode.GO),
            (orders.drain, Mode.DRAIN),
        ):
            with m.If(strobe):
                m.d.sync += [left.eq(value), mode.eq(following)]
        self._lanes(m)
        self._send(m)
        with m.If((mode == Mode.DRAIN) & (left == SETTLE)):
            m.d.sync += self.sum.eq(reduce(or_, self.array.bus))
        return m

    def _storing(self, m: Module) -> Signal:
        """Tile memory: whether a word of it goes to the lane."""
        orders, value = self.orders, self.orders.value
        m.submodules.tiles = tiles = WordMemory(self.config.bits, self.config.memory_words)
        stride, self._stores = Signal.like(tiles.address), Signal()
        reads = self._going & (self._mode == Mode.LOAD)
        m.d.comb += [
            tiles.write.eq(orders.tile_write),
            tiles.value.eq(value),
            self.word.eq(tiles.word),
        ]
        m.d.sync += self._stores.eq(reads)
        with m.If(orders.tile):
            m.d.sync += tiles.address.eq(value)
        with m.Elif(reads | orders.tile_write):
            m.d.sync += tiles.address.eq(tiles.address + stride)
        with m.If(orders.stride):
            m.d.sync += stride.eq(value)
        self._tiles = tiles
        return self._stores

    def _lanes(self, m: Module) -> None:
        """The memories of both sides."""
        orders, config, bits = self.orders, self.config, self.config.bits
        self._side = Signal()
        position = Signal(range(DEPTH))
        sends = self._going & (self._mode == Mode.GO)
        with m.If(orders.lane):
            m.d.sync += Cat(self.lane, self._side).eq(orders.value)
        with m.If(orders.lane | orders.go):
            m.d.sync += position.eq(0)
        with m.Elif(self._stores | orders.lane_write | sends):
            m.d.sync += position.eq(position + 1)
        word = Mux(self._stores, self.word, orders.value[:bits])
        self._slices = []
        for side, lanes in enumerate((config.rows, config.columns)):
            memory = Memory(shape=lanes * bits, depth=DEPTH, init=[], attrs=BLOCK | NO_COLLISIONS)
            m.submodules[f"slices_{'ab'[side]}"] = memory
            write, read = memory.write_port(granularity=bits), memory.read_port()
            m.d.comb += [
                write.addr.eq(position),
                write.data.eq(word.replicate(lanes)),
                read.addr.eq(position),
                read.en.eq(sends),
            ]
            with m.If((self._stores | orders.lane_write) & (self._side == side)):
                m.d.comb += write.en.eq(1 << self.lane)
            self._slices.append(read.data)
        self._sends = sends

    def _send(self, m: Module) -> None:
        """Slices, or the order to a row to drain, to the edge and on to the array."""
        orders, edge, array, config = self.orders, self.edge, self.array, self.config
        valid, first, drains = Signal(), Signal(), Signal()
        m.d.sync += [
            valid.eq(self._sends),
            drains.eq(orders.drain),
            first.eq(orders.go & orders.value[-1]),  # a cycle before the first slice
        ]
        m.d.comb += [
            edge.control.valid.eq(valid | first),
            edge.control.first.eq(first),
            edge.control.last.eq(drains),
            edge.row_mask.eq(Mux(drains, 1 << self.lane, (1 << config.rows) - 1)),
            edge.column_mask.eq((1 << config.columns) - 1),
        ]
        for lanes, slices, side in ((edge.a, self._slices[0], "a"), (edge.b, self._slices[1], "b")):
            for number, lane in enumerate(lanes):
                m.submodules[f"zero_{side}_{number}"] = zero = ZeroDetector(config.format)
                m.submodules[f"unity_{side}_{number}"] = unity = UnityDetector(config.format)
                word = slices.word_select(number, config.bits)
                m.d.comb += [
                    zero.word.eq(word),
                    unity.word.eq(word),
                    lane.word.eq(word),
                    lane.zero.eq(zero.zero),
                    lane.unity.eq(unity.unity),
                ]
        for lanes, sources in (
            (array.a, edge.a_skewed),
            (array.control, edge.control_skewed),
            (array.b, edge.b_skewed),
        ):
            m.d.comb += [lane.eq(source) for lane, source in zip(lanes, sources, strict=True)]
