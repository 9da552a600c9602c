"""Windows of an evaluation that are done: kept in a file, shared between ranks."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn

from sw.paths import is_writable

COLUMNS: Final = 3
#: Seconds between two writes of the file.
_EVERY: Final = 5.0


class Partial:
    """Rows of three float64 by window; with a file, an interrupted evaluation goes on by it.

    As a context manager it writes the file when an exception, Ctrl-C too, ends the evaluation.

    Parameters
    ----------
    count : int
        Windows.
    path : Path or None
        Each rank writes its own, ``path`` with its number behind; all are read, whatever the
        number of ranks was.
    identity : str
        Of the evaluation: a file of another one is refused.

    Raises
    ------
    ValueError
        If a file is there and is of another evaluation, or broken; if it is a folder, or cannot
        be written.
    """

    def __init__(self, count: int, path: Path | None, identity: str) -> None:
        self._count, self._path, self._identity = count, path, identity
        self._rows: dict[int, list[float]] = {}
        self._known: dict[int, list[float]] = {}
        self._written = time.monotonic()
        if path is not None:
            self._known = self._shared()
            self._check_writable(path)

    @property
    def done(self) -> int:
        """Windows done, as far as this rank knows."""
        return len(self._known) + len(self._rows)

    def has(self, group: Iterable[int]) -> bool:
        """Whether all of these windows were done before."""
        return all(number in self._known for number in group)

    def put(self, group: Sequence[int], rows: Sequence[list[float]]) -> None:
        """Add windows."""
        self._rows.update(zip(group, rows, strict=True))
        if time.monotonic() - self._written > _EVERY:
            self._write()

    def gather(self, device: torch.device) -> torch.Tensor:
        """All rows ``[count, 3]`` float64, on every rank the same."""
        table = torch.zeros(self._count, COLUMNS, dtype=torch.float64)
        for number, row in self._rows.items():
            table[number] = torch.tensor(row, dtype=torch.float64)
        if _is_shared():  # each row is a sum of one rank's and zeros: exact
            table = table.to(device if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(table)
            table = table.cpu()
        for number, row in self._known.items():
            table[number] = torch.tensor(row, dtype=torch.float64)
        return table

    def remove(self) -> None:
        """Remove the files."""
        if self._path is None:
            return
        if _is_shared():
            dist.barrier()
        if not _is_shared() or dist.get_rank() == 0:
            for path in self._files(self._path):
                path.unlink(missing_ok=True)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self._rows:
            self._write()

    def _shared(self) -> dict[int, list[float]]:
        """What the files say, read by the first rank alone."""
        found: list[Any] = [None]
        if not _is_shared() or dist.get_rank() == 0:
            try:
                found = [self._read()]
            except ValueError as error:
                found = [str(error)]
        if _is_shared():
            dist.broadcast_object_list(found)
        if isinstance(found[0], str):
            raise ValueError(found[0])
        rows: dict[int, list[float]] = found[0]
        return rows

    def _read(self) -> dict[int, list[float]]:
        assert self._path is not None
        rows: dict[int, list[float]] = {}
        for path in self._files(self._path):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                same = data["identity"] == self._identity
                found = {int(number): [float(x) for x in row] for number, row in data["rows"]}
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path} must be the state of an evaluation ({type(error).__name__}): remove "
                    "it to start anew"
                ) from None
            if not same:
                raise ValueError(
                    f"{path} must be of the same model, text and windows: remove it to start anew"
                )
            for number, row in found.items():
                if not 0 <= number < self._count or len(row) != COLUMNS:
                    raise ValueError(f"{path} must have rows of 3 by window, not {number}: {row}")
                if not all(map(math.isfinite, row)):
                    raise ValueError(f"{path} must hold finite numbers, not {row}")
                rows[number] = row
        return rows

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._path is None:
            return
        rank = dist.get_rank() if _is_shared() else 0
        path = self._path.with_name(f"{self._path.name}.{rank}")
        # What other ranks did stays in their files, unless fewer ranks go on: then it is here.
        rows = {**self._known, **self._rows}
        data = {"identity": self._identity, "rows": sorted(rows.items())}
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_text(json.dumps(data), encoding="utf-8")
            os.replace(scratch, path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise ValueError(f"{path} must be writable: {error.strerror}") from error

    @staticmethod
    def _check_writable(path: Path) -> None:
        if path.is_dir():
            raise ValueError(f"{path} must be a file, not a folder")
        if not path.parent.is_dir() or not is_writable(path.parent):
            raise ValueError(f"{path} must be in a folder that exists and can be written to")

    @staticmethod
    def _files(path: Path) -> list[Path]:
        found = path.parent.glob(f"{path.name}.*") if path.parent.is_dir() else iter(())
        return sorted(file for file in found if file.name[len(path.name) + 1 :].isdigit())


def identity(
    model: nn.Module,
    reference: Callable[[torch.Tensor], torch.Tensor] | None,
    parts: Sequence[torch.Tensor],
    batch: int,
) -> str:
    """SHA-256 of what an evaluation depends on: models, windows and how they are run."""
    digest = hashlib.sha256(f"batch {batch}".encode())
    for part in parts:
        digest.update(part.numpy().astype("<i8").tobytes())
    for module in (model, reference):
        digest.update(repr(module).encode() if isinstance(module, nn.Module) else b"none")
        if not isinstance(module, nn.Module):
            digest.update(str(module is None).encode())
            continue
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            if isinstance(tensor, torch.Tensor):
                content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(content.numpy().data)
    return digest.hexdigest()


def _is_shared() -> bool:
    return dist.is_available() and dist.is_initialized()
