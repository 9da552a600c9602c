"""Perplexity, and how far a quantized model is from the float model, window by window.

Windows do not overlap and nothing is put before them (no BOS, unless it is in the text); the first
token of each is not predicted. Perplexity is ``exp(sum of negative log-likelihood / predicted
tokens)``. TF32 is off; losses and sums are float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn

from sw.wasq.corpus import Corpus, CorpusError
from sw.wasq.intervals import Interval, bootstrap, exponential
from sw.wasq.losses import Network, window_losses
from sw.wasq.partial import Partial, identity

#: What the protocol says of the first token of a window.
POLICY: Final = "non-overlapping windows, nothing put before them, first token not predicted"
WINDOW: Final = 2048
#: Called with windows done and their number.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model makes of a text.

    Parameters
    ----------
    nats : tuple of float
        Negative log-likelihood per window.
    counts : tuple of int
        Predicted tokens per window.
    reference_nats : tuple of float
        The same of the reference model, in the same pass; empty without one.
    divergences : tuple of float
        Sum over a window's predictions of KL(reference || model), in nats; empty without one.
    window : int
        Tokens of a window.
    seconds : float
        Of this call.
    """

    nats: tuple[float, ...]
    counts: tuple[int, ...]
    reference_nats: tuple[float, ...]
    divergences: tuple[float, ...]
    window: int
    seconds: float

    @property
    def predicted(self) -> int:
        """Predicted tokens."""
        return sum(self.counts)

    @property
    def loss(self) -> float:
        """Nats per predicted token."""
        return sum(self.nats) / self.predicted

    @property
    def perplexity(self) -> float:
        """``exp(loss)``."""
        return exponential(self.loss)

    @property
    def reference_perplexity(self) -> float | None:
        """The reference model's, if there was one."""
        if not self.reference_nats:
            return None
        return exponential(sum(self.reference_nats) / self.predicted)

    @property
    def divergence(self) -> float | None:
        """Mean KL(reference || model) per predicted token, in nats."""
        return sum(self.divergences) / self.predicted if self.divergences else None

    def interval(self, seed: int = 0) -> Interval | None:
        """95 % of the perplexity, by bootstrap over windows."""
        return bootstrap(self.nats, self.counts, True, seed)

    def divergence_interval(self, seed: int = 0) -> Interval | None:
        """95 % of the divergence."""
        return bootstrap(self.divergences, self.counts, False, seed) if self.divergences else None

    def ratio(
        self, other: Evaluation | None = None, seed: int = 0
    ) -> tuple[float, Interval | None] | None:
        """Perplexity over another's on the same windows, with its paired 95 % interval.

        Parameters
        ----------
        other : Evaluation, optional
            Of the same windows; the reference of this evaluation if omitted, None without one.
        seed : int

        Raises
        ------
        ValueError
            If the windows differ.
        """
        theirs = self.reference_nats if other is None else other.nats
        if other is None and not theirs:
            return None
        if other is not None and other.counts != self.counts:
            raise ValueError("evaluations must be of the same windows to be compared")
        gaps = [a - b for a, b in zip(self.nats, theirs, strict=True)]
        value = exponential(sum(gaps) / self.predicted)
        return value, bootstrap(gaps, self.counts, True, seed)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_json`."""
        names = ("nats", "counts", "reference_nats", "divergences")
        rows: dict[str, Any] = {name: tuple(data[name]) for name in names}
        return cls(**rows, window=data["window"], seconds=data["seconds"])


def evaluate(
    model: nn.Module,
    data: Corpus | torch.Tensor | Sequence[torch.Tensor],
    window: int = WINDOW,
    batch: int = 1,
    *,
    reference: Network | None = None,
    limit: int | None = None,
    tail: bool = False,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Evaluation:
    """Perplexity of a model on a text; with a reference, its divergence from it in the same pass.

    Where ``torch.distributed`` is initialised, ranks share the windows, and each returns the same,
    which is what one process returns.

    Parameters
    ----------
    model : nn.Module
        From tokens ``[B, T]`` to logits ``[B, T, V]``, on its device; put into evaluation mode.
    data : Corpus, torch.Tensor ``[n, T]`` or sequence of torch.Tensor ``[T]``
        A text to be cut into windows, or windows, of any length.
    window : int
        Tokens of a window.
    batch : int
        Windows at a time; 1 where activations share one dynamic exponent per tensor, for that is
        then one per batch.
    reference : callable, optional
        The float model, on the same device.
    limit : int, optional
        Most windows, from the beginning.
    tail : bool
        Whether what is left behind the last whole window of a text is a shorter one; the protocol
        leaves it out.
    progress : callable, optional
    resume : Path, optional
        A JSON file of windows done, by which an interrupted evaluation goes on; removed at the
        end.

    Raises
    ------
    ValueError
        If a number is out of range, the text is too short, tokens do not fit the model, a loss is
        not finite, memory does not suffice, or the file is of another evaluation.
    """
    started = time.monotonic()
    parts = _cut(data, window, limit, tail)
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")
    check_tokens(model, parts)
    model.eval()
    groups = list(_batches(parts, batch))
    name = "" if resume is None else identity(model, reference, parts, batch)
    partial = Partial(len(parts), resume, name)
    rank, ranks = _place()
    todo = [group for group in groups if not partial.has(group)][rank::ranks]
    with exact_arithmetic(), torch.no_grad(), partial:
        for group in todo:
            tokens = torch.stack([parts[number] for number in group]).to(device_of(model))
            partial.put(group, window_losses(model, reference, tokens, group[0]))
            if progress is not None:
                progress(partial.done, len(parts))
    rows = partial.gather(device_of(model))
    partial.remove()
    counts = tuple(len(part) - 1 for part in parts)
    nats, theirs, divergences = (tuple(column) for column in rows.T.tolist())
    if reference is None:
        theirs = divergences = ()
    longest = max(len(part) for part in parts)
    return Evaluation(nats, counts, theirs, divergences, longest, time.monotonic() - started)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """TF32 off for products and convolutions, as it was afterwards."""
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer is."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


def context_of(model: nn.Module) -> int | None:
    """Most tokens that a model says it takes, None if it does not say."""
    for holder in (model, getattr(model, "config", None)):
        for name in ("context", "max_position_embeddings"):
            context = getattr(holder, name, None)
            if isinstance(context, int) and context > 0:
                return context
    return None


def check_tokens(model: nn.Module, parts: Sequence[torch.Tensor]) -> None:
    """ValueError unless windows fit a model's context, and tokens its vocabulary."""
    longest, context = max(len(part) for part in parts), context_of(model)
    if context is not None and longest > context:
        raise ValueError(f"window must be at most {context}, the model's context, not {longest}")
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    highest = max(int(part.max()) for part in parts)
    lowest = min(int(part.min()) for part in parts)
    if lowest < 0 or (tables and highest >= max(tables)):
        wrong = lowest if lowest < 0 else highest
        raise ValueError(
            f"tokens must be 0 to {max(tables, default=0) - 1}, the model's vocabulary, not {wrong}"
        )


def _cut(
    data: Corpus | torch.Tensor | Sequence[torch.Tensor], window: int, limit: int | None, tail: bool
) -> list[torch.Tensor]:
    """Windows as they are to be run."""
    if window < 2:
        raise ValueError(f"window must be at least 2 tokens, not {window}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 window, not {limit}")
    if isinstance(data, Corpus):
        parts = list(torch.split(data.tokens, window))
        if len(parts[0]) < window:
            raise CorpusError(
                f"{data.name} must have at least {window} tokens, a window, not {len(data)}"
            )
        if len(parts[-1]) < (2 if tail else window):
            parts.pop()
    else:
        parts = list(data)
    parts = parts[:limit]
    if not parts or any(part.dim() != 1 or len(part) < 2 for part in parts):
        raise ValueError("windows must be at least one, each of at least 2 tokens")
    return parts


def _batches(parts: Sequence[torch.Tensor], batch: int) -> Iterator[list[int]]:
    """Numbers of windows that are run together: neighbours of one length, on any rank the same."""
    group: list[int] = []
    for number, part in enumerate(parts):
        if group and (len(group) == batch or len(part) != len(parts[group[0]])):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _place() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
