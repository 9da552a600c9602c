"""Healing: training a quantized network's weights until it does again what the float one did.

The published full-parameter method: every weight is trained under fake quantization of weights and
activations with a straight-through estimator (gradient 1 inside the range, 0 outside), float32
weights behind the words, distillation from the float model and cross entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from sw.compiler.graph import Graph
from sw.compiler.layers import Plan, Weights
from sw.distillation import distillation_loss
from sw.fake_network import FakeQuantizedNetwork, with_weights

#: Called after an epoch with its number from 1 and its mean loss.
Progress = Callable[[int, float], None]


@dataclass(frozen=True, slots=True)
class HealingOptions:
    """How a network is healed.

    Parameters
    ----------
    epochs : int
        Passes over the training data, at least 0.
    learning_rate : float
        Of Adam at the start; it falls to 0 along a cosine.
    distillation : float
        Share of the Kullback-Leibler divergence from the float model in the loss, 0 to 1; the rest
        is cross entropy. 1 without labels.
    temperature : float
        That logits are divided by for the divergence.
    gradient_limit : float
        Gradients are capped at plus and minus this.
    seed : int
        Of the order of the samples.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    distillation: float = 0.5
    temperature: float = 2.0
    gradient_limit: float = 1.0
    seed: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.epochs, bool) or not isinstance(self.epochs, int):
            raise TypeError(f"epochs must be an integer, not {self.epochs!r}")
        if self.epochs < 0:
            raise ValueError(f"epochs must be at least 0, not {self.epochs!r}")
        if not 0 <= self.distillation <= 1:
            raise ValueError(f"distillation must be 0 to 1, not {self.distillation!r}")
        for name in ("learning_rate", "temperature", "gradient_limit"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Healed:
    """A healed network.

    Parameters
    ----------
    plan : Plan
        The given one with healed weights.
    weights : mapping of str to Weights
        Of each convolution; see :func:`sw.fake_network.with_weights` for other batches.
    losses : tuple of float
        Mean loss of each epoch.
    """

    plan: Plan
    weights: Mapping[str, Weights]
    losses: tuple[float, ...]


def heal(
    plan: Plan,
    teacher: Callable[[torch.Tensor], torch.Tensor],
    samples: torch.Tensor,
    labels: torch.Tensor | None = None,
    options: HealingOptions | None = None,
    *,
    graph: Graph | None = None,
    weight_bits: int | None = None,
    augment: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
    progress: Progress | None = None,
) -> Healed:
    """Train the weights of a plan under fake quantization; its exponents stay.

    Parameters
    ----------
    plan : Plan
        Of a network with one input and logits ``[batch, ..., classes]`` as its first output.
    teacher : callable
        The float model: from a batch of samples to logits.
    samples : torch.Tensor ``[samples, ...]``
        At least a batch; of every epoch, what does not fill a batch is left out.
    labels : torch.Tensor of int64 ``[samples, ...]``, optional
    options : HealingOptions, optional
    graph, weight_bits
        As for :class:`sw.fake_network.FakeQuantizedNetwork`.
    augment : callable
        From a batch and a generator to the batch that is trained on.
    progress : callable

    Raises
    ------
    ValueError
        If the network has several inputs, or the samples do not fit.
    """
    options = HealingOptions() if options is None else options
    batch = _batch(plan, samples, labels)
    network = FakeQuantizedNetwork(plan, graph, weight_bits)
    trained = [p for p in network.parameters() if p.requires_grad]
    losses: list[float] = []
    if not trained or not options.epochs:
        return Healed(plan, network.quantized(), ())
    optimizer = torch.optim.Adam(trained, lr=options.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    generator = torch.Generator().manual_seed(options.seed)
    for epoch in range(options.epochs):
        order = torch.randperm(len(samples), generator=generator)
        total, steps = 0.0, len(samples) // batch
        for chosen in order[: steps * batch].reshape(steps, batch):
            given = samples[chosen] if augment is None else augment(samples[chosen], generator)
            with torch.no_grad():
                target = teacher(given)
            answers = None if labels is None else labels[chosen]
            loss = distillation_loss(
                network(given)[0], target, answers, options.distillation, options.temperature
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_value_(trained, options.gradient_limit)
            optimizer.step()
            total += float(loss.detach())
        schedule.step()
        losses.append(total / steps)
        if progress is not None:
            progress(epoch + 1, losses[-1])
    weights = network.quantized()
    return Healed(with_weights(plan, weights), weights, tuple(losses))


def _batch(plan: Plan, samples: torch.Tensor, labels: torch.Tensor | None) -> int:
    if len(plan.graph.inputs) != 1:
        raise ValueError(f"network must have one input to be healed, not {len(plan.graph.inputs)}")
    shape = plan.graph.inputs[0].shape
    if samples.shape[1:] != shape[1:] or len(samples) < shape[0]:
        raise ValueError(
            f"samples must be at least {shape[0]} of shape {shape[1:]}, not {tuple(samples.shape)}"
        )
    if labels is not None and len(labels) != len(samples):
        raise ValueError(f"labels must be {len(samples)}, not {len(labels)}")
    return shape[0]
