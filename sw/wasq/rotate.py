"""Rotations that spread outliers and leave the function as it is: Hadamard blocks, folded.

After S. Ashkboos et al., "QuaRot", arXiv:2404.00456: norms' weights move into the linear layers
behind them, the residual stream and each head's values are turned by orthogonal matrices that the
weights absorb, and the input of the last feed-forward layer is turned by the host as it runs
(:class:`RotatedInput`). Sizes that are no power of two are cut into blocks that are (576 = 9 x 64,
1536 = 3 x 512).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sw.models.llama import Llama
from sw.wasq.kept import kept_structure, restore_kept_
from sw.wasq.quantize import replace_module


@dataclass(frozen=True, slots=True)
class RotateOptions:
    """What is turned.

    Parameters
    ----------
    residual, values, down : bool
        The residual stream; each head's values; the input of the last feed-forward layer.
    mix : bool
        Whether the residual stream's blocks are mixed as well, by an orthogonal cosine matrix over
        equal places: free, since the weights absorb it.
    seed : int
        Of the signs.
    """

    residual: bool = True
    values: bool = True
    down: bool = True
    mix: bool = False
    seed: int = 0


class RotatedInput(nn.Module):
    """A linear layer whose input the host turns first, in Hadamard blocks.

    Parameters
    ----------
    layer : nn.Module
        From ``[..., K]``, with the turn's inverse in its weight.
    size : int
        Of a block, a power of two that divides K.
    """

    def __init__(self, layer: nn.Module, size: int) -> None:
        super().__init__()
        if size < 1 or size & (size - 1):
            raise ValueError(f"size must be a power of two, not {size!r}")
        self.layer = layer
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer on the turned input."""
        result: torch.Tensor = self.layer(turn(x, self.size))
        return result

    def extra_repr(self) -> str:
        """What a printed model says of it."""
        return f"Hadamard blocks of {self.size}"


def turn(x: torch.Tensor, size: int) -> torch.Tensor:
    """``x [..., K]`` with every block of ``size`` multiplied by the normalized Hadamard matrix.

    The fast transform: log2(size) passes of sums and differences. It is its own inverse.
    """
    shape = x.shape
    y = x.reshape(-1, size)
    half = 1
    while half < size:
        y = y.reshape(-1, size // (2 * half), 2, half)
        y = torch.stack((y[:, :, 0] + y[:, :, 1], y[:, :, 0] - y[:, :, 1]), 2)
        half *= 2
    turned: torch.Tensor = y * size**-0.5
    return turned.reshape(shape)


def hadamard(size: int) -> torch.Tensor:
    """The normalized Hadamard matrix of a power of two (Sylvester), float64 ``[size, size]``."""
    return turn(torch.eye(size, dtype=torch.float64), size)


def largest_power(size: int) -> int:
    """The largest power of two that divides a size."""
    return size & -size


def residual_rotation(width: int, generator: torch.Generator, mix: bool = False) -> torch.Tensor:
    """An orthogonal matrix ``[width, width]``, float64: random signs, then Hadamard blocks.

    Parameters
    ----------
    width : int
    generator : torch.Generator
    mix : bool
        Also mix the blocks by the orthonormal type-II cosine matrix of their number.
    """
    block = largest_power(width)
    count = width // block
    across = torch.eye(count, dtype=torch.float64)
    if mix:
        n = torch.arange(count, dtype=torch.float64)
        across = torch.cos(math.pi / count * (n[None, :] + 0.5) * n[:, None])
        across *= math.sqrt(2 / count)
        across[0] *= math.sqrt(0.5)
    signs = torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1
    found: torch.Tensor = signs[:, None] * torch.kron(across, hadamard(block))
    return found


@torch.no_grad()
def rotate_(model: nn.Module, options: RotateOptions | None = None) -> None:
    """Turn a Llama in place; logits stay the same within float32's rounding.

    The head is untied from the embedding first. Call it before a layer is quantized; a model that
    is turned already is refused.

    Raises
    ------
    ValueError
        If the model is no Llama of float layers, or was turned before.
    """
    options = options or RotateOptions()
    if not isinstance(model, Llama):
        raise ValueError(f"model must be a Llama to be rotated, not {type(model).__name__}")
    if any(isinstance(m, RotatedInput) for m in model.modules()):
        raise ValueError("model must not be rotated twice")
    generator = torch.Generator().manual_seed(options.seed)
    if options.residual:
        untie_head_(model)
        fold_norms_(model)
        _rotate_residual(model, residual_rotation(model.config.width, generator, options.mix))
    for block in _blocks(model):
        if options.values:
            _rotate_values(block.attention)
        if options.down:
            _rotate_down(block, generator)


def untie_head_(model: Llama) -> None:
    """Give the head a weight of its own."""
    if model.head.weight is model.embedding.weight:
        model.head.weight = nn.Parameter(model.embedding.weight.detach().clone())


@torch.no_grad()
def fold_norms_(model: Llama) -> None:
    """Move the weights of norms into the layers behind them; the head must be untied."""
    for block in _blocks(model):
        attention, feed_forward = block.attention, block.feed_forward
        _fold(block.attention_norm, [attention.q, attention.k, attention.v])
        _fold(block.feed_forward_norm, [feed_forward.gate, feed_forward.up])
    _fold(model.norm, [model.head])


def structure(model: nn.Module) -> dict[str, Any]:
    """What :func:`restore_structure_` needs to build a turned model from a plain one, as JSON."""
    blocks = {n: m.size for n, m in model.named_modules() if isinstance(m, RotatedInput)}
    untied = isinstance(model, Llama) and model.head.weight is not model.embedding.weight
    return {"rotated_inputs": blocks, "untied_head": untied, "kept": kept_structure(model)}


def restore_structure_(model: nn.Module, data: Mapping[str, Any]) -> None:
    """Wrap layers and untie the head as :func:`structure` tells; weights are loaded afterwards."""
    if data.get("untied_head") and isinstance(model, Llama):
        untie_head_(model)
    for name, size in data.get("rotated_inputs", {}).items():
        replace_module(model, name, RotatedInput(model.get_submodule(name), int(size)))
    restore_kept_(model, data.get("kept", {}))


def _blocks(model: Llama) -> list[Any]:
    return list(model.blocks)


def _fold(norm: Any, layers: list[nn.Linear]) -> None:
    for layer in layers:
        layer.weight.mul_(norm.weight[None, :])
    norm.weight.fill_(1.0)


def _turn_columns(layer: nn.Linear, matrix: torch.Tensor) -> None:
    """The layer reads ``x @ matrix`` instead of ``x``."""
    weight = layer.weight
    weight.copy_((weight.double() @ matrix.to(weight.device)).to(weight.dtype))


def _turn_rows(layer: nn.Linear, matrix: torch.Tensor) -> None:
    """The layer writes ``y @ matrix`` instead of ``y``."""
    weight, matrix = layer.weight, matrix.to(layer.weight.device)
    weight.copy_((matrix.T @ weight.double()).to(weight.dtype))
    if layer.bias is not None:
        layer.bias.copy_((layer.bias.double() @ matrix).to(layer.bias.dtype))


def _rotate_residual(model: Llama, matrix: torch.Tensor) -> None:
    table = model.embedding.weight
    table.copy_((table.double() @ matrix.to(table.device)).to(table.dtype))
    _turn_columns(model.head, matrix)
    for block in _blocks(model):
        attention, feed_forward = block.attention, block.feed_forward
        for layer in (attention.q, attention.k, attention.v, feed_forward.gate, feed_forward.up):
            _turn_columns(layer, matrix)
        for layer in (attention.o, feed_forward.down):
            _turn_rows(layer, matrix)


def _rotate_values(attention: Any) -> None:
    """Each head's values, and the columns of the output that read them."""
    size = largest_power(attention.config.head_size)
    values, output = attention.v.weight, attention.o.weight
    values.copy_(turn(values.double().T, size).T.to(values.dtype))
    if attention.v.bias is not None:
        attention.v.bias.copy_(turn(attention.v.bias, size))
    output.copy_(turn(output.double(), size).to(output.dtype))


def _rotate_down(block: Any, generator: torch.Generator) -> None:
    """Random signs into the rows of ``up``, the turn's inverse into the columns of ``down``."""
    feed_forward = block.feed_forward
    up, down = feed_forward.up.weight, feed_forward.down.weight
    signs = torch.randint(0, 2, (up.shape[0],), generator=generator).to(up) * 2 - 1
    up.mul_(signs[:, None])
    if feed_forward.up.bias is not None:
        feed_forward.up.bias.mul_(signs)
    size = largest_power(down.shape[1])
    down.copy_(turn(down.double() * signs.double(), size).to(down.dtype))
    feed_forward.down = RotatedInput(feed_forward.down, size)
