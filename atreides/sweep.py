"""Many machines for one network: what each takes and costs, and which none beats."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sw.config import MachineConfig

#: Slots of an ECP5's logic for one cell with unity and an accumulator of 2F + 10 bits, and for the
#: drain at the foot of a column, by width: ``python -m bench.hardware --widths 4,8,16 --target
#: ecp5 --place``. Each further bit of the accumulator took one slot at every width.
CELL_SLOTS: Final = {4: 31, 8: 89, 16: 307}
CELL_SLOTS_WITHOUT_UNITY: Final = {4: 27, 8: 81, 16: 291}
DRAIN_SLOTS: Final = {4: 16, 8: 24, 16: 40}
MEASURED_BITS: Final = 10
#: What can be swept.
NAMES: Final = ("bits", "rows", "columns", "slots", "parameters")
#: Processes at a time: each holds the network.
PROCESSES: Final = 2
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """What a network takes on one machine.

    Parameters
    ----------
    config : MachineConfig
    cycles : int
    utilisation : float
    host_bytes : int
        Per inference.
    failure : str
        Why there are none of these, empty otherwise.
    """

    config: MachineConfig
    cycles: int = 0
    utilisation: float = 0.0
    host_bytes: int = 0
    failure: str = ""

    @property
    def label(self) -> str:
        """In a few characters."""
        config = self.config
        return f"{config.rows} x {config.columns}, {config.slots} slots"

    @property
    def slots(self) -> int:
        """ECP5 slots of the array's cells and drains."""
        return array_slots(self.config)

    @property
    def memory_bits(self) -> int:
        """Bits of words that tile memory holds."""
        return self.config.memory_words * self.config.bits

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        return {**found, "ecp5_slots": self.slots, "memory_bits": self.memory_bits}


def array_slots(config: MachineConfig) -> int:
    """ECP5 slots of an array's cells and drains, from the measured table.

    Raises
    ------
    ValueError
        For a width that was not measured.
    """
    if config.bits not in CELL_SLOTS:
        widths = ", ".join(map(str, CELL_SLOTS))
        raise ValueError(f"bits must be one of {widths}, whose cost is known, not {config.bits!r}")
    table = CELL_SLOTS if config.unity else CELL_SLOTS_WITHOUT_UNITY
    measured = 2 * config.format.fraction_bits + MEASURED_BITS
    cell = table[config.bits] + config.accumulator_bits - measured
    return config.columns * (config.rows * cell + DRAIN_SLOTS[config.bits])


def parse_axes(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """``rows=4,8 bits=8`` as numbers by name.

    Raises
    ------
    ValueError
        For a name that cannot be swept, one that is there twice, or no numbers.
    """
    found: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, _, values = word.partition("=")
        if name not in NAMES:
            raise ValueError(f"sweep must be over {', '.join(NAMES)}, not {word!r}")
        if name in found:
            raise ValueError(f"sweep must name {name} once, not again in {word!r}")
        parts = values.split(",")
        if not all(part.isdecimal() for part in parts):
            raise ValueError(f"sweep must be as in {name}=4,8,16, not {word!r}")
        found[name] = tuple(dict.fromkeys(map(int, parts)))
    return found


def machines(base: MachineConfig, axes: Mapping[str, tuple[int, ...]]) -> list[MachineConfig]:
    """All combinations, each a machine that there can be.

    Raises
    ------
    TypeError, ValueError
        For a size out of range, a width without a known cost, or too many combinations.
    """
    made = [
        replace(base, **dict(zip(axes, values, strict=True)))
        for values in itertools.product(*axes.values())
    ]
    if len(made) > MOST:
        raise ValueError(f"sweep must have at most {MOST} combinations, not {len(made)}")
    for config in made:
        array_slots(config)
    return made


def run(
    measure: Callable[[MachineConfig], Figures],
    configs: Sequence[MachineConfig],
    progress: Callable[[], None],
) -> list[Figures]:
    """Measure all machines, in the order given; what fails says why and stops nothing.

    Parameters
    ----------
    measure : callable
        Of a module's top level, for it is run in other processes.
    configs : sequence of MachineConfig
    progress : callable
        Called after each.
    """
    found: dict[MachineConfig, Figures] = {}
    context = multiprocessing.get_context("spawn")  # threads of torch do not live through a fork
    with ProcessPoolExecutor(PROCESSES, context) as pool:
        waiting = {pool.submit(measure, config): config for config in configs}
        for done in as_completed(waiting):
            config = waiting[done]
            error = done.exception()
            failed = " ".join(f"{error}".split()) or type(error).__name__
            found[config] = Figures(config, failure=failed) if error else done.result()
            progress()
    return [found[config] for config in configs]


def front(figures: Sequence[Figures]) -> list[Figures]:
    """Those that no other beats: fewer cycles, slots and memory, at as many bits or more."""
    able = [one for one in figures if not one.failure]
    return sorted(
        (one for one in able if not any(_beats(other, one) for other in able)),
        key=lambda one: (one.config.bits, one.slots, one.memory_bits),
    )


def _beats(one: Figures, other: Figures) -> bool:
    pairs = list(zip(_objectives(one), _objectives(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _objectives(one: Figures) -> Iterator[int]:
    yield from (one.cycles, one.slots, one.memory_bits, -one.config.bits)
