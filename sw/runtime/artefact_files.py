"""The parts of an artefact's directory: tensors, plans and schedules as data, directories whole."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sw.compiler.graph import Graph
from sw.compiler.layers import ArrayTensor, Convolution, Layer, Placement, Plan, Step
from sw.compiler.layout import Panels, pack_weights
from sw.compiler.schedule import (
    Command,
    Drain,
    Place,
    ReadWords,
    Run,
    Schedule,
    Section,
    WriteColumns,
    WriteWords,
)
from sw.config import MachineConfig
from sw.format import SFx
from sw.runtime.artefact_checks import DamagedArtefact
from sw.runtime.records import DamagedRecord, from_plain, to_plain
from sw.tensor import pack, unpack, word_dtype

#: Paths of tensors that hold words, which are stored without gaps.
_WORDS: Final = ".weights.words"
#: Widths whose words have no gaps as they are.
_WHOLE: Final = (8, 16)
#: Of renameat2 in Linux: swap two directories in one step.
_EXCHANGE: Final = 2
_HERE: Final = -100


class TensorWriter:
    """Collects tensors under the paths where they were found; equal storage is kept once."""

    def __init__(self, format: SFx) -> None:
        self._format = format
        self._tensors: dict[str, torch.Tensor] = {}
        self._known: dict[tuple[object, ...], str] = {}

    def keep(self, path: str, tensor: torch.Tensor) -> dict[str, Any]:
        """Put a tensor away; plain data that names it."""
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in self._known:
            name = self._known[key]
        else:
            name = path
            while name in self._tensors:
                name += "'"
            self._tensors[name] = self._packed(path, tensor)
            self._known[key] = name
        return {"tensor": name, "shape": list(tensor.shape)}

    def _packed(self, path: str, tensor: torch.Tensor) -> torch.Tensor:
        if path.endswith(_WORDS) and self._format.bits not in _WHOLE:
            packed: torch.Tensor = pack(tensor, self._format)
            return packed
        return tensor.contiguous() if tensor.numel() else torch.zeros(0, dtype=tensor.dtype)

    def write(self, path: Path) -> None:
        """Write the file; OSError if that fails."""
        starts = [t.data_ptr() for t in self._tensors.values() if t.numel()]
        tensors = dict(self._tensors)
        if len(set(starts)) < len(starts):  # views of one storage: the library refuses them
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        try:
            save_file(tensors, path)
        except SafetensorError as error:
            raise OSError(str(error).rpartition("I/O error: ")[2]) from None
        path.chmod(0o666 & ~_mask())  # as any other file: the library makes it private


class TensorReader:
    """Tensors of an artefact, mapped from their file."""

    def __init__(self, path: Path, format: SFx) -> None:
        self._format = format
        try:
            with safe_open(path, framework="pt") as file:
                self._tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except SafetensorError as error:
            raise DamagedArtefact(f"{path.name}: {error}") from None

    def stored(self, name: str) -> torch.Tensor:
        """A tensor as it lies in the file."""
        if name not in self._tensors:
            raise DamagedArtefact(f"tensor {name} must be there")
        tensor: torch.Tensor = self._tensors[name]
        return tensor

    def read(self, path: str, data: Any) -> torch.Tensor:
        """The tensor that plain data names: the inverse of :meth:`TensorWriter.keep`."""
        if not isinstance(data, dict) or set(data) != {"tensor", "shape"}:
            raise DamagedRecord(f"{path} must be a tensor, not {data!r}"[:200])
        tensor, shape = self.stored(data["tensor"]), data["shape"]
        sizes = isinstance(shape, list) and all(type(s) is int and s >= 0 for s in shape)
        if not sizes:
            raise DamagedRecord(f"{path} must have a shape, not {shape!r}"[:200])
        if path.endswith(_WORDS):
            if self._format.bits not in _WHOLE:
                tensor = unpack(tensor, self._format, prod(shape))
            if tensor.dtype != word_dtype(self._format):
                raise DamagedRecord(f"{path} must hold words, not {tensor.dtype}")
        if tensor.numel() != prod(shape):
            raise DamagedRecord(f"{path} must have the shape {shape}, not {list(tensor.shape)}")
        return tensor.reshape(shape)


class Constants(Mapping[str, NDArray[Any]]):
    """Sources of writes: those that are stored, and weights laid out when they are first needed.

    Parameters
    ----------
    stored : dict of str to array
    derived : dict of str to Convolution
    columns : int
        Of the array.
    """

    def __init__(
        self, stored: dict[str, NDArray[Any]], derived: dict[str, Convolution], columns: int
    ) -> None:
        self._stored, self._derived, self._columns = stored, derived, columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._stored:
            self._stored[name] = packed_weights(self._derived[name], self._columns)
        return self._stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._derived, **self._stored})

    def __len__(self) -> int:
        return len({**self._derived, **self._stored})

    def __contains__(self, name: object) -> bool:
        return name in self._stored or name in self._derived

    def size(self, name: str) -> int:
        """Words of a source, without laying it out."""
        if name in self._stored:
            return int(self._stored[name].size)
        return Panels.of(self._derived[name].weights, self._columns).total


def packed_weights(layer: Convolution, columns: int) -> NDArray[Any]:
    """A layer's weights as the scheduler lays them out."""
    return pack_weights(layer.weights, Panels.of(layer.weights, columns))


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """A plan and a schedule as plain data and text, their tensors put away.

    Parameters
    ----------
    network, schedule : plain data
    program : str
        One word per line.
    """

    network: dict[str, Any]
    schedule: dict[str, Any]
    program: str

    @classmethod
    def of(cls, plan: Plan, schedule: Schedule, tensors: TensorWriter) -> PlanFiles:
        """The files of a plan and its schedule."""
        parts = ("graph", "tensors", "layers", "steps", "placements")
        network = {name: to_plain(getattr(plan, name), tensors.keep, name) for name in parts}
        words: list[int] = []

        def commands(found: tuple[Command, ...], path: str) -> list[Any]:
            out = []
            for index, command in enumerate(found):
                data = to_plain(
                    replace(command, words=()) if isinstance(command, Run) else command,
                    tensors.keep,
                    f"{path}.{index}",
                )
                if isinstance(command, Run):
                    data["words"] = [len(words), len(command.words)]
                    words.extend(command.words)
                out.append(data)
            return out

        return cls(
            network,
            {
                "setup": commands(schedule.setup, "setup"),
                "steps": [commands(c, f"steps.{i}") for i, c in enumerate(schedule.steps)],
                "places": to_plain(schedule.places, tensors.keep, "places"),
                "constants": {
                    name: _constant(name, value, plan, tensors)
                    for name, value in schedule.constants.items()
                },
            },
            "".join(f"{word:04x}\n" for word in words),
        )


def _constant(
    name: str, value: NDArray[Any], plan: Plan, tensors: TensorWriter
) -> dict[str, Any] | None:
    """None for what follows from a layer's weights, which are stored already."""
    layer = plan.layers.get(name.removeprefix("weights."))
    if name.startswith("weights.") and isinstance(layer, Convolution):
        derived = packed_weights(layer, plan.config.columns)
        if np.array_equal(derived, value):
            return None
    return tensors.keep(f"constants.{name}", torch.from_numpy(np.ascontiguousarray(value)))


def read_plan(data: Any, config: MachineConfig, tensors: TensorReader) -> Plan:
    """The plan of :class:`PlanFiles`."""
    kinds: dict[str, Any] = {
        "graph": Graph,
        "tensors": Mapping[str, ArrayTensor],
        "layers": Mapping[str, Layer],
        "steps": tuple[Step, ...],
        "placements": tuple[Placement, ...],
    }
    if not isinstance(data, dict) or set(data) != set(kinds):
        raise DamagedRecord(f"network must have {', '.join(kinds)}")
    parts = {name: from_plain(kind, data[name], tensors.read, name) for name, kind in kinds.items()}
    return Plan(config=config, **parts)


def read_schedule(data: Any, program: str, plan: Plan, tensors: TensorReader) -> Schedule:
    """The schedule of :class:`PlanFiles`."""
    words = np.frombuffer(bytes.fromhex(program), ">u2").tolist()

    def command(found: Any, path: str) -> Command:
        if not isinstance(found, dict) or found.get("is") != "Run":
            kind = WriteWords | WriteColumns | ReadWords | Drain
            return from_plain(kind, found, tensors.read, path)  # type: ignore[no-any-return]
        start, count = from_plain(tuple[int, int], found.get("words"), tensors.read, path)
        if not 0 <= start <= start + count <= len(words):
            raise DamagedRecord(f"{path} must have words of the program")
        sections = from_plain(
            tuple[Section, ...], found.get("sections"), tensors.read, f"{path}.sections"
        )
        return Run(tuple(words[start : start + count]), sections)

    def commands(found: Any, path: str) -> tuple[Command, ...]:
        if not isinstance(found, list):
            raise DamagedRecord(f"{path} must be commands")
        return tuple(command(part, f"{path}.{i}") for i, part in enumerate(found))

    if not isinstance(data, dict) or set(data) != {"setup", "steps", "places", "constants"}:
        raise DamagedRecord("schedule must have setup, steps, places, constants")
    stored, derived = {}, {}
    for name, value in data["constants"].items():
        layer = plan.layers.get(name.removeprefix("weights."))
        if value is None and isinstance(layer, Convolution):
            derived[name] = layer
        else:
            stored[name] = tensors.read(f"constants.{name}", value).numpy()
    return Schedule(
        config=plan.config,
        setup=commands(data["setup"], "setup"),
        steps=tuple(commands(part, f"steps.{i}") for i, part in enumerate(data["steps"])),
        places=from_plain(Mapping[str, Place], data["places"], tensors.read, "places"),
        constants=Constants(stored, derived, plan.config.columns),
    )


@contextmanager
def scratch_directory(target: Path) -> Iterator[Path]:
    """A directory beside a target, gone afterwards unless it was renamed."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        os.chmod(scratch, 0o777 & ~_mask())
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def replace_directory(scratch: Path, target: Path) -> None:
    """Put a finished directory where the target is to be, which is there whole at any time."""
    for path in (*sorted(scratch.iterdir()), scratch):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if target.exists():
        _exchange(scratch, target)
    else:
        os.rename(scratch, target)


def _exchange(scratch: Path, target: Path) -> None:
    """Swap two directories: in one step where the system can, else in two renames."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(scratch), os.fsencode(target)
    if rename is not None and rename(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0:
        return
    aside = scratch.with_name(f"{scratch.name}.old")
    os.rename(target, aside)
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(aside, target)
        raise
    with suppress(OSError):
        shutil.rmtree(aside)
