"""The machine with the link in front of it: as streams of bytes, and on a serial line."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.link import Link
from hw.machine import make_machine
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
                "busy": Out(1),
                "greeted": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        reset = Signal()
        machine = make_machine(self.greeting.config, self.target)
        m.submodules.machine = ResetInserter(reset)(machine)
        m.submodules.link = link = Link(self.greeting, self.patience)
        connect(m, flipped(self.i), link.i)
        connect(m, link.o, flipped(self.o))
        for name in ("instructions", "host", "results", "status"):
            connect(m, getattr(link, name), getattr(machine, name))
        m.d.comb += [
            reset.eq(link.reset),
            self.busy.eq(machine.busy),
            self.greeted.eq(link.greeted),
        ]
        return m


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
