"""A layer on a machine: its cycles, where every one of them goes, and what it cannot be below.

Its places for products (one per cell and cycle) are the products that the operation needs, or lost
to one of the causes of :class:`Loss`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from sw.compiler.program_cost import ProgramCost, SectionCost
from sw.compiler.traffic import Traffic

#: Within this share of its bound a layer needs no explanation.
_NEAR = 0.02


class Kind(StrEnum):
    """What a layer computes."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    GROUPED = "grouped convolution"
    DEPTHWISE = "depthwise convolution"
    MATMUL = "matmul"
    ADD = "addition"
    AVERAGE = "average pooling"


class Loss(StrEnum):
    """Why a place for a product stays empty, or a cycle passes without a slice."""

    REDUNDANT = "products with zeros that the layout needs"
    IDLE_ROWS = "ragged tiles of rows"
    IDLE_COLUMNS = "ragged tiles of columns"
    FILL = "first fill of each GEMM"
    WAITING = "operands that come late: runs shorter than lanes"
    SHORT_SUMS = "sums shorter than the array has rows"
    RESULTS = "no room on the result stream"
    DRAIN = "last drain of each GEMM"
    LOADING = "lanes loaded one after the other"
    DRAINING = "sums drained one after the other"
    CONTROL = "instructions"
    CLEARING = "zeros around images"
    HOST = "transfers over the host link"


class Bound(StrEnum):
    """What no schedule can be faster than."""

    COMPUTE = "compute"
    A = "operand A"
    B = "operand B"
    OUTPUT = "results"
    HOST = "host link"


@dataclass(frozen=True, slots=True)
class Link:
    """How fast the machine runs and the host talks to it.

    Parameters
    ----------
    clock_hz : float
    bytes_per_s : float or None
        Both ways together; None: transfers take no time.
    """

    clock_hz: float = 50e6
    bytes_per_s: float | None = None

    def cycles(self, traffic: Traffic) -> int:
        """Cycles that traffic takes, rounded up."""
        if self.bytes_per_s is None:
            return 0
        return -int(-traffic.bytes * self.clock_hz // self.bytes_per_s)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """A layer on one machine.

    Parameters
    ----------
    name : str
    kind : Kind
    macs : int
        Multiplications that the operation needs.
    cells : int
        Of the array.
    words : int
        Distinct words of operands and result.
    section : SectionCost
        Counters of the machine, and more.
    traffic : Traffic
        Over the host link, per inference.
    bounds : dict of Bound to int
        Cycles.
    host_cycles : int
        That the traffic takes; nothing else happens meanwhile.
    """

    name: str
    kind: Kind
    macs: int
    cells: int
    words: int
    section: SectionCost
    traffic: Traffic
    bounds: dict[Bound, int]
    host_cycles: int = 0

    @property
    def program(self) -> ProgramCost:
        """Counters of all its sections."""
        return self.section.total

    @property
    def cycles(self) -> int:
        """Counter CYCLES of its sections."""
        return self.program.cycles

    @property
    def time(self) -> int:
        """Cycles with transfers."""
        return self.cycles + self.host_cycles

    @property
    def utilisation(self) -> float:
        """Needed multiplications in the places for products in CYCLES."""
        return self.macs / max(1, self.cells * self.cycles)

    @property
    def issued(self) -> float:
        """Share of these places that the counter MACS fills."""
        return self.program.macs / max(1, self.cells * self.cycles)

    @property
    def needed(self) -> float:
        """Needed multiplications but for those that were skipped."""
        work = self.section.work
        return self.macs * work.macs / max(1, work.possible_macs)

    @property
    def bound(self) -> Bound:
        """What bounds the layer."""
        return max(self.bounds, key=self.bounds.__getitem__)

    @property
    def bound_cycles(self) -> int:
        """The least time of any schedule."""
        return self.bounds[self.bound]

    @property
    def distance(self) -> float:
        """How far the time is above the bound, as a share of the bound."""
        return self.time / max(1, self.bound_cycles) - 1

    def losses(self) -> dict[Loss, float]:
        """Cycles lost to each cause; with ``needed / cells`` they add to the time."""
        work = self.section.work
        return {
            Loss.REDUNDANT: (work.macs - self.needed) / self.cells,
            Loss.IDLE_ROWS: work.idle_rows / self.cells,
            Loss.IDLE_COLUMNS: work.idle_columns / self.cells,
            Loss.FILL: work.fill,
            Loss.WAITING: work.stall_a + work.stall_b - work.fill,
            Loss.SHORT_SUMS: work.stall_drain,
            Loss.RESULTS: work.stall_results,
            Loss.DRAIN: work.drain,
            Loss.LOADING: work.loading,
            Loss.DRAINING: work.draining,
            Loss.CONTROL: work.cycles - work.timed_cycles,
            Loss.CLEARING: self.section.clearing.cycles,
            Loss.HOST: self.host_cycles,
        }

    def excess(self) -> dict[Loss, float]:
        """The losses but for what the bound itself takes, largest first; they add to the rest."""
        left = self.losses()
        inherent = self.bound_cycles - self.needed / self.cells
        first = (Loss.HOST,) if self.bound == Bound.HOST else ()
        for loss in (*first, Loss.IDLE_ROWS, Loss.IDLE_COLUMNS, Loss.REDUNDANT, *Loss):
            taken = min(left[loss], max(0.0, inherent))
            left[loss] -= taken
            inherent -= taken
        return dict(sorted(left.items(), key=lambda item: -item[1]))

    def reason(self) -> str:
        """Why it is not at its bound, in words: the largest causes and their shares of the time."""
        if self.distance <= _NEAR:
            return "at its bound"
        found = [(loss, share / self.time) for loss, share in self.excess().items()]
        named = [f"{self._phrase(loss)} {share:.0%}" for loss, share in found[:3] if share >= _NEAR]
        return ", ".join(named) or "many small causes"

    def _phrase(self, loss: Loss) -> str:
        if loss == Loss.REDUNDANT:
            return _REDUNDANT.get(self.kind, loss.value)
        return loss.value


_REDUNDANT = {
    Kind.DEPTHWISE: "depthwise: products of a channel with the others' zeros",
    Kind.GROUPED: "groups: products with the other groups' zeros",
    Kind.ADD: "addition: products with the identity",
    Kind.AVERAGE: "pooling: products of a channel with the others' zeros",
}


def total(layers: Sequence[LayerCost], name: str = "total") -> LayerCost:
    """Layers as one: what they take together, bounds added layer by layer."""
    bounds = dict.fromkeys(Bound, 0)
    for layer in layers:
        bounds[layer.bound] += layer.bound_cycles
    return LayerCost(
        name,
        layers[0].kind if layers else Kind.LINEAR,
        sum(layer.macs for layer in layers),
        layers[0].cells if layers else 1,
        sum(layer.words for layer in layers),
        sum((layer.section for layer in layers), SectionCost()),
        sum((layer.traffic for layer in layers), Traffic()),
        bounds,
        sum(layer.host_cycles for layer in layers),
    )
