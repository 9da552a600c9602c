"""What the demo finds out, as its tables and its report show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from atreides import digits
from atreides.demo_plots import Distribution
from sw.compiler.cost import LayerCost
from sw.config import MachineConfig

#: The clock that speeds are stated at, in Hz.
CLOCK = 50e6


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """The float network and how it got there.

    Parameters
    ----------
    network : DigitNetwork
    losses, accuracies : tuple of float
        One per epoch; the accuracy on the test images.
    """

    network: digits.DigitNetwork
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One version of the network on all test images.

    Parameters
    ----------
    name : str
    logits : torch.Tensor ``[images, classes]``
    """

    name: str
    logits: torch.Tensor

    def accuracy(self, data: digits.Digits) -> float:
        """0 to 1."""
        return digits.accuracy(self.logits, data)

    def wrong(self, data: digits.Digits) -> int:
        """Images of which it finds another digit."""
        return int((self.logits.argmax(1) != data.test_labels).sum())

    def divergence(self, reference: Row) -> float:
        """Mean Kullback-Leibler divergence of its classes from another's, in nats."""
        own, other = (torch.log_softmax(r.logits.double(), 1) for r in (self, reference))
        return float((other.exp() * (other - own)).sum(1).mean())


@dataclass(frozen=True, slots=True)
class Agreement:
    """One back end against the tensor model, layer by layer.

    Parameters
    ----------
    label : str
    images : int
    results : int
        Results of layers that were compared.
    words : int
        Words and exact sums in them.
    cycles : int
        Of the machine, 0 where nothing counts them.
    seconds : float
    difference : str
        Where the first word differs; empty if none does.
    """

    label: str
    images: int
    results: int
    words: int
    cycles: int
    seconds: float
    difference: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Results:
    """All that the demo found out.

    Parameters
    ----------
    config : MachineConfig
    data : Digits
    seed, batch : int
        Images per run of the network.
    training : Training
    accuracies : tuple of Row
        float32, rounded, healed; the last is what ran on every back end.
    healing : tuple of float
        Loss of each epoch.
    agreements : tuple of Agreement
    layers : tuple of LayerCost
        Of one batch, equal to the counters of the machine.
    cycles : int
        Of one batch, by the counters of the machine.
    weights, activations : tuple of Distribution
    widths : mapping of int to (float, float)
        Accuracy rounded and healed, by width.
    roofline : bytes
        SVG; empty if there is none.
    verilog : tuple of (str, int)
        Files and their sizes in bytes.
    command : str
        That gives the same again.
    seconds : float
        That the demo took.
    """

    config: MachineConfig
    data: digits.Digits
    seed: int
    batch: int
    training: Training
    accuracies: tuple[Row, ...]
    healing: tuple[float, ...]
    agreements: tuple[Agreement, ...]
    layers: tuple[LayerCost, ...]
    cycles: int
    weights: Sequence[Distribution]
    activations: Sequence[Distribution]
    widths: dict[int, tuple[float, float]]
    roofline: bytes
    verilog: tuple[tuple[str, int], ...]
    command: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether every word of every layer is the same on every back end."""
        return not any(agreement.difference for agreement in self.agreements)

    @property
    def rate(self) -> float:
        """Images per second at :data:`CLOCK`."""
        return self.batch * CLOCK / max(1, self.cycles)

    @property
    def utilisation(self) -> float:
        """Needed products in the places that the array has for them in all cycles."""
        cells = self.config.rows * self.config.columns
        return sum(layer.macs for layer in self.layers) / max(1, cells * self.cycles)

    @property
    def found(self) -> NDArray[np.int64]:
        """The digits that the array found."""
        result: NDArray[np.int64] = self.accuracies[-1].logits.argmax(1).numpy()
        return result
