"""What a bitstream holds: the machine behind its line, with clock, reset and self-test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    DomainRenamer,
    Module,
    ResetInserter,
    Signal,
)
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out, connect

from hw.board_test import SILENCE_BITS, SelfTest
from hw.boards import LED_MEANINGS
from hw.linked_machine import ServedMachine
from hw.pll import Clock
from hw.uart import join_line
from sw.link import DEFAULT_PATIENCE, Greeting

#: Seconds of reset after configuration: iCE40's block RAM is not readable at first.
_RESET_SECONDS: Final = 20e-6


class CheckedMachine(wiring.Component):
    """The machine behind a serial line, which it opens after its self-test.

    Parameters
    ----------
    greeting : Greeting
    divisor : int
        Cycles per bit of the line, at least 4.
    requests, replies, silence_bits
        See SelfTest.
    target, patience
        See hw.linked_machine.LinkedMachine.

    Members
    -------
    rx : In(1), tx : Out(1)
        The line, high while idle.
    reset : In(1)
        A register; starts all of it anew, besides the clock domain's reset.
    passed, failed, running : Out(1)
        The self-test's result.
    """

    latency = None  # depends on requests
    unread_fields = True  # as in the machine

    def __init__(
        self,
        greeting: Greeting,
        divisor: int,
        requests: Sequence[bytes],
        replies: Sequence[bytes],
        *,
        target: str = "generic",
        patience: int = DEFAULT_PATIENCE,
        silence_bits: int = SILENCE_BITS,
    ) -> None:
        self.divisor = divisor
        self.machine = ServedMachine(greeting, target, patience)
        self.test = SelfTest(requests, replies, silence_bits)
        super().__init__(
            {
                **{"rx": In(1, init=1), "tx": Out(1, init=1), "reset": In(1)},
                **{name: Out(1) for name in LED_MEANINGS},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        machine, test = self.machine, self.test
        m.submodules.test = ResetInserter(self.reset)(test)
        m.submodules.machine = machine
        m.d.sync += machine.reset.eq(self.reset | test.reset)
        join_line(m, self, self.divisor, test.line, test.to_line, self.reset)
        connect(m, test.to_link, machine.i)
        connect(m, machine.o, test.link)
        m.d.comb += [getattr(self, name).eq(getattr(test, name)) for name in LED_MEANINGS]
        return m


class BoardTop(wiring.Component):
    """A tested machine on a board's pins, clocked by a loop, reset until that has locked.

    Parameters
    ----------
    machine : CheckedMachine
    clock : Clock
        Makes the machine's clock of the board's.
    leds : sequence of str
        Those of LED_MEANINGS that the board shows.
    inverted : collection of str
        Ports that are active low.

    Members
    -------
    clk : In(1)
        The board's clock.
    rx : In(1), tx : Out(1)
        The line.
    passed, failed, running : Out(1)
        Those of ``leds``. With two, both show while the test runs.
    """

    latency = None  # depends on requests
    unread_fields = True  # as in the machine

    def __init__(
        self,
        machine: CheckedMachine,
        clock: Clock,
        leds: Sequence[str] = LED_MEANINGS,
        inverted: Sequence[str] = (),
    ) -> None:
        self.machine, self.clock = machine, clock
        self.leds, self.inverted = tuple(leds), frozenset(inverted)
        super().__init__(
            {
                **{"clk": In(1), "rx": In(1, init=1), "tx": Out(1, init=1)},
                **{name: Out(1) for name in self.leds},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clock, machine = self.clock, self.machine
        m.submodules.clock = clock
        m.submodules.machine = DomainRenamer("machine")(machine)
        m.domains.machine = ClockDomain(reset_less=True)
        m.d.comb += [
            clock.input.eq(self.clk),
            ClockSignal("machine").eq(clock.output),
            machine.rx.eq(self.rx),
            self.tx.eq(machine.tx),
        ]
        locked = Signal()
        m.submodules.locked = FFSynchronizer(clock.locked, locked, o_domain="machine")
        cycles = int(_RESET_SECONDS * machine.machine.greeting.clock) + 1
        left = Signal(range(cycles + 1), init=cycles)
        resetting = Signal(init=1)
        m.d.machine += resetting.eq(left != 0)
        with m.If(~locked):
            m.d.machine += left.eq(cycles)
        with m.Elif(left != 0):
            m.d.machine += left.eq(left - 1)
        m.d.comb += machine.reset.eq(resetting)
        for name in self.leds:
            lit = getattr(machine, name)
            if len(self.leds) == len(LED_MEANINGS) - 1:
                lit = lit | machine.running
            m.d.comb += getattr(self, name).eq(lit ^ (name in self.inverted))
        return m
