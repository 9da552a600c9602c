"""The scaling study ``P = f(n, c, x)``: perplexity after healing by context, width and size.

Models of several sizes n are healed under fake quantization at x bits on windows of c tokens, then
evaluated on words, always on the same held-out text and window. Windows are made in three ways:

- ``packed``: the text is one run of tokens, cut into windows; there is no padding;
- ``masked``: every document is cut off at c tokens or padded to c, and the loss leaves padding out;
- ``padded``: the same, and the loss counts padding like text, as data loaders do by default.

Every point spends the same number of tokens that the loss counts.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn import functional

from sw.wasq.config import SFConfig
from sw.wasq.evaluation import device_of, evaluate
from sw.wasq.healing.layers import prepare_healing_
from sw.wasq.quantize import finish_

Mode = Literal["packed", "masked", "padded"]
MODES: Final[tuple[Mode, ...]] = ("packed", "masked", "padded")
CONTEXTS: Final = tuple(2**power for power in range(1, 13))
#: What padding is: the byte 0, which no text has, is the first token of tokenizers made in-house.
PADDING: Final = 0
#: Scores of one head that a part of a batch may hold, windows times length squared.
_MOST_SCORES: Final = 4096**2
_IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Point:
    """One healing.

    Parameters
    ----------
    bits : int
        Of weights and activations, both with an exponent per 32-block.
    context : int
        Tokens of a window, at least 2.
    mode : {"packed", "masked", "padded"}
    seed : int
    """

    bits: int
    context: int
    mode: Mode
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, not {self.mode!r}")
        if self.context < 2:
            raise ValueError(f"context must be at least 2 tokens, not {self.context}")

    @property
    def config(self) -> SFConfig:
        """How the model is quantized."""
        return SFConfig(
            weights=self.bits,
            activations=self.bits,
            weight_scale="block",
            activation_scale="block",
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """What every point spends.

    Parameters
    ----------
    steps : int
    tokens : int
        That the loss of a step counts, about: whole windows.
    rate : float
        Largest learning rate; it falls linearly to 0.
    """

    steps: int = 24
    tokens: int = 8192
    rate: float = 2e-4


def points(
    bits: Sequence[int], contexts: Sequence[int] = CONTEXTS, modes: Sequence[Mode] = MODES
) -> list[Point]:
    """All combinations, contexts that are far apart first, so that a part of them tells much."""
    order = sorted(contexts, key=lambda c: (c.bit_length() % 3, c))
    return [Point(x, c, mode) for c in order for x in bits for mode in modes]


def heal(
    model: nn.Module, documents: Sequence[torch.Tensor], point: Point, budget: Budget
) -> tuple[nn.Module, int, int]:
    """A quantized copy of a model, trained on windows of a point.

    Parameters
    ----------
    model : nn.Module
        Float, from tokens to logits.
    documents : sequence of torch.Tensor of int64 ``[n]``
    point : Point
    budget : Budget

    Returns
    -------
    (nn.Module, int, int)
        The copy on words, tokens that the loss counted, and those of them that were padding.

    Raises
    ------
    ValueError
        If no document has two tokens.
    """
    made = copy.deepcopy(model)
    prepare_healing_(made, point.config)
    made.train()
    optimizer = torch.optim.AdamW(made.parameters(), lr=budget.rate, betas=(0.9, 0.95))
    counted = padding = 0
    source = batches(documents, point, budget)
    device = device_of(made)
    for step in range(budget.steps):
        inputs, labels = next(source)
        real = int((labels != _IGNORED).sum())
        counted, padding = counted + real, padding + int((labels == PADDING).sum())
        for group in optimizer.param_groups:
            group["lr"] = budget.rate * (1 - step / budget.steps)
        optimizer.zero_grad(set_to_none=True)
        size = max(1, _MOST_SCORES // inputs.shape[1] ** 2)
        for x, y in zip(torch.split(inputs, size), torch.split(labels, size), strict=True):
            logits = made(x.to(device)).flatten(0, 1)
            loss = functional.cross_entropy(
                logits, y.to(device).flatten(), ignore_index=_IGNORED, reduction="sum"
            )
            (loss / real).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
    finish_(made)
    return made.eval(), counted, padding


def batches(
    documents: Sequence[torch.Tensor], point: Point, budget: Budget
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels ``[B, c - 1]`` of every step, without end; order by the seed.

    Labels that the loss leaves out are -100. A step has as many windows as the budget's tokens
    take.
    """
    chooser = torch.Generator().manual_seed(point.seed * 1_000_003 + point.context)
    usable = [document for document in documents if len(document) > 1]
    if not usable:
        raise ValueError("documents must have at least one of two tokens, not none")
    if point.mode == "packed":
        stream = torch.cat(usable)
        length = min(point.context, len(stream))
        count = max(1, round(budget.tokens / (length - 1)))
        while True:
            starts = torch.randint(len(stream) - length + 1, (count, 1), generator=chooser)
            windows = stream[starts + torch.arange(length)]
            yield windows[:, :-1], windows[:, 1:]
    while True:
        rows, labels, total = [], [], 0
        while total < budget.tokens:
            place = int(torch.randint(len(usable), (), generator=chooser))
            row, label = _padded(usable[place], point)
            rows.append(row)
            labels.append(label)
            total += int((label != _IGNORED).sum())
        inputs, targets = torch.stack(rows), torch.stack(labels)
        if point.mode == "masked":  # what is padding in every row changes nothing
            longest = int((targets != _IGNORED).sum(1).max())
            inputs, targets = inputs[:, :longest], targets[:, :longest]
        yield inputs, targets


def _padded(document: torch.Tensor, point: Point) -> tuple[torch.Tensor, torch.Tensor]:
    """A document cut off at the context or padded to it, as inputs and labels."""
    cut = document[: point.context]
    whole = torch.full((point.context,), PADDING)
    whole[: len(cut)] = cut
    labels = whole[1:].clone()
    if point.mode == "masked":
        labels[len(cut) - 1 :] = _IGNORED
    return whole[:-1], labels


def run_point(
    model: nn.Module,
    documents: Sequence[torch.Tensor],
    held_out: Sequence[torch.Tensor],
    point: Point,
    budget: Budget,
    batch: int = 8,
) -> dict[str, Any]:
    """Heal and evaluate: the row of a point.

    Parameters
    ----------
    model, documents, point, budget
        As :func:`heal`.
    held_out : sequence of torch.Tensor of int64 ``[T]``
        Windows to evaluate on, the same for every point.
    batch : int
        Windows at a time.
    """
    started = time.monotonic()
    made, counted, padding = heal(model, documents, point, budget)
    found = evaluate(made, held_out, batch=batch)
    return {
        **{"study": "scaling", **asdict(point), **asdict(budget)},
        **{"size": sum(p.numel() for p in model.parameters()), "counted": counted},
        **{"padding": padding, "perplexity": found.perplexity, "interval": found.interval()},
        **{"window": found.window, "predicted": found.predicted},
        "seconds": round(time.monotonic() - started, 2),
    }


def key(row: dict[str, Any]) -> str:
    """What makes two rows the same point, as a hash: model, budget, held-out text, point."""
    names = (
        *("sha256", "bits", "context", "mode", "seed", "steps", "tokens", "rate"),
        *("window", "predicted"),
    )
    text = json.dumps([row.get(name) for name in names])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def documents_of(
    texts: Sequence[str], encode: Callable[[str], Sequence[int]]
) -> list[torch.Tensor]:
    """Paragraphs as documents: what blank lines part, or lines where a text has long ones.

    Parameters
    ----------
    texts : sequence of str
    encode : callable
        From text to tokens.
    """
    found = []
    for text in texts:
        lines = [line for line in text.split("\n") if line.strip()]
        longish = sum(map(len, lines)) > 200 * max(1, len(lines))
        parts = lines if longish else text.split("\n\n")
        found += [torch.tensor(encode(part), dtype=torch.int64) for part in parts if part.strip()]
    return [document for document in found if len(document) > 1]
