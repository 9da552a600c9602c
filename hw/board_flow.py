"""From a board's top to a bitstream, at a frequency that closes."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Final

from amaranth.back import rtlil

from hw.board_tools import FlowError, Placement, check_fit, pack, place, synthesise
from hw.board_top import BoardTop
from hw.boards import Board
from hw.pll import Clock, PhaseLockedLoop, Setting, choose, loop_kind
from hw.uart import LEAST_DIVISOR

#: MHz that placement aims at, and the first try's clock has, where the frequency is to be found.
GOALS: Final = {"ecp5": 100.0, "iCE40UP5K": 24.0, "iCE40HX8K": 48.0, "gowin": 50.0}
#: How far a bit of the line may be from its length, as a part of it.
_LINE_ERROR: Final = 0.025
#: Placements before a frequency that does not close is given up.
_TRIES: Final = 4
#: Of a frequency that did not close, what the next try has at most.
_LESS: Final = 0.98
#: Of a clock that closes, what a faster one must have to be tried.
_WORTH: Final = Fraction(51, 50)
#: Of the goal, what a placement must reach for another seed to be tried.
_NEAR: Final = 0.9
_MHZ: Final = 1e6

#: Makes a stage's context: it is entered while the stage runs.
Stage = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class BoardClock:
    """The machine's clock on a board.

    Parameters
    ----------
    hertz : Fraction
    divisor : int
        Cycles per bit of the line.
    setting : Setting, optional
        Of the loop; None: the board's clock as it is.
    """

    hertz: Fraction
    divisor: int
    setting: Setting | None

    @property
    def megahertz(self) -> float:
        """The frequency in MHz."""
        return float(self.hertz) / _MHZ

    def component(self, board: Board) -> Clock:
        """What makes this clock of the board's."""
        if self.setting is None:
            return Clock()
        kind = loop_kind(board.device.name, board.device.family)
        return PhaseLockedLoop(kind, self.setting, pad=board.loop_pin)


@dataclass(frozen=True, slots=True)
class Built:
    """A bitstream that closes.

    Parameters
    ----------
    bitstream : Path
    clock : BoardClock
    goal : float
        MHz that placement aimed at.
    placement : Placement
    cells : dict of str to int
        Of the netlist, by type.
    placements : int
        How many it took.
    seed : int
        Of the one that it is.
    """

    bitstream: Path
    clock: BoardClock
    goal: float
    placement: Placement
    cells: dict[str, int]
    placements: int
    seed: int


def choose_clock(board: Board, megahertz: float, baud: int) -> BoardClock:
    """The fastest clock that is not above a frequency and has the line's rate within 2.5 %.

    Raises
    ------
    ValueError
        If the board has none.
    """
    if megahertz * _MHZ < LEAST_DIVISOR * baud:
        most = int(megahertz * _MHZ / LEAST_DIVISOR)
        raise ValueError(f"baud must be at most {most} at {megahertz:g} MHz, not {baud}")
    kind, oscillator = loop_kind(board.device.name, board.device.family), board.oscillator
    plain = _with_line(Fraction(oscillator), None, baud) if oscillator <= megahertz * _MHZ else None
    goal = int(megahertz * _MHZ)
    while True:
        try:
            setting = choose(kind, oscillator, goal)
        except ValueError:
            if plain is None:
                raise
            return plain
        found = _with_line(setting.output, setting, baud)
        if plain is not None and plain.hertz >= setting.output:
            return plain
        if found is not None:
            return found
        goal = -(-setting.output.numerator // setting.output.denominator) - 1


def _with_line(hertz: Fraction, setting: Setting | None, baud: int) -> BoardClock | None:
    """The clock with its divisor, unless the line's rate would be too far off."""
    divisor = round(hertz / baud)
    if divisor < LEAST_DIVISOR or abs(hertz / (divisor * baud) - 1) > _LINE_ERROR:
        return None
    return BoardClock(hertz, divisor, setting)


def first_goal(board: Board) -> float:
    """MHz to try first where the frequency is to be found."""
    return GOALS.get(board.device.name) or GOALS[board.device.family]


@dataclass(frozen=True, slots=True)
class Flow:
    """The flow for one machine on one board.

    Parameters
    ----------
    board : Board
    make_top : callable
        The top for a clock.
    folder, logs : Path
        For intermediate files, and for what the tools say.
    stage : callable
        Told of every stage.
    baud : int
        Bits per second of the line.
    seed : int
        Of the first placement.
    seeds : int
        Placements of the first clock at most, with as many seeds, where none reaches the goal and
        the best so far is near it.
    router : str, optional
        As :func:`hw.board_tools.place`.
    """

    board: Board
    make_top: Callable[[BoardClock], BoardTop]
    folder: Path
    logs: Path
    stage: Stage
    baud: int
    seed: int
    seeds: int = 1
    router: str | None = None

    def build(self, megahertz: float | None) -> Built:
        """A bitstream at a frequency in MHz, or at the highest that closes.

        To find that, a first placement aims at ``first_goal``, and where it is a little short of it
        others with the next seeds do. The clock becomes the fastest that is not above what the best
        reached, and as the line's divisor changes with it, that is placed again with the same goal
        and seed. Where it falls short, the next is slower still; one that closed before and would
        be hardly slower, or is faster, stays.

        Raises
        ------
        FlowError
            If a tool fails, the machine does not fit, or nothing closes.
        ValueError
            If the board has no such clock.
        """
        goal = first_goal(self.board) if megahertz is None else megahertz
        clock, seed, placements = choose_clock(self.board, goal, self.baud), self.seed, 0
        kept: Built | None = None
        for tried in range(1, _TRIES + 1):
            cells = self._synthesise(clock, tried)
            seeds = range(seed, seed + (self.seeds if tried == 1 else 1))
            seed, placement, placements = self._place(clock, goal, seeds, placements)
            reached = placement.megahertz
            closes = reached >= clock.megahertz
            if closes:
                kept = Built(self._pack(), clock, goal, placement, cells, placements, seed)
            if megahertz is not None:
                if kept is not None:
                    return kept
                raise FlowError(
                    f"frequency must be at most {reached:g} MHz with seed {seed}, "
                    f"not {clock.megahertz:g}"
                )
            limit = reached if tried == 1 or closes else min(reached, _LESS * clock.megahertz)
            faster = choose_clock(self.board, limit, self.baud)
            if kept is not None and (
                (closes and tried > 1) or faster.hertz <= _WORTH * kept.clock.hertz
            ):
                break
            clock = faster
        if kept is None:
            raise FlowError(
                f"frequency must be given: none closed in {placements} placements, the last at "
                f"{reached:g} MHz; see {self.logs}"
            )
        return replace(kept, placements=placements)

    def _synthesise(self, clock: BoardClock, tried: int) -> dict[str, int]:
        """The netlist for a clock; its cells."""
        with self.stage(f"elaborate for {clock.megahertz:.2f} MHz"):
            text = rtlil.convert(self.make_top(clock), name="top", emit_src=False)
        with self.stage("synthesise"):
            log = self.logs / f"synthesise{_number(tried)}.log"
            cells = synthesise(self.board, text, self.folder, log)
            check_fit(self.board, cells)
        return cells

    def _place(
        self, clock: BoardClock, goal: float, seeds: range, placements: int
    ) -> tuple[int, Placement, int]:
        """Place with one seed after the other until the clock is reached or far from it.

        Returns the best one's seed and placement, the first's if several are; and how many
        placements there were.
        """
        best: tuple[int, Placement] | None = None
        for seed in seeds:
            placements += 1
            with self.stage(f"place and route, seed {seed}"):
                log = self.logs / f"place{_number(placements)}.log"
                placement = place(self.board, goal, seed, self.folder, log, self.router)
            if best is None or placement.megahertz > best[1].megahertz:
                best = seed, placement
            if not _NEAR * clock.megahertz <= best[1].megahertz < clock.megahertz:
                break
        assert best is not None  # there is a seed
        return *best, placements

    def _pack(self) -> Path:
        """The bitstream of the last placement, where no other takes its place."""
        with self.stage("pack"):
            packed = pack(self.board, self.folder, self.logs / "pack.log")
        closed = packed.with_stem("closed")
        os.replace(packed, closed)
        return closed


def _number(count: int) -> str:
    """What a log's name has behind it."""
    return f"-{count}" if count > 1 else ""
