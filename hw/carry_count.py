"""A counter of carries that is small in standard cells: every second bit is kept inverted."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.carry_chain import BEHAVIOURAL
from hw.multiplier import check_target

#: The library's cells of a bit: its carry, its sum, what clears it.
_EVEN: Final = ("NAND2X1", "OAI21X1", "NOR2X1")
_ODD: Final = ("NOR2X1", "AOI21X1", "NAND2X1")


def kept_inverted(width: int) -> int:
    """The bits of a counter that are kept inverted: 1, 3, 5 and so on."""
    return sum(1 << bit for bit in range(1, width, 2))


class CarryCount(wiring.Component):
    """What a counter keeps after one more cycle. Combinational, latency 0.

    Parameters
    ----------
    width : int
        At least 1.
    target : {"generic", "ecp5", "ice40", "osu018"}
        ``osu018`` places the library's cells.

    Members
    -------
    kept : In(width)
        The count, exclusive or :func:`kept_inverted`.
    carry : In(1)
        Count one more.
    clear : In(1)
        Start from zero.
    following : Out(width)
        ``0 if clear else kept + carry``, in the form of ``kept``.

    Notes
    -----
    With every second bit inverted, carries alternate in polarity: NAND and NOR in turn, none with
    an inverter behind it, and a half adder's sum is one OAI21 or AOI21 on its carry. The mapper
    cannot know that a register may keep the complement, and builds such sums of larger cells.
    (Ours.)
    """

    def __init__(self, width: int, target: str = "generic") -> None:
        check_target(target)
        if isinstance(width, bool) or not isinstance(width, int):
            raise TypeError(f"width must be an integer, not {width!r}")
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width!r}")
        self.target = target
        super().__init__(
            {"kept": In(width), "carry": In(1), "clear": In(1), "following": Out(width)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.target == "osu018" and platform is not BEHAVIOURAL:
            self._place(m)
            return m
        width = len(self.kept)
        inverted = Const(kept_inverted(width), width)
        count = (self.kept ^ inverted) + self.carry
        m.d.comb += self.following.eq(Mux(self.clear, 0, count[:width]) ^ inverted)
        return m

    def _place(self, m: Module) -> None:
        goes_on = Signal()
        m.d.comb += goes_on.eq(~self.clear)
        carry = self.carry
        found = []
        for bit, kept in enumerate(self.kept):
            ours = {"i_A": kept, "i_B": carry}
            carry, held, following = (Signal(name=f"{n}_{bit}") for n in ("carry", "held", "next"))
            # bit even: carry comes as it is and leaves inverted; bit odd: the other way round
            gates = (
                ("NOR2X1", "AOI21X1", "NAND2X1") if bit % 2 else ("NAND2X1", "OAI21X1", "NOR2X1")
            )
            clear = goes_on if bit % 2 else self.clear
            pins = (
                {**ours, "o_Y": carry},
                {**ours, "i_C": carry, "o_Y": held},
                {"i_A": clear, "i_B": held, "o_Y": following},
            )
            for name, gate, connected in zip(("carry", "sum", "clear"), gates, pins, strict=True):
                m.submodules[f"{name}_{bit}"] = Instance(gate, **connected)
            found.append(following)
        m.d.comb += self.following.eq(Cat(*found))
