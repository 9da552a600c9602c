"""The product of two words: a multiplier of magnitudes with the sign and unity around it."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.multiplier import make_multiplier
from sw.format import SFx


class WordProduct(wiring.Component):
    """The exact product of two SFx words in sign-magnitude form. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of both words.
    multiplier : {"array", "dadda", "chain", "auto"}
        The multiplier of magnitudes.
    target : {"generic", "ecp5", "ice40", "osu018"}
        What the logic will become.

    Members
    -------
    a, b : In(x)
        Words.
    sign : Out(1)
        Exclusive or of the signs, also where the product is zero.
    magnitude : Out(2F + unity)
        ``M(a) * M(b)`` in units of ``2**-2F``: 0 to ``2**2F`` under unity.
    """

    def __init__(self, format: SFx, multiplier: str = "auto", target: str = "generic") -> None:
        self.format = format
        self.multiplier = make_multiplier(multiplier, format.fraction_bits, target)
        super().__init__(
            {
                "a": In(format.bits),
                "b": In(format.bits),
                "sign": Out(1),
                "magnitude": Out(2 * format.fraction_bits + format.unity),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.format.fraction_bits
        m.submodules.multiplier = multiplier = self.multiplier
        a, b = self.a[:width], self.b[:width]
        m.d.comb += self.sign.eq(self.a[width] ^ self.b[width])
        if not self.format.unity:
            m.d.comb += [
                multiplier.a.eq(a),
                multiplier.b.eq(b),
                self.magnitude.eq(multiplier.product),
            ]
            return m
        # An operand of 2**F shifts the other by F: the multiplier is given zero, and since every
        # bit of the unity operand is 1, the other operand is a & b whichever of them it is.
        unity_a, unity_b = Signal(), Signal()
        m.d.comb += [
            unity_a.eq(a.all()),
            unity_b.eq(b.all()),
            multiplier.a.eq(a),
            multiplier.b.eq(Mux(unity_a | unity_b, 0, b)),
            self.magnitude[:width].eq(multiplier.product[:width]),
            self.magnitude[width : 2 * width].eq(
                multiplier.product[width:] | Mux(unity_a ^ unity_b, a & b, 0)
            ),
            self.magnitude[2 * width].eq(unity_a & unity_b),
        ]
        return m
