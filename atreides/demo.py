"""``atreides demo``: from a PyTorch model to RTL, every word compared at every joint."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from atreides import digits
from hw.emit import emit
from hw.neuron import Neuron
from sim.lanes import layout_of
from sim.plan import Plan, VectorLane
from sim.runner import compare
from sim.scoreboard import Scoreboard
from sw import tensor
from sw.format import SFx

SEED = 1
#: Epochs of training the float network and of healing the quantized one.
TRAINING, HEALING = 40, 15
#: Neurons side by side in the simulated RTL, one number per layer.
LANES = (16, 10)
#: The longest dot product of the network.
MAX_TERMS = 64

Result = TypeVar("Result")


@dataclass(frozen=True)
class Trained:
    """What training leaves: the data, one accuracy and two quantized networks."""

    data: digits.Digits
    float_accuracy: float
    vanilla: list[digits.Layer]
    healed: list[digits.Layer]


@dataclass(frozen=True)
class Agreement:
    """One execution compared with the integer model."""

    label: str
    images: int
    words: int
    differing: int
    seconds: float


def demo(
    bits: Annotated[int, typer.Option(min=3, max=16, help="Width of weights and activations.")] = 8,
    images: Annotated[
        int, typer.Option(min=0, help="Test images to run on the RTL in Verilator, of 359.")
    ] = 359,
    icarus_images: Annotated[
        int, typer.Option(min=0, help="Test images to run on the RTL in Icarus Verilog.")
    ] = 10,
    output: Annotated[Path, typer.Option(help="Folder for the Verilog.")] = Path("build/demo"),
) -> None:
    """Train a network on handwritten digits, quantize it to Superfloat, heal it, and run it on the
    integer model, on tensors and on the RTL in two simulators.

    Exit status 0 if every word agrees everywhere, 1 if not.
    """
    verilog = _Folder(output)
    console = Console()
    format = SFx(bits)
    columns = TextColumn("{task.description:<40}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        stage = _Stages(progress)
        trained = _train(format, stage)
        words = tensor.encode(trained.data.test_images.numpy(), format)
        rows, healed_logits = _compare(
            trained.healed, words, format, (images, icarus_images), stage
        )
        files, _ = stage("emitting Verilog", _write_verilog, format, verilog)
    vanilla_logits = digits.run_on_tensors(trained.vanilla, words, format)[-1]
    labels = trained.data.test_labels.numpy()
    accuracy = Table(title=f"Accuracy on {len(labels)} test images", title_justify="left")
    accuracy.add_column("network")
    accuracy.add_column("correct", justify="right")
    accuracy.add_row("float32", f"{trained.float_accuracy:.2%}")
    for name, logits in (("vanilla", vanilla_logits), ("healed", healed_logits)):
        correct = float(np.mean(_values(logits).argmax(axis=1) == labels))
        accuracy.add_row(f"{format} weights and activations, {name}", f"{correct:.2%}")
    console.print(accuracy)
    console.print(_agreement_table(rows))
    console.print(f"Verilog: {', '.join(map(str, files))}")
    if any(row.differing for row in rows):
        console.print("[bold red]Words differ.")
        raise typer.Exit(1)
    console.print("[bold green]Every word agrees.")


class _Stages:
    """Runs the steps of the demo one after the other, each with a line of progress."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __call__(
        self, label: str, function: Callable[..., Result], *arguments: object
    ) -> tuple[Result, float]:
        task = self.progress.add_task(label, total=None)
        started = time.perf_counter()
        result = function(*arguments)
        self.progress.update(task, total=1, completed=1)
        return result, time.perf_counter() - started

    def counter(self, label: str, total: int) -> Callable[[], None]:
        """A function to call once per unit of work."""
        task = self.progress.add_task(label, total=total)
        return lambda: self.progress.advance(task)


def _train(format: SFx, stage: _Stages) -> Trained:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    data = digits.load(SEED)
    model = digits.network()
    progress = stage.counter("training in float32", TRAINING)
    digits.fit(model, model, data, TRAINING, 2e-3, generator, progress)
    with torch.no_grad():
        predictions = model(data.test_images).argmax(dim=1)
    float_accuracy = float((predictions == data.test_labels).double().mean())
    quantized = digits.Quantized(model, format, data.train_images)
    vanilla = quantized.layers()
    progress = stage.counter(f"healing at {format}", HEALING)
    digits.fit(quantized.forward, model, data, HEALING, 5e-4, generator, progress)
    return Trained(data, float_accuracy, vanilla, quantized.layers())


def _compare(
    layers: list[digits.Layer],
    words: np.ndarray,
    format: SFx,
    rtl_images: tuple[int, int],
    stage: _Stages,
) -> tuple[list[Agreement], np.ndarray]:
    """Every execution against the integer model, and the logits' words, (images, classes)."""
    want, slow = stage("integer model", digits.run_on_integers, layers, words, format)
    total = sum(result.size for result in want)
    rows = [Agreement("integer model", len(words), total, 0, slow)]
    got, seconds = stage("tensor model", digits.run_on_tensors, layers, words, format)
    differing = sum(int(np.sum(g != w)) for g, w in zip(got, want, strict=True))
    rows.append(Agreement("tensor model", len(words), total, differing, seconds))
    for simulator, limit in zip(("verilator", "icarus"), rtl_images, strict=True):
        count = min(limit, len(words))
        if count:
            values = [words[:count], *(result[:count] for result in want)]
            title = f"RTL in {simulator}, {count} images"
            board, seconds = stage(
                title,
                _run_on_rtl,
                layers,
                values,
                format,
                simulator,
            )
            label = f"RTL in {simulator} ({board.cycles:,} cycles)"
            drained = sum(value.size for value in values[1:])
            rows.append(Agreement(label, count, drained, len(board.mismatches), seconds))
    return rows, got[-1]


def _run_on_rtl(
    layers: list[digits.Layer], values: list[np.ndarray], format: SFx, simulator: str
) -> Scoreboard:
    """Drive images, layer by layer, through rows of neurons, and compare each drained word.

    ``values`` holds the words that enter the first layer and those that leave each one.
    """
    components, lanes = [], []
    for number, layer in enumerate(layers):
        for lane in range(LANES[number]):
            neuron = Neuron(format, MAX_TERMS, layer.output, digits.BIAS_FORMAT)
            inputs, expected, mask = _steps(layer, values[number], values[number + 1], lane, number)
            layout = layout_of(neuron)
            components.append(neuron)
            lanes.append(
                VectorLane(
                    f"layer {number} lane {lane}",
                    layout,
                    [layout.pack_inputs(ports) for ports in inputs],
                    [layout.pack_outputs({"o": word}) for word in expected],
                    [layout.pack_outputs({"o": bits}) for bits in mask],
                )
            )
    return compare(components, Plan(tuple(lanes), clocked=True, seed=SEED), simulator)


def _steps(
    layer: digits.Layer, entering: np.ndarray, leaving: np.ndarray, lane: int, number: int
) -> tuple[list[dict[str, int]], list[int], list[int]]:
    """One lane's ports, expected words and masks: its neurons in turn, then the next image."""
    terms, outputs = layer.weights.shape
    width = LANES[number]
    inputs, expected, mask = [], [], []
    for image, results in zip(entering.tolist(), leaving.tolist(), strict=True):
        for neuron in range(lane, outputs, width):
            weights = layer.weights[:, neuron].tolist()
            inputs += [
                {"a": a, "b": b, "first": k == 0, "valid": 1}
                for k, (a, b) in enumerate(zip(image, weights, strict=True))
            ]
            inputs.append(
                {
                    "column_shift": int(layer.column_shift[neuron]),
                    "bias": int(layer.bias[neuron]),
                    "select": layer.activation == "relu",
                }
            )
            expected += [0] * terms + [results[neuron]]
            mask += [0] * terms + [(1 << layer.output.bits) - 1]
    return inputs, expected, mask


def _values(words: np.ndarray) -> np.ndarray:
    return tensor.decode(words, digits.LOGIT_FORMAT)


def _agreement_table(rows: list[Agreement]) -> Table:
    table = Table(title="The same words everywhere", title_justify="left")
    table.add_column("executed on")
    for name in ("images", "words", "differing", "seconds", "images/s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.label,
            f"{row.images}",
            f"{row.words:,}",
            f"{row.differing}",
            f"{row.seconds:.2f}",
            f"{row.images / row.seconds:,.1f}",
        )
    return table


class _Folder:
    """A folder that is there and can be written to, else the mistake is the user's."""

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise typer.BadParameter(
                f"output must be a folder that can be written to, not {str(path)!r}"
                f" ({error.strerror})"
            ) from None
        self.path = path

    def write(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        target = self.path / name
        with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False) as stream:
            stream.write(text)
        os.replace(stream.name, target)
        return target


def _write_verilog(format: SFx, folder: _Folder) -> list[Path]:
    """The neurons of both layers as Verilog."""
    return [
        folder.write(f"{name}.v", emit(Neuron(format, MAX_TERMS, output, digits.BIAS_FORMAT), name))
        for name, output in (("hidden_neuron", format), ("output_neuron", digits.LOGIT_FORMAT))
    ]
