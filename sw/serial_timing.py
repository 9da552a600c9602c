"""What serial control takes: steps of its microcode, and cycles in which it waits.

A step is an instruction of the microcode and takes :data:`STEP` cycles; a stretch of steps is named
by the labels of ``hw.serial_instructions`` between which it lies. Only the machine model needs
them: the hardware has no clock of its own here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sw import timing as t
from sw.config import MachineConfig
from sw.isa import Function

#: Cycles of a step.
STEP: Final = 2
#: Slices that the lanes hold (``hw.operand_feed``).
DEPTH: Final = 256
#: Cycles that an order to drain counts after the sum was on the bus (``hw.operand_feed``).
SETTLE: Final = 4
#: ``next``: up to the word that is taken, after it, and what the 65536th word takes more.
TAKE: Final = 7
TAKEN: Final = 6
CARRY: Final = 3
WORDS: Final = 1 << 16
#: ``fetch`` up to ``next``, and from there to the opcode's own steps.
FETCH: Final = 5
DISPATCH: Final = 15
#: ``finish``; ``ended`` and ``stop``, each with the status offered; ``ld #FAULT | jmp stop``.
FINISH: Final = 2
ENDED: Final = 9
STOP: Final = 7
FAULT: Final = 2
#: ``element``, its call included, but for the activation.
ELEMENT: Final = 10
ACTIVATION: Final = {Function.LINEAR: 1, Function.RELU: 5, Function.CLAMP: 11}


@dataclass(frozen=True, slots=True)
class Product:
    """``multiply``: what it takes, and what it leaves.

    Parameters
    ----------
    steps : int
        From its first step on, without the call.
    value : int
        The product modulo ``2**16``.
    overflow : bool
        Whether the product has more bits.
    """

    steps: int
    value: int
    overflow: bool


def multiply(factor: int, times: int) -> Product:
    """A product of words, a bit of ``times`` after the other."""
    steps, product, large, overflow = 7, 0, False, False
    while times:
        steps += 9
        if times & 1:
            overflow |= large
            product += factor
            steps += 7
            if product >= WORDS:
                product, overflow = product % WORDS, True
                steps += 2
        factor *= 2
        if factor >= WORDS:
            factor, large = factor % WORDS, True
            steps += 3
        times >>= 1
    return Product(steps, product, overflow)


def load_wait(terms: int, steps: int) -> int:
    """Cycles that an order waits, so many steps after one to load a lane."""
    return max(0, terms + 2 - STEP * steps)


def go_wait(slices: int, steps: int) -> int:
    """Cycles that an order waits, so many steps after one to send slices."""
    return max(0, slices + 1 - STEP * steps)


def sum_delay(config: MachineConfig) -> int:
    """Cycles of an order to drain cell (0, 0)."""
    latency = t.EDGE + t.ARRAY + (config.rows > t.BUS_ROWS)
    if config.multiplier == t.DSP:
        latency += t.SHARED.get(config.format.fraction_bits, 0)
    return latency + SETTLE


def drain_wait(config: MachineConfig, rows: int, columns: int) -> int:
    """Cycles waited for the sums of all cells of a tile, one after the other."""
    skew = columns * rows * (rows - 1) // 2 + rows * columns * (columns - 1) // 2
    return rows * columns * (sum_delay(config) - 1) + skew


def carries(first: int, words: int) -> int:
    """Steps that the count of words takes more, of so many from the index of the first on."""
    return CARRY * ((first + words) // WORDS - first // WORDS)


def total(parts: Iterable[tuple[int, int]]) -> int:
    """A sum of products."""
    return sum(count * each for count, each in parts)
