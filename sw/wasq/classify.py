"""Accuracy of classifiers, and how far a quantized one is from the float one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sw.wasq.evaluation import Progress, device_of, exact_arithmetic
from sw.wasq.intervals import Interval, bootstrap
from sw.wasq.losses import Network, divergence


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classifier makes of images.

    Parameters
    ----------
    hits : tuple of bool
        Per image, whether the most likely class is the right one.
    agreements : tuple of bool
        Whether it is the reference's; empty without one.
    divergences : tuple of float
        KL(reference || model) in nats; empty without one.
    """

    hits: tuple[bool, ...]
    agreements: tuple[bool, ...]
    divergences: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Fraction of images that are right."""
        return sum(self.hits) / len(self.hits)

    @property
    def agreement(self) -> float | None:
        """Fraction of images with the reference's class."""
        return sum(self.agreements) / len(self.agreements) if self.agreements else None

    @property
    def divergence(self) -> float | None:
        """Mean KL(reference || model)."""
        return sum(self.divergences) / len(self.divergences) if self.divergences else None

    def interval(self, seed: int = 0) -> Interval | None:
        """95 % of the accuracy, by bootstrap over images."""
        return bootstrap([float(hit) for hit in self.hits], [1.0] * len(self.hits), False, seed)


def classify(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    batch: int = 1,
    *,
    reference: Network | None = None,
    progress: Progress | None = None,
) -> Classification:
    """Evaluate a classifier.

    Parameters
    ----------
    model : nn.Module
        From images ``[n, ...]`` to logits ``[n, classes]``, on its device.
    images : torch.Tensor of float32 ``[n, ...]``
        As the model takes them.
    labels : torch.Tensor of int64 ``[n]``
    batch : int
        Images at a time; 1 where activations share one dynamic exponent per tensor.
    reference : callable, optional
        The float model, on the same device.
    progress : callable, optional

    Raises
    ------
    ValueError
        If there are no images, not as many labels, or logits are not finite or of other shape.
    """
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"labels must be one per image, not {len(labels)} for {len(images)}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    model.eval()
    device = device_of(model)
    hits: list[bool] = []
    agreements: list[bool] = []
    divergences: list[float] = []
    with exact_arithmetic(), torch.no_grad():
        for start in range(0, len(images), batch):
            part = images[start : start + batch].to(device)
            ours = model(part)
            if ours.dim() != 2 or len(ours) != len(part) or not bool(torch.isfinite(ours).all()):
                raise ValueError(f"logits of image {start} must be finite, [batch, classes]")
            chosen = ours.argmax(1)
            hits += (chosen.cpu() == labels[start : start + batch].cpu()).tolist()
            if reference is not None:
                theirs = reference(part)
                agreements += (chosen == theirs.argmax(1)).tolist()
                divergences += divergence(theirs, ours).tolist()
            if progress is not None:
                progress(min(start + batch, len(images)), len(images))
    return Classification(tuple(hits), tuple(agreements), tuple(divergences))
