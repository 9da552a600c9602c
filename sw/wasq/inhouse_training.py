"""How a language model is trained in-house: one step after the other, resumable at any of them.

Windows of several lengths take turns, so that the model knows every length up to its context.
Optimizer: I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101;
cosine schedule with a warm-up.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from sw.models.llama import Llama, LlamaConfig
from sw.wasq.inhouse_files import (
    Checkpoint,
    checkpoint_path,
    read_checkpoint,
    write_checkpoint,
)

CONTEXT: Final = 4096
#: Scores of one head that a part of a batch may hold, windows times length squared.
_MOST_SCORES: Final = 2 * 4096**2
#: Called after every step with the step, the steps in all, and what is to be said of it.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes of a model and how it is trained.

    Parameters
    ----------
    width, hidden, layers, heads, kv_heads : int
        As :class:`LlamaConfig`.
    steps : int
        Of the optimizer.
    rate : float
        Largest learning rate.
    dropout : float
        Behind the embedding and every part that adds to the stream; in training only.
    tokens : int
        Per step.
    lengths : tuple of int
        Lengths of windows that take turns from step to step.
    every : int
        Steps between two looks at the validation text.
    patience : int
        Looks without a better one after which training ends.
    seed : int
    """

    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    steps: int
    rate: float
    dropout: float
    tokens: int = 16384
    lengths: tuple[int, ...] = (512, 512, 512, 2048, 512, 512, 512, 4096)
    every: int = 100
    patience: int = 6
    seed: int = 0

    def config(self, vocabulary: int) -> LlamaConfig:
        """The sizes with a vocabulary."""
        sizes = (self.width, self.hidden, self.layers, self.heads, self.kv_heads)
        return LlamaConfig(*sizes, vocabulary=vocabulary, context=max(CONTEXT, *self.lengths))


class Trainer:
    """A model, its optimizer and where they are.

    Parameters
    ----------
    recipe : Recipe
    vocabulary : int
    streams : mapping of str to torch.Tensor of int64 ``[n]``
        Tokens to ``train`` on, and for ``validation``.
    device : torch.device
    folder : Path
        Of the model; a checkpoint is, or is left, beside it.

    Raises
    ------
    ValueError
        If the checkpoint is of another recipe or text, or broken.
    """

    def __init__(
        self,
        recipe: Recipe,
        vocabulary: int,
        streams: Mapping[str, torch.Tensor],
        device: torch.device,
        folder: Path,
    ) -> None:
        self.recipe, self.streams, self.device, self.folder = recipe, streams, device, folder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.model = _initialized(recipe, vocabulary).to(device)
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        norms = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.95))
        self.state = Checkpoint({}, 0, 0.0, [], math.inf)
        self.identity = {
            "recipe": asdict(recipe),
            "tokens": {part: [len(s), int(s.sum())] for part, s in streams.items()},
        }
        saved = read_checkpoint(folder, self.identity)
        if saved is not None:
            self.state = saved
            self._restore(saved.tensors)

    def run(self, end: float, progress: Progress | None) -> bool:
        """Steps until all are done, none is better any more, or the time is up."""
        state, recipe = self.state, self.recipe
        began = time.monotonic() - state.seconds
        with _dropout(self.model, recipe.dropout), _fast_products():
            while state.step < recipe.steps and not self._tired():
                if time.monotonic() > end:
                    return False
                loss = self._step(state.step)
                state.step += 1
                if state.step % recipe.every == 0 or state.step == recipe.steps:
                    self._look(loss)
                state.seconds = time.monotonic() - began
                if progress is not None:
                    best = f"{state.best:.2f}" if state.curve else "none yet"
                    told = f"loss {loss:.3f}, best validation perplexity {best}"
                    progress(state.step, recipe.steps, told)
        return True

    def figures(self) -> dict[str, Any]:
        """What is said of the training."""
        curve = self.state.curve
        best = min(curve, key=lambda look: look["perplexity"]) if curve else {"step": 0}
        return {
            "steps": self.state.step,
            "best_step": best["step"],
            "tokens": self.state.step * self.recipe.tokens,
            "seconds": round(self.state.seconds, 1),
            "validation_perplexity": self.state.best if curve else None,
            "curve": curve,
        }

    def best_model(self) -> Llama:
        """The model at its best look, on the CPU."""
        tensors = self.state.tensors
        prefix = "best."
        best = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        state = best or self.model.state_dict()
        own = {n: t.cpu().clone() for n, t in state.items() if n != "head.weight"}
        return Llama.from_state(self.model.config, own)

    def leave(self) -> None:
        """Write a checkpoint."""
        tensors = {n: t for n, t in self.state.tensors.items() if n.startswith("best.")}
        for name, p in self.model.named_parameters():
            tensors[f"model.{name}"] = p.detach()
            for moment, value in self.optimizer.state.get(p, {}).items():
                tensors[f"{moment}.{name}"] = value
        self.state.tensors = tensors
        write_checkpoint(self.folder, self.state, self.identity)

    def forget(self) -> None:
        """Remove the checkpoint of a training that is done."""
        checkpoint_path(self.folder).unlink(missing_ok=True)

    def _restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, p in self.model.named_parameters():
            p.data.copy_(tensors[f"model.{name}"])
            moments = ("step", "exp_avg", "exp_avg_sq")
            if f"step.{name}" in tensors:
                self.optimizer.state[p] = {
                    m: tensors[f"{m}.{name}"].to("cpu" if m == "step" else self.device)
                    for m in moments
                }

    def _step(self, step: int) -> float:
        """One step of the optimizer; what it sees depends on the step and the seed alone."""
        recipe = self.recipe
        stream = self.streams["train"]
        length = min(recipe.lengths[step % len(recipe.lengths)], len(stream) - 1)
        count = max(1, recipe.tokens // length)
        chooser = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        starts = torch.randint(len(stream) - length, (count, 1), generator=chooser)
        windows = stream[starts + torch.arange(length + 1)].to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate * _schedule(step, recipe.steps)
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # of the dropout; restored by _dropout
        total = torch.zeros((), device=self.device)
        for part in torch.split(windows, max(1, _MOST_SCORES // length**2)):
            logits = self.model(part[:, :-1]).flatten(0, 1)
            loss = functional.cross_entropy(logits, part[:, 1:].flatten()) * len(part) / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(total)

    def _look(self, loss: float) -> None:
        found = perplexity(self.model, self.streams["validation"])
        self.state.curve.append({"step": self.state.step, "loss": loss, "perplexity": found})
        if found < self.state.best:
            self.state.best = found
            for name, p in self.model.named_parameters():
                self.state.tensors[f"best.{name}"] = p.detach().clone()

    def _tired(self) -> bool:
        recent = self.state.curve[-self.recipe.patience :]
        enough = len(self.state.curve) > self.recipe.patience
        return enough and all(look["perplexity"] > self.state.best for look in recent)


def perplexity(model: nn.Module, tokens: torch.Tensor, window: int = 512) -> float:
    """``exp`` of the mean loss per predicted token, windows without overlap, no first token added.

    Parameters
    ----------
    model : nn.Module
    tokens : torch.Tensor of int64 ``[n]``
    window : int
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    was = model.training
    model.eval()
    with torch.no_grad():
        for batch in _windows(tokens, window):
            logits = model(batch[:, :-1].to(device)).flatten(0, 1)
            losses = functional.cross_entropy(
                logits, batch[:, 1:].flatten().to(device), reduction="none"
            )
            total += float(losses.double().sum())
            count += losses.numel()
    model.train(was)
    return math.exp(total / count)


def _windows(tokens: torch.Tensor, window: int, batch: int = 16) -> Iterator[torch.Tensor]:
    """Batches ``[B, window]`` (each token predicted but a window's first), the last one ragged."""
    whole = len(tokens) // window * window
    if whole:
        yield from torch.split(tokens[:whole].reshape(-1, window), batch)
    if len(tokens) - whole > 1:
        yield tokens[None, whole:]


def _initialized(recipe: Recipe, vocabulary: int) -> Llama:
    model = Llama(recipe.config(vocabulary)).train()
    for name, p in model.named_parameters():
        if p.dim() < 2:
            continue
        spread = 0.02 if name.startswith("embedding") else 0.5 * p.shape[1] ** -0.5
        if name.endswith(("o.weight", "down.weight")):  # both add to the stream
            spread /= math.sqrt(2 * recipe.layers)
        nn.init.normal_(p, std=spread)
    return model


def _schedule(step: int, steps: int) -> float:
    """Up over the first 4 %, then a cosine down to a fiftieth."""
    warm = max(1, steps // 25)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


@contextlib.contextmanager
def _dropout(model: Llama, share: float) -> Iterator[None]:
    """Dropout on what is added to the stream, for the time of training; the seed is put back."""

    def drop(module: nn.Module, _: Any, y: torch.Tensor) -> torch.Tensor:
        return functional.dropout(y, share, module.training)

    parts: list[nn.Module] = [model.embedding]
    for block in model.blocks:
        assert isinstance(block.attention, nn.Module)
        assert isinstance(block.feed_forward, nn.Module)
        parts += [block.attention.get_submodule("o"), block.feed_forward]
    hooks = [part.register_forward_hook(drop) for part in parts if share]
    model.train()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            model.eval()


@contextlib.contextmanager
def _fast_products() -> Iterator[None]:
    """TF32 for the time of training: which weights come out is free, what they are is float32."""
    was = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)
