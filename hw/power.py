"""Power of a netlist of standard cells whose nets are known to toggle so often.

``hw.gate_costs`` has what each cell takes per toggle, ``sim.activity`` records the toggles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hw.gate_costs import Cost, gate_costs
from hw.gate_netlist import CLOCK, GateNetlist


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in a netlist over some cycles.

    Parameters
    ----------
    cycles : int
        At least 1.
    toggles : mapping of str to int
        Changes of each net, by the names of the netlist: inputs and what cells drive.
    outputs : mapping of str to tuple of int
        The value of each output port at the end of each cycle, unsigned.
    """

    cycles: int
    toggles: Mapping[str, int]
    outputs: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if self.cycles < 1:
            raise ValueError(f"cycles must be at least 1, not {self.cycles!r}")

    def rate(self, net: str) -> float:
        """Toggles per cycle; a constant never toggles."""
        return self.toggles.get(net, 0) / self.cycles

    def total(self, netlist: GateNetlist) -> float:
        """Toggles per cycle of all that cells drive."""
        return sum(map(self.rate, netlist.nets))


@dataclass(frozen=True, slots=True)
class Power:
    """Power in milliwatts, without wires, the clock's tree and the drivers of the inputs.

    Parameters
    ----------
    internal : float
        Inside of cells as their pins toggle, the clock's pins left out.
    clock : float
        Inside of registers as their clock toggles.
    switching : float
        The pins that cells drive.
    leakage : float
    """

    internal: float
    clock: float
    switching: float
    leakage: float

    @property
    def total(self) -> float:
        """Milliwatts."""
        return self.internal + self.clock + self.switching + self.leakage


def power(
    netlist: GateNetlist,
    activity: Activity,
    clock: float,
    costs: Mapping[str, Cost] | None = None,
) -> Power:
    """The power of a netlist.

    Parameters
    ----------
    netlist : GateNetlist
        With the library that its cells are of.
    activity : Activity
        From ``sim.activity.record``.
    clock : float
        Nanoseconds of a cycle.
    costs : mapping of str to Cost, optional
        Of ``hw.gate_costs.gate_costs``, for several activities of one netlist.

    Raises
    ------
    ValueError
        If the clock is not positive.
    SynthesisError
        If OpenSTA is missing or fails.
    """
    if not clock > 0:
        raise ValueError(f"clock must be a positive number of nanoseconds, not {clock!r}")
    costs = gate_costs(netlist) if costs is None else costs
    internal = clocked = switching = leakage = 0.0
    for gate in netlist.gates:
        cost = costs[gate.name]
        outputs = _mean(activity, gate.outputs)
        inputs = _mean(activity, {p: n for p, n in gate.inputs.items() if n != CLOCK})
        internal += cost.output * outputs + cost.input * inputs
        switching += cost.switching * outputs
        clocked += cost.clock
        leakage += cost.leakage
    # picojoules per cycle by nanoseconds are milliwatts
    return Power(internal / clock, clocked / clock, switching / clock, leakage)


def _mean(activity: Activity, pins: Mapping[str, str]) -> float:
    return sum(map(activity.rate, pins.values())) / len(pins) if pins else 0.0
