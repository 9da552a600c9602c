"""Formats at equal bits: what they do to real weights and activations, and to perplexity."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from sw.format import SFx
from sw.wasq.config import ActivationScale, SFConfig, WeightScale
from sw.wasq.evaluation import evaluate
from sw.wasq.quantize import find_head, quantize_
from sw.wasq.studies.capture import inputs_of_layers
from sw.wasq.studies.number_formats import FloatFormat, NumberFormat, formats_of

#: How activations share scales where weights do so per tensor, channel or block.
_BESIDE: Final[Mapping[WeightScale, ActivationScale]] = {
    "none": "none",
    "tensor": "tensor",
    "channel": "token",
    "block": "block",
}

#: Tokens that are evaluated together.
_BATCH: Final = 4096
#: What Superfloat was said to be more precise than.
RIVALS: Final = ("tf32", "binary16", "bfloat16")


@dataclass(slots=True)
class Errors:
    """Sums over values of what a format makes of them; they add up.

    Parameters
    ----------
    values : int
        How many, zeros not counted.
    signal, noise : float
        Sums of squares of values and of errors.
    relative : float
        Largest error over the value.
    lost : int
        Values that become 0.
    clipped : int
        Values beyond the largest number of a format without scales.
    """

    values: int = 0
    signal: float = 0.0
    noise: float = 0.0
    relative: float = 0.0
    lost: int = 0
    clipped: int = 0

    def add(self, values: torch.Tensor, rounded: torch.Tensor, largest: float | None) -> None:
        """Count a tensor and what became of it."""
        exact, got = values.double().flatten(), rounded.double().flatten()
        there = exact != 0
        exact, got = exact[there], got[there]
        if not exact.numel():
            return
        error = (got - exact).abs()
        self.values += exact.numel()
        self.signal += float(exact.square().sum())
        self.noise += float(error.square().sum())
        self.relative = max(self.relative, float((error / exact.abs()).max()))
        self.lost += int((got == 0).sum())
        if largest is not None:
            self.clipped += int((exact.abs() > largest).sum())

    def row(self) -> dict[str, float]:
        """Figures: signal to noise in decibels, mean squared error, and shares in percent."""
        ratio = self.signal / self.noise if self.noise else math.inf
        return {
            "values": self.values,
            "sqnr_db": 10 * math.log10(ratio) if math.isfinite(ratio) else 999.0,
            "mse": self.noise / max(1, self.values),
            "max_relative": self.relative,
            "lost_percent": 100 * self.lost / max(1, self.values),
            "clipped_percent": 100 * self.clipped / max(1, self.values),
        }


def error_row(form: NumberFormat, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What a format does to matrices of weights, or of activations.

    Parameters
    ----------
    form : NumberFormat
    tensors : mapping of str to torch.Tensor of float32 ``[..., K]``
        Groups of a channel or of 32 lie along the last dimension.

    Returns
    -------
    dict
        ``format``, ``bits``, ``scale``, and the figures of :meth:`Errors.row`.
    """
    errors = Errors()
    largest = largest_of(form)
    for tensor in tensors.values():
        errors.add(tensor, form.round(tensor), largest)
    return {"format": form.name, "bits": form.bits, "scale": form.scale, **errors.row()}


def largest_of(form: NumberFormat) -> float | None:
    """The largest number of a format without scales; None with them."""
    if form.scale != "none" or isinstance(form.kind, int):
        return None
    if isinstance(form.kind, FloatFormat):
        return form.kind.largest
    return 1.0 if form.kind.unity else 1 - 2.0**-form.kind.fraction_bits


def closer_percent(a: NumberFormat, b: NumberFormat, tensors: Mapping[str, torch.Tensor]) -> float:
    """Percent of nonzero values that ``a`` gives more closely than ``b``; of ties half."""
    won = total = 0.0
    for tensor in tensors.values():
        exact = tensor.double()
        first, second = ((form.round(tensor).double() - exact).abs() for form in (a, b))
        there = exact != 0
        won += (
            float(((first < second) & there).sum()) + float(((first == second) & there).sum()) / 2
        )
        total += float(there.sum())
    return 100 * won / total if total else math.nan


def rounded_model(model: nn.Module, form: NumberFormat) -> nn.Module:
    """A copy of a network whose linear layers but the head compute on rounded operands.

    Superfloat goes through ``quantize_``: what is computed is what the array computes. Operands in
    other formats are rounded and multiplied in float32.
    """
    made = copy.deepcopy(model)
    if isinstance(form.kind, SFx):
        config = SFConfig(
            weights=form.kind.bits,
            activations=form.kind.bits,
            weight_scale=form.scale,
            activation_scale=_BESIDE[form.scale],
            weight_rule="maximum",
            unity=form.kind.unity,
        )
        return quantize_(made, config)
    head = find_head(made)

    def before(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (form.round(arguments[0]), *arguments[1:])

    for name, module in made.named_modules():
        if isinstance(module, nn.Linear) and name != head:
            with torch.no_grad():
                module.weight.copy_(form.round(module.weight))
            module.register_forward_pre_hook(before)
    return made


def perplexity_row(
    model: nn.Module, form: NumberFormat | None, windows: Sequence[torch.Tensor]
) -> dict[str, Any]:
    """Perplexity with weights and activations in a format; None: as the network is.

    Returns
    -------
    dict
        ``format``, ``bits``, ``scale``, ``perplexity``, ``interval`` (95 %), ``divergence`` from
        the float network in nats, ``window``, ``predicted`` tokens.
    """
    rounded = model if form is None else rounded_model(model, form)
    scale_of_one = form is not None and form.scale == "tensor"  # else it would be of the batch
    batch = 1 if scale_of_one else max(1, _BATCH // len(windows[0]))
    found = evaluate(rounded, windows, batch=batch, reference=model if form else None)
    name, bits, scale = (
        ("float32", 32, "none") if form is None else (form.name, form.bits, form.scale)
    )
    return {
        **{"format": name, "bits": bits, "scale": scale, "perplexity": found.perplexity},
        **{"interval": found.interval(), "divergence": found.divergence},
        **{"window": found.window, "predicted": found.predicted},
    }


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether SF16 is more precise than TF32, binary16 and bfloat16, in sentences of figures.

    Parameters
    ----------
    rows : sequence of mapping
        Rows of one model with ``part`` "weights", "activations" or "perplexity".
    """
    told = []
    for part, figure, unit, better in (
        ("weights", "sqnr_db", "dB", "more"),
        ("activations", "sqnr_db", "dB", "more"),
        ("perplexity", "divergence", "nats", "less"),
    ):
        mine = {(r["format"], r["scale"]): r[figure] for r in rows if r.get("part") == part}
        for scale in ("none", "block"):
            own = mine.get(("sf16", scale))
            others = {
                n: mine[n, "none"] for n in ("tf32", "binary16", "bfloat16") if (n, "none") in mine
            }
            if own is None or not others:
                continue
            won = [n for n, x in others.items() if (own > x if better == "more" else own < x)]
            listed = ", ".join(f"{name} {x:.4g}" for name, x in others.items())
            said = f"better than {', '.join(won)}" if won else "better than none of them"
            named = "without scale" if scale == "none" else "per 32-block"
            what = "divergence from float" if figure == "divergence" else part
            told.append(f"{what}, {unit}: SF16 {named} {own:.4g} against {listed}: {said}")
    return told


def study(
    model: nn.Module,
    tokens: torch.Tensor,
    bits: int,
    window: int,
    done: Callable[[str, str, str], bool] = lambda part, name, scale: False,
) -> Iterator[dict[str, Any]]:
    """All rows of a network at a width, one by one: weights, activations, then perplexity.

    Parameters
    ----------
    model : nn.Module
        A language model in float32.
    tokens : torch.Tensor of int64 ``[n]``
        Perplexity is of all; activations are those of the first windows.
    bits : int
    window : int
    done : callable
        Whether a row is known already, by part, format and scale.

    Yields
    ------
    dict
        As :func:`error_row` and :func:`perplexity_row`, with ``study`` and ``part``.
    """
    forms = formats_of(bits)
    head = find_head(model)
    weights = {
        name: module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != head
    }
    windows = torch.split(tokens, window)
    if len(windows[0]) < window:
        raise ValueError(f"text must have at least {window} tokens, not {len(tokens)}")
    windows = windows if len(windows[-1]) > 1 else windows[:-1]
    inputs = inputs_of_layers(model, [part[None] for part in windows])
    inputs.pop(head or "", None)
    sf = NumberFormat(f"sf{bits}", SFx(bits))
    for part, tensors in (("weights", weights), ("activations", inputs)):
        for form in forms:
            if not done(part, form.name, form.scale):
                row = error_row(form, tensors)
                row["sf_closer_percent"] = closer_percent(sf, form, tensors)
                yield {"study": "formats", "part": part, **row}
    for choice in (None, *forms):
        name, scale = ("float32", "none") if choice is None else (choice.name, choice.scale)
        if not done("perplexity", name, scale):
            row = perplexity_row(model, choice, windows)
            yield {"study": "formats", "part": "perplexity", **row}
