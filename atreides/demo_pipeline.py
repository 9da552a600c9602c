"""The demo's path from a trained network to words: compile, heal, compare, back end by back end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from atreides import digits
from atreides.demo_plots import Distribution
from atreides.demo_results import CLOCK, Agreement, Row
from atreides.network_estimate import Estimate, picture
from sw.compiler.calibrate import Calibration, calibrate
from sw.compiler.compile import compile_plan, trace_model
from sw.compiler.cost import LayerCost, Link, cost
from sw.compiler.graph import Graph
from sw.compiler.layers import Convolution, Plan, WordsOutput
from sw.compiler.options import CompileOptions
from sw.compiler.place import place
from sw.compiler.traffic import Traffic
from sw.config import MachineConfig
from sw.fake_network import FakeQuantizedNetwork, with_weights
from sw.healing import HealingOptions, heal
from sw.registers import Counter
from sw.runtime.artefact import Artefact
from sw.runtime.check import Mismatch, lockstep
from sw.runtime.checksums import Boundary
from sw.runtime.device import Device
from sw.runtime.host import bind, run_nodes
from sw.runtime.session import Session
from sw.tensor import decode

#: What a stage tells of: work done and how much there is.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A network for one machine, as compiled and with healed weights.

    Parameters
    ----------
    graph : Graph
        Folded, with the weights before rounding.
    calibration : Calibration
    rounded, healed : Artefact
    losses : tuple of float
        One per epoch of healing.
    """

    graph: Graph
    calibration: Calibration
    rounded: Artefact
    healed: Artefact
    losses: tuple[float, ...]

    def single(self, network: torch.nn.Module, images: torch.Tensor) -> Artefact:
        """The healed network for one image at a time, with the same words in its layers."""
        graph = trace_model(network, (images[:1],)).graph
        plan = place(graph, options_of(self.healed.config), self.calibration)
        weights = {
            name: layer.weights
            for name, layer in self.healed.plan.layers.items()
            if isinstance(layer, Convolution)
        }
        return compile_plan(with_weights(plan, weights))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: small tensors gain nothing from more, and sums keep their order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def options_of(config: MachineConfig) -> CompileOptions:
    """How the demo compiles: everything in words, weights rounded with the least squared error."""
    return CompileOptions(config, weight_rule="squared_error", activations="static")


def traced(network: torch.nn.Module, data: digits.Digits, batch: int) -> Graph:
    """The network for a batch of images, folded."""
    return trace_model(network, (data.train_images[:batch],)).graph


def compiled(
    network: torch.nn.Module,
    graph: Graph,
    data: digits.Digits,
    config: MachineConfig,
    epochs: int,
    seed: int,
    progress: Callable[[], None],
) -> Compiled:
    """Place, calibrate on the training images, schedule and heal.

    Parameters
    ----------
    network : torch.nn.Module
        The float network, the teacher of healing.
    graph : Graph
        Of the network, folded.
    data : Digits
    config : MachineConfig
    epochs, seed : int
        Of healing.
    progress : callable
        Called after each epoch.
    """
    options = options_of(config)
    batch = graph.inputs[0].shape[0]
    whole = len(data.train_images) // batch * batch
    batches = [(images,) for images in data.train_images[:whole].split(batch)]
    calibration = calibrate(graph, options, batches)
    plan = place(graph, options, calibration)
    healing = HealingOptions(epochs=epochs, learning_rate=5e-4, distillation=1.0, seed=seed)
    result = heal(
        plan,
        network,
        data.train_images,
        options=healing,
        graph=graph,
        augment=digits.shifted,
        progress=lambda epoch, loss: progress(),
    )
    healed = compile_plan(result.plan, batches[0], source={"network": "atreides demo"})
    return Compiled(graph, calibration, compile_plan(plan), healed, result.losses)


def on_tensors(name: str, artefact: Artefact, data: digits.Digits) -> Row:
    """Logits of the test images by the tensor model."""
    with Session(artefact) as session:
        (logits,) = session.run(data.test_images)
    return Row(name, logits)


def compare(
    label: str, artefact: Artefact, device: str | Device, images: torch.Tensor, progress: Progress
) -> Agreement:
    """Run images on the tensor model and a device at once, all results of layers compared."""
    seen: list[int] = []

    def count(boundary: Boundary) -> None:
        seen.append(boundary.values.numel())

    started = time.perf_counter()
    names = ("tensor model", label)
    difference = ""
    with lockstep(artefact, "tensor", device, names, count, progress) as session:
        try:
            session.run(images)
        except Mismatch as mismatch:
            difference = str(mismatch)
        cycles = sum(tally.counters[Counter.CYCLES] for tally in session.tallies.values())
    seconds = time.perf_counter() - started
    return Agreement(label, len(images), len(seen), sum(seen), cycles, seconds, difference)


def batch_cycles(artefact: Artefact, images: torch.Tensor) -> int:
    """Cycles of the machine for one batch, in whole programs, by the model's counters."""
    with Session(artefact, "model") as session:
        session.run(images[: artefact.plan.graph.inputs[0].shape[0]])
        return sum(tally.counters[Counter.CYCLES] for tally in session.tallies.values())


def layer_costs(artefact: Artefact) -> tuple[LayerCost, ...]:
    """What each layer costs, under its short name."""
    names = layer_names(artefact.plan)
    found = cost(artefact.plan, artefact.schedule)
    return tuple(replace(layer, name=names[layer.name]) for layer in found)


def roofline(layers: tuple[LayerCost, ...], config: MachineConfig) -> bytes:
    """The layers under the roofs of the machine, as SVG."""
    return picture(Estimate("digits", config, Link(CLOCK), layers, Traffic(), 0), "svg")


def layer_names(plan: Plan) -> dict[str, str]:
    """What layers are called: by their modules where these tell them apart."""
    found: dict[str, str] = {}
    for name, layer in plan.layers.items():
        short = layer.source.split(".")[0] or "addition"
        found[name] = short if short not in found.values() else name
    return found


def weight_distributions(compiled: Compiled) -> list[Distribution]:
    """Float weights and healed words of each layer, divided by their scales."""
    plan = compiled.healed.plan
    before = FakeQuantizedNetwork(compiled.rounded.plan, compiled.graph)
    names = layer_names(plan)
    found = []
    convolutions = [layer for layer in plan.layers.values() if isinstance(layer, Convolution)]
    for layer, floats in zip(convolutions, before.weights, strict=True):
        scale = torch.exp2(-layer.weights.exponents.double()).reshape(-1, 1, 1, 1)
        found.append(
            Distribution(
                names[layer.name],
                (floats.detach().double() * scale).flatten().numpy(),
                decode(layer.weights.words, plan.config.format).double().flatten().numpy(),
            )
        )
    return found


def activation_distributions(compiled: Compiled, data: digits.Digits) -> list[Distribution]:
    """What layers leave for a batch of test images: in float32, and as healed words."""
    plan = compiled.healed.plan
    batch = plan.graph.inputs[0].shape[0]
    words: dict[str, torch.Tensor] = {}

    def keep(boundary: Boundary) -> None:
        words[boundary.layer] = boundary.values

    with Session(compiled.healed, observer=keep) as session:
        session.run(data.test_images[:batch])
    values = _float_values(compiled.graph, data.test_images[:batch])
    names = layer_names(plan)
    found = []
    for name, layer in plan.layers.items():
        if isinstance(layer.output, WordsOutput):
            exponent = plan.tensors[layer.output.tensor].exponent
            floats = values[_final(layer.nodes, compiled.graph)]
            scaled = np.ldexp(floats.double().flatten().numpy(), -(exponent or 0))
            rounded = decode(words[name], plan.config.format).double().flatten().numpy()
            found.append(Distribution(names[name], scaled, rounded))
    return found


def _float_values(graph: Graph, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = dict(bind(graph, (images,)))
    run_nodes(graph, [node.name for node in graph.nodes], values)
    return values


def _final(nodes: tuple[str, ...], graph: Graph) -> str:
    """The last of a layer's nodes."""
    return [node.name for node in graph.nodes if node.name in nodes][-1]
