"""The cost of the array's cell: alone, without its drain, and as one of an array's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from bench.hardware_units import ECP5_MAX_TERMS, Cost, Measurements
from hw.array import SystolicArray
from hw.cell import Cell
from hw.synthesis import Source, component_source
from sw.format import MAX_TERMS, SFx

#: Side of the array in which a cell is counted too.
_SIDE: Final = 4


class _Undrained(wiring.Component):
    """A cell whose accumulator is its output, to count the drain by what is then gone."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        members = dict(cell.signature.members)
        members["bus"] = Out(members["bus"].shape)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cell = cell = self.cell
        for name, member in self.signature.members.items():
            inner = cell.accumulator if name == "bus" else getattr(cell, name)
            outer = getattr(self, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        return m


def _cell(format: SFx, target: str, max_terms: int, drained: bool) -> Source:
    cell = Cell(format, max_terms, target=target)
    return component_source(cell if drained else _Undrained(cell))


def array_cells(
    measurements: Measurements, target: str, bits: int, place: bool
) -> Iterator[tuple[str, Cost]]:
    """Label and cost of each form of the cell, on the targets that cells are measured for.

    Each with and without unity, with the sums of K_max = 256 and 65536. Without a drain, the
    accumulator is the output. In an array, everything counts: its share of the bus too.
    """
    for unity in (False, True) if target in ("ecp5", "osu018") else ():
        format = SFx(bits, unity)
        for max_terms in (ECP5_MAX_TERMS, MAX_TERMS):
            label = f"array cell {format}, {format.accumulator_bits(max_terms)}-bit sum"
            whole, bare = (_cell(format, target, max_terms, drained) for drained in (True, False))
            if target == "osu018":
                yield label, measurements.gates(whole, clocked=True)
                yield f"{label}, no drain", measurements.gates(bare, clocked=True)
                continue
            period = measurements.period(whole) if place else None
            yield label, Cost(measurements.slots(whole, target), period)
            yield f"{label}, no drain", Cost(measurements.slots(bare, target), None)
            array = SystolicArray(format, _SIDE, _SIDE, max_terms, target=target)
            slots = measurements.slots(component_source(array), target)
            yield f"{label}, each of {_SIDE} x {_SIDE}", Cost(slots / _SIDE**2, None)
