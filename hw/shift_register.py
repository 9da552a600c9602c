"""Shift registers side by side."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class ShiftRegister(wiring.Component):
    """Lanes that take a word each and show their last words. Latency 1 cycle to the first tap.

    The published one is 8 words deep and 16 bits wide.

    Parameters
    ----------
    lanes : int
        At least 1.
    depth : int
        Words per lane, at least 1.
    bits : int
        Bits of a word, at least 1.

    Members
    -------
    enable : In(1)
        Shift all lanes by one word.
    i : In(lanes words)
        The next word per lane; lane 0 in the lowest bits.
    taps : Out(lanes times depth words)
        Lane 0 in the lowest bits, and in a lane the newest word: word ``d`` of a lane was taken
        ``d + 1`` enabled cycles ago. Zeros after reset.
    """

    latency = 1

    def __init__(self, lanes: int, depth: int = 8, bits: int = 16) -> None:
        for name, value in (("lanes", lanes), ("depth", depth), ("bits", bits)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        self.lanes = lanes
        words = data.ArrayLayout(bits, depth)
        super().__init__(
            {
                "enable": In(1),
                "i": In(data.ArrayLayout(bits, lanes)),
                "taps": Out(data.ArrayLayout(words, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = len(self.i[0])
        with m.If(self.enable):
            for lane in range(self.lanes):
                taps = self.taps[lane].as_value()
                m.d.sync += taps.eq((taps << bits) | self.i[lane])
        return m
