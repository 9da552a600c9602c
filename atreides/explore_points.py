"""Machines on boards: what can be swept, and what one of them takes, does and reaches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product as combinations
from pathlib import Path
from typing import Any, Final

from atreides import sweep
from hw import fit
from hw.boards import Board, find_board
from hw.multiplier import check_multiplier
from sw.config import MachineConfig
from sw.estimate import Product, compute_cycles
from sw.wasq.records import Record, read_records

#: What can be swept, besides the sizes of :mod:`atreides.sweep`.
TEXTS: Final = ("board", "multiplier")
NAMES: Final = (*TEXTS, *sweep.NAMES)
#: Figures of a WASQ log that say how accurate a network is: less is better.
METRICS: Final = ("perplexity", "ratio", "divergence", "loss")
MOST: Final = 5000


@dataclass(frozen=True, slots=True)
class Point:
    """A machine on a board."""

    board: str
    config: MachineConfig

    @property
    def label(self) -> str:
        """In a few characters."""
        c = self.config
        more = "" if c.multiplier == "auto" else f", {c.multiplier}"
        return f"SF{c.bits} {c.rows} x {c.columns}{more} on {self.board}"


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked about every point.

    Parameters
    ----------
    network : str or None
        A model for ``atreides compile``: its cycles count.
    product : tuple of int
        M, K and N of the matrix product that counts where there is no network.
    synthesize, place : bool
        Whether area is synthesised, and the frequency placed and routed; else area is modelled.
    reports : str
        Folder with reports of ``atreides build``: their frequencies are taken where there are any.
    seed : int
        Of placements.
    """

    network: str | None = None
    product: tuple[int, int, int] = (64, 64, 64)
    synthesize: bool = False
    place: bool = False
    reports: str = "build/boards"
    seed: int = 1

    def key(self, point: Point) -> str:
        """What a result is kept under: all that decides it, the fit model's table included."""
        facts = {**asdict(self), "board": point.board, "config": asdict(point.config)}
        del facts["reports"]
        model = "" if self.synthesize or self.place else fit.TABLE_PATH.read_text()
        text = json.dumps(facts, sort_keys=True) + model
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of a point.

    Parameters
    ----------
    luts, block_rams, dsps : int
        ``area`` says whether they are modelled, synthesised or placed.
    cycles : int
        Of the network or product, without the host.
    megahertz : float or None
        None: not known.
    """

    area: str
    luts: int
    block_rams: int
    dsps: int
    cycles: int
    megahertz: float | None = None

    @property
    def milliseconds(self) -> float | None:
        """Of one inference or product."""
        return None if self.megahertz is None else self.cycles / self.megahertz / 1e3


def parse_axes(words: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """``board=ulx3s-85f bits=4,8 multiplier=auto,dsp`` as values by name.

    Raises
    ------
    ValueError
        For a name that cannot be swept, one that is there twice, or a value that there is not.
    """
    texts: dict[str, tuple[Any, ...]] = {}
    numbers = []
    for word in words:
        name, _, values = word.partition("=")
        if name not in NAMES:
            raise ValueError(f"axis must be one of {', '.join(NAMES)}, not {word!r}")
        if name not in TEXTS:
            numbers.append(word)
            continue
        if name in texts:
            raise ValueError(f"axes must name {name} once, not again in {word!r}")
        found = tuple(dict.fromkeys(values.split(",")))
        for value in found:
            _ = find_board(value) if name == "board" else check_multiplier(value)
        texts[name] = found
    return {**texts, **sweep.parse_axes(numbers)}


def points(base: MachineConfig, axes: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    """All combinations.

    Raises
    ------
    TypeError, ValueError
        If no board is named, a size is out of range, or there are too many.
    """
    if "board" not in axes:
        raise ValueError("axes must have a board, as in board=ulx3s-85f")
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST:
        raise ValueError(f"axes must have at most {MOST} combinations, not {count}")
    found = []
    for values in combinations(*axes.values()):
        sizes = dict(zip(axes, values, strict=True))
        board = sizes.pop("board")
        found.append(Point(board, replace(base, **sizes)))
    return found


def evaluate(point: Point, work: Work) -> dict[str, Any]:
    """The figures of a point, as plain data: run in other processes, maybe elsewhere.

    Raises
    ------
    Exception
        Whatever stands in the way: the machine does not fit, a tool fails.
    """
    board = find_board(point.board)
    cycles = _cycles(point.config, work)
    megahertz = None
    if work.place:
        area, megahertz = "placed", 0.0
        need, megahertz = _placed(board, point.config, work.seed)
    elif work.synthesize:
        area, need = "synthesised", _synthesised(board, point.config)
    else:
        if not fit.is_known(board):
            raise ValueError(f"{board.name} has no area model: ask with --synthesize")
        fit.check(board, point.config)
        area, need = "modelled", fit.need(point.config, board.device.family)
    if megahertz is None:
        megahertz = _reported(board, point.config, Path(work.reports))
    return asdict(
        Figures(
            area=area,
            luts=need.luts,
            block_rams=need.block_rams,
            dsps=need.dsps,
            cycles=cycles,
            megahertz=megahertz,
        )
    )


def _cycles(config: MachineConfig, work: Work) -> int:
    if work.network is None:
        rows, terms, columns = work.product
        return compute_cycles(config, Product(rows, columns, terms))
    from atreides.network_estimate import Estimate, prepare
    from sw.compiler.layer_cost import Link

    link = Link(1e6, None)  # cycles alone are asked for
    return Estimate.of(prepare(work.network, config), link).total.cycles


@contextlib.contextmanager
def _quiet(_: str) -> Iterator[None]:
    """A stage of the flow that is shown nowhere."""
    yield


def _synthesised(board: Board, config: MachineConfig) -> fit.Need:
    from amaranth.back import rtlil

    from atreides.build import Job
    from hw.board_flow import choose_clock, first_goal
    from hw.board_tools import check_fit, synthesise

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = Job(board, config, folder)
        top = job.top(choose_clock(board, first_goal(board), job.baud))
        text = rtlil.convert(top, name="top", emit_src=False)
        cells = synthesise(board, text, folder, folder / "synthesise.log")
    check_fit(board, cells)
    return fit.Need.of(board.device.family, cells)


def _placed(board: Board, config: MachineConfig, seed: int) -> tuple[fit.Need, float]:
    from atreides.build import Job
    from hw.board_flow import Flow

    folder = Path(tempfile.mkdtemp(prefix="atreides-explore-"))
    try:
        job = Job(board, config, folder, seed)
        flow = Flow(board, job.top, folder, folder, _quiet, job.baud, seed)
        built = flow.build(None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return fit.Need.of(board.device.family, built.cells), built.placement.megahertz


def _reported(board: Board, config: MachineConfig, folder: Path) -> float | None:
    """What a build of the same machine on the same board reached, if its report is there."""
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            report = json.loads(path.read_text())
            same = report["board"] == board.name and report["config"] == asdict(config)
            if same:
                return float(report["reached_megahertz"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # no report of a build
    return None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The best of a log by bits of weights.

    Parameters
    ----------
    metric : str
    best : mapping of int to (float, str)
        The figure, and the method that reached it.
    told : tuple of str
        Sentences for the user: what the log has that was passed over.
    """

    metric: str
    best: Mapping[int, tuple[float, str]]
    told: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, metric: str, model: str | None) -> Accuracy:
        """The best of every width.

        Parameters
        ----------
        path : Path
            A WASQ log.
        metric : {"perplexity", "ratio", "divergence", "loss"}
        model : str or None
            Whose results; needed where the log has several.

        Raises
        ------
        ValueError
            If the log cannot be read, or has no results or those of several networks or texts.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}")
        log = read_records(path)
        records = [r for r in log.records if model is None or r.model == model]
        _only(path, "model", [r.model for r in records], "--log-model")
        _only(path, "text", [f"{r.data} {r.split} {r.window}" for r in records], "another log")
        best: dict[int, tuple[float, str]] = {}
        for record in records:
            value = _figure(record, metric)
            bits = record.weight_bits
            if bits is None or value is None or record.activation_bits not in (None, bits):
                continue
            if bits not in best or value < best[bits][0]:
                best[bits] = value, record.method
        return cls(metric, best, log.mistakes)


def _figure(record: Record, metric: str) -> float | None:
    value: float | None = getattr(record, metric)
    return value


def _only(path: Path, what: str, found: Sequence[str], way: str) -> None:
    several = sorted(set(found))
    if not several:
        raise ValueError(f"{path} must have results of that {what}, not none")
    if len(several) > 1:
        raise ValueError(f"{path} must be of one {what} or be asked with {way}: {several}")


#: A function from a point and the work to its figures.
Evaluate = Callable[[Point, Work], dict[str, Any]]
