"""The float model that healing learns from, asked at each step or once beforehand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from sw.distillation import divergence
from sw.wasq.healing.options import HealOptions
from sw.wasq.healing.samples import Samples

Model = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Likeliest:
    """What is kept of a float model's answers.

    Parameters
    ----------
    classes : torch.Tensor of int32 ``[samples, ..., k]``
    logs : torch.Tensor of float32 ``[samples, ..., k + 1]``
        Logarithms of their probabilities, and of all the others' together.
    """

    classes: torch.Tensor
    logs: torch.Tensor

    @classmethod
    def of(
        cls, model: Model, samples: Samples, options: HealOptions, device: torch.device
    ) -> Likeliest:
        """Ask the model once about every sample."""
        classes, logs = [], []
        with torch.no_grad():
            for part in torch.split(samples.inputs, options.size_of_pass):
                answers = functional.log_softmax(
                    model(part.to(device)).float() / options.temperature, -1
                )
                k = min(options.top_k or 1, answers.shape[-1] - 1)
                best, which = answers.topk(k, -1)
                rest = torch.log1p(-best.double().exp().sum(-1, keepdim=True).clamp(max=1 - 1e-9))
                classes.append(which.to(torch.int32).cpu())
                logs.append(torch.cat((best, rest.float()), -1).cpu())
        return cls(torch.cat(classes), torch.cat(logs))

    def divergence(
        self, logits: torch.Tensor, chosen: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        """Divergence over the kept classes and the rest, mean over positions."""
        mine = functional.log_softmax(logits / temperature, -1)
        which = self.classes[chosen].to(logits.device).long()
        kept = mine.gather(-1, which)
        rest = torch.log1p(-kept.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))
        target = self.logs[chosen].to(logits.device)
        found = functional.kl_div(
            torch.cat((kept, rest), -1).flatten(0, -2),
            target.flatten(0, -2),
            reduction="batchmean",
            log_target=True,
        )
        return found * temperature**2


def frozen_copy(model: nn.Module) -> nn.Module:
    """The model as it is now, not trained, on the same device."""
    twin = copy.deepcopy(model).eval()
    return twin.requires_grad_(False)


def loss_of(
    logits: torch.Tensor,
    samples: Samples,
    chosen: torch.Tensor,
    inputs: torch.Tensor,
    teacher: Model | Likeliest | None,
    options: HealOptions,
) -> torch.Tensor:
    """The loss of one forward pass, float32: see :mod:`sw.distillation`.

    Parameters
    ----------
    logits : torch.Tensor ``[samples, ..., classes]``
    samples : Samples
    chosen : torch.Tensor of int64 ``[samples]``
        Their numbers.
    inputs : torch.Tensor
        They themselves, on the device.
    teacher : callable, Likeliest or None
        None: cross entropy alone.
    options : HealOptions
    """
    logits = logits.float()
    share = options.distillation if teacher is not None else 0.0
    labels = samples.labels
    answers, predicted = logits, None
    if samples.is_text:
        answers, predicted = logits[:, :-1], inputs[:, 1:]
    elif labels is not None:
        predicted = labels[chosen].to(logits.device)
    else:
        share = 1.0
    loss = logits.new_zeros(())
    if share < 1 and predicted is not None:
        classes = answers.shape[-1]
        entropy = functional.cross_entropy(answers.reshape(-1, classes), predicted.reshape(-1))
        loss = loss + (1 - share) * entropy
    if share > 0:
        if isinstance(teacher, Likeliest):
            distance = teacher.divergence(logits, chosen, options.temperature)
        else:
            assert teacher is not None
            with torch.no_grad():
                target = teacher(inputs).float()
            distance = divergence(logits.flatten(0, -2), target.flatten(0, -2), options.temperature)
        loss = loss + share * distance
    return loss
