"""Detectors of the two words that need no multiplier: zero and one."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from sw.format import SFx


class ZeroDetector(wiring.Component):
    """Whether a word is zero, plus or minus. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the word.

    Members
    -------
    word : In(x)
    zero : Out(1)
    """

    ignored_inputs = ("word",)

    def __init__(self, format: SFx) -> None:
        super().__init__({"word": In(format.bits), "zero": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.zero.eq(~self.word[:-1].any())
        return m


class UnityDetector(wiring.Component):
    """Whether a word is 1 or -1. Combinational, latency 0.

    Parameters
    ----------
    format : SFx
        The format of the word; without unity no word is, and the flag is constant.

    Members
    -------
    word : In(x)
    unity : Out(1)
    """

    ignored_inputs = ("word",)

    def __init__(self, format: SFx) -> None:
        self.format = format
        super().__init__({"word": In(format.bits), "unity": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.format.unity:
            m.d.comb += self.unity.eq(self.word[:-1].all())
        return m
