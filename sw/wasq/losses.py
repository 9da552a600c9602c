"""Losses of a language model's logits, and how far they are from another's, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import torch
import torch.distributed as dist
from torch import nn

from sw.wasq.finite import check_activations

#: Positions whose logits are turned into float64 at a time.
_ROWS: Final = 128
#: From tokens ``[B, T]`` to logits ``[B, T, V]``.
Network = Callable[[torch.Tensor], torch.Tensor]


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods ``[n]`` float64 of targets ``[n]`` by logits ``[n, V]``."""
    wide = logits.double()
    chosen = wide.gather(1, targets[:, None])[:, 0]
    return torch.logsumexp(wide, 1) - chosen


def divergence(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(reference || model) ``[n]`` float64 of logits ``[n, V]``."""
    theirs = torch.log_softmax(reference.double(), 1)
    ours = torch.log_softmax(logits.double(), 1)
    return (theirs.exp() * (theirs - ours)).sum(1)


def window_losses(
    model: Network, reference: Network | None, tokens: torch.Tensor, first: int
) -> list[list[float]]:
    """Losses of windows of one length.

    Parameters
    ----------
    model : callable
        From tokens ``[B, T]`` to logits ``[B, T, V]``.
    reference : callable or None
    tokens : torch.Tensor of int64 ``[B, T]``
    first : int
        Number of the first window.

    Returns
    -------
    list of list of float
        Per window: nats, the reference's nats, summed KL(reference || model); 0 without one.

    Raises
    ------
    ValueError
        If a figure is not finite (the layer is named where it is known), or memory does not
        suffice.
    """
    try:
        ours = model(tokens)
        theirs = None if reference is None else reference(tokens)
        found = [
            _sums(ours[i], None if theirs is None else theirs[i], tokens[i])
            for i in range(len(tokens))
        ]
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        short = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not short and "allocate memory" not in str(error):
            raise
        raise ValueError(
            f"memory must hold {len(tokens)} windows of {tokens.shape[1]} tokens at a time: "
            "take a smaller batch or window"
        ) from None
    for number, row in enumerate(found):
        if not all(map(math.isfinite, row)):
            _refuse((model, reference), tokens[number : number + 1], first + number)
    return found


def _sums(ours: torch.Tensor, theirs: torch.Tensor | None, tokens: torch.Tensor) -> list[float]:
    sums = torch.zeros(3, dtype=torch.float64, device=ours.device)
    for start in range(0, len(tokens) - 1, _ROWS):
        end = min(start + _ROWS, len(tokens) - 1)
        targets = tokens[start + 1 : end + 1]
        sums[0] += token_losses(ours[start:end], targets).sum()
        if theirs is not None:
            sums[1] += token_losses(theirs[start:end], targets).sum()
            sums[2] += divergence(theirs[start:end], ours[start:end]).sum()
    found: list[float] = sums.tolist()
    return found


def _refuse(networks: Sequence[Network | None], tokens: torch.Tensor, number: int) -> NoReturn:
    """Say where what is not finite comes from; a model may be of several processes, and is not
    asked then."""
    alone = not (dist.is_available() and dist.is_initialized())
    for network in networks:
        if alone and isinstance(network, nn.Module):
            check_activations(network, tokens)
    raise ValueError(f"logits of window {number} must be finite, not NaN or infinite")
