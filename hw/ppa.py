"""What is set side by side in area, delay and power: our units, integers and IEEE 754."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.array import SystolicArray
from hw.cell import Cell
from hw.float_format import FLOAT_FORMATS
from hw.float_mac import FloatMultiplyAccumulate
from hw.mac import MultiplyAccumulate
from hw.multiplier import AUTO, MULTIPLIERS, make_multiplier
from hw.split_mac import SplitMultiplyAccumulate
from hw.synthesis import Gates, Source, component_source, standard_cells, verilog_source
from hw.tops import TOPS, Options, build_top
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
OSU018: Final = "osu018"
#: Targets whose look-up tables have registers behind them.
FPGAS: Final = ("ecp5", "ice40")
#: Another name of the machine's top.
CORE: Final = "core"
MACHINE_TOP: Final = "atreides"
#: Parts of the machine that are measured but not emitted by themselves.
PARTS: Final[Mapping[str, str]] = {
    "cell": "one cell of the array, with what it passes on",
    "array": "the systolic array: cells and the columns' buses",
}
UNITS: Final = (*TOPS, *PARTS, CORE)


@dataclass(frozen=True, slots=True)
class Rival:
    """A unit of the comparison.

    Parameters
    ----------
    name, kind : str
    bits : int
        Of an operand.
    source : callable
        Makes what is synthesised.
    options : str
        Of yosys' ``synth``.
    macs : int
        Multiply-accumulates per cycle; 0 if that is not what it does.
    unit : str
        Of :data:`UNITS`, where it is one of ours and not compared.
    built : Options, optional
        With what.
    """

    name: str
    kind: str
    bits: int
    source: Callable[[], Source]
    options: str = ""
    macs: int = 0
    unit: str = ""
    built: Options | None = None

    def gates(self) -> Gates:
        """Area and delay on osu018.

        Raises
        ------
        SynthesisError
            If a tool is missing or fails.
        """
        source = self.source()
        return standard_cells(source, self.options, has_clock(source))


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


class InputRegisters(wiring.Component):
    """A unit with a register before each input, 1 cycle: as cells of an FPGA have them."""

    def __init__(self, unit: wiring.Component) -> None:
        self.unit = unit
        super().__init__(dict(unit.signature.members))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = self.unit
        for name, member in self.signature.members.items():
            ours, theirs = getattr(self, name), getattr(unit, name)
            if member.flow != In:
                m.d.comb += ours.eq(theirs)
                continue
            register = Signal(len(ours), name=f"{name}_register", reset_less=True)
            m.d.sync += register.eq(ours)
            m.d.comb += theirs.eq(register)
        return m


def subjects(unit: str, options: Sequence[Options], compared: bool = True) -> list[Rival]:
    """What is measured for a unit.

    Parameters
    ----------
    unit : str
        One of :data:`UNITS`.
    options : sequence of Options
        One per width, all for one target.
    compared : bool
        With the units that ``mac`` and ``multiplier`` are compared with.

    Raises
    ------
    ValueError
        If there is no such unit.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, not {unit!r}")
    target = options[0].target
    if unit == "mac" and compared:
        return [
            *(_float(name, target) for name in FLOAT_FORMATS),
            *(rival for each in options for rival in _macs(each)),
        ]
    if unit == "multiplier" and compared:
        return [rival for each in options for rival in _multipliers(each)]
    return [_top(unit, each) for each in options]


def rivals() -> list[Rival]:
    """Multipliers of SFx magnitudes and multiply-accumulate units, SF16 to SF4, on osu018."""
    options = [Options(bits=bits, unity=False, target=OSU018) for bits in WIDTHS]
    return [*subjects("mac", options), *subjects("multiplier", options)]


def saved(value: float, reference: float) -> float:
    """Per cent of the reference that is not needed."""
    return round(100 * (1 - value / reference), 1)


def has_clock(source: Source, name: str = "clk") -> bool:
    """Whether the unit has registers: an input ``clk``; or another input of one bit."""
    if source.language == "verilog":
        return re.search(rf"\binput\s+{name}\b", source.text) is not None
    top = source.text.rsplit("module \\unit\n", 1)[-1].split("\nend\n", 1)[0]
    return re.search(rf"^\s*wire width 1 input \d+ +\\{name}$", top, re.MULTILINE) is not None


def _top(unit: str, options: Options) -> Rival:
    """A unit as hw.build makes it, or a part of the machine."""
    name = MACHINE_TOP if unit == CORE else unit

    def source() -> Source:
        shared = options.format, options.max_terms, options.multiplier, options.target
        if name == "cell":
            return component_source(Cell(*shared))
        if name == "array":
            return component_source(
                SystolicArray(shared[0], options.rows, options.columns, *shared[1:])
            )
        return component_source(build_top(name, options))

    cells = options.rows * options.columns
    macs = {"mac": 1, "cell": 1, "array": cells, MACHINE_TOP: cells, "coprocessor": cells}
    side = f" {options.rows} x {options.columns}" if macs.get(name, 0) > 1 else ""
    return Rival(
        f"SF{options.bits} {unit}{side}",
        *("unit", options.bits, source, "", macs.get(name, 0)),
        unit=name,
        built=options,
    )


def _macs(options: Options) -> list[Rival]:
    """A width's: integer, ours, and on standard cells ours with a split accumulator."""
    split = [] if options.target in FPGAS else [_split(options)]
    return [_integer(options), _plain(options), *split]


def _float(name: str, target: str) -> Rival:
    format = FLOAT_FORMATS[name]

    def source() -> Source:
        unit = AlwaysValid(
            FloatMultiplyAccumulate(format.exponent_bits, format.fraction_bits, target)
        )
        return component_source(InputRegisters(unit) if target in FPGAS else unit)

    return Rival(name, "float", format.bits, source, macs=1)


def _integer(options: Options) -> Rival:
    """Cleared in a cycle of its own: smaller and faster than one that starts with a product."""
    bits = options.bits
    accumulator = SFx(bits, False).accumulator_bits(options.max_terms)
    ports = (
        f"module unit(input clk, first, input signed [{bits - 1}:0] a, b, "
        f"output reg signed [{accumulator - 1}:0] acc);\n"
    )
    if options.target in FPGAS:
        text = (
            f"{ports}reg f, g; reg signed [{bits - 1}:0] x, y;\n"
            f"reg signed [{2 * bits - 1}:0] product;\n"
            "always @(posedge clk) begin f <= first; g <= f; x <= a; y <= b; product <= x * y;\n"
            "acc <= g ? 0 : acc + product; end\nendmodule\n"
        )
    else:
        text = (
            f"{ports}wire signed [{2 * bits - 1}:0] product = a * b;\n"
            "always @(posedge clk) acc <= first ? 0 : acc + product;\nendmodule\n"
        )
    return Rival(f"int{bits}", "integer", bits, lambda: verilog_source(text), macs=1)


def _plain(options: Options) -> Rival:
    stages = int(options.target in FPGAS)

    def source() -> Source:
        unit = MultiplyAccumulate(
            options.format,
            options.max_terms,
            options.multiplier,
            options.target,
            input_stages=stages,
            product_stages=stages,
        )
        return component_source(AlwaysValid(unit))

    return Rival(f"SF{options.bits}", "superfloat", options.bits, source, macs=1)


def _split(options: Options) -> Rival:
    adder = "kogge_stone" if options.bits > _SHORT else "plain"

    def source() -> Source:
        unit = SplitMultiplyAccumulate(
            options.format, options.max_terms, options.multiplier, options.target, adder
        )
        return component_source(AlwaysValid(unit))

    return Rival(f"SF{options.bits} split", "superfloat split", options.bits, source, macs=1)


#: Bits up to which the synthesiser's own adder is the best of the low part (measured).
_SHORT: Final = 8


def _multipliers(options: Options) -> list[Rival]:
    """yosys' own, with booth where its ``synth`` has that, and ours; ``auto`` by its name."""
    bits, width = options.bits, options.bits - 1
    text = (
        f"module unit(input [{width - 1}:0] a, b, output [{2 * width - 1}:0] product); "
        "assign product = a * b; endmodule\n"
    )
    label = f"{width} x {width}"
    found = [Rival(f"yosys * {label}", "multiplier", bits, lambda: verilog_source(text))]
    if options.target not in FPGAS:
        found.append(replace(found[0], name=f"yosys booth {label}", options="-booth"))
    auto = options.resolved_multiplier
    for name in dict.fromkeys((auto, *MULTIPLIERS)):

        def source(name: str = name) -> Source:
            return component_source(make_multiplier(name, width, options.target))

        shown = f"{AUTO} ({name})" if name == auto else name
        found.append(Rival(f"{shown} {label}", "multiplier", bits, source))
    return found
