"""What layers of a network are given, recorded while it runs on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from sw.wasq.modules import LAYERS, QuantizedLayer

#: Called with a layer's name and its input.
Watcher = Callable[[str, torch.Tensor], None]


@contextmanager
def watching(model: nn.Module, watcher: Watcher, outputs: bool = False) -> Iterator[None]:
    """Show a function the input (or output) of every linear layer and convolution as it runs."""

    def hook(name: str) -> Any:
        def before(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            watcher(name, arguments[0])

        def after(module: nn.Module, arguments: tuple[Any, ...], y: torch.Tensor) -> None:
            watcher(name, y)

        return after if outputs else before

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*LAYERS, QuantizedLayer)):
            register = module.register_forward_hook if outputs else module.register_forward_pre_hook
            handles.append(register(hook(name)))
    if not handles:
        raise ValueError("model must have a linear layer or convolution, not none")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def inputs_of_layers(
    model: nn.Module, batches: Iterable[torch.Tensor], rows: int = 256
) -> dict[str, torch.Tensor]:
    """The first rows that every linear layer is given.

    Parameters
    ----------
    model : nn.Module
        From tokens to logits.
    batches : iterable of torch.Tensor of int64 ``[B, T]``
    rows : int
        Most rows kept per layer.

    Returns
    -------
    dict of str to torch.Tensor of float32 ``[at most rows, K]``
    """
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, x: torch.Tensor) -> None:
        new = x.detach().reshape(-1, x.shape[-1]).float()
        old = kept.get(name)
        new = new if old is None else torch.cat((old, new[: rows - len(old)]))
        kept[name] = new[:rows].clone()

    device = next(model.parameters()).device
    with watching(model, keep), torch.no_grad():
        for batch in batches:
            model(batch.to(device))
            if all(len(x) >= rows for x in kept.values()):
                break
    return kept
