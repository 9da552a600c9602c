"""What a network takes on a machine: compiled in memory, timed, drawn; nothing is run."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sw.compiler.calibrate import calibrated_values
from sw.compiler.compile import trace_model
from sw.compiler.cost import cost
from sw.compiler.graph import Graph
from sw.compiler.layer_cost import Kind, LayerCost, Link, total
from sw.compiler.layers import Plan
from sw.compiler.options import CompileOptions
from sw.compiler.place import place
from sw.compiler.schedule import Schedule
from sw.compiler.scheduler import schedule
from sw.compiler.traffic import Traffic, setup_traffic
from sw.config import MachineConfig
from sw.importers import load

if TYPE_CHECKING:
    from atreides.plots import Dot


#: Kinds whose every channel has sums of its own: most of the array works on zeros.
SPARSE: Final = (Kind.DEPTHWISE, Kind.AVERAGE)


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network for one machine.

    Parameters
    ----------
    name : str
    plan : Plan
    schedule : Schedule
    """

    name: str
    plan: Plan
    schedule: Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What a network takes.

    Parameters
    ----------
    name : str
    config : MachineConfig
    link : Link
    layers : tuple of LayerCost
    setup : Traffic
        Once, before the first inference.
    host_macs : int
        Of products that the host keeps.
    """

    name: str
    config: MachineConfig
    link: Link
    layers: tuple[LayerCost, ...]
    setup: Traffic
    host_macs: int

    @classmethod
    def of(cls, network: Network, link: Link) -> Estimate:
        """The estimate of a network."""
        plan = network.plan
        layers = tuple(cost(plan, network.schedule, link))
        host = sum(p.macs for p in plan.placements if not p.on_array)
        setup = setup_traffic(network.schedule)
        return cls(network.name, plan.config, link, layers, setup, host)

    @property
    def total(self) -> LayerCost:
        """All layers as one."""
        return total(self.layers)

    @property
    def dense(self) -> LayerCost:
        """All layers but depthwise ones and pooling, which no such array can fill."""
        return total([layer for layer in self.layers if layer.kind not in SPARSE])

    @property
    def seconds(self) -> float:
        """Of one inference, without the host's own operations."""
        return self.total.time / self.link.clock_hz

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": self.name,
            "machine": asdict(self.config),
            "link": asdict(self.link),
            "layers": [layer_dict(layer) for layer in self.layers],
            "total": layer_dict(self.total),
            "without_depthwise": layer_dict(self.dense),
            "setup": asdict(self.setup),
            "host_macs": self.host_macs,
            "seconds": self.seconds,
            "inferences_per_second": 1 / self.seconds if self.seconds else None,
        }


def layer_dict(layer: LayerCost) -> dict[str, Any]:
    """All that is known of a layer's cost."""
    found = {
        name: getattr(layer, name)
        for name in (
            *("name", "kind", "macs", "cycles", "host_cycles", "time", "utilisation", "issued"),
            *("bound", "bound_cycles", "distance", "words"),
        )
    }
    return {
        **found,
        "reason": layer.reason(),
        "bounds": layer.bounds,
        "losses": layer.losses(),
        **asdict(layer.section),
        "traffic": asdict(layer.traffic),
    }


def prepare(model: str, config: MachineConfig) -> Network:
    """A network placed and scheduled for a machine, as ``compile`` does it but for calibration.

    All exponents of activations are 0: they change no cycle.

    Raises
    ------
    ValueError
        If it cannot be read, traced, placed or scheduled.
    """
    name, graph = _graph(model)
    options = CompileOptions(config)
    exponents = dict.fromkeys(calibrated_values(graph, options), 0)
    plan = place(graph, replace(options, exponents=exponents))
    return Network(name, plan, schedule(plan))


@functools.lru_cache(maxsize=1)
def _graph(model: str) -> tuple[str, Graph]:
    """A network's name and its folded graph; a sweep reads it once."""
    loaded = load(model)
    return loaded.name, trace_model(loaded.module, loaded.example_inputs).graph


def picture(found: Estimate, format: str) -> bytes:
    """The roofline of a network."""
    from atreides.plots import roofline

    config, clock = found.config, found.link.clock_hz
    title = f"{found.name} on {config.rows} x {config.columns}, {config.format}"
    title += f", {clock / 1e6:g} MHz"
    slices = (config.rows + config.columns) * config.bits / 8 * clock
    peak = config.rows * config.columns * clock
    return roofline(title, _dots(found), peak, {"slices of operands": slices}, format)


def _dots(found: Estimate) -> list[Dot]:
    from atreides.plots import Dot

    bits, clock = found.config.bits, found.link.clock_hz
    # Each word of operands and result counts once, however often it is read.
    return [
        Dot(
            layer.name,
            layer.kind,
            8 * layer.macs / (bits * layer.words),
            layer.macs / max(1, layer.cycles) * clock,
            layer.cycles,
        )
        for layer in found.layers
        if layer.macs
    ]
