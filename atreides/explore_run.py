"""Runs an exploration's points, here or on a cluster, and keeps each result as it comes."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from atreides.explore_figures import Evaluate, Figures, Work
from atreides.explore_points import Point
from atreides.mistakes import FileMistake

#: Seconds to wait for a scheduler.
PATIENCE: Final = "5s"
MISSING: Final = "dask must be installed for more than one job: pip install 'atreides[explore]'"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a point: figures, or why there are none."""

    point: Point
    figures: Figures | None
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        config = asdict(self.point.config)
        figures = self.figures and {**asdict(self.figures), "ms": self.figures.milliseconds}
        return {
            **{"board": self.point.board, "config": config},
            **{"figures": figures, "failure": self.failure},
        }


class Notes:
    """Results by key, a JSON line each, added as they come.

    Parameters
    ----------
    path : Path
        Read if it is there; a line that was cut short is passed over.

    Raises
    ------
    FileMistake
        If the file cannot be read, or not be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            with path.open("a", encoding="utf-8") as file:
                if text and not text.endswith("\n"):
                    file.write("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise FileMistake(f"{path} must be a writable log: {reason}") from None
        for line in text.splitlines():
            try:
                found = json.loads(line)
                if isinstance(found["figures"], dict):
                    Figures(**found["figures"])
                self.known[found["key"]] = found
            except (ValueError, KeyError, TypeError):
                continue

    def add(self, key: str, figures: Mapping[str, Any] | None, failure: str) -> None:
        """Keep a result."""
        found = {"key": key, "figures": figures, "failure": failure}
        self.known[key] = found
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def outcome(self, point: Point, key: str) -> Outcome | None:
        """What is known of a point."""
        found = self.known.get(key)
        if found is None:
            return None
        figures = found["figures"]
        return Outcome(point, Figures(**figures) if figures else None, found["failure"])


def explore(
    found: Sequence[Point],
    work: Work,
    notes: Notes,
    evaluate: Evaluate,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    retry: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Evaluate all points that are not known yet; what fails is noted and stops nothing.

    Parameters
    ----------
    found : sequence of Point
    work : Work
    notes : Notes
        Has each result as soon as it is there, whatever happens later.
    evaluate : callable
        Of a module's top level, for it runs in other processes.
    jobs : int
        Processes here; 1: this one.
    scheduler : str, optional
        Address of a dask scheduler; then ``jobs`` does not count.
    retry : bool
        Whether what failed is tried again.
    progress : callable
        Called after each point.

    Raises
    ------
    ValueError
        If the scheduler cannot be reached, or dask is needed and not installed.
    """
    keys = {point: work.key(point) for point in found}
    todo = []
    for point, key in keys.items():
        known = notes.outcome(point, key)
        if known is None or (retry and known.failure):
            todo.append(point)
        else:
            progress()
    runner = _here if jobs == 1 and scheduler is None else _dask
    if todo:
        for point, figures, failure in runner(todo, work, evaluate, jobs, scheduler):
            notes.add(keys[point], figures, failure)
            progress()
    outcomes = [notes.outcome(point, key) for point, key in keys.items()]
    return [outcome for outcome in outcomes if outcome is not None]


Result = tuple[Point, dict[str, Any] | None, str]


def attempt(evaluate: Evaluate, point: Point, work: Work) -> tuple[dict[str, Any] | None, str]:
    """Figures, or why there are none in one sentence."""
    try:
        return evaluate(point, work), ""
    except Exception as error:  # whatever a point does must not end the others
        return None, " ".join(str(error).split()) or type(error).__name__


def _here(
    todo: Sequence[Point], work: Work, evaluate: Evaluate, jobs: int, scheduler: str | None
) -> Iterator[Result]:
    for point in todo:
        yield (point, *attempt(evaluate, point, work))


def _dask(
    todo: Sequence[Point], work: Work, evaluate: Evaluate, jobs: int, scheduler: str | None
) -> Iterator[Result]:
    try:
        dask: Any = importlib.import_module("distributed")
    except ImportError:
        raise ValueError(MISSING) from None
    with _client(dask, jobs, scheduler) as client:
        waiting = {
            client.submit(attempt, evaluate, point, work, pure=False, retries=0): point
            for point in todo
        }
        try:
            for future in dask.as_completed(waiting, loop=client.loop):
                point = waiting[future]
                if future.status == "finished":
                    yield (point, *future.result())
                else:  # the worker died
                    lost = " ".join(str(future.exception()).split())
                    yield point, None, lost or "its worker ended"
        finally:
            client.cancel(list(waiting), force=True)


@contextmanager
def _client(dask: Any, jobs: int, scheduler: str | None) -> Iterator[Any]:
    """A client of a scheduler, or of workers on this machine."""
    for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        if scheduler is not None:
            try:
                client = dask.Client(scheduler, timeout=PATIENCE, set_as_default=False)
            except (OSError, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                raise ValueError(
                    f"scheduler must answer within {PATIENCE} at {scheduler}: {reason}"
                ) from None
            yield stack.enter_context(client)
            return
        cluster = stack.enter_context(
            dask.LocalCluster(
                n_workers=jobs, threads_per_worker=1, dashboard_address=None, processes=True
            )
        )
        yield stack.enter_context(dask.Client(cluster, set_as_default=False))
