"""The largest machine that a board holds, and what is said of one that it does not hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hw.board_tools import DoesNotFit, Excess
from hw.boards import Board, Device
from hw.fit import RESOURCES, Need, array_cost, error, family_table, is_known, need
from hw.fit_memory import block_rams, tile_banks
from sw.config import MAX_SIDE, MachineConfig

#: Share of the look-up tables that :func:`largest` fills: a fuller device may not be routed.
FILL: Final = 0.95
#: Share of an estimate below which :func:`largest` looks no closer.
SLACK: Final = 0.97
#: How long the longer side of :func:`largest` may be, compared with the shorter one.
ASPECT: Final = 2
#: Slots that the nearest machine may have fewer of, before nothing is said to fit.
FEW_SLOTS: Final = 16
#: The array that estimates are set right by.
_ANCHOR: Final = 2


def available(device: Device) -> dict[str, int]:
    """What a device has, by the names of a need."""
    return {
        "luts": device.lut4,
        "registers": device.registers,
        "block_rams": device.block_rams,
        "dsps": device.multipliers,
    }


def excesses(device: Device, found: Need, fill: float = 1.0) -> tuple[Excess, ...]:
    """What a device has too little of; of its look-up tables only a share counts."""
    has = available(device) | {"luts": math.floor(device.lut4 * fill)}
    rows = [Excess(RESOURCES[name], getattr(found, name), has[name]) for name in RESOURCES]
    return tuple(row for row in rows if row.needed > row.available)


def certain(device: Device, found: Need) -> tuple[Excess, ...]:
    """What a device has too little of even if the model says as much too much as it ever did."""
    errors = {RESOURCES[name]: error(device.family, name) for name in RESOURCES}
    return tuple(
        row
        for row in excesses(device, found)
        if row.needed > row.available * (1 + errors[row.resource])
    )


def doubts(board: Board, found: Need) -> str:
    """A sentence where the model cannot say whether a machine fits; empty where it can."""
    device, rows = board.device, []
    for name, has in available(device).items():
        needed, off = getattr(found, name), error(device.family, name)
        if has / (1 + off) < needed <= has * (1 + off):
            rows.append(f"about {needed:,} {RESOURCES[name]} of {has:,}, told within {off:.0%}")
    return f"machine may not fit {board.name}: {' and '.join(rows)}" if rows else ""


def check(board: Board, config: MachineConfig, *, sure: bool = False) -> Need | None:
    """Refuse a machine that a board cannot hold; one of another family is not judged.

    Parameters
    ----------
    board : Board
    config : MachineConfig
    sure : bool
        Refuse only what does not fit by more than the model has ever been off.

    Returns
    -------
    Need or None
        What it takes; None: the board's family was not measured.

    Raises
    ------
    DoesNotFit
        By how much, and the nearest machine of its width that fits.
    """
    if not is_known(board):
        return None
    taken = need(config, board.device.family, board.device.sprams)
    found = certain(board.device, taken) if sure else excesses(board.device, taken)
    if found:
        raise Refusal(board, config, found, nearest(board, config))
    return taken


class Refusal(DoesNotFit):
    """A machine that does not fit, as far as the model can tell.

    Attributes
    ----------
    nearest : MachineConfig or None
        A machine of its width that fits: with fewer slots, or with a smaller array.
    """

    def __init__(
        self,
        board: Board,
        config: MachineConfig,
        found: tuple[Excess, ...],
        nearest: MachineConfig | None,
    ) -> None:
        super().__init__(board, found)
        self.nearest = nearest
        told = ", ".join(
            f"{e.needed:,} {e.resource} of {e.available:,}, {_too_many(e)} too many" for e in found
        )
        self.args = (f"machine needs {told} on {board.name}; {describe(config, nearest)}",)


def describe(config: MachineConfig, nearest: MachineConfig | None) -> str:
    """What fits instead, as the end of a sentence."""
    if nearest is None:
        return "nothing of this width fits"
    slots = "" if nearest.slots == config.slots else f" with {nearest.slots} slots"
    return f"{nearest.rows} x {nearest.columns}{slots} fits"


def _too_many(excess: Excess) -> str:
    """In per cent, or as a number where there are none."""
    if not excess.available:
        return str(excess.needed)
    return f"{math.ceil(100 * excess.needed / excess.available - 100)} %"


def nearest(board: Board, config: MachineConfig) -> MachineConfig | None:
    """The nearest machine of a width that a board holds.

    The same array with fewer slots where block RAM alone is lacking; else the largest array, no
    larger in rows and columns; else that with few slots.
    """
    if not is_known(board):
        return None
    lacking = excesses(board.device, need(config, board.device.family, board.device.sprams), FILL)
    if {row.resource for row in lacking} == {RESOURCES["block_rams"]}:
        found = fewer_slots(board, config)
        if found is not None:
            return found
    limit = config.rows, config.columns
    found = largest(board, config, limit)
    if found is None and config.slots > FEW_SLOTS:
        found = largest(board, replace(config, slots=FEW_SLOTS), limit)
    return found


def fewer_slots(board: Board, config: MachineConfig) -> MachineConfig | None:
    """The same array with the most slots, of halves of those asked for, that a board holds."""
    slots = config.slots // 2
    while slots:
        candidate = replace(config, slots=slots)
        bank, banks = tile_banks(candidate)
        # Cheap to tell: the banks of words alone.
        words = banks * block_rams(board.device.family, bank)
        small = config.control == "serial" or words <= board.device.block_rams
        if small and _fits(board.device, candidate):
            return candidate
        slots //= 2
    return None


def _fits(device: Device, config: MachineConfig) -> bool:
    return not excesses(device, need(config, device.family, device.sprams), FILL)


def largest(
    board: Board, config: MachineConfig, limit: tuple[int, int] = (MAX_SIDE, MAX_SIDE)
) -> MachineConfig | None:
    """The machine with the most cells that fits a board, of neither too long nor too wide an array.

    Parameters
    ----------
    board : Board
        Of a measured family.
    config : MachineConfig
        All but rows and columns.
    limit : tuple of int
        Most rows and columns.

    Returns
    -------
    MachineConfig or None
        None if not even 1 x 1 fits.
    """
    device = board.device
    estimate = Estimate(config, device.family)
    for candidate in _shapes(config, limit):
        if estimate.may_fit(device, candidate):
            taken = need(candidate, device.family, device.sprams)
            if not excesses(device, taken, FILL):
                return candidate
            estimate.correct(candidate, taken)
    return None


class Estimate:
    """What machines that differ in their arrays take, roughly and at once.

    A measured polynomial, set right by the true figures of one small array, and then of those that
    turn out not to fit: it serves to leave out what is too large without a closer look.

    Parameters
    ----------
    config : MachineConfig
    family : str
    """

    def __init__(self, config: MachineConfig, family: str) -> None:
        self.family = family
        self.cells = family_table(family)["cells"]
        self.known = family_table(family)["estimate"]
        side = min(_ANCHOR, config.max_terms)
        anchor = replace(config, rows=side, columns=side)
        self.correct(anchor, need(anchor, family))

    def correct(self, config: MachineConfig, taken: Need) -> None:
        """Set the estimate right by what a machine, the nearer the better, truly takes."""
        luts, blocks = self._told(config)
        self.luts, self.blocks = taken.luts - luts, taken.block_rams - blocks

    def may_fit(self, device: Device, config: MachineConfig) -> bool:
        """Whether a closer look is worth its second."""
        luts, blocks = self._told(config)
        luts, blocks = luts + self.luts, blocks + self.blocks
        return SLACK * luts <= device.lut4 * FILL and SLACK * blocks <= device.block_rams

    def _told(self, config: MachineConfig) -> tuple[float, float]:
        cells = array_cost(config, self.family, self.cells).luts
        if config.control == "serial":  # the rest hardly grows
            return cells, 0.0
        grown = features(config)
        bank, banks = tile_banks(config)
        luts = sum(known * grown[name] for name, known in self.known["luts"].items())
        blocks = sum(known * grown[name] for name, known in self.known["block_rams"].items())
        return luts + cells, blocks + banks * block_rams(self.family, bank)


def features(config: MachineConfig) -> dict[str, float]:
    """What the rest of a machine grows with, by name."""
    word, vector = config.bits + 2, config.vector  # a word is kept with two flags
    return {
        "machine": 1.0,
        "lanes": float(vector * word),
        "rotators": float(vector * word * (vector.bit_length() - 1)),
        "tails": float(config.columns * config.accumulator_bits),
        "columns": float(config.columns),
        "edges": float((config.rows + config.columns) * word),
    }


def _shapes(config: MachineConfig, limit: tuple[int, int]) -> Iterator[MachineConfig]:
    """Arrays with the most cells first, of these the squarest, of these that with more columns."""
    rows, columns = limit
    stretch = max(ASPECT, max(limit) / min(limit))
    shapes = [
        (r, c)
        for r in range(1, rows + 1)
        for c in range(1, columns + 1)
        if max(r, c) <= stretch * min(r, c) and config.max_terms >= min(r, c)
    ]
    shapes.sort(key=lambda shape: (-shape[0] * shape[1], abs(shape[0] - shape[1]), shape[0]))
    for r, c in shapes:
        try:
            yield replace(config, rows=r, columns=c)
        except ValueError:  # an array that goes with fewer slots alone
            continue
