"""The loss that healing minimises: divergence from the float model, and cross entropy."""

from __future__ import annotations

import torch
from torch.nn import functional


def divergence(
    logits: torch.Tensor, target: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Kullback-Leibler divergence of the logits from the target, mean over samples, in nats.

    Scaled by the temperature's square, so that its gradient does not depend on it (Hinton, Vinyals
    and Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531).

    Parameters
    ----------
    logits, target : torch.Tensor ``[samples, classes]``
    temperature : float
        That both are divided by.
    """
    found = functional.kl_div(
        functional.log_softmax(logits / temperature, 1),
        functional.log_softmax(target / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return found * temperature**2


def distillation_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    labels: torch.Tensor | None,
    share: float,
    temperature: float,
) -> torch.Tensor:
    """``share`` of the divergence and ``1 - share`` of cross entropy; the divergence unlabelled.

    Parameters
    ----------
    logits, target : torch.Tensor ``[..., classes]``
    labels : torch.Tensor of int64 ``[...]``, optional
    share : float
        0 to 1.
    temperature : float
    """
    classes = logits.shape[-1]
    logits, target = logits.reshape(-1, classes), target.reshape(-1, classes)
    if labels is None:
        return divergence(logits, target, temperature)
    entropy = functional.cross_entropy(logits, labels.reshape(-1))
    return share * divergence(logits, target, temperature) + (1 - share) * entropy
