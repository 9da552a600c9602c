"""The activation unit on words."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from sw.format import SFx
from sw.isa import Function


class Select(enum.Enum, shape=1):
    """The activation functions by their code."""

    LINEAR = 0
    RELU = 1


class ActivationUnit(wiring.Component):
    """Linear or ReLU on a word. Combinational, latency 0.

    Rounding commutes with both functions, so a word is as good as the exact number.

    Parameters
    ----------
    format : SFx
        The format of the words.

    Members
    -------
    i : In(x)
        A word.
    select : In(1)
        0 linear, 1 ReLU: negative words become zero.
    o : Out(x)
        A word, never minus zero.
    """

    def __init__(self, format: SFx) -> None:
        self.format = format
        super().__init__({"i": In(format.bits), "select": In(Select), "o": Out(format.bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign, magnitude = self.i[-1], self.i[:-1]
        linear = Signal()
        m.d.comb += [
            linear.eq(self.select == Select.LINEAR),
            self.o.eq(Cat(Mux(sign & ~linear, 0, magnitude), sign & linear & magnitude.any())),
        ]
        return m


class ClampUnit(wiring.Component):
    """Linear, ReLU or clamp on a word, by the code of a GEMM. Combinational, latency 0.

    Rounding commutes with all three. The code of the table gives the word as it is.

    Parameters
    ----------
    format : SFx
        The format of the words.

    Members
    -------
    i : In(x)
        A word, never minus zero.
    function : In(2)
        A :class:`sw.isa.Function`. ReLU and clamp: negative words become zero.
    limit : In(F)
        The magnitude above which clamp gives ``limit``.
    o : Out(x)
        A word, never minus zero.
    """

    def __init__(self, format: SFx) -> None:
        self.format = format
        super().__init__(
            {
                "i": In(format.bits),
                "function": In(2),
                "limit": In(format.fraction_bits),
                "o": Out(format.bits),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sign, magnitude = self.i[-1], self.i[:-1]
        clamps, keeps_sign, lowered = Signal(), Signal(), Signal()
        m.d.comb += [
            clamps.eq(self.function == Function.CLAMP),
            keeps_sign.eq((self.function == Function.LINEAR) | (self.function == Function.TABLE)),
            lowered.eq(clamps & (magnitude > self.limit)),
        ]
        with m.If(sign & ~keeps_sign):
            m.d.comb += self.o.eq(0)
        with m.Elif(lowered):
            m.d.comb += self.o.eq(self.limit)
        with m.Else():
            m.d.comb += self.o.eq(self.i)
        return m
