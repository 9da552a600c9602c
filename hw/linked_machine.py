"""The machine with the link in front of it: as streams of bytes, and on a serial line."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.link import Link
from hw.machine import make_machine, reset_cycles
from hw.memory_attributes import CLOCKED_READS
from hw.uart import join_line
from sw.config import MachineConfig
from sw.link import (
    DEFAULT_LIMIT,
    DEFAULT_PATIENCE,
    Greeting,
)


class ServedMachine(wiring.Component):
    """The machine with the link's streams of bytes for a host.

    Parameters
    ----------
    greeting : Greeting
        Of the machine.
    target, patience
        See LinkedMachine.

    Members
    -------
    i : In(stream of 8), o : Out(stream of 8)
        Bytes of the line; ``i`` never waits.
    reset : In(1)
        A register; resets link and machine besides their clock domain.
    busy, greeted : Out(1)
        As in LinkedMachine.
    """

    latency = None  # depends on requests

    def __init__(
        self, greeting: Greeting, target: str = "generic", patience: int = DEFAULT_PATIENCE
    ) -> None:
        self.greeting, self.target, self.patience = greeting, target, patience
        super().__init__(
            {
                "i": In(stream.Signature(8, always_ready=True)),
                "o": Out(stream.Signature(8)),
                "reset": In(1),
                "busy": Out(1),
                "greeted": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        link = Link(self.greeting, self.patience)
        m.submodules.link = ResetInserter(self.reset)(link)
        resetting = self._reset(m, link.reset)
        machine = make_machine(self.greeting.config, self.target, resetting)
        m.submodules.machine = machine
        for name in ("instructions", "host", "status"):
            connect(m, getattr(link, name), getattr(machine, name))
        with m.If(resetting):  # not of a program before
            m.d.comb += link.status.valid.eq(0)
        if self.target in CLOCKED_READS:  # small parts, where registers are short and clocks slow
            connect(m, flipped(self.i), link.i)
            connect(m, link.o, flipped(self.o))
            connect(m, machine.results, link.results)
        else:
            self._join_line(m, link)
            self._join_results(m, machine.results, link.results, resetting)
        m.d.comb += [self.busy.eq(machine.busy | resetting), self.greeted.eq(link.greeted)]
        return m

    def _join_line(self, m: Module, link: Link) -> None:
        """Registers on both ways; a byte leaves every other cycle at best."""
        m.d.sync += [link.i.valid.eq(self.i.valid), link.i.payload.eq(self.i.payload)]
        m.d.comb += link.o.ready.eq(~self.o.valid)
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += self.o.valid.eq(link.o.valid & ~self.o.valid & ~self.reset)
        with m.If(~self.o.valid):
            m.d.sync += self.o.payload.eq(link.o.payload)

    def _join_results(
        self, m: Module, machine: stream.Interface, link: stream.Interface, resetting: Signal
    ) -> None:
        """A register for a beat, whose queue is late block RAM; the next is there 2 cycles later.

        The link takes none in the cycle in which it is first there.
        """
        m.d.comb += machine.ready.eq(link.ready)
        m.d.sync += [
            link.valid.eq(machine.valid & ~link.ready & ~resetting),
            link.payload.eq(machine.payload),
        ]

    def _reset(self, m: Module, asked: Signal) -> Signal:
        """Whether the machine is reset: for long enough to reach all of it."""
        cycles = reset_cycles(self.greeting.config) - 1
        left, resetting = Signal(range(cycles + 1)), Signal()
        with m.If(self.reset | asked):
            m.d.sync += left.eq(cycles)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        m.d.sync += resetting.eq(self.reset | asked | (left != 0))
        return resetting


class LinkedMachine(wiring.Component):
    """The machine with a serial line for a host.

    Parameters
    ----------
    config : MachineConfig
    divisor : int
        Cycles per bit of the line, at least 4.
    clock : int
        Of the clock, in Hz.
    build : str
        Hexadecimal digits that name the bitstream.
    target : {"generic", "ecp5", "ice40", "osu018"}
    limit, patience : int
        See Link.

    Members
    -------
    rx : In(1), tx : Out(1)
        The line, high while idle.
    busy : Out(1)
        A program runs, or the memory clears itself.
    greeted : Out(1)
        A host has greeted since power-up.
    """

    latency = None  # depends on requests
    unread_fields = True  # as in the machine

    def __init__(
        self,
        config: MachineConfig,
        divisor: int,
        *,
        clock: int,
        build: str,
        target: str = "generic",
        limit: int = DEFAULT_LIMIT,
        patience: int = DEFAULT_PATIENCE,
    ) -> None:
        self.greeting: Final = Greeting(config, clock, limit, build)
        self.divisor = divisor
        self.patience = patience
        self.target = target
        super().__init__(
            {"rx": In(1, init=1), "tx": Out(1, init=1), "busy": Out(1), "greeted": Out(1)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.machine = machine = ServedMachine(self.greeting, self.target, self.patience)
        join_line(m, self, self.divisor, machine.i, machine.o)
        m.d.comb += [self.busy.eq(machine.busy), self.greeted.eq(machine.greeted)]
        return m
