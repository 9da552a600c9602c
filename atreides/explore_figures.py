"""What a machine on a board takes, does and reaches: modelled, synthesised or placed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from atreides.explore_points import Point
from hw import fit, fit_search
from hw.boards import Board, find_board
from hw.fit_placer import LOGIC_CELLS
from sim.machine_design import sources
from sw.config import MachineConfig
from sw.estimate import Product, compute_cycles

#: Look-up tables in nextpnr's report.
_TABLES: Final = {"ecp5": "TRELLIS_COMB", "ice40": "ICESTORM_LC", "gowin": "LUT4"}


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
        """What a result is kept under: all that decides it, the hardware or the model included."""
        facts = {**asdict(self), "board": point.board, "config": asdict(point.config)}
        del facts["reports"]
        built = self.synthesize or self.place
        model = sources() if built else fit.TABLE_PATH.read_text()
        text = json.dumps(facts, sort_keys=True) + model
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is known of a point.

    Parameters
    ----------
    luts, block_rams, dsps, registers : int
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
    registers: int = 0
    megahertz: float | None = None

    @property
    def milliseconds(self) -> float | None:
        """Of one inference or product."""
        return None if self.megahertz is None else self.cycles / self.megahertz / 1e3


def evaluate(point: Point, work: Work) -> dict[str, Any]:
    """The figures of a point, as plain data: run in other processes, maybe elsewhere.

    Raises
    ------
    Exception
        Whatever stands in the way: the machine does not fit, a tool fails.
    """
    board, built = find_board(point.board), work.synthesize or work.place
    modelled = fit_search.check(board, point.config, sure=built)
    cycles = _cycles(point.config, work)
    megahertz = None
    if work.place:
        area = "placed"
        need, megahertz = _placed(board, point.config, work.seed)
    elif work.synthesize:
        area, need = "synthesised", _synthesised(board, point.config)
    elif modelled is None:
        raise ValueError(f"{board.name} has no area model: ask with --synthesize")
    else:
        area, need = "modelled", modelled
    if megahertz is None:
        megahertz = _reported(board, point.config, Path(work.reports))
    return asdict(
        Figures(
            area=area,
            luts=need.luts,
            block_rams=need.block_rams,
            dsps=need.dsps,
            registers=need.registers,
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
    used, family = built.placement.utilisation, board.device.family
    tables = used[_TABLES[family]][0]
    return fit.Need.of(family, {**built.cells, LOGIC_CELLS: tables}), built.placement.megahertz


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


#: A function from a point and the work to its figures.
Evaluate = Callable[[Point, Work], dict[str, Any]]
