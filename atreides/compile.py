"""``atreides compile``: from a model to a directory that ``atreides run`` takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from atreides.machine_files import FileMistake, load_array
from atreides.machine_options import machine_command
from sw.compiler.calibrate import Calibration, is_calibration_needed
from sw.compiler.compile import (
    DEFAULT_MACHINE,
    STAGES,
    Samples,
    Stage,
    Traced,
    compile_traced,
    trace_model,
)
from sw.compiler.compile import compile as compile_network
from sw.compiler.options import ACTIVATION_MODES, CompileOptions
from sw.compiler.report import host_parts
from sw.config import MachineConfig
from sw.datasets import DatasetError
from sw.importers import Loaded
from sw.importers import load as load_model
from sw.importers.named import NAMED, WINDOW
from sw.runtime.artefact import Artefact, check_target
from sw.runtime.session import checked_inputs, in_batches
from sw.wasq.checkpoint import load as load_checkpoint
from sw.wasq.described import describe, is_checkpoint

#: Calibration samples that are taken of a model that brings its own, and of a large one.
SAMPLES, FEW_SAMPLES = 64, 2
#: Parameters from which on a model is large: then a sample takes seconds.
LARGE: Final = 10_000_000
#: Largest file of exponents, in bytes.
_MAX_JSON: Final = 1 << 26


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for besides the machine: see ``atreides compile --help``."""

    calibrate: tuple[Path, ...]
    samples: int | None
    activations: str
    exponents: Path | None
    batch: int | None
    weight_bits: int | None
    host_only: tuple[str, ...]


@machine_command(DEFAULT_MACHINE)
def compile(
    config: MachineConfig,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="FILE.onnx, .tflite or .gguf, path/model.py:factory, a name, or a checkpoint.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where the artefact goes.")
    ],
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="X.npy",
            help="Samples to find exponents with, a file per input; the model's own if left.",
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"How many of the model's own samples; {SAMPLES}, of a large one {FEW_SAMPLES}.",
        ),
    ] = None,
    activations: Annotated[
        str, typer.Option(help=f"Exponents of activations: {', '.join(ACTIVATION_MODES)}.")
    ] = "auto",
    exponents: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Given exponents by name; they override."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Samples of one inference.")
    ] = None,
    weights_bits: Annotated[
        int | None, typer.Option(metavar="N", help="Round weights to fewer bits than a word has.")
    ] = None,
    host_only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A node or module to keep on the host in float; again for more."
        ),
    ] = None,
) -> None:
    """Compile a network for a machine: programs, packed weights, checksums, a report.

    `atreides compile resnet8 -o build/resnet8` takes a network that the project knows;

    `atreides compile net.onnx -o net --calibrate x.npy --batch 4 --rows 16 --columns 16` a file;

    `atreides compile my/model.py:build -o net --bits 16` what a function of yours returns: a
    module and a tuple of its example inputs.

    Names are lenet, resnet8, autoencoder, mobilenet-vww, ds-cnn, stories260k and smollm2-135m,
    whose files are looked for in the folder that ATREIDES_DATA names.

    Then `atreides run net --input x.npy --output y.npy`. Exit status 2 for a mistake of yours.
    """
    started = time.monotonic()
    wishes = Wishes(
        tuple(calibrate or ()),
        samples,
        activations,
        exponents,
        batch,
        weights_bits,
        tuple(host_only or ()),
    )
    try:
        check_target(output)
        options = compile_options(wishes)
        with progress_of_stages() as stage:
            stage("load")
            artefact = compile_model(model, config, wishes, options, stage)
            stage("write")
            artefact.save(output)
    except (FileMistake, TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    show(model, artefact, Console())
    size = sum(path.stat().st_size for path in output.iterdir())
    seconds = time.monotonic() - started
    told = f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
    Console().print(f"{output}: {told} in {seconds:.1f} s", highlight=False)


def compile_model(
    model: str, config: MachineConfig, wishes: Wishes, options: CompileOptions, stage: Stage
) -> Artefact:
    """Load, trace and compile a model by its name or file, or a quantized model's checkpoint."""
    if is_checkpoint(model):
        return compile_checkpoint(Path(model), config, wishes, stage)
    loaded = load_model(model, wishes.batch)
    traced = trace_model(loaded.module, _in_batch(loaded.example_inputs, wishes.batch), stage)
    needed = is_calibration_needed(traced.graph, options)
    try:
        chunks, origin = calibration_samples(loaded, traced, wishes)
    except DatasetError:  # a network that needs no samples needs no data set for them
        if needed:
            raise
        chunks = []
    if not needed:
        origin = "each input, as the host encodes it"
    calibration: Calibration | Samples | None = chunks or None
    given = None if wishes.exponents is None else _read_exponents(wishes.exponents)
    if isinstance(given, Calibration):
        calibration = given
    return compile_traced(
        traced,
        config,
        calibration=calibration,
        example=chunks[0] if chunks else None,
        source={"name": loaded.name, "sha256": loaded.source_hash, "calibration": origin},
        options=options,
        stage=stage,
    )


def compile_checkpoint(
    directory: Path, config: MachineConfig, wishes: Wishes, stage: Stage
) -> Artefact:
    """Compile a quantized model as it was evaluated: there is nothing left to choose."""
    given = (
        ("--calibrate", wishes.calibrate),
        ("--samples", wishes.samples),
        ("--exponents", wishes.exponents),
        ("--weights-bits", wishes.weight_bits),
        ("--host-only", wishes.host_only),
    )
    for name, value in given:
        if value:
            raise FileMistake(f"{name} must be left out for a quantized model: it says how")
    told = describe(directory)
    network = load_checkpoint(directory)
    spec = str(told.source.get("model"))
    if spec in NAMED:
        example = load_model(spec, wishes.batch).example_inputs
    else:
        example = (torch.zeros(1, WINDOW, dtype=torch.int64),)
    return compile_network(
        network,
        _in_batch(example, wishes.batch),
        config,
        source={
            "name": str(told.source.get("name", spec)),
            "sha256": told.sha256,
            "calibration": "each input, as the host encodes it",
        },
        stage=stage,
    )


def compile_options(wishes: Wishes) -> CompileOptions:
    """Rules of the compilation; files that they name are read and checked."""
    given = {} if wishes.exponents is None else _read_exponents(wishes.exponents)
    return CompileOptions(
        machine=MachineConfig(bits=16),
        weight_bits=wishes.weight_bits,
        activations=wishes.activations,  # type: ignore[arg-type]
        exponents={} if isinstance(given, Calibration) else given,
        host_only=frozenset(wishes.host_only),
    )


def calibration_samples(
    loaded: Loaded, traced: Traced, wishes: Wishes
) -> tuple[list[list[torch.Tensor]], str]:
    """Inputs in batches to calibrate with, and where they are from."""
    if wishes.calibrate:
        arrays = [load_array(path) for path in wishes.calibrate]
        values, count = checked_inputs(traced.graph, arrays)
        chunks = [values] if count is None else in_batches(traced.graph, values)
        return chunks, "files given"
    if loaded.calibration is None:
        return [], "the example inputs alone"
    size = sum(parameter.numel() for parameter in loaded.module.parameters())
    few = FEW_SAMPLES if size >= LARGE else SAMPLES
    found = loaded.calibration(wishes.samples or few)
    joined = [torch.cat(parts) for parts in zip(*found, strict=True)]
    values, count = checked_inputs(traced.graph, joined)
    chunks = [values] if count is None else in_batches(traced.graph, values)
    return chunks, f"{len(found)} samples of the model's own"


def show(name: str, artefact: Artefact, console: Console) -> None:
    """What runs on the array and what it takes, then what stays on the host and why."""
    config, report = artefact.config, artefact.report
    title = f"{name} on {config.rows} x {config.columns}, {config.format}"
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    for column in ("MACs", "cycles", "busy", "kB in", "kB out"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("gives", no_wrap=True)
    for row in report["layers"]:
        table.add_row(row["name"], *_figures(row), row["results"])
    table.add_section()
    table.add_row("all", *_figures(report["total"]), "")
    console.print(table)
    host = Table(title="On the host, in float32")
    for column in ("operation", "times", "why"):
        host.add_column(column, justify="right" if column == "times" else "left")
    for operation, reason, count in host_parts(report):
        host.add_row(operation, str(count), reason)
    if host.row_count:
        console.print(host)
    origin = report["source"].get("calibration")
    console.print(f"exponents of activations: from {origin}", highlight=False)


def _figures(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['macs']:,}",
        f"{row['cycles']:,}",
        f"{row['utilisation']:.1%}",
        f"{row['bytes_in'] / 1e3:,.1f}",
        f"{row['bytes_out'] / 1e3:,.1f}",
    ]


def _in_batch(inputs: Sequence[Any], batch: int | None) -> tuple[Any, ...]:
    """Example inputs of one sample, repeated."""
    tensors = [value for value in inputs if isinstance(value, torch.Tensor)]
    if batch is None or all(value.shape[:1] == (batch,) for value in tensors):
        return tuple(inputs)
    if any(value.shape[:1] != (1,) for value in tensors):
        raise FileMistake("batch must be left out: the model's inputs are not of one sample")
    return tuple(
        value.repeat(batch, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else value
        for value in inputs
    )


def _read_exponents(path: Path) -> dict[str, int] | Calibration:
    """Exponents by name, or a whole calibration, from JSON."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise FileMistake(f"{path} must have at most {_MAX_JSON} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileMistake:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON"
        raise FileMistake(f"{path} must be a readable JSON file: {reason}") from error
    if not isinstance(data, dict):
        raise FileMistake(f"{path} must hold exponents by name, not {type(data).__name__}")
    try:
        return Calibration.from_json(data) if "maxima" in data else data
    except (TypeError, ValueError) as error:
        raise FileMistake(f"{path}: {error}") from error


@contextmanager
def progress_of_stages() -> Iterator[Stage]:
    """A bar over the stages, on the terminal's standard error."""
    stages = ("load", *STAGES, "write")
    columns = (SpinnerColumn(), TextColumn("{task.description:10}"), BarColumn())
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not shown
    ) as progress:
        task = progress.add_task("load", total=len(stages))

        def stage(name: str) -> None:
            progress.update(task, description=name, completed=stages.index(name))

        yield stage
