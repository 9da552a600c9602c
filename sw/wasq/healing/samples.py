"""What is trained on, in an order that follows from the seed and the step alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sw.wasq.healing.options import HealingError


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Inputs, with labels or as text.

    Parameters
    ----------
    inputs : torch.Tensor ``[samples, ...]``
        Windows of tokens ``[samples, T]`` int64, whose labels are the tokens that follow; or
        anything that the model takes.
    labels : torch.Tensor of int64 ``[samples, ...]``, optional
    """

    inputs: torch.Tensor
    labels: torch.Tensor | None = None

    @classmethod
    def of(cls, data: object, window: int | None = None) -> Samples:
        """Samples of a tensor, a pair (inputs, labels), or a sequence of inputs alike in shape.

        Parameters
        ----------
        data : Samples, torch.Tensor, tuple of two, or sequence of torch.Tensor
            Integer tokens ``[n]`` are cut into windows that do not overlap; what is left is not
            used.
        window : int, optional
            Tokens of a window.

        Raises
        ------
        HealingError
            If there is nothing, windows are shorter than 2 tokens, or labels do not fit.
        """
        if isinstance(data, Samples):
            found = data
        elif isinstance(data, torch.Tensor):
            found = cls(data)
        elif isinstance(data, tuple) and len(data) == 2 and data[1].dim() < data[0].dim():
            found = cls(*data)
        elif isinstance(data, Sequence) and data:
            found = cls(torch.cat([part if part.dim() > 1 else part[None] for part in data]))
        else:
            raise HealingError("data must be tensors of samples, and not none")
        if found.inputs.dim() == 1:
            found = cls(_windows(found.inputs, window))
        found.check()
        return found

    def check(self) -> None:
        """Refuse what cannot be trained on."""
        if not len(self.inputs):
            raise HealingError("data must have at least one sample, not none")
        if self.labels is not None and len(self.labels) != len(self.inputs):
            raise HealingError(f"labels must be {len(self.inputs)}, not {len(self.labels)}")
        if self.is_text and self.inputs.shape[1] < 2:
            raise HealingError("windows must have at least 2 tokens, not 1: data are too short")

    @property
    def is_text(self) -> bool:
        """Whether inputs are windows of tokens."""
        return self.labels is None and not self.inputs.is_floating_point()

    @property
    def per_sample(self) -> int:
        """Tokens of a window; 1 for anything else."""
        return self.inputs.shape[1] if self.is_text else 1

    def __len__(self) -> int:
        return len(self.inputs)

    def sha256(self) -> str:
        """Of inputs and labels."""
        digest = hashlib.sha256()
        for part in (self.inputs, self.labels):
            if part is not None:
                plain = part.cpu().contiguous()
                digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
                digest.update(plain.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def chosen(self, step: int, batch: int, seed: int) -> torch.Tensor:
        """Numbers of the samples of an update, int64 ``[batch]``: each epoch its own order."""
        first, count = step * batch, len(self)
        orders: dict[int, torch.Tensor] = {}
        picked = []
        for place in range(first, first + batch):
            epoch, rest = divmod(place, count)
            if epoch not in orders:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
                orders[epoch] = torch.randperm(count, generator=generator)
            picked.append(int(orders[epoch][rest]))
        return torch.tensor(picked)


def _windows(tokens: torch.Tensor, window: int | None) -> torch.Tensor:
    if window is None or window < 2:
        raise HealingError(f"window must be at least 2 tokens, not {window!r}")
    count = len(tokens) // window
    if not count:
        raise HealingError(f"data must have at least {window} tokens, not {len(tokens)}")
    return tokens[: count * window].reshape(count, window)
