"""Area and delay of multiply-accumulate units side by side: SFx, integers and IEEE 754."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.float_format import FLOAT_FORMATS
from hw.float_mac import FloatMultiplyAccumulate
from hw.mac import MultiplyAccumulate
from hw.multiplier import make_multiplier
from hw.split_mac import SplitMultiplyAccumulate
from hw.synthesis import Gates, Source, component_source, standard_cells, verilog_source
from sw.format import SFx

#: um2 and ns of Berkeley HardFloat's binary32 FMA accumulate in this flow: the rival so far.
HARDFLOAT: Final = Gates(228_617.0, 27.2)
#: Published savings of fixed point against binary32 in per cent by bits: area, power.
PUBLISHED: Final[Mapping[int, tuple[float, float]]] = {
    16: (58.9, 58.3),
    8: (79.9, 84.1),
    4: (90.1, 91.9),
}
WIDTHS: Final = tuple(PUBLISHED)
REFERENCE: Final = "binary32"


@dataclass(frozen=True, slots=True)
class Rival:
    """A unit of the comparison.

    Parameters
    ----------
    name, kind : str
    bits : int
        Of an operand.
    source : callable
        Makes what is synthesised, with the accumulator as its only registers.
    options : str
        Of yosys' ``synth``.
    """

    name: str
    kind: str
    bits: int
    source: Callable[[], Source]
    options: str = ""

    @property
    def clocked(self) -> bool:
        """Whether the unit has an accumulator."""
        return self.kind != "multiplier"

    def gates(self) -> Gates:
        """Area and delay on osu018.

        Raises
        ------
        SynthesisError
            If a tool is missing or fails.
        """
        return standard_cells(self.source(), self.options, self.clocked)


class AlwaysValid(wiring.Component):
    """A unit whose ``valid`` is 1: accumulators with nothing but a way to start anew."""

    def __init__(self, unit: wiring.Component) -> None:
        self.unit = unit
        members = dict(unit.signature.members)
        del members["valid"]
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        m.d.comb += unit.valid.eq(1)
        for name, member in self.signature.members.items():
            ours, theirs = getattr(self, name), getattr(unit, name)
            m.d.comb += theirs.eq(ours) if member.flow == In else ours.eq(theirs)
        return m


def rivals() -> list[Rival]:
    """Multipliers of SFx magnitudes and multiply-accumulate units, SF16 to SF4 beside the rest."""
    found = [_float(name) for name in FLOAT_FORMATS]
    for bits in WIDTHS:
        found += [_integer(bits), _plain(bits), _split(bits), *_multipliers(bits)]
    return found


def saved(area: float, reference: float) -> float:
    """Per cent of the reference that is not needed."""
    return round(100 * (1 - area / reference), 1)


def _float(name: str) -> Rival:
    format = FLOAT_FORMATS[name]

    def source() -> Source:
        unit = FloatMultiplyAccumulate(format.exponent_bits, format.fraction_bits, "osu018")
        return component_source(AlwaysValid(unit))

    return Rival(name, "float", format.bits, source)


def _integer(bits: int) -> Rival:
    """Cleared in a cycle of its own: smaller and faster than one that starts with a product."""
    accumulator = SFx(bits, False).accumulator_bits()
    text = (
        f"module unit(input clk, first, input signed [{bits - 1}:0] a, b, "
        f"output reg signed [{accumulator - 1}:0] acc);\n"
        f"wire signed [{2 * bits - 1}:0] product = a * b;\n"
        "always @(posedge clk) acc <= first ? 0 : acc + product;\nendmodule\n"
    )
    return Rival(f"int{bits}", "integer", bits, lambda: verilog_source(text))


def _plain(bits: int) -> Rival:
    def source() -> Source:
        return component_source(AlwaysValid(MultiplyAccumulate(SFx(bits, False), target="osu018")))

    return Rival(f"SF{bits}", "superfloat", bits, source)


def _split(bits: int) -> Rival:
    adder = "kogge_stone" if bits > _SHORT else "plain"

    def source() -> Source:
        unit = SplitMultiplyAccumulate(SFx(bits, False), target="osu018", adder=adder)
        return component_source(AlwaysValid(unit))

    return Rival(f"SF{bits} split", "superfloat split", bits, source)


#: Bits up to which the synthesiser's own adder is the best of the low part (measured).
_SHORT: Final = 8


def _multipliers(bits: int) -> list[Rival]:
    width = bits - 1
    text = (
        f"module unit(input [{width - 1}:0] a, b, output [{2 * width - 1}:0] product); "
        "assign product = a * b; endmodule\n"
    )

    def ours() -> Source:
        return component_source(make_multiplier("auto", width, "osu018"))

    label = f"{width} x {width}"
    return [
        Rival(f"yosys * {label}", "multiplier", bits, lambda: verilog_source(text)),
        Rival(f"yosys booth {label}", "multiplier", bits, lambda: verilog_source(text), "-booth"),
        Rival(f"auto {label}", "multiplier", bits, ours),
    ]
