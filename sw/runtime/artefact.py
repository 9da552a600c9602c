"""A compiled network: in memory, and as a directory that appears whole or not at all.

=======================  ==========================================================================
``manifest.json``        format, tool, machine, inputs, outputs, SHA-256 of the other files and of
                         itself, checksums of the example's layers
``network.json``         graph, tensors, layers, steps, placements
``schedule.json``        commands with addresses, sections of the programs
``program.hex``          the programs' words, one after the other
``tensors.safetensors``  weights packed to x bits per word, exponents, biases, host constants,
                         the example's inputs
``report.json, .txt``    what runs where and why
=======================  ==========================================================================

Equal networks give equal bytes: no times, no paths, no hash order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

from sw.compiler.layers import Plan
from sw.compiler.schedule import Schedule
from sw.config import MachineConfig
from sw.paths import is_writable
from sw.runtime.artefact_checks import (
    DamagedArtefact,
    check_graph,
    check_plan,
    check_schedule,
)
from sw.runtime.artefact_files import (
    PlanFiles,
    TensorReader,
    TensorWriter,
    read_plan,
    read_schedule,
    replace_directory,
    scratch_directory,
)
from sw.runtime.records import DamagedRecord

#: Counts changes of the files' layout and of what they mean.
FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
NETWORK: Final = "network.json"
SCHEDULE: Final = "schedule.json"
PROGRAM: Final = "program.hex"
TENSORS: Final = "tensors.safetensors"
REPORT: Final = "report.json"
TEXT: Final = "report.txt"
FILES: Final = (NETWORK, SCHEDULE, PROGRAM, TENSORS, REPORT, TEXT)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Inputs with what every layer must leave for them.

    Parameters
    ----------
    inputs : tuple of torch.Tensor
    layers : mapping of str to int
        Checksum per layer, see :func:`sw.runtime.checksums.checksum`.
    outputs : tuple of int
        Checksum per output.
    """

    inputs: tuple[torch.Tensor, ...]
    layers: Mapping[str, int]
    outputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Artefact:
    """A compiled network.

    Parameters
    ----------
    plan : Plan
    schedule : Schedule
    example : Example or None
    report : mapping of str to plain data
        What runs where and why, for people and scripts.
    text : str
        The same as text.
    """

    plan: Plan
    schedule: Schedule
    example: Example | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def config(self) -> MachineConfig:
        """The machine that it was made for."""
        return self.plan.config

    def save(self, directory: Path | str) -> None:
        """Write it to a directory; see :func:`save`."""
        save(Path(directory), self)


def save(directory: Path, artefact: Artefact) -> None:
    """Write an artefact, whole or not at all.

    An artefact that is there already is replaced; anything else is left alone.

    Raises
    ------
    ValueError
        If something else is at this place, or it cannot be written: one sentence.
    """
    check_target(directory)
    try:
        with scratch_directory(directory) as scratch:
            _write_files(scratch, artefact)
            replace_directory(scratch, directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{directory} must be a place that can be written: {reason}") from None


def check_target(directory: Path) -> None:
    """See that an artefact can be put where it is to be, before any work; ValueError if not."""
    if directory.exists() and not (directory / MANIFEST).is_file():
        empty = directory.is_dir() and not any(directory.iterdir())
        if not empty:
            raise ValueError(f"{directory} must be an artefact or not there yet")
    parent = directory.absolute().parent
    if not parent.is_dir() or not is_writable(parent):
        raise ValueError(f"{directory} must be in a folder that exists and can be written to")


def load(directory: Path | str) -> Artefact:
    """Read an artefact and check all of it.

    Raises
    ------
    ValueError
        If it is missing, damaged, or of another format: one sentence.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    try:
        for name in FILES:
            _check_hash(directory / name, manifest["files"][name])
        config = MachineConfig(**manifest["machine"])
        tensors = TensorReader(directory / TENSORS, config.format)
        network = json.loads((directory / NETWORK).read_text(encoding="utf-8"))
        plan = read_plan(network, config, tensors)
        check_graph(plan.graph)
        check_plan(plan)
        commands = json.loads((directory / SCHEDULE).read_text(encoding="utf-8"))
        program = (directory / PROGRAM).read_text(encoding="ascii")
        schedule = read_schedule(commands, program, plan, tensors)
        check_schedule(schedule, plan)
        example = _read_example(manifest["example"], plan, tensors)
        report = json.loads((directory / REPORT).read_text(encoding="utf-8"))
        text = (directory / TEXT).read_text(encoding="utf-8")
    except (DamagedArtefact, DamagedRecord) as error:
        raise DamagedArtefact(f"{directory} must be an undamaged artefact: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise DamagedArtefact(f"{directory} must be a readable artefact: {reason}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        words = " ".join(str(error).split())[:200]
        raise DamagedArtefact(f"{directory} must be an undamaged artefact: {words}") from None
    return Artefact(plan, schedule, example, report, text)


def is_artefact(path: Path) -> bool:
    """Whether a path is a directory, as an artefact is."""
    return path.is_dir()


def _write_files(scratch: Path, artefact: Artefact) -> None:
    tensors = TensorWriter(artefact.config.format)
    files = PlanFiles.of(artefact.plan, artefact.schedule, tensors)
    _write(scratch / NETWORK, _compact(files.network))
    _write(scratch / SCHEDULE, _compact(files.schedule))
    _write(scratch / PROGRAM, files.program)
    example = artefact.example
    for index, value in enumerate(example.inputs if example else ()):
        tensors.keep(f"example.{index}", value)
    tensors.write(scratch / TENSORS)
    _write(scratch / REPORT, json.dumps(artefact.report, indent=1) + "\n")
    _write(scratch / TEXT, artefact.text)
    graph = artefact.plan.graph
    manifest = {
        "format": FORMAT,
        "tool": tool(),
        "machine": asdict(artefact.config),
        "inputs": [[i.name, list(i.shape), str(i.dtype)] for i in graph.inputs],
        "outputs": list(graph.outputs),
        "example": None
        if example is None
        else {"layers": dict(example.layers), "outputs": list(example.outputs)},
        "files": {name: _described(scratch / name) for name in FILES},
    }
    manifest["sha256"] = _manifest_hash(manifest)
    _write(scratch / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def tool() -> str:
    """The name and version of what writes artefacts."""
    try:
        return f"atreides {version('atreides')}"
    except PackageNotFoundError:
        return "atreides"


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not directory.is_dir() or not path.is_file():
        raise DamagedArtefact(f"{directory} must be an artefact: a directory with {MANIFEST}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise DamagedArtefact(f"{path} must be a readable manifest") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise DamagedArtefact(f"{path} must be the manifest of an artefact")
    if manifest["format"] != FORMAT:
        maker = str(manifest.get("tool"))[:40]
        raise DamagedArtefact(
            f"{directory} must be an artefact of format {FORMAT}, not {manifest['format']} "
            f"(made by {maker}): compile the model again"
        )
    if manifest.pop("sha256", None) != _manifest_hash(manifest):
        raise DamagedArtefact(f"{path} must have the SHA-256 that it says: it was changed")
    return manifest


def _manifest_hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _described(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _check_hash(path: Path, described: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise DamagedArtefact(f"{path.name} must be there")
    if _described(path) != described:
        raise DamagedArtefact(f"{path.name} must have the SHA-256 of the manifest")


def _read_example(
    described: Mapping[str, Any] | None, plan: Plan, tensors: TensorReader
) -> Example | None:
    if described is None:
        return None
    inputs = tuple(tensors.stored(f"example.{i}") for i in range(len(plan.graph.inputs)))
    for spec, value in zip(plan.graph.inputs, inputs, strict=True):
        if (tuple(value.shape), value.dtype) != (spec.shape, spec.dtype):
            raise DamagedArtefact(f"example of {spec.name} must be {spec.dtype} {spec.shape}")
    layers = {str(name): int(value) for name, value in described["layers"].items()}
    return Example(inputs, layers, tuple(int(value) for value in described["outputs"]))


def _write(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _compact(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"
