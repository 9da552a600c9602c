"""A known network compiled, run on the machine model and on RTL, and held to the tensor model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import torch

from atreides.compile import SAMPLES
from sim.machine_device import make_device
from sw import datasets
from sw.compiler.calibrate import Calibration, calibrate
from sw.compiler.compile import DEFAULT_MACHINE, compile_traced, trace_model
from sw.compiler.cost import Kind, LayerCost, cost, total
from sw.compiler.options import CompileOptions
from sw.config import MachineConfig
from sw.importers import Loaded, load
from sw.models import lenet
from sw.registers import Counter
from sw.runtime.artefact import Artefact
from sw.runtime.check import lockstep
from sw.runtime.checksums import Boundary
from sw.runtime.device import Device
from sw.runtime.session import Session, in_batches

#: Of the machine, in cycles per second.
CLOCK: Final = 50e6
#: Layers that an array of this kind cannot fill: each channel is a product of its own.
SPARSE: Final = (Kind.DEPTHWISE, Kind.AVERAGE)
#: Of the images that a network without a data set gets.
SEED: Final = 0

Image = torch.Tensor
#: Told of work done and how much there is.
Told = Callable[[int, int], None]
#: Shows a stage by its name while it lasts.
Stage = Callable[[str], Any]


@dataclass(frozen=True)
class Network:
    """A network and how it is run.

    Parameters
    ----------
    name : str
        Of ``sw.importers.named``.
    batch, slots : int
        Images of one inference on the machine model, and tiles that its memory has.
    rtl_batch, rtl_images : int
        Images of one inference on RTL, on the default machine, and of all.
    data : callable, optional
        Gives images as the network takes them, and their classes.
    made : (float, float)
        Without data: the least and the largest value of uniform noise, a batch of it.
    """

    name: str
    batch: int
    slots: int
    rtl_batch: int
    rtl_images: int
    data: Callable[[], tuple[Image, torch.Tensor]] | None = None
    made: tuple[float, float] = (0.0, 1.0)

    def inputs(self, loaded: Loaded) -> tuple[Image, torch.Tensor | None]:
        """All images, and classes where they are known."""
        if self.data is not None:
            return self.data()
        (example,) = loaded.example_inputs
        generator = torch.Generator().manual_seed(SEED)
        low, high = self.made
        noise = torch.rand(self.batch, *example.shape[1:], generator=generator)
        return low + (high - low) * noise, None


def _cifar() -> tuple[Image, torch.Tensor]:
    data = datasets.cifar10()
    return data.images.float(), data.labels


def _mnist() -> tuple[Image, torch.Tensor]:
    data = datasets.mnist("test")
    return lenet.prepare(data.images), data.labels


NETWORKS: Final = (
    Network("resnet8", 8, 16384, 2, 20, _cifar),
    Network("lenet", 100, 32768, 10, 200, _mnist),
    Network("autoencoder", 16, 16384, 8, 8, made=(-60.0, 20.0)),
    Network("mobilenet-vww", 4, 32768, 1, 1),
    Network("ds-cnn", 8, 16384, 1, 1, made=(-60.0, 60.0)),
)
NAMES: Final = tuple(network.name for network in NETWORKS)


@dataclass(frozen=True)
class Wanted:
    """How much is done: all images and the network's count on RTL if omitted."""

    bits: int = DEFAULT_MACHINE.bits
    images: int | None = None
    rtl_images: int | None = None


@dataclass(frozen=True)
class Agreement:
    """A device that went in lockstep with the tensor model.

    Parameters
    ----------
    images : int
    results, words : int
        Layers' results compared, and words or exact sums in them.
    seconds, cpu_seconds : float
        Of both together; the second without a simulator, which is a process of its own.
    outputs : torch.Tensor
    """

    images: int
    results: int
    words: int
    seconds: float
    cpu_seconds: float
    outputs: torch.Tensor = field(repr=False)


class Differs(RuntimeError):
    """What must be equal is not; the message says where."""


@dataclass(frozen=True)
class Prepared:
    """A network with its images and exponents.

    Parameters
    ----------
    network : Network
    loaded : Loaded
    bits : int
    images : torch.Tensor
    classes : torch.Tensor, optional
    calibration : Calibration
        The same for every batch and machine.
    """

    network: Network
    loaded: Loaded
    bits: int
    images: Image
    classes: torch.Tensor | None
    calibration: Calibration

    def artefact(self, machine: MachineConfig, batch: int) -> Artefact:
        """Compiled for a machine of its width and a number of images at once."""
        traced = trace_model(self.loaded.module, (_repeated(self.loaded, batch),))
        config = replace(machine, bits=self.bits)
        return compile_traced(traced, config, calibration=self.calibration)

    def correct(self, outputs: torch.Tensor) -> float | None:
        """Share of images whose class has the largest output."""
        if self.classes is None:
            return None
        wanted = self.classes[: len(outputs)]
        return int((outputs.argmax(1) == wanted).sum()) / len(wanted)


def prepare(network: Network, bits: int = DEFAULT_MACHINE.bits, samples: int = SAMPLES) -> Prepared:
    """Load a network and its images, and find exponents as ``atreides compile`` does."""
    loaded = load(network.name)
    images, classes = network.inputs(loaded)
    graph = trace_model(loaded.module, (_repeated(loaded, network.batch),)).graph
    given = images
    if loaded.calibration is not None:
        given = torch.cat([sample for (sample,) in loaded.calibration(samples)])
    options = CompileOptions(replace(DEFAULT_MACHINE, bits=bits))
    calibration = calibrate(graph, options, in_batches(graph, [given]))
    return Prepared(network, loaded, bits, images, classes, calibration)


def _repeated(loaded: Loaded, batch: int) -> Image:
    (example,) = loaded.example_inputs
    return example.repeat(batch, *[1] * (example.dim() - 1))


def float_outputs(module: torch.nn.Module, images: Image) -> torch.Tensor:
    """Outputs of the network as it was, in float32."""
    with torch.no_grad():
        return torch.cat([module(image) for image in images.split(1)])


def compare(
    artefact: Artefact, device: str | Device, label: str, images: Image, told: Told | None = None
) -> Agreement:
    """Run images on the tensor model and on a device, and compare what every layer leaves.

    Raises
    ------
    Mismatch
        At the first word that differs.
    """
    seen: list[int] = []

    def keep(boundary: Boundary) -> None:
        seen.append(boundary.values.numel())

    started, cpu = time.perf_counter(), time.process_time()
    names = ("tensor model", label)
    with lockstep(artefact, "tensor", device, names, keep, told) as session:
        outputs = session.run(images)[0]
    taken = time.perf_counter() - started, time.process_time() - cpu
    return Agreement(len(images), len(seen), sum(seen), *taken, outputs)


def whole_programs(
    artefact: Artefact, device: str | Device, images: Image
) -> tuple[int, torch.Tensor]:
    """Cycles and outputs of one inference in as few programs as it has."""
    batch = artefact.plan.graph.inputs[0].shape[0]
    with Session(artefact, device) as session:
        outputs = session.run(images[:batch])[0]
        cycles = sum(tally.counters[Counter.CYCLES] for tally in session.tallies.values())
    return cycles, outputs


def account(artefact: Artefact, cycles: int) -> dict[str, Any]:
    """What one image takes; the compiler's account must have the cycles that were counted."""
    layers = cost(artefact.plan, artefact.schedule)
    everything = total(layers)
    if everything.cycles != cycles:
        raise Differs(f"cycles must be {everything.cycles} by the compiler, not {cycles}")
    dense = [layer for layer in layers if layer.kind not in SPARSE]
    batch = artefact.plan.graph.inputs[0].shape[0]
    return {
        "machine": asdict(artefact.config),
        "batch": batch,
        "macs_per_image": everything.macs // batch,
        "cycles_per_image": cycles / batch,
        "utilisation": everything.utilisation,
        "utilisation_without_sparse": total(dense).utilisation,
        "sparse_cycles": sum(layer.cycles for layer in layers if layer.kind in SPARSE) / cycles,
        "images_per_second": CLOCK * batch / cycles,
        "layers": [_layer(layer) for layer in layers],
    }


def _layer(layer: LayerCost) -> dict[str, Any]:
    names = ("name", "kind", "macs", "cycles", "utilisation", "bound", "distance")
    return {name: getattr(layer, name) for name in names}


def on_model(prepared: Prepared, images: int | None, told: Told | None = None) -> dict[str, Any]:
    """All images on the machine model, many at once.

    Raises
    ------
    Mismatch, Differs
        If a word or a cycle is not what it must be.
    """
    network, started = prepared.network, time.perf_counter()
    large = replace(DEFAULT_MACHINE, slots=network.slots)
    artefact = prepared.artefact(large, network.batch)
    compiled = time.perf_counter() - started
    given = prepared.images[:images]
    found = compare(artefact, "model", "machine model", given, told)
    cycles, outputs = whole_programs(artefact, "model", given)
    return {
        **_compared(found, outputs),
        "compile_seconds": compiled,
        "accuracy": prepared.correct(found.outputs),
        **account(artefact, cycles),
    }


def on_rtl(prepared: Prepared, images: int, told: Told | None = None) -> dict[str, Any]:
    """Images on the RTL of the default machine in Verilator; errors as of :func:`on_model`."""
    artefact = prepared.artefact(DEFAULT_MACHINE, prepared.network.rtl_batch)
    given = prepared.images[:images]
    started = time.perf_counter()
    device = make_device(artefact.config, "verilator")
    built = time.perf_counter() - started
    found = compare(artefact, device, "RTL", given, told)
    again = make_device(artefact.config, "verilator")
    cycles, outputs = whole_programs(artefact, again, given)
    return {**_compared(found, outputs), "build_seconds": built, **account(artefact, cycles)}


def _compared(found: Agreement, whole: torch.Tensor) -> dict[str, Any]:
    """Figures of a comparison; whole programs must give the same outputs."""
    same = min(len(whole), found.images)
    if not torch.equal(whole[:same], found.outputs[:same]):
        raise Differs("outputs of whole programs must be those of the layers one by one")
    names = ("images", "results", "words", "seconds", "cpu_seconds")
    return {name: getattr(found, name) for name in names}


def measure(network: Network, wanted: Wanted, stage: Stage) -> dict[str, Any]:
    """Everything about one network.

    Raises
    ------
    Mismatch, Differs
        If a word or a cycle is not what it must be.
    ValueError
        If the data sets are missing.
    """
    started = time.perf_counter()
    if network.name == "lenet":
        with stage("training lenet") as told:
            lenet.trained(progress=told)
    with stage(f"exponents of {network.name}"):
        prepared = prepare(network, wanted.bits)
    given = prepared.images[: wanted.images]
    before = None
    if prepared.classes is not None:
        with stage(f"{network.name} in float32"):
            before = prepared.correct(float_outputs(prepared.loaded.module, given))
    with stage(f"{network.name} on the machine model") as told:
        model = on_model(prepared, wanted.images, told)
    rtl_images = network.rtl_images if wanted.rtl_images is None else wanted.rtl_images
    with stage(f"{network.name} on RTL") as told:
        rtl = on_rtl(prepared, rtl_images, told)
    return {
        "name": network.name,
        "float_accuracy": before,
        "model": model,
        "rtl": rtl,
        "seconds": time.perf_counter() - started,
    }
