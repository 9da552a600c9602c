"""Layers of real networks as the words that the array multiplies, and what skipping saves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from atreides import digits
from bench.network_runs import NETWORKS, prepare
from sw.compiler.compile import DEFAULT_MACHINE
from sw.compiler.compile import compile as compile_network
from sw.compiler.cost import cost
from sw.compiler.layers import Add, LayerStep
from sw.compiler.schedule import Command, Run, Schedule
from sw.config import MachineConfig
from sw.isa import Flag, Instruction, Opcode, decode_at, encode
from sw.runtime.artefact import Artefact
from sw.runtime.engine import TensorEngine
from sw.runtime.layer import factors
from sw.runtime.session import Session
from sw.words import widen

#: scikit-learn's digits: a network trained here, in seconds.
DIGITS: Final = "digits"
NAMES: Final = (DIGITS, *(network.name for network in NETWORKS))
_EPOCHS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class LayerWords:
    """What one layer multiplies.

    Parameters
    ----------
    network, name : str
    a : array (groups, M, K) of int64
    b : array (groups, K, N) of int64
    """

    network: str
    name: str
    a: np.ndarray
    b: np.ndarray

    def zeros(self, machine: MachineConfig) -> tuple[float, float]:
        """Shares of words of a and of b that are zero, minus zero among them."""
        magnitude = machine.format.sign_bit - 1
        a, b = (float((words & magnitude == 0).mean()) for words in (self.a, self.b))
        return a, b


@dataclass(frozen=True, slots=True)
class Skipped:
    """Cycles of one layer with and without the skipping of slices.

    Parameters
    ----------
    network, name, kind : str
    cycles, dense_cycles : int
        Of the layer's programs on the machine, with and without.
    slices, skipped_slices : int
        That pass through the array without skipping, and those of them that are left out.
    """

    network: str
    name: str
    kind: str
    cycles: int
    dense_cycles: int
    slices: int
    skipped_slices: int

    @property
    def saved(self) -> float:
        """Share of the cycles."""
        return 1 - self.cycles / max(1, self.dense_cycles)


class _Recorder(TensorEngine):
    """Keeps what every layer but additions multiplies."""

    def __init__(self, artefact: Artefact) -> None:
        super().__init__(artefact.plan)
        self.found: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def step(self, index: int) -> None:
        step = self.plan.steps[index]
        if isinstance(step, LayerStep):
            layer = self.plan.layers[step.layer]
            if not isinstance(layer, Add):
                a, b = factors(layer, self.plan, self._words)
                self.found[layer.name] = widen(a).numpy(), widen(b).numpy()
        super().step(index)


def network(name: str, bits: int) -> tuple[Artefact, torch.Tensor]:
    """A network compiled for one image at a time, and one image.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    bits : int

    Raises
    ------
    ValueError
        If its data set is missing.
    """
    machine = replace(DEFAULT_MACHINE, bits=bits)
    if name == DIGITS:
        data = digits.load(0)
        module = digits.train(data, _EPOCHS, 0, lambda loss, accuracy: None)
        image = data.test_images[:1]
        samples = [(data.train_images[k : k + 1],) for k in range(16)]
        return compile_network(module, (image,), machine, calibration=samples), image
    chosen = next(found for found in NETWORKS if found.name == name)
    prepared = prepare(replace(chosen, batch=1), bits)
    return prepared.artefact(machine, 1), prepared.images[:1]


def layer_words(name: str, artefact: Artefact, image: torch.Tensor) -> list[LayerWords]:
    """What each layer of a network multiplies for an image."""
    recorder = _Recorder(artefact)
    with Session(artefact, recorder) as session:
        session.run(image)
    return [LayerWords(name, layer, *words) for layer, words in recorder.found.items()]


def skipping(name: str, artefact: Artefact) -> list[Skipped]:
    """Cycles of each layer, by the compiler's account, which equals the machine's counters."""
    plan, schedule = artefact.plan, artefact.schedule
    dense = {found.name: found for found in cost(plan, without_skipping(schedule))}
    return [
        Skipped(
            name,
            found.name,
            str(found.kind),
            found.cycles,
            dense[found.name].cycles,
            found.section.work.slices + found.section.work.skipped_slices,
            found.section.work.skipped_slices,
        )
        for found in cost(plan, schedule)
    ]


def without_skipping(schedule: Schedule) -> Schedule:
    """The same schedule, whose products never skip."""

    def plain(commands: tuple[Command, ...]) -> tuple[Command, ...]:
        return tuple(
            replace(c, words=_plain(c.words, schedule.config)) if isinstance(c, Run) else c
            for c in commands
        )

    return replace(schedule, setup=plain(schedule.setup), steps=tuple(map(plain, schedule.steps)))


def _plain(words: tuple[int, ...], config: MachineConfig) -> tuple[int, ...]:
    found: list[int] = []
    while len(found) < len(words):
        instruction, _ = decode_at(words, len(found), config)
        assert instruction is not None
        if instruction.opcode == Opcode.GEMM:
            *others, flags = instruction.operands
            instruction = Instruction(Opcode.GEMM, (*others, flags & ~Flag.SKIP))
        found += encode(instruction)
    return tuple(found)


def summary(rows: list[Skipped]) -> Mapping[str, Any]:
    """All layers of a network together."""
    cycles, dense = sum(r.cycles for r in rows), sum(r.dense_cycles for r in rows)
    return {"cycles": cycles, "dense_cycles": dense, "saved": 1 - cycles / max(1, dense)}
