"""The adder of a floating-point unit: the magnitude of a sum or difference in one pass."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.adder import NETWORKS


class MagnitudeAdder(wiring.Component):
    """``x + y``, or the magnitude of ``x - c`` from the complement of c. Combinational, latency 0.

    Parameters
    ----------
    width : int
        Bits of the operands, at least 2.
    adder : {"ripple", "brent_kung", "sklansky", "kogge_stone"}
        The network of carries.

    Members
    -------
    x, y : In(width)
        To subtract c, ``x + y`` is a number plus the complement ``2**width - 1 - c``.
    subtract : In(1)
    lost : In(1)
        c has a fraction below bit 0: the difference is between two integers. Only where it is
        positive.
    magnitude : Out(width)
        The sum modulo ``2**width``; or the difference's magnitude, rounded down.
    negative, zero : Out(1)
        Of a difference; 0 for a sum.

    Notes
    -----
    The carry out says that the difference is positive and is then added at bit 0: the end-around
    carry of ones' complement. Every prefix of the network takes it at once, so that it costs one
    gate of delay.
    """

    def __init__(self, width: int, adder: str) -> None:
        if adder not in NETWORKS:
            raise ValueError(f"adder must be one of {', '.join(NETWORKS)}, not {adder!r}")
        self.network = NETWORKS[adder](width)
        super().__init__(
            {
                "x": In(width),
                "y": In(width),
                "subtract": In(1),
                "lost": In(1),
                "magnitude": Out(width),
                "negative": Out(1),
                "zero": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.x)
        half = Signal(width)
        m.d.comb += half.eq(self.x ^ self.y)
        generate, propagate = self._prefixes(m, half)
        positive, around, flip = Signal(), Signal(), Signal()
        carries = Cat(around, (g | p & around for g, p in zip(generate, propagate, strict=True)))
        m.d.comb += [
            positive.eq(generate[-1]),
            around.eq(self.subtract & positive & ~self.lost),
            flip.eq(self.subtract & ~positive),
            self.magnitude.eq(half ^ carries[:width] ^ flip.replicate(width)),
            self.zero.eq(self.subtract & propagate[-1]),
            self.negative.eq(flip & ~propagate[-1]),
        ]
        return m

    def _prefixes(self, m: Module, half: Signal) -> tuple[list[Value], list[Value]]:
        """Whether bits 0 to i make a carry, and whether they pass one on, for every i."""
        generate: list[Value] = list(self.x & self.y)
        propagate: list[Value] = list(half)
        for number, level in enumerate(self.network):
            new_generate = Signal(len(level), name=f"generate_{number}")
            new_propagate = Signal(len(level), name=f"propagate_{number}")
            m.d.comb += [
                new_generate.eq(Cat(generate[i] | propagate[i] & generate[j] for i, j in level)),
                new_propagate.eq(Cat(propagate[i] & propagate[j] for i, j in level)),
            ]
            for position, (i, _) in enumerate(level):
                generate[i], propagate[i] = new_generate[position], new_propagate[position]
        return generate, propagate
