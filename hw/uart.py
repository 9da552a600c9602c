"""An asynchronous serial line: eight data bits, no parity, one stop bit."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Module, ResetInserter, Signal, Value, ValueLike
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out, connect

#: Least cycles per bit: three samples, and one more to tell them from their neighbours'.
LEAST_DIVISOR: Final = 4
#: A start bit, eight bits of data, a stop bit.
FRAME_BITS: Final = 10


def _check_divisor(divisor: int) -> None:
    if isinstance(divisor, bool) or not isinstance(divisor, int):
        raise TypeError(f"divisor must be an integer, not {divisor!r}")
    if divisor < LEAST_DIVISOR:
        raise ValueError(f"divisor must be at least {LEAST_DIVISOR}, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes from a line.

    Each bit is what two of three samples around its middle say, one cycle apart. A start bit that
    is not low in its middle is noise; a byte whose stop bit is low is dropped, and the line must
    rise before the next. The next start bit is looked for from the middle of the stop bit on, so
    that the sender may be fast by almost half a bit in ten.

    Parameters
    ----------
    divisor : int
        Cycles per bit, at least 4.

    Members
    -------
    rx : In(1)
        The line, high while idle, in no clock domain.
    o : Out(stream of 8)
        A byte for one cycle, ``9 * divisor + divisor // 2 + 3`` cycles after its start bit began;
        never waits.
    """

    def __init__(self, divisor: int) -> None:
        _check_divisor(divisor)
        self.divisor = divisor
        self.latency = 9 * divisor + divisor // 2 + 3
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        samples = Signal(2, init=0b11)  # the line one and two cycles ago
        m.d.sync += samples.eq(Cat(line, samples[0]))
        bit = Signal()
        m.d.comb += bit.eq((line & samples[0]) | (line & samples[1]) | (samples[0] & samples[1]))

        timer = Signal(range(self.divisor))
        left = Signal(range(FRAME_BITS))  # bits to come after the start bit
        shifted = Signal(8)
        m.d.sync += self.o.valid.eq(0)
        m.d.comb += self.o.payload.eq(shifted)
        busy, broken = Signal(), Signal()  # after a low stop bit the line must rise first
        with m.If(line):
            m.d.sync += broken.eq(0)
        with m.If(~busy), m.If(~line & ~broken):
            m.d.sync += [busy.eq(1), timer.eq(self.divisor // 2 - 1), left.eq(FRAME_BITS - 1)]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Else():
            m.d.sync += [timer.eq(self.divisor - 1), left.eq(left - 1)]
            with m.If(left == FRAME_BITS - 1):
                m.d.sync += busy.eq(~bit)
            with m.Elif(left == 0):
                m.d.sync += [busy.eq(0), self.o.valid.eq(bit), broken.eq(~bit)]
            with m.Else():
                m.d.sync += shifted.eq(Cat(shifted[1:], bit))
        return m


class UartTransmitter(wiring.Component):
    """Bytes onto a line, one per ``10 * divisor`` cycles.

    Parameters
    ----------
    divisor : int
        Cycles per bit, at least 4.

    Members
    -------
    i : In(stream of 8)
        Its start bit begins in the cycle after a byte is taken.
    tx : Out(1)
        The line, high while idle.
    """

    def __init__(self, divisor: int) -> None:
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer = Signal(range(self.divisor))
        left = Signal(range(FRAME_BITS + 1))
        following = Signal(FRAME_BITS - 1)  # bits to come, the next one lowest
        m.d.comb += self.i.ready.eq((left == 0) | ((left == 1) & (timer == 0)))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                self.tx.eq(0),
                following.eq(Cat(self.i.payload, 1)),
                left.eq(FRAME_BITS),
                timer.eq(self.divisor - 1),
            ]
        with m.Elif(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(left != 0):
            m.d.sync += [
                self.tx.eq(following[0]),
                following.eq(Cat(following[1:], 1)),
                left.eq(left - 1),
                timer.eq(self.divisor - 1),
            ]
        return m


def join_line(
    m: Module,
    line: wiring.PureInterface,
    divisor: int,
    received: object,
    sent: object,
    reset: ValueLike = 0,
) -> None:
    """Put a receiver and a transmitter between a line and two streams of bytes.

    Parameters
    ----------
    m : Module
        Gets them as submodules ``receiver`` and ``transmitter``.
    line : component
        With ``rx`` and ``tx``.
    divisor : int
        Cycles per bit.
    received : In(stream of 8)
        Never waits.
    sent : Out(stream of 8)
    reset : ValueLike, optional
        Of both, besides their clock domain's.
    """
    receiver, transmitter = UartReceiver(divisor), UartTransmitter(divisor)
    with_reset = ResetInserter(Value.cast(reset))
    m.submodules.receiver = with_reset(receiver)
    m.submodules.transmitter = with_reset(transmitter)
    connect(m, receiver.o, received)
    connect(m, sent, transmitter.i)
    m.d.comb += [receiver.rx.eq(line.rx), line.tx.eq(transmitter.tx)]
