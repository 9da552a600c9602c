"""One block of columns rounded in turn, at several exponents, the best of which each row keeps."""

from __future__ import annotations

from typing import NamedTuple

import torch

from sw.format import SFx
from sw.wasq import sweep_native
from sw.wasq.grid import largest_exponent, snap, unit


class Exponents(NamedTuple):
    """Which exponents are tried.

    Parameters
    ----------
    top : torch.Tensor of int32 ``[N]``
        The largest that a row may have.
    form : SFx
    tries, spread : int
        How many are tried, and how far below ``top`` they may lie.
    """

    top: torch.Tensor
    form: SFx
    tries: int
    spread: int


def choose(
    columns: torch.Tensor,
    scaled: torch.Tensor,
    diagonal: torch.Tensor,
    exponents: Exponents,
    *,
    base: torch.Tensor,
    change: torch.Tensor,
    values: torch.Tensor,
    chosen: torch.Tensor,
    errors: torch.Tensor | None = None,
    aside: torch.Tensor | None = None,
    gain: float = 1.0,
) -> None:
    """Round columns in turn at several exponents; each row keeps what errs least.

    Parameters
    ----------
    columns : torch.Tensor of float32 ``[n, N]``
    scaled : torch.Tensor of float32 ``[n, n]``
        What a column's error takes from those after it.
    diagonal : torch.Tensor of float32 ``[n]``
        What errors are divided by.
    exponents : Exponents
    base : torch.Tensor of float32 ``[n, N]``
        What changes are counted from; may be ``values``.
    change : torch.Tensor of float32 ``[n, N]``
        Written: the values less ``base``.
    values : torch.Tensor of float32 ``[n, N]``
        Written where a row has something better.
    chosen : torch.Tensor of int32 ``[N]``
        The same for exponents.
    errors : torch.Tensor of float32 ``[n, N]``, optional
        Written, if there is no ``aside``.
    aside : torch.Tensor of float32 ``[n, N]``, optional
        Its squares, summed, are the loss of what there is, which may stay: then exponents are tried
        from one above those that there are (with one try, these). Without it they are tried from
        that of the largest magnitude, and the best is taken.
    gain : float
        What part of the loss of staying a loss must be less than.
    """
    if sweep_native.choose(
        columns,
        scaled,
        diagonal,
        exponents.form,
        (exponents.tries, exponents.spread, gain),
        {"top": exponents.top, "base": base, "change": change, "values": values, "chosen": chosen}
        | {"errors": errors, "aside": aside},
    ):
        return
    top, form, tries, spread = exponents
    steps = torch.arange(tries, dtype=torch.int32, device=columns.device)[:, None]
    if aside is None:
        first = torch.minimum(largest_exponent(columns.abs().amax(0), form).int(), top) - steps
    else:
        first = torch.minimum(chosen + (1 if tries > 1 else 0) - steps, top)
    tried = torch.maximum(first, top - spread)
    rounded, lost = sweep(columns, scaled, diagonal, unit(tried, form), form)
    least, best = _sum(lost).min(0)
    rows = torch.arange(columns.shape[1], device=columns.device)
    found, kept = tried[best, rows], rounded[:, best, rows]
    if aside is not None:
        better = least < _sum(aside) * gain
        found, kept = torch.where(better, found, chosen), torch.where(better, kept, values)
    if errors is not None:
        errors.copy_(lost[:, best, rows])
    torch.sub(kept, base, out=change)
    values.copy_(kept)
    chosen.copy_(found)


def _sum(columns: torch.Tensor) -> torch.Tensor:
    """Squares summed over the first dimension, one after the other, as the kernel does."""
    total = torch.zeros_like(columns[0])
    for column in columns:
        total += column.square()
    return total


def sweep(
    columns: torch.Tensor,
    scaled: torch.Tensor,
    diagonal: torch.Tensor,
    units: torch.Tensor,
    form: SFx,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round columns ``[n, N]`` in turn, spreading each error over those after it.

    Parameters
    ----------
    columns, scaled, diagonal
        As for :func:`choose`.
    units : torch.Tensor of float32 ``[T, N]``

    Returns
    -------
    values, errors : torch.Tensor of float32 ``[n, T, N]``
    """
    work = columns[:, None] / units
    values = torch.empty_like(work)
    errors = torch.empty_like(work)
    for i in range(len(work)):
        values[i] = snap(work[i], form)
        errors[i] = work[i] - values[i]
        # Product and difference round apart, here as in the kernel.
        work[i + 1 :] -= scaled[i, i + 1 :, None, None] * errors[i]
    errors /= diagonal[:, None, None]
    return values.mul_(units), errors.mul_(units)
