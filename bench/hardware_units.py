"""What the hardware bench measures: our units, yosys' own, and how each is measured once."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw import synthesis
from hw.adder import NETWORKS
from hw.array_multiplier import ArrayMultiplier
from hw.chain_multiplier import ChainMultiplier
from hw.compressor_tree import LIBRARY_CELL
from hw.dadda_multiplier import DaddaMultiplier
from hw.mac import MultiplyAccumulate
from hw.multiplier import Multiplier
from hw.synthesis import Source, component_source, verilog_source
from sw.format import MAX_TERMS, SFx

#: yosys' own multipliers: the operator, and the same with ``synth -booth``.
STAR: Final = "yosys *"
BOOTH: Final = "yosys booth"
#: K_max of the cells on ECP5, for accumulators of 2F + 10 bits; elsewhere 65536.
ECP5_MAX_TERMS: Final = 256


@dataclass(frozen=True, slots=True)
class Cost:
    """One measured unit: smaller is better in both.

    Attributes
    ----------
    area : float
        um2 (osu018), slots (ecp5, ice40) or two-input gates (generic).
    delay : float or None
        ns (osu018 and ecp5, there 1000 / MHz) or gates (generic); None where not measured.
    """

    area: float
    delay: float | None

    def no_worse_than(self, other: Cost) -> bool:
        """Whether neither figure is worse; a delay not measured is left out."""
        slower = self.delay is not None and other.delay is not None and self.delay > other.delay
        return self.area <= other.area and not slower


class _Registered(wiring.Component):
    """A multiplier between registers, to measure a frequency."""

    def __init__(self, multiplier: Multiplier) -> None:
        self.multiplier = multiplier
        width = multiplier.width
        super().__init__({"a": In(width), "b": In(width), "product": Out(2 * width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiplier = multiplier = self.multiplier
        for member in ("a", "b", "product"):
            port = getattr(multiplier, member)
            register = Signal(len(port), name=f"register_{member}", reset_less=True)
            inward = member != "product"
            m.d.sync += register.eq(getattr(self, member) if inward else port)
            m.d.comb += (port if inward else self.product).eq(register)
        return m


def multiplier_source(
    name: str, width: int, target: str, parameters: Mapping[str, Any], registered: bool = False
) -> Source:
    """A multiplier by name, ours with explicit parameters or yosys' own."""
    if name in (STAR, BOOTH):
        ports = f"input [{width - 1}:0] a, b, output {{}}[{2 * width - 1}:0] product"
        if not registered:
            ports = ports.format("")
            return verilog_source(f"module unit({ports}); assign product = a * b; endmodule\n")
        return verilog_source(
            f"module unit(input clk, {ports.format('reg ')}); reg [{width - 1}:0] x, y;\n"
            "always @(posedge clk) begin x <= a; y <= b; product <= x * y; end endmodule\n"
        )
    if name == "array":
        multiplier: Multiplier = ArrayMultiplier(width)
    elif name == "dadda":
        multiplier = DaddaMultiplier(width, **parameters)
    else:
        multiplier = ChainMultiplier(width, target=target, **parameters)
    return component_source(_Registered(multiplier) if registered else multiplier)


def candidates(target: str, width: int) -> list[tuple[str, dict[str, Any]]]:
    """Our multipliers with the parameters that are tried for a target and width."""
    shapes: list[dict[str, Any]] = [{"reduction": "stages"}]
    cells, adders = ["shared"], ["plain"]
    compress: list[list[int]] = [[]]
    if target in ("osu018", "generic"):
        adders += NETWORKS
        shapes += [{"reduction": "arrival", "ripple": ripple} for ripple in (width // 2, width)]
    if target == "osu018":
        # Where there are few full adders, how they are written decides.
        cells = [LIBRARY_CELL] if width > 3 else ["majority", "shared", "select", LIBRARY_CELL]
    if target == "ecp5":
        compress += [counts for counts in ([3], [4, 3], [7, 3]) if counts[0] <= (width + 1) // 2]
    return [
        ("array", {}),
        *(("chain", {"compress": counts}) for counts in compress),
        *(
            ("dadda", {**shape, "cell": cell, "adder": adder})
            for shape in shapes
            for cell in cells
            for adder in adders
        ),
    ]


def mac_source(bits: int, unity: bool, target: str, valid: bool) -> Source:
    """Our cell on words; with registers before and after the multiplier on ECP5."""
    stages = 1 if target == "ecp5" else 0
    cell = MultiplyAccumulate(
        SFx(bits, unity),
        max_terms=_max_terms(target),
        target=target,
        input_stages=stages,
        product_stages=stages,
    )
    return component_source(cell if valid else _AlwaysValid(cell))


def integer_mac_source(bits: int, target: str, valid: bool) -> Source:
    """Two's-complement ``acc += a * b`` of the same width, accumulator and registers."""
    accumulator = SFx(bits, False).accumulator_bits(_max_terms(target))
    following = "(f1 ? 0 : acc) + product" if valid else "acc + product"
    assign = f"if (v1) acc <= {following};" if valid else f"acc <= f1 ? 0 : {following};"
    ports = f"input clk, first, valid, input signed [{bits - 1}:0] a, b"
    wires = f"signed [{2 * bits - 1}:0] product"
    if target == "ecp5":
        body = f"""reg signed [{bits - 1}:0] x, y; reg {wires}; reg f0, f1, v0, v1;
always @(posedge clk) begin
  x <= a; y <= b; product <= x * y; f0 <= first; f1 <= f0; v0 <= valid; v1 <= v0; {assign} end"""
    else:
        body = f"""wire {wires} = a * b; wire f1 = first, v1 = valid;
always @(posedge clk) {assign}"""
    return verilog_source(
        f"module unit({ports}, output reg signed [{accumulator - 1}:0] acc);\n{body}\nendmodule\n"
    )


def _max_terms(target: str) -> int:
    return ECP5_MAX_TERMS if target == "ecp5" else MAX_TERMS


class _AlwaysValid(wiring.Component):
    """A cell whose ``valid`` is tied to 1, to compare with accumulators that have only a clear."""

    def __init__(self, cell: MultiplyAccumulate) -> None:
        self.cell = cell
        members = dict(cell.signature.members)
        del members["valid"]
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cell = cell = self.cell
        m.d.comb += [
            cell.a.eq(self.a),
            cell.b.eq(self.b),
            cell.first.eq(self.first),
            cell.valid.eq(1),
            self.accumulator.eq(cell.accumulator),
        ]
        return m


class Measurements:
    """Measures sources and keeps each result in a folder, so that a broken run resumes.

    Parameters
    ----------
    folder : Path
        One JSON file per source and kind of measurement; a changed source is measured anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def gates(self, source: Source, options: str = "", clocked: bool = False) -> Cost:
        """Area and delay on osu018."""
        key = f"osu018 {synthesis.DELAY_GOAL} {options} {clocked}"
        found = self._cached(
            key, source, lambda: asdict(synthesis.standard_cells(source, options, clocked))
        )
        return Cost(found["area"], found["delay"])

    def generic(self, source: Source) -> Cost:
        """Two-input gates and their longest path."""
        found = self._cached("generic", source, lambda: asdict(synthesis.generic_gates(source)))
        return Cost(found["area"], found["delay"])

    def slots(self, source: Source, target: str) -> int:
        """Look-up tables, two per carry primitive of ECP5."""
        run = synthesis.ecp5_slots if target == "ecp5" else synthesis.ice40_slots
        return self._cached(target, source, lambda: asdict(run(source)))["slots"]

    def period(self, source: Source) -> float:
        """Nanoseconds after place and route on ECP5, the median of three seeds."""
        periods = [
            1000 / self._cached(f"place {s}", source, lambda s=s: {"mhz": _place(source, s)})["mhz"]
            for s in synthesis.ECP5_SEEDS
        ]
        return statistics.median(periods)

    def cost(
        self, name: str, width: int, target: str, parameters: Mapping[str, Any], place: bool = True
    ) -> Cost:
        """A multiplier on a target; on ECP5 the delay takes place and route, and is optional."""
        source = multiplier_source(name, width, target, parameters)
        if target == "osu018":
            return self.gates(source, "-booth" if name == BOOTH else "")
        if target == "generic":
            return self.generic(source)
        slots = self.slots(source, target)
        if target == "ice40" or not place:
            return Cost(slots, None)
        registered = multiplier_source(name, width, target, parameters, registered=True)
        return Cost(slots, self.period(registered))

    def _cached(self, kind: str, source: Source, run: Any) -> dict[str, Any]:
        digest = hashlib.sha256(f"{kind}\n{source.language}\n{source.text}".encode()).hexdigest()
        path = self.folder / f"{digest[:32]}.json"
        if path.exists():
            return json.loads(path.read_text())
        found = run()
        write_whole(path, json.dumps(found) + "\n")
        return found


def _place(source: Source, seed: int) -> float:
    return synthesis.ecp5_frequency(source, seed)


def write_whole(path: Path, text: str) -> None:
    """Write a file through a temporary name, so that it is never seen half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
