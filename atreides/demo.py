"""``atreides demo``: from a PyTorch model to RTL, every word compared at every joint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from atreides import demo_pipeline, demo_report, digits
from atreides.demo_hardware import HardwareBuild
from atreides.demo_results import Agreement, Results, Row, Training
from atreides.report import Folder
from sim.machine_device import make_device
from sim.machine_job import MachineFailed
from sim.runner import MissingSimulator, SimulationFailed
from sw.compiler.graph import Graph
from sw.config import MachineConfig
from sw.runtime.artefact import Artefact

SEED: Final = 1
#: Images per run of the network.
BATCH: Final = 16
#: Epochs of training and of healing.
EPOCHS: Final = 24
HEALING: Final = 6
#: Test images that there are.
TEST_IMAGES: Final = 359
#: Words of memory that hold the network and a batch, and the parameters of its layers.
MACHINE: Final = MachineConfig(
    bits=8, slots=1024, bias_bits=16, parameters=64, row_parameters=8, max_terms=4096
)
#: Other widths that accuracy is shown for, and the epochs of healing at each.
WIDTHS: Final = (3, 4, 5, 6)
WIDTHS_HEALING: Final = 3
#: Exit status where words differ, or the machine or its simulator fails.
FAILURE: Final = 1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: sizes of everything that takes time."""

    config: MachineConfig
    epochs: int
    healing: int
    images: int
    rtl_images: int
    icarus_images: int
    widths: tuple[int, ...]


def demo(
    bits: Annotated[int, typer.Option(min=3, max=16, help="Width of weights and activations.")] = 8,
    images: Annotated[
        int, typer.Option(min=1, max=TEST_IMAGES, help="Test images on the machine model.")
    ] = TEST_IMAGES,
    rtl_images: Annotated[
        int, typer.Option(min=0, max=TEST_IMAGES, help="On the RTL in Verilator.")
    ] = TEST_IMAGES,
    icarus_images: Annotated[
        int, typer.Option(min=0, max=TEST_IMAGES, help="In Icarus Verilog: a minute for each.")
    ] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="Of training.")] = EPOCHS,
    healing: Annotated[int, typer.Option(min=0, help="Epochs of healing.")] = HEALING,
    widths: Annotated[bool, typer.Option(help="Also try other widths of words.")] = True,
    output: Annotated[Path, typer.Option(help="Folder for what it makes.")] = Path("build/demo"),
) -> None:
    """Train a network on handwritten digits, quantize it to Superfloat, heal it, compile it for an
    8 x 8 array, and run it on the tensor model, on the machine model and on the RTL.

    Writes a report, the compiled network and the machine's Verilog. Exit status 0 if every word of
    every layer agrees everywhere, 1 if not.
    """
    folder = _folder(output)
    others = tuple(b for b in WIDTHS if b != bits) if widths else ()
    config = replace(MACHINE, bits=bits)
    wanted = Wanted(config, epochs, healing, images, rtl_images, icarus_images, others)
    console = Console()
    try:
        results = _run(wanted, folder, console)
        report = folder.write("report.html", demo_report.page(results))
    except OSError as error:
        raise _cannot_write(output, error) from error
    except (MissingSimulator, SimulationFailed, MachineFailed) as error:
        typer.echo(f"atreides: {error}", err=True)
        raise typer.Exit(FAILURE) from error
    demo_report.show(results, console)
    for agreement in results.agreements:
        if agreement.difference:
            console.print(f"[red]{agreement.label}:[/] {agreement.difference}", highlight=False)
    console.print(f"Report: {report}", highlight=False)
    if not results.agrees:
        console.print("[bold red]Words differ.")
        raise typer.Exit(FAILURE)
    console.print("[bold green]Every word agrees.")


def _run(wanted: Wanted, folder: Folder, console: Console) -> Results:
    """All stages, one after the other; Verilator compiles meanwhile."""
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        simulator = wanted.rtl_images > 0
        build = stack.enter_context(HardwareBuild(wanted.config, folder.path, simulator))
        stage = _Stages(stack.enter_context(_progress(console)))
        stack.enter_context(demo_pipeline.one_thread())
        data = digits.load(SEED)
        training = _train(data, wanted.epochs, stage)
        graph, compiled = _compile(training, data, wanted, stage)
        rows = _rows(training, compiled, data, wanted.config)
        widths = _widths(training, graph, data, wanted, stage)
        compiled.healed.save(folder.path / "network")
        agreements = tuple(_agreements(training, compiled, data, wanted, build, stage))
        verilog = tuple((file.name, file.stat().st_size) for file in build.wait())
        layers = demo_pipeline.layer_costs(compiled.healed)
        return Results(
            config=wanted.config,
            data=data,
            seed=SEED,
            batch=BATCH,
            training=training,
            accuracies=rows,
            healing=compiled.losses,
            agreements=agreements,
            layers=layers,
            cycles=demo_pipeline.batch_cycles(compiled.healed, data.test_images),
            weights=demo_pipeline.weight_distributions(compiled),
            activations=demo_pipeline.activation_distributions(compiled, data),
            widths=widths,
            roofline=demo_pipeline.roofline(layers, wanted.config),
            verilog=verilog,
            command=_command(wanted),
            seconds=time.perf_counter() - started,
        )


class _Stages:
    """Steps of the demo, each with a line of progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    @contextlib.contextmanager
    def __call__(self, label: str, total: int | None = None) -> Iterator[_Stage]:
        task = self._progress.add_task(label, total=total)
        yield _Stage(self._progress, task)
        done = self._progress.tasks[task].total or 1
        self._progress.update(task, total=done, completed=done)


@dataclass(frozen=True, slots=True)
class _Stage:
    """One line of progress."""

    progress: Progress
    task: TaskID

    def step(self) -> None:
        self.progress.advance(self.task)

    def steps(self, done: int, total: int) -> None:
        self.progress.update(self.task, total=total, completed=done)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _train(data: digits.Digits, epochs: int, stage: _Stages) -> Training:
    losses: list[float] = []
    accuracies: list[float] = []
    with stage("training in float32, epochs", epochs) as line:

        def note(loss: float, accuracy: float) -> None:
            losses.append(loss)
            accuracies.append(accuracy)
            line.step()

        network = digits.train(data, epochs, SEED, note)
    return Training(network, tuple(losses), tuple(accuracies))


def _compile(
    training: Training, data: digits.Digits, wanted: Wanted, stage: _Stages
) -> tuple[Graph, demo_pipeline.Compiled]:
    with stage("tracing and folding"):
        graph = demo_pipeline.traced(training.network, data, BATCH)
    label = f"compiling for {wanted.config.format} and healing, epochs"
    with stage(label, wanted.healing) as line:
        made = demo_pipeline.compiled(
            training.network, graph, data, wanted.config, wanted.healing, SEED, line.step
        )
    return graph, made


def _rows(
    training: Training,
    compiled: demo_pipeline.Compiled,
    data: digits.Digits,
    config: MachineConfig,
) -> tuple[Row, ...]:
    """The network in float32, rounded, and healed, on all test images."""
    return (
        Row("float32", digits.predict(training.network, data.test_images)),
        demo_pipeline.on_tensors(f"{config.format}, rounded", compiled.rounded, data),
        demo_pipeline.on_tensors(f"{config.format}, healed", compiled.healed, data),
    )


def _widths(
    training: Training, graph: Graph, data: digits.Digits, wanted: Wanted, stage: _Stages
) -> dict[int, tuple[float, float]]:
    """Accuracy at other widths, rounded and healed, on the tensor model."""
    found: dict[int, tuple[float, float]] = {}
    if not wanted.widths:
        return found
    with stage("healing at other widths, epochs", len(wanted.widths) * WIDTHS_HEALING) as line:
        for bits in wanted.widths:
            config = replace(wanted.config, bits=bits)
            made = demo_pipeline.compiled(
                training.network, graph, data, config, WIDTHS_HEALING, SEED, line.step
            )
            rows = (
                demo_pipeline.on_tensors(name, artefact, data)
                for name, artefact in (("rounded", made.rounded), ("healed", made.healed))
            )
            rounded, healed = (row.accuracy(data) for row in rows)
            found[bits] = rounded, healed
    return found


def _agreements(
    training: Training,
    compiled: demo_pipeline.Compiled,
    data: digits.Digits,
    wanted: Wanted,
    build: HardwareBuild,
    stage: _Stages,
) -> Iterator[Agreement]:
    """Every back end against the tensor model."""
    yield _agreement("machine model", compiled.healed, "model", data, wanted.images, stage)
    with stage("emitting and compiling the RTL"):
        build.wait()
        if wanted.rtl_images:
            make_device(wanted.config, "verilator").close()
    if wanted.rtl_images:
        label = "RTL in Verilator"
        yield _agreement(label, compiled.healed, "verilator", data, wanted.rtl_images, stage)
    if wanted.icarus_images:
        single = compiled.single(training.network, data.test_images)
        yield _agreement("RTL in Icarus", single, "icarus", data, wanted.icarus_images, stage)


def _agreement(
    label: str,
    artefact: Artefact,
    back_end: str,
    data: digits.Digits,
    images: int,
    stage: _Stages,
) -> Agreement:
    with (
        stage(f"{label}, {images} images, steps") as line,
        contextlib.closing(make_device(artefact.config, back_end)) as device,
    ):
        return demo_pipeline.compare(label, artefact, device, data.test_images[:images], line.steps)


def _command(wanted: Wanted) -> str:
    """The command that gives the same again."""
    given = {
        "--bits": (wanted.config.bits, MACHINE.bits),
        "--images": (wanted.images, TEST_IMAGES),
        "--rtl-images": (wanted.rtl_images, TEST_IMAGES),
        "--icarus-images": (wanted.icarus_images, 0),
        "--epochs": (wanted.epochs, EPOCHS),
        "--healing": (wanted.healing, HEALING),
    }
    words = [f"{name} {value}" for name, (value, usual) in given.items() if value != usual]
    words += [] if wanted.widths else ["--no-widths"]
    return " ".join([".venv/bin/atreides demo", *words]) if words else "make demo"


def _folder(path: Path) -> Folder:
    """The folder of outputs, else the mistake is the user's."""
    try:
        return Folder(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> typer.BadParameter:
    reason = error.strerror or str(error)
    return typer.BadParameter(
        f"output must be a folder that can be written to, not {str(path)!r} ({reason})"
    )
