"""The performance counters."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from sw.config import MachineConfig
from sw.registers import COUNTER_BITS, Counter


def amounts_layout(config: MachineConfig) -> data.StructLayout:
    """What each counter grows by in one cycle; MATMUL_CYCLES is set instead."""
    lanes = Shape.cast(range(config.rows + config.columns + 1))
    widths = {
        Counter.MACS: Shape.cast(range(config.rows * config.columns + 1)),
        Counter.SKIPPED_SLICES: Shape.cast(range(config.vector + 1)),
        Counter.ZERO_OPERANDS: lanes,
        Counter.HELD_OPERANDS: lanes,
        Counter.UNITY_OPERANDS: lanes,
        Counter.WORDS_WRITTEN: Shape.cast(range(config.columns + 1)),
    }
    return data.StructLayout(
        {c.name.lower(): widths.get(c, 1) for c in Counter if c != Counter.MATMUL_CYCLES}
    )


class Counters(wiring.Component):
    """All performance counters; what is added is seen one cycle later.

    Parameters
    ----------
    config : MachineConfig

    Members
    -------
    clear : In(1)
        Sets all to zero; wins.
    amounts : In(amounts_layout(config))
    matmul : In(struct)
        ``enable``: MATMUL_CYCLES becomes ``cycles``.
    number : In(4)
        A counter's.
    value : Out(48)
        What it holds, combinational; 0 if there is none of this number.
    """

    def __init__(self, config: MachineConfig) -> None:
        super().__init__(
            {
                "clear": In(1),
                "amounts": In(amounts_layout(config)),
                "matmul": In(data.StructLayout({"enable": 1, "cycles": 6})),
                "number": In(Shape.cast(Counter).width),
                "value": Out(COUNTER_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        totals = {c: Signal(COUNTER_BITS, name=c.name.lower()) for c in Counter}
        for counter, total in totals.items():
            if counter == Counter.MATMUL_CYCLES:
                with m.If(self.matmul.enable):
                    m.d.sync += total.eq(self.matmul.cycles)
            else:
                m.d.sync += total.eq(total + self.amounts[counter.name.lower()])
            with m.If(self.clear):
                m.d.sync += total.eq(0)
        with m.Switch(self.number):
            for counter, total in totals.items():
                with m.Case(counter):
                    m.d.comb += self.value.eq(total)
        return m
