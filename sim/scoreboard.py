"""What was compared, what differed, and a message that lets the difference be found again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sim.layout import Field, Layout

#: Mismatches kept per lane; the lane is not compared any further.
KEPT = 3


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference, everything as text.

    Parameters
    ----------
    lane : int
        Number of the lane.
    label : str
        Unit and parameters.
    step : int
        Step, cycle or token.
    inputs, got, want : str
        Ports and values.
    """

    lane: int
    label: str
    step: int
    inputs: str
    got: str
    want: str


@dataclass
class Scoreboard:
    """The outcome of one run.

    Parameters
    ----------
    simulator : str
    seed : int
    compared : int
        Lane outputs compared.
    cycles : int
        Steps that the run took.
    mismatches : list of Mismatch
        At most :data:`KEPT` per lane.
    """

    simulator: str
    seed: int
    compared: int = 0
    cycles: int = 0
    mismatches: list[Mismatch] = field(default_factory=list)

    def record(self, lane: int, label: str, step: int, inputs: str, got: str, want: str) -> bool:
        """Note a difference; True once the lane has as many as are kept."""
        self.mismatches.append(Mismatch(lane, label, step, inputs, got, want))
        return sum(m.lane == lane for m in self.mismatches) >= KEPT

    @property
    def failed_lanes(self) -> frozenset[int]:
        """Numbers of the lanes that differed."""
        return frozenset(m.lane for m in self.mismatches)

    def report(self) -> str:
        """One line per difference, with everything needed to repeat it."""
        return "\n".join(
            f"{m.label}: step {m.step} under {self.simulator}, seed {self.seed}: "
            f"inputs {m.inputs}: got {m.got}, want {m.want}"
            for m in self.mismatches
        )

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Scoreboard:
        """Read what :meth:`save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        mismatches = [Mismatch(**m) for m in data.pop("mismatches")]
        return cls(**data, mismatches=mismatches)


def show_inputs(layout: Layout, lane: int) -> str:
    """The input ports of a lane with their values."""
    return _show(layout.inputs, lane, 0)


def show_outputs(layout: Layout, lane: int, unknown: int = 0) -> str:
    """The output ports of a lane with their values, in binary where bits are unknown."""
    return _show(layout.outputs, lane, unknown)


def _show(fields: Sequence[Field], lane: int, unknown: int) -> str:
    parts = []
    for f in fields:
        bits, missing = f.extract(lane), f.extract(unknown)
        if missing:
            digits = ("x" if missing >> n & 1 else str(bits >> n & 1) for n in range(f.width))
            parts.append(f"{f.name}={f.width}'b{''.join(digits)[::-1]}")
        else:
            parts.append(f"{f.name}={bits:#x}")
    return " ".join(parts)
